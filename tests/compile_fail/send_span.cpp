// expect: multiprocessing: this type can't be sent because .*it holds a view
// SPDX-License-Identifier: BSL-1.0
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <multiprocessing/detail/archive/memory.hpp>

struct message {
    std::vector<std::span<int>> parts;
};

int main() { return static_cast<int>(multiprocessing::detail::encode(message()).size()); }
