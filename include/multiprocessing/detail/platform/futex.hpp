// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Sleeping on, and waking the sleepers of, a 32-bit word in shared memory.

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>

namespace multiprocessing::detail {

/// Shared between processes; zero is a valid state.
using futex_word = std::atomic<std::uint32_t>;
static_assert(sizeof(futex_word) == 4 && futex_word::is_always_lock_free);

inline constexpr int wake_all = INT_MAX;

/// Sleeps while the word holds `expected`, until a wake, a signal handler or the deadline. The
/// caller looks again in any case.
/// \return false if the deadline came
inline bool futex_wait(const futex_word& word, std::uint32_t expected, deadline until) {
    const timespec at = until.absolute();
    const long result = ::syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, expected,
                                  until.is_never() ? nullptr : &at, nullptr, ~0u);
    if (result == 0) return true;
    if (errno == ETIMEDOUT) return false;
    if (errno != EAGAIN && errno != EINTR) throw_os_error(errno, "futex wait");
    return true;
}

/// Wakes up to `count` sleepers.
inline void futex_wake(const futex_word& word, int count) noexcept {
    ::syscall(SYS_futex, &word, FUTEX_WAKE, count, nullptr, nullptr, 0);
}

/// Adds `value` (0..2047: the kernel extends the sign) to the word and wakes up to `count`
/// sleepers: one system call, so no kill falls between the change and the wake.
inline void futex_add_and_wake(futex_word& word, int value, int count) noexcept {
    // The call can wake sleepers of a second word too; its number of those is 0 (the nullptr).
    ::syscall(SYS_futex, &word, FUTEX_WAKE_OP, count, nullptr, &word,
              FUTEX_OP(FUTEX_OP_ADD, value, FUTEX_OP_CMP_LT, 0));
}

/// Sets `bits` (of the lowest eleven) and wakes up to `count` sleepers: one system call likewise.
inline void futex_set_and_wake(futex_word& word, int bits, int count) noexcept {
    ::syscall(SYS_futex, &word, FUTEX_WAKE_OP, count, nullptr, &word,
              FUTEX_OP(FUTEX_OP_OR, bits, FUTEX_OP_CMP_LT, 0));
}

/// Clears `bits` (of the lowest eleven) and wakes up to `count` sleepers: one system call likewise.
inline void futex_clear_and_wake(futex_word& word, int bits, int count) noexcept {
    ::syscall(SYS_futex, &word, FUTEX_WAKE_OP, count, nullptr, &word,
              FUTEX_OP(FUTEX_OP_ANDN, bits, FUTEX_OP_CMP_LT, 0));
}

}  // namespace multiprocessing::detail
