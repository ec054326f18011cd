// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Python's and the standard's names of what can be taken and given back.

#include <chrono>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/sync/timeouts.hpp>

namespace multiprocessing::detail {

/// The base of Lock, RLock, SharedLock, Semaphore and Condition. Usable with std::lock_guard,
/// std::unique_lock and std::scoped_lock. Any std::chrono duration and time point will do; a
/// negative timeout counts as zero, and zero does not wait.
/// \tparam Derived  has `bool take(deadline) const`, false if the deadline came first, and
///     `void give() const`
template <class Derived>
class lockable {
public:
    /// Waits for as long as it takes. \return true, as in Python
    bool acquire() const { return self().take(deadline::never()); }
    /// \return false if the timeout ended first
    template <class Rep, class Period>
    bool acquire(std::chrono::duration<Rep, Period> timeout) const {
        return self().take(deadline_after(timeout));
    }

    void lock() const { self().take(deadline::never()); }
    /// Does not wait.
    bool try_lock() const { return self().take(deadline::at_once()); }
    template <class Rep, class Period>
    bool try_lock_for(std::chrono::duration<Rep, Period> timeout) const {
        return self().take(deadline_after(timeout));
    }
    template <class Clock, class Duration>
    bool try_lock_until(std::chrono::time_point<Clock, Duration> end) const {
        return self().take(deadline_at(end));
    }
    void unlock() const { self().give(); }

protected:
    lockable() = default;
    lockable(const lockable&) = default;
    lockable& operator=(const lockable&) = default;
    ~lockable() = default;

private:
    const Derived& self() const noexcept { return static_cast<const Derived&>(*this); }
};

}  // namespace multiprocessing::detail
