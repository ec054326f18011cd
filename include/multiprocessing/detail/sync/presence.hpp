// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Whether a thread that took a place in shared memory is still there.

#include <atomic>
#include <cstdint>

#include <multiprocessing/detail/platform/robust_mutex.hpp>

namespace multiprocessing::detail {

/// A robust lock that a thread holds while it is in a place: whoever gets it knows that the thread
/// left or died, for the price of one exchange, without pids and their reuse.
class presence {
public:
    void init() { lock_.init(); }

    /// \return false if somebody is there
    bool sit_down() { return lock_.try_lock(); }
    /// The caller's own, or one that is_dead() gave him.
    void get_up() noexcept { lock_.unlock(); }
    /// For a place that is marked as taken and can't be left meanwhile. If true the caller has it
    /// now, and calls get_up().
    bool is_dead() { return lock_.try_lock(); }
    /// Waits until who is there has left. If true the caller has the place now.
    bool wait(deadline until) { return until.is_at_once() ? lock_.try_lock() : lock_.lock(until); }

private:
    robust_mutex lock_;
};

}  // namespace multiprocessing::detail
