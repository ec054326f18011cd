// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Synchronization between processes: Lock, RLock, SharedLock, Semaphore, BoundedSemaphore,
/// Condition, Event, Barrier.
///
/// All are handles: copy one, capture it, pass it to a Process, or put it inside a message: every
/// holder sees the same object, which lies in anonymous shared memory and is gone with its last
/// user. One that is received must be opened by its receiver before its last holder elsewhere ends;
/// else decoding throws an Error that says so. A moved-from object is still one.
///
/// Any process or thread may be killed at any instruction: nobody else hangs. What is woken by the
/// death of another one is so at once where the kernel does it (locks), else within half a second.
///
/// Each is made with OsError if the kernel refuses the shared memory or its descriptor.

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/sync/barrier_state.hpp>
#include <multiprocessing/detail/sync/condition_state.hpp>
#include <multiprocessing/detail/sync/event_word.hpp>
#include <multiprocessing/detail/sync/handle.hpp>
#include <multiprocessing/detail/sync/lock_state.hpp>
#include <multiprocessing/detail/sync/lockable.hpp>
#include <multiprocessing/detail/sync/semaphore_state.hpp>
#include <multiprocessing/detail/sync/shared_lock_state.hpp>
#include <multiprocessing/detail/sync/timeouts.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

class Lock;
class RLock;
class SharedLock;
class Condition;

namespace detail {

/// What Lock can do.
template <compiled = compiled::when_used>
class lock_calls : public sync_handle<plain_lock>, public lockable<Lock> {
public:
    lock_calls() : lock_calls::sync_handle(0) {}

    // acquire() and acquire(timeout), lock(), try_lock(), try_lock_for() and try_lock_until() all
    // throw AbandonedLock if the last holder died; ProcessError if they would wait for this thread.

    /// \throws ProcessError if this thread does not hold it
    void release() const { give(); }

    /// Takes the lock although its holder died, and clears that: from here on it is a lock as any
    /// other, held by this thread. Waits for a living holder, as acquire() does.
    /// \throws ProcessError if this thread holds it already, and it is not abandoned
    void recover() const { this->state().recover(deadline::never()); }
    /// \return false if the timeout ended first
    template <class Rep, class Period>
    bool recover(std::chrono::duration<Rep, Period> timeout) const {
        return this->state().recover(deadline_after(timeout));
    }

    /// Some thread holds it, or held it when it died and nobody has recovered it. Does not take it.
    bool locked() const noexcept { return this->state().locked(); }

private:
    friend lockable<Lock>;
    template <compiled>
    friend class condition_calls;
    bool take(deadline until) const { return this->state().acquire(until); }
    void give() const { this->state().release(); }
};

}  // namespace detail

/// A lock between processes and threads. It belongs to the thread that took it.
///
/// If its holder dies (killed, ended, or its thread ended) every acquire() throws AbandonedLock, in
/// every process, those that wait included, until somebody calls recover().
///
/// Differences from Python: only the thread that took it may release it (to hand over, use
/// Semaphore(1)); to take it twice is an error instead of a wait for ever.
/// Cost: that of a robust pthread mutex. The kernel frees 2,048 locks of a thread that ends: hold
/// no more at once.
class Lock : public detail::lock_calls<> {
public:
    using lock_calls::lock_calls;
};

namespace detail {

/// What RLock can do.
template <compiled = compiled::when_used>
class rlock_calls : public sync_handle<recursive_lock>, public lockable<RLock> {
public:
    rlock_calls() : rlock_calls(0) {}

    /// Once less. \throws ProcessError if this thread does not hold it
    void release() const { give(); }
    /// As Lock::recover(): held once.
    void recover() const { this->state().recover(deadline::never()); }
    template <class Rep, class Period>
    bool recover(std::chrono::duration<Rep, Period> timeout) const {
        return this->state().recover(deadline_after(timeout));
    }
    bool locked() const noexcept { return this->state().locked(); }

protected:
    /// \param behind  bytes in its region for what it guards
    explicit rlock_calls(std::size_t behind) : rlock_calls::sync_handle(behind) {}

private:
    friend lockable<RLock>;
    template <compiled>
    friend class condition_calls;
    bool take(deadline until) const { return this->state().acquire_again(until); }
    void give() const { this->state().release_once(); }
};

}  // namespace detail

