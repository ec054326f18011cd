// expect: multiprocessing: this type can't be sent because .*it holds a raw pointer
// SPDX-License-Identifier: BSL-1.0
#include <string>

#include <multiprocessing/detail/archive/memory.hpp>

struct message {
    std::string name;
    void* handle;
};

int main() { return multiprocessing::detail::decode<message>({}).name.empty(); }
