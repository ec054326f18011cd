// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What lies in shared memory behind Condition.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/futex.hpp>
#include <multiprocessing/detail/platform/robust_mutex.hpp>
#include <multiprocessing/detail/sync/handle.hpp>
#include <multiprocessing/detail/sync/lock_state.hpp>
#include <multiprocessing/detail/sync/presence.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// A queue of waiters, each asleep on a word of its own, of which a notify wakes the oldest.
///
/// Layout (of a waiter 64 bytes on x86-64)
///     own         the lock of a condition that was made without one
///     lock        guards the table
///     last        the last ticket given out
///     top         waiters at and above it were never used
///     waiters[]:
///       there       held by the waiting thread from before `waiting` to behind `nobody`
///       word        nobody -> waiting -> notified -> nobody; waiting -> nobody at a deadline;
///                   waiting -> chosen -> nobody is the same without the wake-up
///       ticket      its place in the queue, never the same twice
///       reach       notified: the last ticket that its notify may reach
///       heir        notified, and dead: the ticket of the one that got the notify instead
/// Writers  under `lock`, but for notified -> nobody, by the waiter itself, or whoever has its
///          `there` after its death under `lock`.
/// I1  a waiter returns true if and only if it was notified; so n notifies wake n, and none wakes
/// by
///     itself. `notified` and its waking are one system call. By one that has the condition's lock
///     it is `chosen`, and woken when that gives the lock back (owed_wakes).
/// I2  a notify reaches those that waited when it was called, oldest first, passing over the dead.
/// I3  the waiter has the user's lock again before it leaves `notified`: who dies before it returns
///     dies notified.
/// K1  killed while waiting, before it was notified: the next notify passes over it.
/// K2  killed while notified, before wait() returned: its notify is handed to the oldest other in
///     its reach by whoever looks at the table next: a notify, or a waiter after `look_again`.
/// K3  killed in notify(): those up to there are notified and awake, the others are not. Killed
///     before it woke who is `chosen`: they see it by themselves after `look_again`.
/// K4  killed in handing on, before the heir is written: nothing happened. Behind it: the next who
///     gets `lock` completes it before anything else, and knows by the ticket whether the heir has
///     it.
/// K5  killed anywhere else under `lock`: each store leaves the table whole.
/// K6  stopped under `lock`: a wait with a timeout ends without it. Who has a place leaves it as it
///     is, as if he had died there: K1, K2.
template <compiled = compiled::when_used>
class condition_state {
public:
    static constexpr const char* name = "mp:Condition";
    static constexpr const char* what = "a Condition";
    static constexpr sync_type type = sync_type::condition;
    static constexpr std::size_t most_waiters = 1024;

    void init() {
        own_.init();
        lock_.init();
        for (waiter& one : waiters_) one.there.init();
    }

    /// \param release  gives the user's lock back once the caller is in the queue
    /// \param acquire  takes it again
    /// \return false if the deadline came before a notify
    /// \throws what both throw; Error if too many wait
    template <class Release, class Acquire>
    bool wait(deadline until, Release release, Acquire acquire, duration patience = look_again) {
        queued in(*this, until);
        if (!in) return false;
        release();
        const bool told = in.sleep(until, patience);
        acquire();
        return told;
    }

    /// \param later  the caller will call wake_chosen()
    /// \return whether one was chosen
    bool notify(std::size_t count, bool later = false) {
        const table in(*this);
        hand_on();
        const std::uint64_t reach = last_;
        bool any = false;
        for (; count != 0; --count) {
            waiter* next = oldest(reach);
            if (!next) break;
            if (later)
                choose(*next, reach);
            else
                wake(*next, reach);
            any = true;
        }
        return any && later;
    }
    /// A wake-up too many is absorbed, whoever has the place by now.
    void wake_chosen() noexcept {
        for (waiter& one : used())
            if (one.word.load(std::memory_order_relaxed) == chosen) futex_wake(one.word, 1);
    }

    /// This process's last handle goes: nobody could pay later (owed_wakes).
    bool leave() {
        wake_chosen();
        return own_.leave();
    }

    lock_state& own() noexcept { return own_; }

private:
    enum : std::uint32_t { nobody = 0, waiting = 1, notified = 2, chosen = 3 };
    struct waiter {
        presence there;
        futex_word word;
        std::uint32_t unused;
        std::uint64_t ticket, reach;
        std::atomic<std::uint64_t> heir;
    };

    /// Holds `lock`.
    class table {
    public:
        explicit table(condition_state& of, deadline until = deadline::never()) : of_(of) {
            bool died = false;
            locked_ = of_.lock_.lock(until, look_again, &died);
            if (died) of_.hand_on();  // K4
        }
        table(const table&) = delete;
        table& operator=(const table&) = delete;
        ~table() {
            if (locked_) of_.lock_.unlock();
        }
        explicit operator bool() const noexcept { return locked_; }

    private:
        condition_state& of_;
        bool locked_;
    };

