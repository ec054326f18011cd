// SPDX-License-Identifier: BSL-1.0
//
// shared WHAT: one figure of shared data.
//   WHAT  gib     a SharedArray<double> of 1 GiB as the argument of a pool's task that reads one
//                 element: the median of its calls, less that of calls with an int in its place: us
//         bytes   the same with an array of 8 bytes
//         held    as gib, in a worker that has a handle of it already
//         vector  the same with a std::vector<double> of 8 MB
//         make    a SharedArray of 1 GiB made: ms
//         value   a Value<int> locked, changed and unlocked: ns

#include <multiprocessing/pool.hpp>
#include <multiprocessing/shared_memory.hpp>
#include <multiprocessing/sharedctypes.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <mutex>
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
double first_of_copy(const std::vector<double>& v) { return v[0]; }
double plain(int x) { return x; }

template <class F>
std::int64_t nanoseconds(F f) {
    const std::int64_t begin = bench::now();
    bench::keep(f());
    return bench::now() - begin;
}

constexpr std::size_t gib = (std::size_t{1} << 30) / sizeof(double);

template <class F, class T>
double argument(mp::Pool& pool, F f, const T& value, int calls) {
    std::vector<std::int64_t> with, without;
    for (int i = 0; i < calls; ++i) {
        with.push_back(nanoseconds([&] { return pool.apply(f, value); }));
        without.push_back(nanoseconds([&] { return pool.apply(plain, i); }));
    }
    return static_cast<double>(bench::median(with) - bench::median(without)) / 1e3;
}

double figure(const std::string& what) {
    if (what == "make") return static_cast<double>(nanoseconds([] { return array(gib)[0]; })) / 1e6;
    if (what == "value") {
        constexpr int times = 1'000'000;
        const mp::Value<int> value;
        const std::int64_t begin = bench::now();
        for (int i = 0; i < times; ++i) {
            const std::lock_guard guard(value);
            value.value() += 1;
        }
        return static_cast<double>(bench::now() - begin) / times;
    }
    mp::Pool pool(1);
    if (what == "vector") return argument(pool, first_of_copy, std::vector<double>(1 << 20), 100);
    if (what == "bytes") return argument(pool, first_of, array(1), 5000);
    const array large(gib);
    if (what == "held")
        pool.apply(hold, large);
    else if (what != "gib")
        throw std::runtime_error("what is " + what);
    return argument(pool, first_of, large, 5000);
}

}  // namespace

int main(int, char** arguments) {
    return bench::program([&] { std::printf("%.6g\n", figure(arguments[1])); });
}
