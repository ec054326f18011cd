// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The primitives of a manager, from outside: the interface of the classes of queues.hpp,
/// synchronize.hpp and sharedctypes.hpp.
///
/// Where those lie in shared memory, these are objects of the server, so they cost a round trip,
/// and go where the library's own can't: in any process that has a connection to the server. A lock
/// belongs to the thread of the client that took it; when that thread or its process ends, the lock
/// is abandoned. What a dead client waited for goes to the next one.

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <multiprocessing/detail/manager/container_proxies.hpp>
#include <multiprocessing/detail/manager/primitives.hpp>
#include <multiprocessing/detail/manager/proxy.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/sync/lockable.hpp>
#include <multiprocessing/detail/sync/timeouts.hpp>

namespace multiprocessing {
namespace detail {

/// What is left until then, for the server; max(): for ever.
inline duration left_until(deadline until) noexcept { return until.remaining(); }

/// For destructors of guards, which must not throw.
template <class P>
void release_if_there(const P& of) {
    try {
        of.release();
    } catch (const EndOfFile&) {  // with the server
    }
}

/// Proxies of what can be taken.
/// \tparam T  has acquire(duration), release(), recover(duration), locked()
template <class T, class Derived>
class lock_proxy : public proxy_of<T>, public lockable<Derived> {
public:
    lock_proxy() = default;
    using proxy_of<T>::proxy_of;

    /// unlock() does the same, but nothing if the server has ended, and the lock with it: so
    /// EndOfFile can pass a std::lock_guard.
    /// \throws ProcessError if this thread does not hold it
    void release() const { this->template call<&T::release>(); }
    /// As Lock::recover().
    void recover() const { this->template call<&T::recover>(duration::max()); }
    /// \return false if the timeout ended first
    template <class Rep, class Period>
    bool recover(std::chrono::duration<Rep, Period> timeout) const {
        return this->template call<&T::recover>(to_nanoseconds(timeout));
    }
    bool locked() const { return this->template call<&T::locked>(); }

protected:
    ~lock_proxy() = default;

private:
    friend lockable<Derived>;
    bool take(deadline until) const { return this->template call<&T::acquire>(left_until(until)); }
    void give() const { release_if_there(*this); }
};

}  // namespace detail

/// A Queue in a manager's server. (It has no fileno(): nothing of it is in this process.)
template <class T>
class QueueProxy : public detail::proxy_of<detail::hosted_queue<T>> {
protected:
    using queue = detail::hosted_queue<T>;
    using base = detail::proxy_of<queue>;
    template <auto Method, class... Args>
    auto ask_open(Args&&... args) const {
        this->reference().require_open();
        return base::template call<Method>(std::forward<Args>(args)...);
    }

public:
    using value_type = T;

    QueueProxy() = default;
    using base::base;

    /// As Queue's, and the same for the others.
    void put(const T& item) const { ask_open<&queue::put>(item, duration::max()); }
    void put(const T& item, duration timeout) const {
        if (!ask_open<&queue::put>(item, timeout))
            throw QueueFull(
                "put: the queue of the manager was full until the deadline; get some, "
                "wait longer, or make it larger");
    }
    void put_nowait(const T& item) const { put(item, duration::zero()); }
    bool try_put(const T& item) const { return ask_open<&queue::put>(item, duration::zero()); }

    T get() const { return *ask_open<&queue::get>(duration::max()); }
    T get(duration timeout) const {
        std::optional<T> item = ask_open<&queue::get>(timeout);
        if (!item)
            throw QueueEmpty("get: no item came into the queue of the manager until the deadline");
        return *std::move(item);
    }
    T get_nowait() const { return get(duration::zero()); }
    std::optional<T> try_get() const { return ask_open<&queue::get>(duration::zero()); }
    std::optional<T> try_get_for(duration timeout) const { return ask_open<&queue::get>(timeout); }

    bool empty() const { return qsize() == 0; }
    bool full() const { return ask_open<&queue::full>(); }
    std::size_t qsize() const { return ask_open<&queue::qsize>(); }

    /// This process puts and gets no more through this proxy and its copies: ClosedError from any
    /// later call, and from all calls of this process that wait in the queue now.
    void close() const { this->reference().close(); }
};

template <class T>
class JoinableQueueProxy : public QueueProxy<T> {
    using queue = detail::hosted_queue<T>;

public:
    JoinableQueueProxy() = default;
    using QueueProxy<T>::QueueProxy;