/// As Lock, but its holder may take it again; it is free after as many releases.
class RLock : public detail::rlock_calls<> {
public:
    using rlock_calls::rlock_calls;
};

namespace detail {

/// What SharedLock can do.
template <compiled = compiled::when_used>
class shared_lock_calls : public sync_handle<shared_lock_state<>>, public lockable<SharedLock> {
public:
    shared_lock_calls() : shared_lock_calls::sync_handle(0) {}

    /// \throws ProcessError if this thread is not the writer
    void release() const { give(); }
    /// As Lock::recover(), as the writer.
    void recover() const { this->state().recover(deadline::never()); }
    template <class Rep, class Period>
    bool recover(std::chrono::duration<Rep, Period> timeout) const {
        return this->state().recover(deadline_after(timeout));
    }
    /// Some thread writes or reads, or it is abandoned.
    bool locked() const { return this->state().locked(); }

    // For reading; up to 1,024 at once, beyond that Error. They throw as those for writing do.
    bool acquire_shared() const { return this->state().acquire_shared(deadline::never()); }
    /// \return false if the timeout ended first
    template <class Rep, class Period>
    bool acquire_shared(std::chrono::duration<Rep, Period> timeout) const {
        return this->state().acquire_shared(deadline_after(timeout));
    }
    /// \throws ProcessError if this thread does not read
    void release_shared() const { this->state().release_shared(); }

    void lock_shared() const { this->state().acquire_shared(deadline::never()); }
    bool try_lock_shared() const { return this->state().acquire_shared(deadline::at_once()); }
    template <class Rep, class Period>
    bool try_lock_shared_for(std::chrono::duration<Rep, Period> timeout) const {
        return this->state().acquire_shared(deadline_after(timeout));
    }
    template <class Clock, class Duration>
    bool try_lock_shared_until(std::chrono::time_point<Clock, Duration> end) const {
        return this->state().acquire_shared(deadline_at(end));
    }
    void unlock_shared() const { this->state().release_shared(); }

private:
    friend lockable<SharedLock>;
    bool take(deadline until) const { return this->state().acquire(until); }
    void give() const { this->state().release(); }
};

}  // namespace detail

/// A lock that many readers or one writer may have. Both belong to their thread.
///
/// The names of Lock are the writer's; std::shared_lock takes it for reading. A writer that waits
/// keeps new readers out; a thread that reads can't become the writer, nor read twice while a
/// writer waits.
///
/// If the writer dies, it is abandoned as a Lock is, for readers too, until recover(). A reader
/// that dies has changed nothing: its share is given back at once, and nobody is told.
class SharedLock : public detail::shared_lock_calls<> {
public:
    using shared_lock_calls::shared_lock_calls;
};

/// Says that a semaphore keeps a ledger: mp::Semaphore s(4, mp::robust);
struct Robust {
    explicit Robust() = default;
};
inline constexpr Robust robust{};

namespace detail {

/// What Semaphore and BoundedSemaphore have in common.
template <class State, class Derived>
class counted : public sync_handle<State>, public lockable<Derived> {
public:
    explicit counted(std::size_t units = 1) : counted::sync_handle(0, units, State::bounded) {}
    counted(std::size_t units, Robust)
        : counted::sync_handle(semaphore_state<>::most_holders * sizeof(unit_holder), units, true) {
    }

    /// As acquire(0s).
    bool try_acquire() const { return take(deadline::at_once()); }
    template <class Rep, class Period>
    bool try_acquire_for(std::chrono::duration<Rep, Period> timeout) const {
        return take(deadline_after(timeout));
    }
    template <class Clock, class Duration>
    bool try_acquire_until(std::chrono::time_point<Clock, Duration> end) const {
        return take(deadline_at(end));
    }

