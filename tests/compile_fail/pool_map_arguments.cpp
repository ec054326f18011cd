// expect: multiprocessing: the callable does not take these arguments.*lvalues.*rvalue: take them
// by value SPDX-License-Identifier: BSL-1.0
#include <string>
#include <vector>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

int size(const std::string& text) { return static_cast<int>(text.size()); }

int main() {
    mp::Pool pool(2);
    return pool.map(size, std::vector<int>{1, 2, 3}).front();
}