    void task_done() const { this->template ask_open<&queue::task_done>(); }
    void join() const { this->template ask_open<&queue::join>(duration::max()); }
    bool join(duration timeout) const { return this->template ask_open<&queue::join>(timeout); }
};

class LockProxy : public detail::lock_proxy<detail::hosted_lock<>, LockProxy> {
public:
    LockProxy() = default;
    using lock_proxy::lock_proxy;
};
class RLockProxy : public detail::lock_proxy<detail::hosted_lock<>, RLockProxy> {
public:
    RLockProxy() = default;
    using lock_proxy::lock_proxy;
};

namespace detail {

template <compiled When = compiled::when_used>
class semaphore_proxy : public proxy_of<hosted_semaphore<When>>,
                        public lockable<semaphore_proxy<When>> {
    using semaphore = hosted_semaphore<When>;

public:
    semaphore_proxy() = default;
    using proxy_of<hosted_semaphore<When>>::proxy_of;

    bool try_acquire() const { return take(deadline::at_once()); }
    template <class Rep, class Period>
    bool try_acquire_for(std::chrono::duration<Rep, Period> timeout) const {
        return take(deadline_after(timeout));
    }
    template <class Clock, class Duration>
    bool try_acquire_until(std::chrono::time_point<Clock, Duration> end) const {
        return take(deadline_at(end));
    }
    /// unlock() is release(1), but nothing if the server has ended.
    void release(std::size_t units = 1) const { this->template call<&semaphore::release>(units); }
    std::size_t value() const { return this->template call<&semaphore::value>(); }
    bool locked() const { return value() == 0; }

private:
    friend lockable<semaphore_proxy>;
    bool take(deadline until) const {
        return this->template call<&semaphore::acquire>(left_until(until));
    }
    void give() const { release_if_there(*this); }
};

}  // namespace detail

/// Semaphore and BoundedSemaphore: units belong to nobody.
class SemaphoreProxy : public detail::semaphore_proxy<> {
public:
    SemaphoreProxy() = default;
    using semaphore_proxy::semaphore_proxy;
};
class BoundedSemaphoreProxy : public SemaphoreProxy {
public:
    BoundedSemaphoreProxy() = default;
    using SemaphoreProxy::SemaphoreProxy;
};

namespace detail {

template <compiled When = compiled::when_used>
class condition_proxy : public lock_proxy<hosted_condition<When>, condition_proxy<When>> {
    using condition = hosted_condition<When>;

public:
    condition_proxy() = default;
    using lock_proxy<hosted_condition<When>, condition_proxy>::lock_proxy;

    /// \throws ProcessError if this thread does not hold the lock; AbandonedLock, with the lock
    bool wait() const { return wait_until_deadline(deadline::never()); }
    /// \return false if the timeout ended before a notify; the lock is held again then, too
    template <class Rep, class Period>
    bool wait(std::chrono::duration<Rep, Period> timeout) const {
        return wait_until_deadline(deadline_after(timeout));
    }
    template <class Clock, class Duration>
    bool wait_until(std::chrono::time_point<Clock, Duration> end) const {
        return wait_until_deadline(deadline_at(end));
    }
    /// Until the predicate is true. \return its last value
    template <std::predicate Predicate>
    bool wait_for(Predicate predicate) const {
        return wait_for_true(deadline::never(), predicate);
    }
    template <std::predicate Predicate, class Rep, class Period>
    bool wait_for(Predicate predicate, std::chrono::duration<Rep, Period> timeout) const {
        return wait_for_true(deadline_after(timeout), predicate);
    }

    // The same with a guard that holds the condition, or the lock that it was made with.

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
        require_owner(guard);
        wait_for_true(deadline::never(), predicate);
    }
    template <class L, class Rep, class Period>
    bool wait_for(std::unique_lock<L>& guard, std::chrono::duration<Rep, Period> timeout) const {
        return wait_guarded(guard, deadline_after(timeout));
    }
    template <class L, class Rep, class Period, std::predicate Predicate>
    bool wait_for(std::unique_lock<L>& guard, std::chrono::duration<Rep, Period> timeout,
                  Predicate predicate) const {
        require_owner(guard);
        return wait_for_true(deadline_after(timeout), predicate);
    }

    /// Wakes exactly n of those that wait, the oldest, or all if they are fewer. Does not need the
    /// lock.
    void notify(std::size_t n = 1) const { this->template call<&condition::notify>(n); }
    void notify_one() const { notify(1); }
    void notify_all() const { notify(static_cast<std::size_t>(-1)); }

private:
    bool wait_until_deadline(deadline until) const {
        return this->template call<&condition::wait>(left_until(until));
    }
    template <class Predicate>
    bool wait_for_true(deadline until, Predicate& predicate) const {
        while (!predicate())
            if (!wait_until_deadline(until)) return predicate();
        return true;
    }
    template <class L>
    static void require_owner(const std::unique_lock<L>& guard) {
        static_assert(std::is_base_of_v<proxy_base<>, L>,
                      "multiprocessing: the guard of a manager's Condition holds the condition, or "
                      "the proxy of the lock that it was made with");
        if (!guard.owns_lock()) throw ProcessError("wait: the guard does not hold its lock");
    }
    template <class L>
    bool wait_guarded(const std::unique_lock<L>& guard, deadline until) const {
        require_owner(guard);
        return wait_until_deadline(until);
    }
};

}  // namespace detail

/// As Condition, with an RLock of its own or the lock that it was made with. A predicate is asked
/// in the process that waits.
class ConditionProxy : public detail::condition_proxy<> {
public:
    ConditionProxy() = default;
    using condition_proxy::condition_proxy;
};

