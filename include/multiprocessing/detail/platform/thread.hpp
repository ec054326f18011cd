// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Threads of this process, and waiting for one another: <thread> and <condition_variable> are too
/// large to be included for them.

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include <pthread.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/futex.hpp>

namespace multiprocessing::detail {

/// As std::thread. Join or detach it before its end.
class thread {
public:
    /// Which thread; that of none by default.
    class id {
    public:
        id() = default;
        explicit id(pthread_t thread) noexcept : thread_(thread), is_one_(true) {}
        friend bool operator==(const id&, const id&) = default;

    private:
        pthread_t thread_{};
        bool is_one_ = false;
    };

    /// \throws OsError if the kernel refuses it
    template <class F>
    explicit thread(F run) {
        auto kept = std::make_unique<F>(std::move(run));
        const int result = ::pthread_create(
            &thread_, nullptr,
            [](void* given) -> void* {
                const std::unique_ptr<F> mine(static_cast<F*>(given));
                (*mine)();
                return nullptr;
            },
            kept.get());
        if (result != 0) throw_os_error(result, "pthread_create");
        static_cast<void>(kept.release());
    }

    void join() noexcept { ::pthread_join(thread_, nullptr); }
    void detach() noexcept { ::pthread_detach(thread_); }
    id get_id() const noexcept { return id(thread_); }
    static id this_id() noexcept { return id(::pthread_self()); }

private:
    pthread_t thread_;
};

/// As std::condition_variable; what is waited for changes under the mutex of the lock.
///
/// I1  `changes_` and `sleepers_` are read and raised by a waiter under the mutex: who changes
///     something after that finds the sleeper, and the sleeper's `changes_` is the older one.
class condition {
public:
    /// Cost: a system call if somebody sleeps.
    void notify_all() noexcept {
        changes_.fetch_add(1, std::memory_order_relaxed);            // I1: the mutex orders it
        if (sleepers_.load(std::memory_order_relaxed) == 0) return;  // I1
        futex_wake(changes_, wake_all);
    }

    /// May return early, as std's.
    void wait(std::unique_lock<std::mutex>& lock) { wait(lock, deadline::never()); }
    void wait(std::unique_lock<std::mutex>& lock, deadline until) {
        const std::uint32_t seen = changes_.load(std::memory_order_relaxed);  // I1
        sleepers_.fetch_add(1, std::memory_order_relaxed);                    // I1
        lock.unlock();
        futex_wait(changes_, seen, until);
        lock.lock();
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
    template <class Done>
    void wait(std::unique_lock<std::mutex>& lock, Done done) {
        while (!done()) wait(lock);
    }

private:
    futex_word changes_{0};
    std::atomic<std::uint32_t> sleepers_{0};
};

}  // namespace multiprocessing::detail
