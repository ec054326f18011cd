// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A clock that moves by the look, so that what is stepped runs through the same instructions each
/// time. For one file of a program: it replaces the C library's clock_gettime.

#include <cstdint>
#include <ctime>

#include <sys/syscall.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/clock.hpp>

namespace test {

inline std::int64_t clock_step = 0, clock_now = 0;  // nanoseconds; step 0: the real clock

/// From here on this process's clock moves by so many nanoseconds a look.
inline void own_clock(std::int64_t step) {
    clock_now = multiprocessing::detail::deadline::clock();
    clock_step = step;
}

}  // namespace test

extern "C" int clock_gettime(clockid_t id, timespec* to) noexcept {
    if (test::clock_step == 0) return static_cast<int>(::syscall(SYS_clock_gettime, id, to));
    test::clock_now += test::clock_step;
    *to = multiprocessing::detail::deadline::to_timespec(test::clock_now);
    return 0;
}
