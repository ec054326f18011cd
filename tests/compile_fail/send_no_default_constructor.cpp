// expect: multiprocessing: this type can't be sent because .*that can't be default-constructed
// SPDX-License-Identifier: BSL-1.0
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <multiprocessing/detail/archive/memory.hpp>

class id {
public:
    explicit id(int x) : x_(x) {}
    template <class Archive>
    void serialize(Archive& ar) {
        ar(x_);
    }

private:
    int x_;
};
using message = std::vector<id>;

int main() { return static_cast<int>(multiprocessing::detail::encode(message()).size()); }
