// expect: multiprocessing: starmap.*tuple
// SPDX-License-Identifier: BSL-1.0
#include <vector>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

int main() {
    mp::Pool pool(2);
    pool.starmap([](int a, int b) { return a * b; }, std::vector<int>{1, 2, 3});
}