    /// Makes units free and wakes as many that wait. If killed: all of them are free or none is; of
    /// more than 1,023, when somebody waits, some.
    /// \throws Error past the most that it can have: n of a bounded one, else 2^31 - 1;
    ///     ProcessError if it is robust and this process has fewer units
    void release(std::size_t units = 1) const { this->state().release(units, ledger()); }

    /// Free units, at some instant of this call.
    std::size_t value() const { return this->state().value(ledger()); }
    /// value() == 0
    bool locked() const { return value() == 0; }

private:
    friend lockable<Derived>;
    bool take(deadline until) const { return this->state().acquire(until, ledger()); }
    void give() const { release(); }
    semaphore_state<>::ledger ledger() const noexcept {
        return {reinterpret_cast<unit_holder*>(this->shared_.behind()),
                this->shared_.bytes_behind() / sizeof(unit_holder)};
    }
};

}  // namespace detail

/// A number of units, taken one by one by acquire(), which waits while there is none, and given
/// back by release(). Units belong to nobody: one process may acquire and another one release, so a
/// Semaphore(1) is a lock to hand over, and a Semaphore(0) a signal that counts.
///
/// If a process dies its units stay taken, for nobody can say whether it was to give them back; a
/// waiter's death takes none along. A robust semaphore keeps a ledger instead: its units belong to
/// the process (not the thread) that acquired them, only that may release them, and when it ends
/// they are free again, at the latest half a second after somebody waits for them. Up to 1,024
/// processes may have units of a robust one at once; each acquire() costs some 50 ns more.
class Semaphore : public detail::counted<detail::open_semaphore<>, Semaphore> {
public:
    /// \throws Error beyond 2^31 - 1
    using counted::counted;
};

/// A Semaphore that never has more units than at first: Error from a release() past that.
class BoundedSemaphore : public detail::counted<detail::bounded_semaphore<>, BoundedSemaphore> {
public:
    using counted::counted;
};

namespace detail {

/// What Event can do.
template <compiled = compiled::when_used>
class event_calls : public sync_handle<event_word> {
public:
    event_calls() : event_calls::sync_handle(0) {}

    /// Raises the flag and wakes all that wait. Cost: one system call, unless it is up already.
    void set() const noexcept { this->state().set(); }
    /// Who waited when it was raised returns from wait() although it is cleared at once.
    void clear() const noexcept { this->state().clear(); }
    bool is_set() const noexcept { return this->state().is_set(); }
    /// \return true, as in Python
    bool wait() const { return this->state().wait(deadline::never()); }
    /// \return false if the timeout ended first
    template <class Rep, class Period>
    bool wait(std::chrono::duration<Rep, Period> timeout) const {
        return this->state().wait(deadline_after(timeout));
    }
    template <class Clock, class Duration>
    bool wait_until(std::chrono::time_point<Clock, Duration> end) const {
        return this->state().wait(deadline_at(end));
    }
};

}  // namespace detail

/// A flag that processes wait for.
/// If killed in set(): the flag is up and everybody awake, or nothing happened. Nothing else that a
/// kill leaves behind is seen by others.
class Event : public detail::event_calls<> {
public:
    using event_calls::event_calls;
};

namespace detail {

/// What Condition can do.
template <compiled When = compiled::when_used>
class condition_calls : public sync_handle<condition_state<>>, public lockable<Condition> {
public:
    condition_calls() : condition_calls::sync_handle(0) {}
    explicit condition_calls(Lock lock)
        : condition_calls::sync_handle(0),
          lock_(std::make_shared<const later<When, Lock>>(std::move(lock))) {}
    explicit condition_calls(RLock lock)
        : condition_calls::sync_handle(0),
          rlock_(std::make_shared<const later<When, RLock>>(std::move(lock))) {}

