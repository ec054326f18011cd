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

struct node {
    int value;
    node* next;
};
struct message {
    std::string name;
    std::map<int, std::vector<std::optional<node>>> nodes;
};

int main() { return static_cast<int>(multiprocessing::detail::encode(message()).size()); }
