// expect: multiprocessing: bind takes a function, a lambda without captures or a serializable
// function object; give what it captures as bound values SPDX-License-Identifier: BSL-1.0
#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

int main() {
    mp::Pool pool(2);
    int factor = 2;
    return pool.apply(mp::bind([&](int x) { return factor * x; }), 3);
}
