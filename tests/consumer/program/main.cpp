// SPDX-License-Identifier: BSL-1.0
//
// A user's program of two translation units.

#include <chrono>
#include <cstdio>
#include <string>

#include "job.hpp"

int main() {
    mp::Queue<job> results;
    mp::Process worker([&] { work(results); });
    worker.start();
    const job done = results.get(std::chrono::seconds(20));
    worker.join();
    std::printf("multiprocessing %s: %s %d\n", mp::version.data(), done.name.c_str(), done.number);
    return worker.exitcode() == 0 && done.number == 42 ? 0 : 1;
}