    void release() const { give(); }
    void recover() const { its_lock().recover(deadline::never()); }
    template <class Rep, class Period>
    bool recover(std::chrono::duration<Rep, Period> timeout) const {
        return its_lock().recover(deadline_after(timeout));
    }
    bool locked() const noexcept { return its_lock().locked(); }

    /// Gives the condition's lock back, waits for a notify, takes the lock again.
    /// \return true
    /// \throws ProcessError if this thread does not hold the lock; AbandonedLock; Error if 1,024
    /// wait
    bool wait() const { return wait_held(deadline::never()); }
    /// \return false if the timeout ended before a notify; the lock is held again then, too
    template <class Rep, class Period>
    bool wait(std::chrono::duration<Rep, Period> timeout) const {
        return wait_held(deadline_after(timeout));
    }
    template <class Clock, class Duration>
    bool wait_until(std::chrono::time_point<Clock, Duration> end) const {
        return wait_held(deadline_at(end));
    }
    /// Waits until the predicate is true. \return its last value
    template <std::predicate Predicate>
    bool wait_for(Predicate predicate) const {
        return wait_for_true(deadline::never(), predicate,
                             [&](deadline d) { return wait_held(d); });
    }
    template <std::predicate Predicate, class Rep, class Period>
    bool wait_for(Predicate predicate, std::chrono::duration<Rep, Period> timeout) const {
        return wait_for_true(deadline_after(timeout), predicate,
                             [&](deadline d) { return wait_held(d); });
    }

    // The same with a guard that holds the lock: of this condition, of its Lock or RLock, or, if it
    // was made without one, of any lock that all who wait and notify agree on.

    template <class L>
    bool wait(std::unique_lock<L>& guard) const {
        return wait_guarded(guard, deadline::never());
    }
    template <class L, class Rep, class Period>
    bool wait(std::unique_lock<L>& guard, std::chrono::duration<Rep, Period> timeout) const {
        return wait_guarded(guard, deadline_after(timeout));
    }
    template <class L, std::predicate Predicate>
    void wait(std::unique_lock<L>& guard, Predicate predicate) const {
        wait_for_true(deadline::never(), predicate,
                      [&](deadline d) { return wait_guarded(guard, d); });
    }
    template <class L, class Rep, class Period>
    bool wait_for(std::unique_lock<L>& guard, std::chrono::duration<Rep, Period> timeout) const {
        return wait_guarded(guard, deadline_after(timeout));
    }
    template <class L, class Rep, class Period, std::predicate Predicate>
    bool wait_for(std::unique_lock<L>& guard, std::chrono::duration<Rep, Period> timeout,
                  Predicate predicate) const {
        return wait_for_true(deadline_after(timeout), predicate,
                             [&](deadline d) { return wait_guarded(guard, d); });
    }
    template <class L, class Clock, class Duration>
    bool wait_until(std::unique_lock<L>& guard,
                    std::chrono::time_point<Clock, Duration> end) const {
        return wait_guarded(guard, deadline_at(end));
    }
    template <class L, class Clock, class Duration, std::predicate Predicate>
    bool wait_until(std::unique_lock<L>& guard, std::chrono::time_point<Clock, Duration> end,
                    Predicate predicate) const {
        return wait_for_true(deadline_at(end), predicate,
                             [&](deadline d) { return wait_guarded(guard, d); });
    }

    /// With the condition's lock they are woken when the caller gives it back, since they need it.
    /// If killed: those that it had come to are awake, the others not; by one that had the lock
    /// they are so within half a second, and told that it is abandoned.
    void notify(std::size_t n = 1) const {
        lock_state& lock = its_lock();
        if (!lock.is_mine()) {
            this->state().notify(n);
            return;
        }
        if (!this->state().notify(n, true)) return;
        const auto wake = [](void* whom) { static_cast<condition_state<>*>(whom)->wake_chosen(); };
        lock.owes();
        if (!owed_wakes::owe(&lock, this->shared_.keep(), wake, &this->state()))
            this->state().wake_chosen();
    }
    void notify_one() const { notify(1); }
    void notify_all() const { notify(condition_state<>::most_waiters); }

