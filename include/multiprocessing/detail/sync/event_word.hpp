// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The shared word behind Event.

#include <atomic>
#include <cstdint>
#include <type_traits>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/futex.hpp>
#include <multiprocessing/detail/sync/handle.hpp>

namespace multiprocessing::detail {

/// A level flag that any number of processes may raise, clear and wait for.
///
/// Layout (4 bytes; all-zero is a valid cleared flag)
///     bit 0       flag, 1 = raised
///     bits 1..31  epoch, the number of times the flag went 1 -> 0, modulo 2^31
/// Writers  any process, by atomic read-modify-write; no lock.
/// I1  the epoch grows exactly when the flag goes 1 -> 0, in the same exchange: +1 is both.
/// I2  a waiter that started at (flag 0, epoch e) may return once either part differs, so clear()
///     right after set() strands nobody.
/// K1  killed in set(): raising and waking are one system call, so either nothing happened or the
///     flag is up and every sleeper is awake.
/// K2  killed anywhere else: nothing stays behind (no lock, no count of waiters).
class event_word {
public:
    static constexpr const char* name = "mp:Event";
    static constexpr const char* what = "an Event";
    static constexpr sync_type type = sync_type::event;

    void init() noexcept {}

    void set() noexcept {
        // (A) the setter's writes go first: pairs with (B). Also where the flag is up already, so
        // that whoever sees this call's order sees them too.
        std::uint32_t now = word_.load(std::memory_order_relaxed);  // the exchange checks it
        while (!word_.compare_exchange_weak(now, now, std::memory_order_release,
                                            std::memory_order_relaxed)) {
        }
        if (!(now & flag)) futex_set_and_wake(word_, flag, wake_all);  // K1
    }

    void clear() noexcept {
        std::uint32_t now = word_.load(std::memory_order_relaxed);  // the exchange checks it
        while ((now & flag) &&
               !word_.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel,  // (A), (B)
                                            std::memory_order_relaxed)) {
        }
    }

    bool is_set() const noexcept { return word_.load(std::memory_order_acquire) & flag; }  // (B)

    /// \return false if the deadline came first
    bool wait(deadline until) const {
        const std::uint32_t first = word_.load(std::memory_order_acquire);  // (B)
        if (first & flag) return true;
        while (!until.passed()) {
            futex_wait(word_, first, until);
            if (word_.load(std::memory_order_acquire) != first) return true;  // (B), I2
        }
        return false;
    }

private:
    static constexpr std::uint32_t flag = 1;
    futex_word word_;
};
static_assert(sizeof(event_word) == 4 && std::is_standard_layout_v<event_word>);

}  // namespace multiprocessing::detail
