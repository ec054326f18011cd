// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// In a manager's server: who calls, and how a call waits.
///
/// What waits here is awake at once when the process of its client has ended: from the third
/// millisecond on the serving thread sleeps on the client's connection, too.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include <sys/eventfd.h>
#include <sys/types.h>

#include <multiprocessing/detail/manager/wire.hpp>
#include <multiprocessing/detail/net/waitable.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/futex.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

template <compiled = compiled::when_used>
class manager_caller;

/// A client process, from the server's side.
template <compiled When = compiled::when_used>
class manager_session {
public:
    manager_session(std::uint64_t number_, pid_t pid_) : number(number_), pid(pid_) {}

    const std::uint64_t number;
    const pid_t pid;

    // Guarded by the server's mutex.
    std::map<std::uint64_t, std::uint64_t> references;          // of each object
    std::set<std::uint64_t> lent;                               // tokens
    std::set<std::pair<std::uint64_t, std::uint64_t>> adopted;  // {object, key}, see bequeath
    bool over = false;

    void add(manager_caller<When>& one) {
        const std::lock_guard lock(mutex_);
        callers_.push_back(&one);
    }
    void remove(manager_caller<When>& one) noexcept {
        const std::lock_guard lock(mutex_);
        std::erase(callers_, &one);
    }

    /// The process wants nothing of that object any more: what waits in it ends.
    void close(std::uint64_t object) {
        const std::lock_guard lock(mutex_);
        closed_.insert(object);
        for (manager_caller<When>* one : callers_) one->closed(object);
    }
    /// A new reference of it does: what waited is awake.
    void reopen(std::uint64_t object) noexcept {
        const std::lock_guard lock(mutex_);
        closed_.erase(object);
    }
    bool has_closed(std::uint64_t object) const {
        const std::lock_guard lock(mutex_);
        return closed_.contains(object);
    }

private:
    mutable std::mutex mutex_;  // guards the rest
    std::set<std::uint64_t> closed_;
    std::vector<manager_caller<When>*> callers_;
};

/// A client's thread, from the server's side: what its locks belong to.
///
/// Parking. One word: `waiting` from prepare() on, which the waiter calls under the lock that those
/// who wake it take, too; `woken` by them; `polling` once the waiter sleeps in poll, so that wake()
/// has to write to its descriptor.
template <compiled When>
class manager_caller {
public:
    manager_caller(manager_wire<When>& wire, manager_session<When>& session, std::uint64_t number)
        : wire_(wire), session_(session), number_(number) {
        session_.add(*this);
        current_ = this;
    }
    manager_caller(const manager_caller&) = delete;
    manager_caller& operator=(const manager_caller&) = delete;
    ~manager_caller() {
        current_ = nullptr;
        session_.remove(*this);
    }

    /// Of the call that this thread serves; null in any other thread.
    static manager_caller* current() noexcept { return current_; }
    void make_current() noexcept { current_ = this; }

    std::uint64_t number() const noexcept { return number_; }
    manager_session<When>& session() const noexcept { return session_; }

    /// The object that is being called: keeps it.
    std::shared_ptr<void> object;
    std::uint64_t object_number = 0;
    void begin(std::shared_ptr<void> called, std::uint64_t number_of_it) noexcept {
        object = std::move(called);
        object_number = number_of_it;
        closed_.store(0, std::memory_order_relaxed);  // a close() meanwhile means this call, too
    }

    // --- locks that it holds

    /// \param lock  has abandon(caller's number)
    template <class Lock>
    void holds(std::shared_ptr<Lock> lock) {
        held_.push_back({lock, [](void* one, std::uint64_t by) noexcept {
                             static_cast<Lock*>(one)->abandon(by);
                         }});
    }
    void holds_no_more(const void* lock) noexcept {
        const auto found = std::find_if(held_.begin(), held_.end(),
                                        [&](const held& h) { return h.lock.get() == lock; });
        if (found != held_.end()) held_.erase(found);
    }
    /// The thread is gone.
    void abandon_all() noexcept {
        for (const held& each : std::exchange(held_, {})) each.abandon(each.lock.get(), number_);
    }

    // --- waiting

    void prepare() noexcept {
        waits_in_.store(object_number, std::memory_order_seq_cst);  // then has_closed(), see park()
        word_.store(waiting, std::memory_order_relaxed);            // the lock publishes it
    }

    void wake() noexcept {
        if (word_.exchange(woken, std::memory_order_acq_rel) == polling)
            retry([&] { return ::eventfd_write(bell_.get(), 1); });
        else
            futex_wake(word_, 1);
    }

    /// After prepare(), without the lock: until wake(), or the deadline, or for no reason.
    /// \throws peer_gone if the client has; ClosedError if it closed the object; std::bad_alloc.
    ///     It may have been woken all the same.
    void park(deadline until) {
        struct at_return {
            manager_caller& of;
            ~at_return() {
                of.word_.store(idle, std::memory_order_relaxed);  // nobody reads it now
                of.waits_in_.store(0, std::memory_order_relaxed);
            }
        } at_end{*this};
        // seq_cst in prepare(): either close() finds us waiting, or we find the object closed.
        require_open();
        const deadline soon = deadline::earlier(until, deadline::after(at_first));
        while (word_.load(std::memory_order_acquire) == waiting && !soon.passed())
            futex_wait(word_, waiting, soon);
        if (word_.load(std::memory_order_acquire) == waiting && !until.passed()) poll(until);
        require_open();
        require_peer();
    }