namespace detail {

template <compiled When = compiled::when_used>
class event_proxy : public proxy_of<hosted_event<When>> {
    using event = hosted_event<When>;

public:
    event_proxy() = default;
    using proxy_of<hosted_event<When>>::proxy_of;

    void set() const { this->template call<&event::set>(); }
    void clear() const { this->template call<&event::clear>(); }
    bool is_set() const { return this->template call<&event::is_set>(); }
    bool wait() const { return this->template call<&event::wait>(duration::max()); }
    template <class Rep, class Period>
    bool wait(std::chrono::duration<Rep, Period> timeout) const {
        return this->template call<&event::wait>(to_nanoseconds(timeout));
    }
    template <class Clock, class Duration>
    bool wait_until(std::chrono::time_point<Clock, Duration> end) const {
        return this->template call<&event::wait>(left_until(deadline_at(end)));
    }
};

}  // namespace detail

class EventProxy : public detail::event_proxy<> {
public:
    EventProxy() = default;
    using event_proxy::event_proxy;
};

namespace detail {

template <compiled When = compiled::when_used>
class barrier_proxy : public proxy_of<hosted_barrier<When>> {
    using barrier = hosted_barrier<When>;

public:
    barrier_proxy() = default;
    using proxy_of<hosted_barrier<When>>::proxy_of;

    std::size_t wait() const {
        return this->template call<&barrier::wait>(std::optional<duration>());
    }
    template <class Rep, class Period>
    std::size_t wait(std::chrono::duration<Rep, Period> timeout) const {
        return this->template call<&barrier::wait>(
            std::optional<duration>(to_nanoseconds(timeout)));
    }
    template <class Clock, class Duration>
    std::size_t wait_until(std::chrono::time_point<Clock, Duration> end) const {
        return this->template call<&barrier::wait>(
            std::optional<duration>(left_until(deadline_at(end))));
    }
    void reset() const { this->template call<&barrier::reset>(); }
    void abort() const { this->template call<&barrier::abort>(); }
    bool broken() const { return this->template call<&barrier::broken>(); }
    std::size_t parties() const { return this->template call<&barrier::parties>(); }
    std::size_t n_waiting() const { return this->template call<&barrier::n_waiting>(); }
};

}  // namespace detail

/// As Barrier, without an action. A party that dies while it waits breaks it, at once.
class BarrierProxy : public detail::barrier_proxy<> {
public:
    BarrierProxy() = default;
    using barrier_proxy::barrier_proxy;
};

/// One T, with a lock: `{ std::lock_guard guard(v); v.set(v.get() + 1); }`. T is Sendable.
template <class T>
class ValueProxy : public detail::lock_proxy<detail::hosted_elements<T>, ValueProxy<T>> {
    using elements = detail::hosted_elements<T>;
    using base = detail::lock_proxy<elements, ValueProxy<T>>;

public:
    using value_type = T;

    ValueProxy() = default;
    using base::base;

    T get() const { return this->template call<&elements::at>(std::size_t{0}); }
    void set(const T& value) const { this->template call<&elements::set>(std::size_t{0}, value); }
    T value() const { return get(); }
    void value(const T& to) const { set(to); }
    /// Itself.
    const ValueProxy& get_lock() const noexcept { return *this; }
};

/// A fixed number of T, with a lock for all of them. T is Sendable.
template <class T>
class ArrayProxy : public detail::lock_proxy<detail::hosted_elements<T>, ArrayProxy<T>> {
    using elements = detail::hosted_elements<T>;
    using base = detail::lock_proxy<elements, ArrayProxy<T>>;

public:
    using value_type = T;

    /// `a[i]`, on the left or on the right.
    using item = detail::proxied_item<ArrayProxy, std::size_t, T>;

    ArrayProxy() = default;
    using base::base;

    item operator[](std::size_t index) const { return item(*this, index); }
    /// \throws std::out_of_range
    T at(std::size_t index) const { return this->template call<&elements::at>(index); }
    T get(std::size_t index) const { return at(index); }
    void set(std::size_t index, const T& value) const {
        this->template call<&elements::set>(index, value);
    }
    std::size_t size() const { return this->template call<&elements::size>(); }
    bool empty() const { return size() == 0; }
    /// All of it, in one message.
    std::vector<T> copy() const { return this->template call<&elements::copy>(); }
    /// Sets as many as the range has, from an index on, in one message.
    /// \throws std::out_of_range
    template <detail::input_range Range>
    void assign(Range&& values, std::size_t from = 0) const {
        this->template call<&elements::assign>(
            from, detail::collected<std::vector<T>>(std::forward<Range>(values)));
    }
    const ArrayProxy& get_lock() const noexcept { return *this; }

    /// Over a copy, made now.
    auto begin() const { return detail::snapshot_iterator<std::vector<T>>(copy()); }
    std::default_sentinel_t end() const noexcept { return {}; }
};

}  // namespace multiprocessing