    /// For messages.
    template <class Archive>
    void save(Archive& archive) const {
        condition_calls::sync_handle::save(archive);
        archive(static_cast<std::uint8_t>(lock_ ? 1 : rlock_ ? 2 : 0));
        if (lock_) archive(*lock_);
        if (rlock_) archive(*rlock_);
    }
    template <class Archive>
    void load(Archive& archive) {
        condition_calls::sync_handle::load(archive);
        std::uint8_t which = 0;
        archive(which);
        if (which > 2)
            throw SerializationError("receiving a Condition: it has a lock of kind " +
                                     std::to_string(which) + "; the message is damaged");
        lock_.reset();
        rlock_.reset();
        if (which == 1) lock_ = received<later<When, Lock>>(archive);
        if (which == 2) rlock_ = received<later<When, RLock>>(archive);
    }

private:
    friend lockable<Condition>;

    static lock_state& lock_of(const Lock& lock) { return lock.state(); }
    static lock_state& lock_of(const RLock& lock) { return lock.state(); }
    static lock_state& lock_of(const condition_calls& c) { return c.its_lock(); }

    lock_state& its_lock() const {
        if (lock_) return lock_->state();
        if (rlock_) return rlock_->state();
        return this->state().own();
    }
    template <class L, class Archive>
    static std::shared_ptr<const L> received(Archive& archive) {
        const auto lock = std::make_shared<L>();
        archive(*lock);
        return lock;
    }
    bool is_recursive() const noexcept { return !lock_; }

    bool take(deadline until) const {
        return is_recursive() ? its_lock().acquire_again(until) : its_lock().acquire(until);
    }
    void give() const { is_recursive() ? its_lock().release_once() : its_lock().release(); }

    bool wait_held(deadline until) const { return wait_with(its_lock(), until); }
    bool wait_with(lock_state& lock, deadline until) const {
        if (!lock.is_mine()) lock.not_mine("wait");
        const std::uint32_t times = lock.depth();
        return this->state().wait(
            until, [&] { lock.release(); }, [&] { lock.acquire_anyway(times); });
    }

    template <class L>
    bool wait_guarded(std::unique_lock<L>& guard, deadline until) const {
        if (!guard.owns_lock()) throw ProcessError("wait: the guard does not hold its lock");
        const bool has_own = !lock_ && !rlock_;
        constexpr bool ours = requires { lock_of(*guard.mutex()); };
        if constexpr (ours)
            if (lock_state& lock = lock_of(*guard.mutex()); has_own || &lock == &its_lock())
                return wait_with(lock, until);  // the guard has it before and after
        if (ours || !has_own)
            throw ProcessError("wait: the guard holds another lock than the condition's");
        return this->state().wait(
            until, [&] { guard.unlock(); }, [&] { guard.lock(); });
    }

    template <class Predicate, class Wait>
    static bool wait_for_true(deadline until, Predicate& predicate, Wait wait) {
        while (!predicate())
            if (!wait(until)) return predicate();
        return true;
    }

    std::shared_ptr<const later<When, Lock>> lock_;  // one of them was given, or none
    std::shared_ptr<const later<When, RLock>> rlock_;
};

}  // namespace detail

/// A queue of threads that wait to be notified, with a lock: that of the constructor, else an RLock
/// of its own. lock() and its like are those of the lock.
///
/// notify(n) wakes exactly n of those that wait, the oldest, or all if they are fewer; nobody wakes
/// for another reason, and nobody who begins to wait later. It wakes nobody who died: if one dies
/// after it was chosen and before it returned from wait(), its notify goes to the next one, half a
/// second later at the latest.
///
/// Differences from Python: notify() does not need the lock, and does not wait until they are
/// awake. Whatever wait() gave back it takes again, all of an RLock too. If the lock's holder died
/// meanwhile, wait() throws AbandonedLock with the lock held, as it ends in any other case: call
/// recover(), or release it for others to do so. (A guard of a SharedLock does not hold it then.)
/// Up to 1,024 threads may wait.
class Condition : public detail::condition_calls<> {
public:
    using condition_calls::condition_calls;
};

