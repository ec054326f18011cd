// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A position that becomes visible and wakes in one step.

#include <atomic>
#include <cstdint>
#include <type_traits>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/futex.hpp>

namespace multiprocessing::detail {

/// How far a side of a ring has come.
struct position {
    std::uint64_t bytes;
    std::uint64_t count;  // messages
};

/// A committed position, and the place to sleep until it moves.
///
/// Layout (40 bytes; all-zero is position 0, nobody asleep)
///      0 word      sequence << 1 | somebody sleeps; the sequence counts commits, modulo 2^31
///      8 slot[2]   positions; slot[sequence & 1] is the committed one
/// Writers  commit(): the holder of the side's lock. sleep(): anyone, the bit alone.
/// (What each message needs is inlined whatever the compiler thinks of the size of its caller: a
/// position that comes back from a call as two registers, and is read as one, costs 8 ns.)
/// I1  only commits clear the bit, and each that leaves it clear has woken.
/// I2  the slot that counts is not written.
/// K1  killed before the exchange or the system call of commit(): the old position counts.
/// K2  killed behind it: the new position counts, and the sleepers are awake: no instruction lies
///     between. So no wake-up is lost with its sender.
/// K3  a sleeper killed: its bit stays until the next commit, which wakes in vain.
struct gate {
    struct view {
        std::uint32_t word;
        position at;
    };

    view read() const noexcept {
        for (;;) {
            const std::uint32_t now = word.load(std::memory_order_acquire);  // (B)
            const auto& from = slot[now >> 1 & 1];
            const position p{from.bytes.load(std::memory_order_acquire),   // (B) the re-read of the
                             from.count.load(std::memory_order_acquire)};  // word comes after these
            // relaxed: only compared. A commit in between has moved the sequence; two have moved it
            // further; 2^31 would have to pass unseen.
            if (word.load(std::memory_order_relaxed) >> 1 == now >> 1) return {now, p};
        }
    }

    /// For the holder of the side's lock: nobody else commits.
    [[gnu::always_inline]] position mine() const noexcept {
        // relaxed: the lock orders it.
        const auto& from = slot[word.load(std::memory_order_relaxed) >> 1 & 1];
        return {from.bytes.load(std::memory_order_relaxed),
                from.count.load(std::memory_order_relaxed)};
    }

    /// Makes `p` the committed position, and all that was written before with it. The holder of
    /// the side's lock only. With nobody asleep one compare-exchange, else one system call: +1
    /// carries into the sequence and clears the bit, and the same call wakes.
    /// \param wake  how many
    /// \param too_early  asked only if somebody sleeps: true leaves the bit set and wakes nobody
    /// \return whether it was too early
    template <class TooEarly>
    [[gnu::always_inline]] bool commit(position p, int wake, TooEarly too_early) noexcept {
        std::uint32_t now = word.load(std::memory_order_relaxed) & ~sleeper;
        auto& to = slot[(now >> 1 & 1) ^ 1];
        to.bytes.store(p.bytes, std::memory_order_release);
        to.count.store(p.count, std::memory_order_release);
        // (A) release: the message's bytes, map, laid and the slot go first; pairs with (B).
        // seq_cst: against sleep(), either it sees our sequence or we see its bit, in `word`
        // itself; and against R2's tail read in too_early().
        if (word.compare_exchange_strong(now, now + 2, std::memory_order_seq_cst,
                                         std::memory_order_relaxed)) [[likely]]
            return false;
        return commit_with_sleepers(wake, too_early);
    }

    /// Sleeps until a commit after `seen` was read, a spurious wake-up or the deadline.
    /// \return false if the deadline came
    bool sleep(std::uint32_t seen, deadline until) {
        if (!(seen & sleeper)) {
            if (!word.compare_exchange_strong(seen, seen | sleeper, std::memory_order_seq_cst,
                                              std::memory_order_relaxed))
                return true;
            seen |= sleeper;
        }
        return futex_wait(word, seen, until);
    }

    template <class TooEarly>
    [[gnu::noinline]] bool commit_with_sleepers(int wake, TooEarly too_early) noexcept {
        if (too_early()) {
            word.fetch_add(2, std::memory_order_seq_cst);  // (A)
            return true;
        }
        futex_add_and_wake(word, 1, wake);  // (A) a system call is a full barrier
        return false;
    }

    static constexpr std::uint32_t sleeper = 1;

    futex_word word;
    struct {
        std::atomic<std::uint64_t> bytes, count;
    } slot[2];
};
static_assert(sizeof(gate) == 40 && std::is_standard_layout_v<gate>);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace multiprocessing::detail
