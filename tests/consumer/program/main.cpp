// SPDX-License-Identifier: BSL-1.0
//
// A user's program of two translation units.

#include <cstdio>

#include <multiprocessing/multiprocessing.hpp>

namespace mp = multiprocessing;

void fail_elsewhere();

int main() {
    try {
        fail_elsewhere();
    } catch (const mp::Error& e) {
        std::printf("%s: %s\n", mp::version.data(), e.what());
        return 0;
    }
    return 1;
}
