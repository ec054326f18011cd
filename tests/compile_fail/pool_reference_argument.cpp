// expect: multiprocessing: the callable does not take these arguments.*lvalues.*rvalue: take them
// by value SPDX-License-Identifier: BSL-1.0
#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

void twice(int& x) { x *= 2; }

int main() {
    mp::Pool pool(2);
    int x = 3;
    pool.apply(twice, x);
}
