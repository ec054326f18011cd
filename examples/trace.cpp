// SPDX-License-Identifier: BSL-1.0
//
// Tasks of very different length with a progress bar, where their time went, and a timeline of them
// all as a file. Prints, among others,
//
//     250 tasks, 0 failed
//     worker 1: 127 tasks, 98 % busy
//     slowest: number 247, 20.1 ms
//     the timeline is in trace.json: open it at https://ui.perfetto.dev or in chrome://tracing
//
// Usage: trace [FILE]

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

/// The most steps from any number below n^2 to 1, by halving the even and 3k + 1 of the odd ones.
int longest_way(int n) {
    int longest = 0;
    for (int start = 1; start < n * n; ++start) {
        int steps = 0;
        for (std::uint64_t k = static_cast<std::uint64_t>(start); k != 1; ++steps)
            k = k % 2 == 0 ? k / 2 : 3 * k + 1;
        longest = std::max(longest, steps);
    }
    return longest;
}

int main(int argc, char** argv) {
    const std::string file = argc > 1 ? argv[1] : "trace.json";
    std::vector<int> sizes(250);
    std::iota(sizes.begin(), sizes.end(), 1);

    mp::Pool pool;
    const std::vector<int> longest = pool.map(longest_way, sizes, {.progress = true});
    std::printf("of the numbers below %d the longest way to 1 has %d steps\n",
                sizes.back() * sizes.back(), longest.back());

    const mp::PoolStats stats = pool.stats();
    std::printf("%ju tasks, %ju failed\n", std::uintmax_t{stats.tasks},
                std::uintmax_t{stats.failed});
    for (std::size_t i = 0; i < stats.workers.size(); ++i)
        std::printf("worker %zu: %ju tasks, %.0f %% busy\n", i + 1,
                    std::uintmax_t{stats.workers[i].tasks}, 100 * stats.workers[i].busy);
    const mp::SlowTask& slowest = stats.slowest.front();
    std::printf("slowest: number %ju, %.1f ms\n", std::uintmax_t{slowest.index},
                static_cast<double>(slowest.run.count()) / 1e6);

    pool.write_trace(file);
    std::printf(
        "the timeline is in %s: open it at https://ui.perfetto.dev or in chrome://tracing\n",
        file.c_str());
}
