// expect: multiprocessing: this callable can't be sent to a pool's workers.*without
// captures.*mp::bind.*serialize.*mp::map SPDX-License-Identifier: BSL-1.0
#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

int main() {
    mp::Pool pool(2);
    int factor = 2;
    return pool.apply([&](int x) { return factor * x; }, 3);
}
