// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Synchronization between processes: Lock, RLock.
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

#include <chrono>
#include <cstddef>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/sync/handle.hpp>
#include <multiprocessing/detail/sync/lock_state.hpp>
#include <multiprocessing/detail/sync/lockable.hpp>
#include <multiprocessing/detail/sync/timeouts.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

/// A lock between processes and threads. It belongs to the thread that took it.
///
/// If its holder dies (killed, ended, or its thread ended) every acquire() throws AbandonedLock, in
/// every process, those that wait included, until somebody calls recover().
///
/// Differences from Python: only the thread that took it may release it (to hand over, use
/// Semaphore(1)); to take it twice is an error instead of a wait for ever.
/// Cost: that of a robust pthread mutex. The kernel frees 2,048 locks of a thread that ends: hold
/// no more at once.
class Lock : public detail::sync_handle<detail::plain_lock>, public detail::lockable<Lock> {
public:
    Lock() : sync_handle(0) {}

    // acquire() and acquire(timeout), lock(), try_lock(), try_lock_for() and try_lock_until() all
    // throw AbandonedLock if the last holder died; ProcessError if they would wait for this thread.

    /// \throws ProcessError if this thread does not hold it
    void release() const { give(); }

    /// Takes the lock although its holder died, and clears that: from here on it is a lock as any
    /// other, held by this thread. Waits for a living holder, as acquire() does.
    void recover() const { state().recover(detail::deadline::never()); }
    /// \return false if the timeout ended first
    template <class Rep, class Period>
    bool recover(std::chrono::duration<Rep, Period> timeout) const {
        return state().recover(detail::deadline_after(timeout));
    }

    /// Some thread holds it, or held it when it died and nobody has recovered it. Does not take it.
    bool locked() const noexcept { return state().locked(); }

private:
    friend lockable;
    bool take(detail::deadline until) const { return state().acquire(until); }
    void give() const { state().release(); }
};

/// As Lock, but its holder may take it again; it is free after as many releases. recover() by its
/// holder is an error.
class RLock : public detail::sync_handle<detail::recursive_lock>, public detail::lockable<RLock> {
public:
    RLock() : RLock(0) {}

    /// Once less. \throws ProcessError if this thread does not hold it
    void release() const { give(); }
    /// As Lock::recover(): held once.
    void recover() const { state().recover(detail::deadline::never()); }
    template <class Rep, class Period>
    bool recover(std::chrono::duration<Rep, Period> timeout) const {
        return state().recover(detail::deadline_after(timeout));
    }
    bool locked() const noexcept { return state().locked(); }

protected:
    /// \param behind  bytes in its region for what it guards
    explicit RLock(std::size_t behind) : sync_handle(behind) {}

private:
    friend lockable;
    friend class Condition;
    bool take(detail::deadline until) const { return state().acquire_again(until); }
    void give() const { state().release_once(); }
};

}  // namespace multiprocessing
