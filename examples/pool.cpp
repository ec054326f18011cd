// SPDX-License-Identifier: BSL-1.0
//
// Python's manual begins with
//
//     from multiprocessing import Pool
//     def f(x):
//         return x*x
//     with Pool(5) as p:
//         print(p.map(f, [1, 2, 3]))
//
// This is the same, and what its next pages do with a pool. Prints
//
//     map: 1 4 9
//     imap: 0 1 4 9 16 25 36 49 64 81
//     apply_async: 400
//     in a process of its own: yes
//     after 100 ms: get: the task has not ended in time; it goes on, ask again

#include <chrono>
#include <iostream>
#include <numeric>
#include <vector>

#include <unistd.h>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;
using namespace std::chrono_literals;

int f(int x) { return x * x; }

int main() {
    mp::Pool p(5);

    std::cout << "map:";
    for (const int y : p.map(f, std::vector{1, 2, 3})) std::cout << ' ' << y;

    std::vector<int> numbers(10);
    std::iota(numbers.begin(), numbers.end(), 0);
    std::cout << "\nimap:";  // as they come, in order
    for (const int y : p.imap(f, numbers)) std::cout << ' ' << y;

    auto square = p.apply_async(f, 20);
    std::cout << "\napply_async: " << square.get(20s) << '\n';
    std::cout << "in a process of its own: " << (p.apply(::getpid) != ::getpid() ? "yes" : "no")
              << '\n';

    auto endless = p.apply_async([] { ::pause(); });
    try {
        endless.get(100ms);
    } catch (const mp::TimeoutError& error) {
        std::cout << "after 100 ms: " << error.what() << '\n';
    }
    endless.cancel();  // kills its worker; another takes the place
}
