// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a process does before it sleeps, and who of it sleeps. All of it is local to the process;
/// its threads share it.

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/cpu.hpp>
#include <multiprocessing/detail/platform/fork.hpp>

namespace multiprocessing::detail {

/// Spins for a partner that is about to act; gives up sooner when that did not pay lately. All
/// orders are relaxed: these are guesses, and any value will do.
///
/// Two processes that have put each other to sleep (one was preempted for a moment) never meet
/// again within a time that is shorter than a wake-up. So one that has given up tries a long spin
/// now and then: after a few sleeps, but after many waits that a sched_yield ended, since then both
/// share a core, where a spin only keeps the partner away. Each that fails doubles the time to the
/// next one.
class spinner {
public:
    explicit spinner(duration most) : most_(most.count()) {}

    /// \param bytes  that the partner may be copying: that takes some 1/16 ns a byte, and to wake a
    ///     sleeper takes as long as to copy a megabyte
    /// \param begin  told until when this spins, if it does at all
    /// \return whether `ready()` came true
    template <class Ready, class Begin>
    bool operator()(std::uint64_t bytes, Ready ready, Begin begin) {
        if (most_ == 0) return false;
        const int misses = misses_.load(relaxed);
        const int next_try = next_try_.load(relaxed);
        const bool tries_again = misses >= next_try;
        if (misses >= given_up && !tries_again) {
            misses_.store(misses + 1, relaxed);
            return false;
        }
        const std::int64_t most = most_ + static_cast<std::int64_t>(std::min(bytes, largest) / 16);
        const std::int64_t end =
            deadline::clock() + (tries_again ? most + wake_up : most >> misses);
        begin(end);
        do {
            for (int i = 0; i < 4; ++i) {
                if (ready()) {
                    misses_.store(0, relaxed);
                    if (tries_again) next_try_.store(first_try, relaxed);
                    return true;
                }
                cpu_relax();
            }
        } while (deadline::clock() < end);
        misses_.store(tries_again ? given_up : misses + 1, relaxed);
        if (tries_again) next_try_.store(std::min(2 * next_try, last_try), relaxed);
        return false;
    }

    template <class Ready>
    bool operator()(std::uint64_t bytes, Ready ready) {
        return (*this)(bytes, ready, [](std::int64_t) {});
    }

    /// The wait will end by a wake-up.
    void sleeps() noexcept {
        if (const int misses = misses_.load(relaxed); misses >= given_up)
            misses_.store(misses + first_try / 8, relaxed);
    }

private:
    static constexpr auto relaxed = std::memory_order_relaxed;
    static constexpr int given_up = 5;  // misses; each spins half as long as the one before
    static constexpr int first_try = 256, last_try = 32 * first_try;  // counted as misses
    static constexpr std::uint64_t largest = std::uint64_t{8} << 20;
    static constexpr std::int64_t wake_up = 100'000;  // nanoseconds

    const std::int64_t most_;  // nanoseconds
    std::atomic<int> misses_{0}, next_try_{first_try};
};

/// A getter that keeps up with a fast putter would look at the tail after every message or two, and
/// each look takes the tail's line away from the putter: some 100 ns for both. So while look after
/// look finds a few messages, and the getter is soon back for more, it lets them gather first, a
/// little longer each time, 5 to 10 us at most. A getter that finds the queue empty (a round trip,
/// an idle worker), or that works on what it takes, is not held up. Relaxed: as spinner.
class chase {
public:
    /// \param count  messages got so far, by anybody
    void before_look(std::uint64_t count) noexcept {
        const std::uint64_t batch = count - last_.load(relaxed);
        last_.store(count, relaxed);
        int pauses = pauses_.load(relaxed);
        if (batch > 2 * enough) {
            pauses /= 2;
        } else if (batch < enough) {
            const std::int64_t since = deadline::clock() - looked_.load(relaxed);
            const bool works = since > static_cast<std::int64_t>(batch) * own_work;
            pauses = works ? 0 : std::min(pauses + 1 + pauses / 4, most);
        }
        pauses_.store(pauses, relaxed);
        for (int i = sure; i < pauses; ++i) cpu_relax();
    }
    void after_look(bool found) noexcept {
        if (!found) pauses_.store(0, relaxed);
        looked_.store(deadline::clock(), relaxed);
    }

private:
    static constexpr auto relaxed = std::memory_order_relaxed;
    static constexpr std::uint64_t enough = 128;    // messages a look
    static constexpr std::int64_t own_work = 500;   // nanoseconds a message: a look hardly matters
    static constexpr int sure = 8, most = 256 + 8;  // pauses; one is 20 to 40 ns

    std::atomic<std::uint64_t> last_{0};
    std::atomic<std::int64_t> looked_{0};
    std::atomic<int> pauses_{0};
};

/// How many threads of this process are about to sleep or asleep: generation of the process << 32 |
/// number, since a forked child inherits the number but not the threads.
class sleeper_count {
public:
    void enter() noexcept {
        std::uint64_t now = word_.load(std::memory_order_relaxed), next;
        do {
            next = now >> 32 == generation() ? now + 1 : generation() << 32 | 1;
            // seq_cst: enter, then read the closed flag; close() writes the flag, then reads this.
        } while (!word_.compare_exchange_weak(now, next, std::memory_order_seq_cst));
    }
    void leave() noexcept { word_.fetch_sub(1, std::memory_order_seq_cst); }
    bool any() const noexcept {
        const std::uint64_t now = word_.load(std::memory_order_seq_cst);
        return now >> 32 == generation() && (now & 0xffffffff) != 0;
    }

private:
    static std::uint64_t generation() noexcept {
        return process_identity::get().generation.load(std::memory_order_relaxed) & 0xffffffff;
    }

    std::atomic<std::uint64_t> word_{0};
};

}  // namespace multiprocessing::detail
