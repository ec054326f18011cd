// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Any std::chrono timeout as a deadline.

#include <chrono>
#include <type_traits>

#include <multiprocessing/detail/platform/clock.hpp>

namespace multiprocessing::detail {

/// In nanoseconds, rounded up; what they can't express is the nearest that they can. Not a number
/// counts as zero.
template <class Rep, class Period>
duration to_nanoseconds(std::chrono::duration<Rep, Period> time) {
    if constexpr (std::is_floating_point_v<Rep>) {
        const auto exact = std::chrono::duration<long double, std::nano>(time).count();
        if (exact >= static_cast<long double>(duration::max().count())) return duration::max();
        if (exact <= static_cast<long double>(duration::min().count())) return duration::min();
        if (exact != exact) return duration::zero();
        const duration down(static_cast<duration::rep>(exact));
        return static_cast<long double>(down.count()) < exact ? down + duration(1) : down;
    } else {
        using given = std::chrono::duration<Rep, Period>;
        // long double has the 64 bits of any count; its range is no concern.
        const std::chrono::duration<long double, std::nano> exact(time);
        if (exact >= std::chrono::duration<long double, std::nano>(duration::max()))
            return duration::max();
        if (exact <= std::chrono::duration<long double, std::nano>(duration::min()))
            return duration::min();
        const auto down = std::chrono::duration_cast<duration>(time);
        if constexpr (std::ratio_less_v<typename given::period, std::nano>)
            return down < time ? down + duration(1) : down;
        else
            return down;
    }
}

/// A negative timeout counts as zero, one too long to count as never.
template <class Rep, class Period>
deadline deadline_after(std::chrono::duration<Rep, Period> timeout) {
    return deadline::after(to_nanoseconds(timeout));
}

/// What another clock than the steady one says is taken down once, now: later changes of that clock
/// move nothing.
template <class Clock, class Duration>
deadline deadline_at(std::chrono::time_point<Clock, Duration> at) {
    const duration end = to_nanoseconds(at.time_since_epoch());
    const duration now = to_nanoseconds(Clock::now().time_since_epoch());
    if (end == duration::max()) return deadline::never();
    if (end <= now) return deadline::at_once();
    return deadline::after(now < duration::zero() && end > duration::max() + now ? duration::max()
                                                                                 : end - now);
}

}  // namespace multiprocessing::detail
