// expect: multiprocessing: this type can't be sent because .*it holds a raw pointer
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
    message() = default;
    template <class Archive>
    void serialize(Archive& ar) {
        ar(text_);
    }

private:
    const char* text_ = nullptr;
};

int main() { return static_cast<int>(multiprocessing::detail::encode(message()).size()); }
