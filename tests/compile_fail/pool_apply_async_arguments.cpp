// expect: multiprocessing: the callable does not take these arguments.*by value
// SPDX-License-Identifier: BSL-1.0
#include <string>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

std::string greet(const std::string& name) { return "hello " + name; }

int main() {
    mp::Pool pool(2);
    auto result = pool.apply_async(greet, 3);
    const std::string text = result.get();
}
