// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A lock between processes that survives the death of its holder.

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <pthread.h>
#include <time.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>

#if defined(__SANITIZE_THREAD__)
#define MP_DETAIL_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MP_DETAIL_TSAN 1
#endif
#endif

namespace multiprocessing::detail {

/// How long anybody relies on being woken by somebody else. Only faults make it matter: a stopped
/// process, or a wake-up that died with the process that it was meant for.
inline constexpr duration look_again = std::chrono::milliseconds(500);

/// So long at least is a lock of a few instructions waited for, whatever the deadline: its holder
/// may just not be running. Who does not get it must do without.
inline constexpr duration moment = std::chrono::milliseconds(5);

/// For a lock that such a call needs, which must end although the holder was stopped.
inline deadline with_a_moment(deadline until) noexcept {
    return until.is_at_once() ? until : std::max(until, deadline::after(moment));
}

/// A process-shared pthread mutex with the robust attribute (40 bytes on x86-64).
///
/// What it guards must be consistent at every instruction of every holder: recovery from a dead
/// holder is pthread_mutex_consistent and nothing else (I4 of the ring), unless the caller asks.
/// K1  holder killed: the kernel marks the lock, the next owner gets it, told or not.
/// K2  a waiter killed after it was woken, while a third process has barged in: neither kernel nor
///     glibc wakes the next waiter. So no wait is longer than `look_again` at a time.
/// The memory of a lock must stay mapped while any thread of the process may be in lock() or
/// unlock() (glibc bug 14485).
/// To take a free one is inlined, also into large functions, and to wait is not: each message of a
/// ring takes one, and calls cost it as much as the lock.
class robust_mutex {
public:
    /// On memory that is all zero and that nobody else sees yet.
    void init() {
        pthread_mutexattr_t attributes;
        ::pthread_mutexattr_init(&attributes);
        ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        ::pthread_mutex_init(&mutex_, &attributes);
        ::pthread_mutexattr_destroy(&attributes);
    }

    bool try_lock(bool* abandoned = nullptr) {
        return owned(::pthread_mutex_trylock(&mutex_), abandoned);
    }

    /// A deadline of at_once() waits for a holder's few instructions, `patience` at most.
    /// \param abandoned  if given, set to true when the last holder died
    /// \return false if the deadline passed
    [[gnu::always_inline]] bool lock(deadline until, duration patience = look_again,
                                     bool* abandoned = nullptr) {
        return try_lock(abandoned) || wait(until, patience, abandoned);
    }

    void unlock() noexcept { ::pthread_mutex_unlock(&mutex_); }

private:
    [[gnu::noinline]] bool wait(deadline until, duration patience, bool* abandoned) {
        for (;;) {
            const deadline slice = deadline::after(patience);
            const bool last = until <= slice;
            if (timed_lock(last && !until.is_at_once() ? until : slice, abandoned)) return true;
            if (last) return false;
        }
    }

    bool timed_lock(deadline until, bool* abandoned) {
#ifdef MP_DETAIL_TSAN  // it knows timedlock, but not clocklock
        const auto at =
            deadline::to_timespec(until.remaining().count() + deadline::clock(CLOCK_REALTIME));
        return owned(::pthread_mutex_timedlock(&mutex_, &at), abandoned);
#else
        const auto at = until.absolute();
        return owned(::pthread_mutex_clocklock(&mutex_, CLOCK_MONOTONIC, &at), abandoned);
#endif
    }

    [[gnu::always_inline]] bool owned(int result, bool* abandoned) {
        if (result == EOWNERDEAD) {
            result = ::pthread_mutex_consistent(&mutex_);
            if (abandoned) *abandoned = true;
        }
        if (result == 0) return true;
        if (result == EBUSY || result == ETIMEDOUT) return false;
        refuse(result);
    }
    [[noreturn, gnu::cold, gnu::noinline]] static void refuse(int result) {
        throw_os_error(result, "locking a robust mutex");
    }

    pthread_mutex_t mutex_;
};

/// Unlocks at the end of the scope what it locked.
class held {
public:
    held() = default;
    held(robust_mutex& mutex, deadline until, duration patience = look_again) {
        lock(mutex, until, patience);
    }
    held(const held&) = delete;
    held& operator=(const held&) = delete;
    ~held() { unlock(); }

    [[gnu::always_inline]] bool lock(robust_mutex& mutex, deadline until,
                                     duration patience = look_again) {
        if (mutex.lock(until, patience)) mutex_ = &mutex;
        return mutex_ != nullptr;
    }
    bool try_lock(robust_mutex& mutex) {
        if (mutex.try_lock()) mutex_ = &mutex;
        return mutex_ != nullptr;
    }
    void unlock() noexcept {
        if (mutex_) mutex_->unlock();
        mutex_ = nullptr;
    }
    explicit operator bool() const noexcept { return mutex_ != nullptr; }

private:
    robust_mutex* mutex_ = nullptr;
};

}  // namespace multiprocessing::detail
