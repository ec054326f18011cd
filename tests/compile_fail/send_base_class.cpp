// expect: multiprocessing: this type can't be sent because .*it is an aggregate with a base class
// SPDX-License-Identifier: BSL-1.0
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <multiprocessing/detail/archive/memory.hpp>

struct base {
    int x;
};
struct message : base {
    std::string y;
};

int main() { return static_cast<int>(multiprocessing::detail::encode(message()).size()); }
