// expect: multiprocessing: mp::map's callable does not take the items of this range
// SPDX-License-Identifier: BSL-1.0
#include <string>
#include <vector>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

int main() {
    const int factor = 2;
    const auto scaled = mp::map([&](int x) { return factor * x; }, std::vector<std::string>{"1"});
    return scaled.front();
}