    /// While a call is served its client says nothing: so what can be read is the end.
    /// Cost: a system call.
    void require_peer() {
        if (wire_.poll()) throw peer_gone();
    }

    /// The session closed that object.
    void closed(std::uint64_t closed_object) noexcept {
        if (waits_in_.load(std::memory_order_seq_cst) != closed_object) return;
        closed_.store(closed_object, std::memory_order_relaxed);  // wake() publishes it
        wake();
    }

private:
    static constexpr std::uint32_t idle = 0, waiting = 1, polling = 2, woken = 3;
    static constexpr duration at_first = std::chrono::milliseconds(2);
    static constexpr duration a_long_time = std::chrono::hours(1000);

    struct held {
        std::shared_ptr<void> lock;
        void (*abandon)(void*, std::uint64_t) noexcept;
    };

    void require_open() const {
        if (session_.has_closed(object_number) ||
            closed_.load(std::memory_order_relaxed) == object_number)  // and reopened since
            throw ClosedError("this object of a manager was closed in this process");
    }

    /// Until it is woken, or the deadline comes.
    void poll(deadline until) {
        std::uint32_t now = waiting;
        if (!word_.compare_exchange_strong(now, polling, std::memory_order_acq_rel)) return;
        while (word_.load(std::memory_order_acquire) == polling && !until.passed()) {
            bool peer = true;
            try {
                const auto ready =
                    wait({static_cast<later<When, Connection<>>&>(wire_), bell_.get()},
                         std::min<duration>(until.remaining(), a_long_time));
                peer = !ready.empty() && ready.front() == 0;
            } catch (const ClosedError&) {  // the server shuts down
            }
            eventfd_t count;
            retry([&] { return ::eventfd_read(bell_.get(), &count); });
            if (peer) throw peer_gone();
        }
    }

    static inline thread_local constinit manager_caller* current_ = nullptr;

    manager_wire<When>& wire_;
    manager_session<When>& session_;
    const std::uint64_t number_;
    futex_word word_{idle};
    std::atomic<std::uint64_t> waits_in_{0};  // number of the object; 0: none
    std::atomic<std::uint64_t> closed_{0};    // the object that was closed while this waited in it
    const unique_fd bell_ = off_stdio(unique_fd(call("eventfd of a manager's thread", [] {
        return ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    })));  // made at once: who waits may have given a lock for it
    std::vector<held> held_;
};

/// Callers that wait for something in a hosted object, in the order in which they came. All of it
/// is under the object's mutex.
///
/// I1  Who makes something available wakes as many as can have it. Who was woken and does not take
///     it (its client is gone, it was late) wakes the next one.
/// I2  A newcomer may be faster than who was woken: that one keeps its place in front.
template <compiled When = compiled::when_used>
class waiting_line {
    struct place {
        manager_caller<When>* who;
        bool chosen = false;
    };

public:
    /// Wakes the `count` oldest of those that were not woken yet.
    void wake(std::size_t count = 1) noexcept {
        for (auto it = places_.begin(); count != 0 && it != places_.end(); --count) {
            place* const one = *it;
            it = places_.erase(it);
            one->chosen = true;
            one->who->wake();
        }
    }
    void wake_all() noexcept { wake(places_.size()); }

    std::size_t size() const noexcept { return places_.size(); }

    /// Until `ready()`, which is asked under the lock.
    /// \return false if the deadline came first
    /// \throws peer_gone, ClosedError, std::bad_alloc
    template <class Ready>
    bool wait(std::unique_lock<std::mutex>& lock, deadline until, Ready ready) {
        if (ready()) {
            // The client may have died since it asked: nothing is taken for the dead.
            if (auto* const me = manager_caller<When>::current()) me->require_peer();
            return true;
        }
        if (until.is_at_once()) return false;
        for (bool in_front = false;; in_front = true) {
            const turn mine = wait_for_turn(lock, until, in_front);
            if (ready()) return true;
            if (mine == turn::late) return false;
        }
    }

    enum class turn { came, late };

    /// Until wake() chooses this caller: exactly then `came`.
    /// \throws peer_gone, ClosedError, std::bad_alloc: with the lock, and the next one woken if it
    ///     was its turn
    turn wait_for_turn(std::unique_lock<std::mutex>& lock, deadline until, bool in_front = false) {
        manager_caller<When>* const me = manager_caller<When>::current();
        if (me == nullptr) throw Error("this object of a manager can only wait for its clients");
        place here{me};
        std::list<place*> node{&here};
        const auto at = node.begin();
        places_.splice(in_front ? places_.begin() : places_.end(), node);
        for (;;) {
            me->prepare();
            lock.unlock();
            try {
                me->park(until);
            } catch (...) {
                lock.lock();
                if (here.chosen)
                    wake();  // I1
                else
                    places_.erase(at);
                throw;
            }
            lock.lock();
            if (here.chosen) return turn::came;
            if (until.passed()) {
                places_.erase(at);
                return turn::late;
            }
        }
    }

private:
    std::list<place*> places_;
};

}  // namespace multiprocessing::detail
