// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What lies in shared memory behind Lock and RLock.

#include <atomic>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/robust_mutex.hpp>
#include <multiprocessing/detail/sync/handle.hpp>
#include <multiprocessing/detail/sync/owed_wakes.hpp>
#include <multiprocessing/detail/sync/thread_id.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// A lock that belongs to a thread, and that is abandoned when its owner dies.
///
/// Layout (64 bytes on x86-64)
///      0 mutex      who holds this may become the owner; the kernel frees it when its thread ends
///     40 owner      this_thread_id(); 0: nobody
///     48 abandoned  1: acquire() throws
///     52 depth      how often the owner of an RLock has it
///     56 owes       1: the owner has owed_wakes to pay when it gives the lock back
/// Writers  all by the holder of the mutex.
/// I1  owner is written by its own thread alone, so a thread can tell by one load whether it is the
///     owner; a dead owner's name stays until the next one's, and is nobody else's.
/// I2  user code runs under the mutex only while owner is set: the store to it is the commit of
///     acquire(), and clearing it that of release().
/// K1  killed holding the mutex, owner 0 or of an owner before: nothing was done under the lock;
///     the next one gets it as if it had been free.
/// K2  killed while it is the owner (its thread ended is the same): whoever gets the mutex next
///     sets `abandoned`, lets go and throws; so do all after it, until recover().
/// K3  killed in that: the mutex says so again, owner is still the dead one's.
/// K4  killed in recover(), before its store to owner: `abandoned` is still set. After it: K2.
/// K5  a waiter killed: nothing. If it was the one that the kernel had woken, the next one comes
///     after `look_again` at the latest (robust_mutex, K2).
class lock_state {
public:
    void init() { mutex_.init(); }

    /// \return false if the deadline came first
    /// \throws AbandonedLock; ProcessError if this thread is the owner and the deadline is never
    bool acquire(deadline until) {
        bool died = false;
        if (!mutex_.try_lock(&died)) {
            if (until.is_at_once()) return false;
            if (until.is_never() && is_mine()) would_wait_for_ever();
            if (!mutex_.lock(until, look_again, &died)) return false;
        }
        note_death(died);
        // relaxed: this thread alone writes it while the mutex is not in dead hands.
        if (abandoned_.load(std::memory_order_relaxed) != 0) refuse();
        own();
        return true;
    }

    /// For a wait that must end with the lock. If it throws AbandonedLock this thread is the owner,
    /// and it stays abandoned when it releases it.
    void acquire_anyway(std::uint32_t times) {
        take_mutex(deadline::never());
        const std::uint64_t last = owner_.load(std::memory_order_relaxed);  // the mutex orders it
        own();
        depth_ = times;
        if (abandoned()) is_abandoned("wait", last);
    }

    /// As acquire(), and again if this thread has it already.
    bool acquire_again(deadline until) {
        if (!is_mine()) {
            if (!acquire(until)) return false;
            depth_ = 1;
            return true;
        }
        if (depth_ == std::numeric_limits<std::uint32_t>::max())
            throw Error("acquire: this thread has the RLock 2^32 - 1 times");
        ++depth_;
        return true;
    }

    /// \throws ProcessError if this thread is not the owner
    void release() {
        if (!is_mine()) not_mine("release");
        const bool owes = owes_ != 0;
        if (owes) owes_ = 0;
        owner_.store(0, std::memory_order_release);  // I2: what was done under the lock goes first
        mutex_.unlock();
        if (owes) owed_wakes::pay(this);
    }
    void release_once() {
        if (!is_mine()) not_mine("release");
        if (depth_ > 1)
            --depth_;
        else
            release();
    }

    /// Takes the lock, abandoned or not, waiting for a living owner.
    bool recover(deadline until) {
        if (is_mine() && abandoned()) {  // by acquire_anyway()
            abandoned_.store(0, std::memory_order_release);
            return true;
        }
        if (is_mine())
            throw ProcessError("recover: this thread holds the lock; it is not abandoned");
        if (!(until.is_at_once() ? mutex_.try_lock() : mutex_.lock(until))) return false;
        own();
        depth_ = 1;
        abandoned_.store(0, std::memory_order_release);  // K4
        return true;
    }

