// SPDX-License-Identifier: BSL-1.0
//
// Pi by throwing darts at a quarter of a circle. A task's random numbers come from its index and
// not from its worker, and map gives the results in order: so the sum has the same digits whatever
// the number of workers. Prints
//
//     1 worker  throws 6400000 darts: 3.1414468749999997
//     2 workers throw  6400000 darts: 3.1414468749999997
//     4 workers throw  6400000 darts: 3.1414468749999997

#include <cstddef>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

constexpr int tasks = 64, darts = 100'000;

double estimate(int task) {
    std::seed_seq seed{2024, task};
    std::mt19937_64 engine(seed);
    const auto random = [&] { return static_cast<double>(engine() >> 11) * 0x1p-53; };
    int inside = 0;
    for (int i = 0; i < darts; ++i) {
        const double x = random(), y = random();
        if (x * x + y * y < 1) ++inside;
    }
    return 4.0 * inside / darts;
}

int main() {
    std::vector<int> indices(tasks);
    std::iota(indices.begin(), indices.end(), 0);
    for (const int workers : {1, 2, 4}) {
        mp::Pool pool(static_cast<std::size_t>(workers));
        const std::vector<double> estimates = pool.map(estimate, indices);
        const double pi = std::accumulate(estimates.begin(), estimates.end(), 0.0) / tasks;
        std::printf("%d %s %d darts: %.16f\n", workers,
                    workers == 1 ? "worker  throws" : "workers throw ", tasks * darts, pi);
    }
}
