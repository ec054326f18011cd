// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Who is awake and looks for the next message anyway, so that no sleeper is woken for it.

#include <atomic>
#include <cstdint>
#include <type_traits>

#include <multiprocessing/detail/platform/clock.hpp>

namespace multiprocessing::detail {

/// A getter that spins while another one sleeps stands here, for a while that it says. A putter
/// that finds it manned wakes nobody: the spinner takes the message, and wakes the sleeper if there
/// are more. (Without it each message costs a wake-up in vain, 4 us, while the spinner has it in
/// 0.3.)
///
/// Layout (8 bytes)
///     > 1    manned until then: CLOCK_MONOTONIC, in nanoseconds; later it counts as left
///       1    left
///       0    nobody stood here since the sleeper lay down
///      -1    barred: the sleeper sleeps for good
/// Writers  enter(), leave(): a getter that spins. lie_down(), bar(): the holder of the getters'
///     room, which alone sleeps. All by compare-exchange.
/// I1  while it is not barred, the sleeper sleeps for look_again at a time. It bars once nobody
///     stood here for so long: an idle process does not poll.
/// I2  who leaves looks at the tail again; a putter that woke nobody looks here again, behind its
///     commit, and wakes if it is not manned any more. One of the two sees the other.
/// I3  who found a message while it stood here wakes the sleeper if more are there when it has
///     taken that: behind them nobody may have been woken.
/// K1  a spinner killed or stopped while it stands here: messages put before its time is over (a
///     spin's length) wait for a further put, or for the sleeper's look: look_again at most.
/// K2  a putter killed between its commit and its second look (I2): as K1.
/// K3  a spinner killed between taking its message and I3's wake: as K1.
/// K4  the sleeper killed: its bar stays until another one lies down; messages wake as ever.
class lookout {
public:
    /// \return false if it is barred
    bool enter(std::int64_t until) noexcept {
        std::int64_t now = word_.load(std::memory_order_relaxed);  // the exchange checks it
        while (now != barred)
            if (word_.compare_exchange_weak(now, until, std::memory_order_seq_cst)) return true;
        return false;
    }
    /// \param until  as entered. Who came later stays. I2: seq_cst here, then on the tail's word.
    void leave(std::int64_t until) noexcept {
        word_.compare_exchange_strong(until, left, std::memory_order_seq_cst);
    }
    /// I2: seq_cst, behind the commit.
    bool manned() const noexcept {
        const std::int64_t until = word_.load(std::memory_order_seq_cst);
        return until > left && until > deadline::clock();
    }

    /// The sleeper: from here on somebody may enter, so it sleeps for look_again at most, ...
    void lie_down() noexcept {
        std::int64_t now = word_.load(std::memory_order_relaxed);  // the exchange checks it
        if (now <= left || now <= deadline::clock())
            word_.compare_exchange_strong(now, 0, std::memory_order_seq_cst);
    }
    /// ... and then, if nobody did, for good. \return false if somebody did
    bool bar() noexcept {
        std::int64_t nobody = 0;
        return word_.compare_exchange_strong(nobody, barred, std::memory_order_seq_cst);
    }

private:
    static constexpr std::int64_t barred = -1, left = 1;

    std::atomic<std::int64_t> word_;
};
static_assert(sizeof(lookout) == 8 && std::is_standard_layout_v<lookout>);

}  // namespace multiprocessing::detail