namespace detail {

/// What Barrier can do.
template <compiled When = compiled::when_used>
class barrier_calls : public sync_handle<barrier_state<When>> {
public:
    /// For messages: of one party.
    barrier_calls() : barrier_calls(1) {}
    /// \param action  called by the last one to arrive, before the others are released. It belongs
    /// to
    ///     this handle and its copies, also in forked children: a barrier with an action can't be
    ///     sent in a message
    /// \param timeout  of each wait() that says none
    /// \throws Error unless there are 1 to 1,000,000 parties
    explicit barrier_calls(std::size_t parties, std::function<void()> action = {},
                           std::optional<duration> timeout = {})
        : barrier_calls::sync_handle(barrier_state<When>::places_for(parties), parties,
                                     timeout ? std::max(*timeout, duration::zero()).count() : -1),
          action_(std::move(action)) {
        barrier_state<When>::init(places());
    }

    /// Waits for the other parties.
    /// \return in which order it arrived, 0 to parties() - 1
    /// \throws BrokenBarrier; what the action throws, at the party that runs it
    std::size_t wait() const {
        const auto timeout = this->state().timeout();
        return wait_for(timeout ? deadline::after(*timeout) : deadline::never());
    }
    /// If the timeout ends before all are there the barrier breaks, for all. Zero does not wait.
    /// But an action that runs is waited for without a limit, by who comes meanwhile too, as in
    /// Python.
    template <class Rep, class Period>
    std::size_t wait(std::chrono::duration<Rep, Period> timeout) const {
        return wait_for(deadline_after(timeout));
    }
    template <class Clock, class Duration>
    std::size_t wait_until(std::chrono::time_point<Clock, Duration> end) const {
        return wait_for(deadline_at(end));
    }

    /// Those that wait get BrokenBarrier; then it is as new.
    void reset() const { this->state().reset(places()); }
    /// Breaks it.
    void abort() const { this->state().abort(places()); }
    bool broken() const { return this->state().broken(places()); }
    std::size_t parties() const noexcept { return this->state().parties(); }
    /// How many wait; 0 if it is broken.
    std::size_t n_waiting() const { return this->state().waiting(places()); }

    /// For messages.
    /// \throws Error if it has an action
    template <class Archive>
    void save(Archive& archive) const {
        if (action_)
            throw Error(
                "a Barrier with an action can't be sent in a message: the function stays in this "
                "process; pass it to a Process, or let the action be done by who gets index 0");
        barrier_calls::sync_handle::save(archive);
    }
    template <class Archive>
    void load(Archive& archive) {
        barrier_calls::sync_handle::load(archive);
        action_ = nullptr;
    }

private:
    std::size_t wait_for(deadline until) const {
        return this->state().wait(places(), until, action_);
    }
    typename barrier_state<When>::places places() const noexcept {
        return {reinterpret_cast<barrier_party*>(this->shared_.behind()),
                this->shared_.bytes_behind() / sizeof(barrier_party)};
    }

    std::function<void()> action_;
};

}  // namespace detail

/// A place where so many parties wait until all of them are there; then it is ready for the next
/// time.
///
/// It breaks when a party's timeout ends before all are there, when a party dies that is in wait()
/// (the others are told at the latest half a second later), when the action throws, or by abort():
/// everybody who waits and who comes gets BrokenBarrier, until reset().
class Barrier : public detail::barrier_calls<> {
public:
    using barrier_calls::barrier_calls;
};

}  // namespace multiprocessing
