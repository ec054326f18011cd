// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What lies in shared memory behind Barrier.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/futex.hpp>
#include <multiprocessing/detail/platform/robust_mutex.hpp>
#include <multiprocessing/detail/sync/handle.hpp>
#include <multiprocessing/detail/sync/presence.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// How a generation of parties ended.
enum class barrier_end : std::uint32_t { released = 1, timeout, aborted, reset, died, action };

/// The place of a party while it is in wait().
struct barrier_party {
    presence there;                    // held by its thread
    std::atomic<std::uint32_t> waits;  // generation + 1; 0: nobody
    std::atomic<barrier_end> end;      // of that generation
    std::uint64_t unused[2];
};
static_assert(std::is_standard_layout_v<barrier_party> &&
              (sizeof(void*) != 8 || sizeof(barrier_party) == 64));

/// Parties that wait for each other.
///
/// Layout
///     word     generation << 1 | broken
///     parties  how many a generation needs
///     timeout  of a wait() that says none, in nanoseconds; negative: none
///     lock     guards all but the sleeping
///     behind   barrier_party[2 * parties + 64]: those that wait, and those that leave
/// Writers  under `lock`; a party's `waits` = 0 by the party itself.
/// I1  the generation moves, and all sleepers are awake, in one system call (end()); before it the
///     `end` of each of its parties is written, so a party that sees it moved knows how.
/// I2  a party is there from before its arrival counts until it knows how its generation ended;
///     so is the last one while it runs the action.
/// I3  no timeout ends a generation whose parties are all there: neither one of theirs, nor that of
///     who comes while the action runs. He waits for its end first, whatever his deadline.
/// K1  killed in wait() before its generation ended, be it in the action or in releasing the
/// others:
///     the generation is broken by whoever looks next: any call of the barrier, or a party that
///     waits, after `look_again`.
/// K2  killed in wait() behind that: nothing; its place is free.
/// K3  killed in abort() or reset() before the call of I1: nothing. Behind it: done.
/// K4  stopped under `lock`: a wait with a timeout ends without it, and leaves a place as if it had
///     died there: K1. If the stopped one was about to release the generation, it does so for the
///     others.
template <compiled When = compiled::when_used>
class barrier_state {
public:
    static constexpr const char* name = "mp:Barrier";
    static constexpr const char* what = "a Barrier";
    static constexpr sync_type type = sync_type::barrier;
    static constexpr std::size_t most_parties = 1'000'000;
    using places = std::span<later<When, barrier_party>>;

    /// Bytes behind the struct.
    static std::size_t places_for(std::size_t parties) {
        if (parties == 0 || parties > most_parties)
            throw Error("a Barrier has 1 to 1,000,000 parties, not " + std::to_string(parties));
        return (2 * parties + 64) * sizeof(barrier_party);
    }
    void init(std::size_t parties, std::int64_t timeout) {
        parties_ = static_cast<std::uint32_t>(parties);
        timeout_ = timeout;
        lock_.init();
    }
    static void init(places all) {
        static_assert(sizeof(barrier_state) % 8 == 0);  // the places lie behind it
        for (barrier_party& one : all) one.there.init();
    }

    std::uint32_t parties() const noexcept { return parties_; }
    std::optional<duration> timeout() const noexcept {
        return timeout_ < 0 ? std::nullopt : std::optional(duration(timeout_));
    }

    /// \param action  of the last one to arrive: called before the others are released
    /// \return which of the generation this one was, from 0 in the order of arrival
    /// \throws BrokenBarrier; what the action throws
    template <class Action>
    std::size_t wait(places all, deadline until, Action action, duration patience = look_again) {
        held in(lock_, with_a_moment(until));
        if (!in) {
            die_here(all);  // K4
            broken(barrier_end::timeout);
        }
        std::uint32_t now = current();
        std::size_t index = arrived(all);
        while (index >= parties_) {  // the last one of these runs the action
            in.unlock();
            futex_wait(word_, now, deadline::after(patience));  // I3
            in.lock(lock_, deadline::never());
            now = current();
            index = arrived(all);
        }
        seated mine(sit_down(all, now));
        if (index + 1 == parties_) {
            run(action, in, all, now);
            if (word_.load(std::memory_order_relaxed) != now)  // the lock
                broken(mine.me.end.load(std::memory_order_relaxed));
            if (arrived(all) != parties_) broken(barrier_end::died);
            end(all, barrier_end::released);
            return index;
        }
        in.unlock();
        if (!sleep(all, now, until, patience)) {
            mine.as_dead = true;  // K4
            broken(barrier_end::timeout);
        }
        // The acquire of `word` in sleep() orders it; this one is for tools, which see no system
        // call.
        const barrier_end how = mine.me.end.load(std::memory_order_acquire);
        if (how != barrier_end::released) broken(how);
        return index;
    }

