// expect: multiprocessing: this callable can't be sent to a pool's workers.*without
// captures.*mp::bind.*serialize.*mp::map SPDX-License-Identifier: BSL-1.0
#include <vector>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

int main() {
    mp::Pool pool(2);
    const int factor = 2;
    const auto scaled = pool.imap([factor](int x) { return factor * x; }, std::vector{1, 2, 3});
}
