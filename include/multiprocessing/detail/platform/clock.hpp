// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Deadlines: a timeout is turned once, at the public call, into an instant.

#include <algorithm>
#include <chrono>
#include <compare>
#include <cstdint>
#include <limits>

#include <time.h>

namespace multiprocessing {

/// What every timeout is given as; any integral std::chrono duration converts.
using duration = std::chrono::nanoseconds;

namespace detail {

/// An instant of CLOCK_MONOTONIC until which somebody waits.
class deadline {
public:
    /// Waits for ever.
    static constexpr deadline never() noexcept { return deadline(forever); }
    /// Does not wait.
    static constexpr deadline at_once() noexcept { return deadline(0); }
    /// A negative timeout counts as zero; duration::max() as never.
    static deadline after(duration timeout) noexcept {
        if (timeout <= duration::zero()) return at_once();
        const std::int64_t now = clock();
        return deadline(timeout.count() > forever - now ? forever : now + timeout.count());
    }
    static deadline earlier(deadline a, deadline b) noexcept { return a < b ? a : b; }

    bool is_never() const noexcept { return at_ == forever; }
    bool is_at_once() const noexcept { return at_ == 0; }
    bool passed() const noexcept { return at_ != forever && (at_ == 0 || clock() >= at_); }
    /// Zero once it passed.
    duration remaining() const noexcept {
        if (is_never()) return duration::max();
        return duration(at_ == 0 ? 0 : std::max<std::int64_t>(0, at_ - clock()));
    }
    /// For calls that take an absolute time of CLOCK_MONOTONIC.
    timespec absolute() const noexcept { return to_timespec(at_); }

    static timespec to_timespec(std::int64_t nanoseconds) noexcept {
        return {static_cast<time_t>(nanoseconds / 1'000'000'000),
                static_cast<long>(nanoseconds % 1'000'000'000)};
    }
    /// Nanoseconds of CLOCK_MONOTONIC.
    static std::int64_t clock(clockid_t id = CLOCK_MONOTONIC) noexcept {
        timespec now;
        ::clock_gettime(id, &now);
        return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
    }

    friend auto operator<=>(deadline, deadline) = default;

private:
    static constexpr std::int64_t forever = std::numeric_limits<std::int64_t>::max();

    explicit constexpr deadline(std::int64_t at) noexcept : at_(at) {}

    std::int64_t at_;
};

}  // namespace detail
}  // namespace multiprocessing