    void abort(places all) {
        const held in(lock_, deadline::never());
        if (!is_broken()) end(all, barrier_end::aborted);
    }
    void reset(places all) {
        const held in(lock_, deadline::never());
        if (is_broken())
            futex_add_and_wake(word_, 1, wake_all);  // the next generation, not broken
        else if (count(all) != 0)
            end(all, barrier_end::reset);
    }
    bool broken(places all) {
        const held in(lock_, deadline::never());
        if (!is_broken()) look_for_dead(all);
        return is_broken();
    }
    std::size_t waiting(places all) {
        const held in(lock_, deadline::never());
        if (is_broken() || look_for_dead(all)) return 0;
        return count(all);
    }

private:
    static constexpr std::uint32_t broken_bit = 1;

    /// A place taken by this thread.
    struct seated {
        explicit seated(barrier_party& place) : me(place) {}
        seated(const seated&) = delete;
        seated& operator=(const seated&) = delete;
        ~seated() {
            if (!as_dead) me.waits.store(0, std::memory_order_release);
            me.there.get_up();
        }
        barrier_party& me;
        bool as_dead = false;
    };

    std::uint32_t current() const {
        const std::uint32_t now = word_.load(std::memory_order_relaxed);  // the lock
        if (now & broken_bit)
            throw BrokenBarrier("wait: the barrier is broken; reset() makes it usable again");
        return now;
    }
    bool is_broken() const noexcept {
        return word_.load(std::memory_order_relaxed) & broken_bit;  // the lock
    }
    std::uint32_t waits_now() const noexcept {
        return (word_.load(std::memory_order_relaxed) >> 1) + 1;  // the lock
    }

    std::size_t count(places all) const noexcept {
        std::size_t n = 0;
        for (const barrier_party& one : all)
            n += one.waits.load(std::memory_order_relaxed) == waits_now();  // the lock
        return n;
    }
    /// \return whether a party had died; the generation is broken then
    bool look_for_dead(places all) {
        for (barrier_party& one : all) {
            if (one.waits.load(std::memory_order_relaxed) != waits_now() || !one.there.is_dead())
                continue;
            one.there.get_up();
            end(all, barrier_end::died);
            return true;
        }
        return false;
    }
    /// \return how many wait, all alive
    std::size_t arrived(places all) {
        if (look_for_dead(all)) broken(barrier_end::died);
        return count(all);
    }

    barrier_party& sit_down(places all, std::uint32_t now) {
        for (barrier_party& one : all) {
            if (one.waits.load(std::memory_order_acquire) == waits_now() || !one.there.sit_down())
                continue;
            one.waits.store((now >> 1) + 1, std::memory_order_release);
            return one;
        }
        throw Error("wait: more threads than the barrier has places are about to leave it");
    }

    /// The lock is open while user code runs.
    template <class Action>
    void run(Action& action, held& in, places all, std::uint32_t now) {
        if (!action) return;
        in.unlock();
        try {
            action();
        } catch (...) {
            in.lock(lock_, deadline::never());
            if (word_.load(std::memory_order_relaxed) == now) end(all, barrier_end::action);
            throw;
        }
        in.lock(lock_, deadline::never());
    }

    /// A party that came and has died, for whoever looks next. Without the lock.
    void die_here(places all) {
        seated here(sit_down(all, current()));
        here.as_dead = true;
    }

    /// Until the generation `now` ended.
    /// \return false if the deadline came, and the lock could not be had to end it
    bool sleep(places all, std::uint32_t now, deadline until, duration patience) {
        for (deadline look = deadline::after(patience);;) {
            const deadline slice = deadline::earlier(until, look);
            if (!slice.passed()) futex_wait(word_, now, slice);
            if (word_.load(std::memory_order_acquire) != now) return true;
            if (!slice.passed()) continue;  // signals put no look off
            const held in(lock_, deadline::after(moment));
            if (word_.load(std::memory_order_acquire) != now) return true;
            if (in && look_for_dead(all)) return true;
            if (count(all) >= parties_) {
                until = deadline::never();  // I3
            } else if (until.passed()) {
                if (in) end(all, barrier_end::timeout);
                return bool(in);
            }
            look = deadline::after(patience);
        }
    }

    void end(places all, barrier_end how) noexcept {
        for (barrier_party& one : all)
            if (one.waits.load(std::memory_order_relaxed) == waits_now())
                one.end.store(how, std::memory_order_release);
        // +2 is the next generation, +3 that and broken (I1). A system call is a full barrier.
        const bool whole = how == barrier_end::released || how == barrier_end::reset;
        futex_add_and_wake(word_, whole ? 2 : 3, wake_all);
    }

    [[noreturn, gnu::cold, gnu::noinline]] static void broken(barrier_end how) {
        const char* why = how == barrier_end::timeout   ? "a party's timeout ended"
                          : how == barrier_end::aborted ? "abort() was called"
                          : how == barrier_end::reset   ? "reset() was called while parties waited"
                          : how == barrier_end::action  ? "its action threw"
                                                        : "a waiting party died";
        throw BrokenBarrier(std::string("wait: ") + why +
                            (how == barrier_end::reset
                                 ? "; the barrier is ready for new ones"
                                 : ", so the barrier is broken; reset() makes it usable again"));
    }

    futex_word word_;
    std::uint32_t parties_;
    std::int64_t timeout_;
    robust_mutex lock_;
};

}  // namespace multiprocessing::detail
