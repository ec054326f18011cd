// expect: multiprocessing: this type can't be sent because .*it holds a raw pointer
// SPDX-License-Identifier: BSL-1.0
#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

int main() {
    mp::Pool pool(2);
    int x = 3;
    return pool.apply(mp::bind([](int* p) { return *p; }, &x));
}
