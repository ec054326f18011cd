// expect: multiprocessing: map_async's options are TaskOptions<std::vector<R>>
// SPDX-License-Identifier: BSL-1.0
#include <vector>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

int main() {
    mp::Pool pool(2);
    pool.map_async(
        mp::TaskOptions<int>{}, [](int x) { return x; }, std::vector<int>{1, 2, 3});
}
