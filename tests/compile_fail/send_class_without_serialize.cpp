// expect: multiprocessing: this type can't be sent because .*a class without a serialize function
// SPDX-License-Identifier: BSL-1.0
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <multiprocessing/detail/archive/memory.hpp>

class message {
public:
    message() : x_(1) {}
    int x() const { return x_; }

private:
    int x_;
};

int main() { return static_cast<int>(multiprocessing::detail::encode(message()).size()); }
