// SPDX-License-Identifier: BSL-1.0
//
// shared WHAT: what one SharedArray<double> costs as an argument of a pool's task that reads one
// element: the median of 5,000 calls, less that of calls with an int in its place, in us.
//   WHAT  gib    an array of 1 GiB
//         bytes  an array of 8 bytes
//         held   as gib, in workers that have a handle of it already

#include <multiprocessing/pool.hpp>
#include <multiprocessing/shared_memory.hpp>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

namespace mp = multiprocessing;
using array = mp::SharedArray<double>;

double first_of(const array& a) { return a[0]; }
double hold(const array& a) {
    mp::worker_local<array>() = a;
    return a[0];
}
double plain(int x) { return x; }

template <class F>
std::int64_t nanoseconds(F f) {
    const std::int64_t begin = bench::now();
    bench::keep(f());
    return bench::now() - begin;
}

double cost(const std::string& what) {
    if (what != "gib" && what != "bytes" && what != "held")
        throw std::runtime_error("what is " + what);
    mp::Pool pool(1);
    const array a(what == "bytes" ? 1 : (std::size_t{1} << 30) / sizeof(double));
    pool.apply(what == "held" ? hold : first_of, a);
    std::vector<std::int64_t> with, without;
    for (int i = 0; i < 5000; ++i) {
        with.push_back(nanoseconds([&] { return pool.apply(first_of, a); }));
        without.push_back(nanoseconds([&] { return pool.apply(plain, i); }));
    }
    return static_cast<double>(bench::median(with) - bench::median(without)) / 1e3;
}

}  // namespace

int main(int, char** arguments) {
    return bench::program([&] { std::printf("%.6g\n", cost(arguments[1])); });
}