    /// Somebody has it, or had it when he died.
    bool locked() const noexcept {
        return owner_.load(std::memory_order_relaxed) != 0 ||  // at some instant of this call
               abandoned_.load(std::memory_order_relaxed) != 0;
    }
    bool is_mine() const {
        return owner_.load(std::memory_order_relaxed) == this_thread_id();  // I1
    }
    /// How often the owner, who asks, has it.
    std::uint32_t depth() const noexcept { return depth_; }
    void depth(std::uint32_t times) noexcept { depth_ = times; }

    /// The owner, who asks, has put off a wake-up until release().
    void owes() noexcept { owes_ = 1; }

    /// This process's last handle goes. If this thread has the lock it is abandoned.
    /// \return false if another thread of this process has it
    bool leave() {
        const std::uint64_t owner = owner_.load(std::memory_order_relaxed);  // whoever has it
        if (owner == 0) return true;
        if (owner != this_thread_id()) return !is_thread_here(owner);
        abandoned_.store(1, std::memory_order_relaxed);  // the mutex orders it
        owner_.store(0, std::memory_order_relaxed);      // likewise
        mutex_.unlock();
        return true;
    }

    // For SharedLock, which has more to do in between.

    bool take_mutex(deadline until) {
        bool died = false;
        if (!(until.is_at_once() ? mutex_.try_lock(&died) : mutex_.lock(until, look_again, &died)))
            return false;
        note_death(died);
        return true;
    }
    void disown() noexcept { owner_.store(0, std::memory_order_release); }  // as in release()
    void drop_mutex() noexcept { mutex_.unlock(); }
    bool abandoned() const noexcept {
        return abandoned_.load(std::memory_order_relaxed) != 0;  // the mutex orders it
    }
    void not_abandoned() noexcept { abandoned_.store(0, std::memory_order_release); }
    void own() {
        owner_.store(this_thread_id(), std::memory_order_relaxed);  // others compare it at most
        std::atomic_signal_fence(std::memory_order_seq_cst);  // I2: the user's stores come after it
    }
    [[noreturn, gnu::cold, gnu::noinline]] void refuse() {
        const std::uint64_t last = owner_.load(std::memory_order_relaxed);  // the mutex orders it
        mutex_.unlock();
        is_abandoned("acquire", last);
    }
    [[noreturn, gnu::cold, gnu::noinline]] static void is_abandoned(const char* what,
                                                                    std::uint64_t last) {
        throw AbandonedLock(
            std::string(what) + ": " +
            (last != 0 ? "thread " + std::to_string(number_of_thread(last)) : "a thread") +
            " died, or let go of its last handle, while it held the lock, so what it guards may be "
            "half written; call recover(), which takes the lock, put that right, and release it");
    }
    [[noreturn, gnu::cold, gnu::noinline]] void not_mine(const char* what) const {
        const auto owner = owner_.load(std::memory_order_relaxed);
        throw ProcessError(
            std::string(what) + ": this thread does not hold the lock (" +
            (owner == 0 ? "nobody does" : "thread " + std::to_string(number_of_thread(owner))) +
            (owner == 0 ? "" : " does") +
            "); only the thread that took it may release it; to hand over, use Semaphore(1)");
    }
    [[noreturn, gnu::cold, gnu::noinline]] static void would_wait_for_ever() {
        throw ProcessError(
            "acquire: this thread holds the lock already and would wait for itself for ever; use "
            "an "
            "RLock, or a timeout");
    }

private:
    void note_death(bool died) noexcept {
        if (died && owner_.load(std::memory_order_relaxed) != 0)  // K1
            abandoned_.store(1, std::memory_order_relaxed);       // K2; the mutex orders it
    }

    robust_mutex mutex_;
    std::atomic<std::uint64_t> owner_;
    std::atomic<std::uint32_t> abandoned_;
    std::uint32_t depth_;
    std::uint32_t owes_;
};
static_assert(std::is_standard_layout_v<lock_state> &&
              (sizeof(void*) != 8 || sizeof(lock_state) == 64));

struct plain_lock : lock_state {
    static constexpr const char* name = "mp:Lock";
    static constexpr const char* what = "a Lock";
    static constexpr sync_type type = sync_type::lock;
};
struct recursive_lock : lock_state {
    static constexpr const char* name = "mp:RLock";
    static constexpr const char* what = "an RLock";
    static constexpr sync_type type = sync_type::rlock;
};

}  // namespace multiprocessing::detail