    /// The caller's place in the queue.
    class queued {
    public:
        queued(condition_state& of, deadline until) : of_(of), me_(of.enqueue(until)) {}
        queued(const queued&) = delete;
        queued& operator=(const queued&) = delete;
        ~queued() {
            if (!me_) return;
            if (!over_) withdraw();  // by an exception
            if (!as_dead_) me_->word.store(nobody, std::memory_order_release);
            me_->there.get_up();
        }
        /// \return false if it got none in time
        explicit operator bool() const noexcept { return me_ != nullptr; }

        bool sleep(deadline until, duration patience) {
            const bool woken = sleep_until(until, patience);
            over_ = true;
            return woken;
        }

    private:
        bool sleep_until(deadline until, duration patience) {
            for (deadline look = deadline::after(patience);;) {
                const deadline slice = deadline::earlier(until, look);
                if (!slice.passed()) futex_wait(me_->word, waiting, slice);
                if (is_notified()) return true;
                if (!slice.passed()) continue;  // signals put no look off
                const table in(of_, deadline::after(moment));
                if (in) of_.hand_on();  // K2
                if (is_notified()) return true;
                if (until.passed()) {
                    if (in)
                        me_->word.store(nobody, std::memory_order_relaxed);  // the lock orders it
                    else
                        as_dead_ = true;  // K6
                    return false;
                }
                look = deadline::after(patience);
            }
        }

        bool is_notified() const noexcept { return is_told(*me_); }
        void withdraw() noexcept {
            try {
                const table in(of_, deadline::after(moment));
                if (!in)
                    as_dead_ = true;  // K6
                else if (is_notified())
                    of_.pass(*me_);
                else
                    me_->word.store(nobody, std::memory_order_relaxed);  // the lock orders it
            } catch (const Error&) {  // the lock is damaged: so be it
            }
        }

        condition_state& of_;
        bool over_ = false, as_dead_ = false;
        waiter* const me_;
    };

    /// \return null if the deadline came first
    waiter* enqueue(deadline until) {
        const table in(*this, with_a_moment(until));
        if (!in) return nullptr;
        for (const bool also_dead : {false, true})
            for (std::size_t i = 0; i < waiters_.size(); ++i) {
                waiter& one = waiters_[i];
                const bool used = one.word.load(std::memory_order_relaxed) != nobody;  // a guess
                if ((used && !also_dead) || !one.there.sit_down()) continue;
                if (is_told(one)) pass(one);  // K2
                one.ticket = ++last_;
                one.heir.store(0, std::memory_order_relaxed);   // the next store makes it true
                if (i >= top_.load(std::memory_order_relaxed))  // the lock
                    top_.store(static_cast<std::uint32_t>(i) + 1, std::memory_order_relaxed);
                one.word.store(waiting, std::memory_order_release);
                return &one;
            }
        throw Error("wait: 1,024 threads wait for the condition already");
    }

    /// The living one that waits with the least ticket up to `reach`.
    waiter* oldest(std::uint64_t reach) {
        for (;;) {
            waiter* found = nullptr;
            for (waiter& one : used())
                if (one.word.load(std::memory_order_relaxed) == waiting && one.ticket <= reach &&
                    (!found || one.ticket < found->ticket))
                    found = &one;
            if (!found || !found->there.is_dead()) return found;
            found->word.store(nobody, std::memory_order_relaxed);  // K1
            found->there.get_up();
        }
    }
    static bool is_told(const waiter& one) noexcept {
        return one.word.load(std::memory_order_acquire) >= notified;
    }
    static void choose(waiter& one, std::uint64_t reach) noexcept {
        one.reach = reach;
        one.word.store(chosen, std::memory_order_release);  // I1
    }
    static void wake(waiter& one, std::uint64_t reach) noexcept {
        one.reach = reach;
        futex_add_and_wake(one.word, notified - waiting, 1);  // I1
    }

    /// Hands on what the dead were notified of.
    void hand_on() {
        for (waiter& one : used())
            if (is_told(one) && one.there.is_dead()) {
                if (is_told(one)) pass(one);  // else it has left in between
                one.there.get_up();
            }
    }
    /// \pre `from` is notified, and nobody uses it but the caller
    void pass(waiter& from) {
        std::uint64_t heir = from.heir.load(std::memory_order_relaxed);  // all under the lock
        if (heir == 0)
            if (const waiter* next = oldest(from.reach)) {
                heir = next->ticket;
                from.heir.store(heir, std::memory_order_release);  // commit (K4)
            }
        for (waiter& one : used())
            if (heir != 0 && one.ticket == heir &&
                one.word.load(std::memory_order_relaxed) == waiting)
                wake(one, from.reach);
        from.word.store(nobody, std::memory_order_release);
    }

    std::span<waiter> used() noexcept {
        return std::span(waiters_).first(
            std::min<std::size_t>(top_.load(std::memory_order_relaxed), waiters_.size()));
    }

    lock_state own_;
    robust_mutex lock_;
    std::uint64_t last_;
    std::atomic<std::uint32_t> top_;  // only grows, under the lock
    std::array<waiter, most_waiters> waiters_;
};

}  // namespace multiprocessing::detail
