// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// AsyncResult: a value that another process is to deliver. For async() and for Pool.

#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>

#include <sys/eventfd.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/detail/process/can_copy.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {
namespace detail {

struct wait_access;

/// What a task will have ended with, and how to wait for it. Any number of threads at once.
///
/// I1  once wait() returned true, or ready() true, value and error never change, and exactly one
///     of them is there. Whoever sets them does so before that, with release; see finished_.
template <class R>
class MP_EXPORT async_state {
public:
    using value_type = std::conditional_t<std::is_void_v<R>, std::monostate, R>;

    async_state() = default;
    async_state(const async_state&) = delete;
    async_state& operator=(const async_state&) = delete;
    virtual ~async_state() {  // the task goes on
        if (const int fd = completion_.load(std::memory_order_relaxed); fd >= 0) ::close(fd);
    }

    /// \return false if the task has not ended at the deadline
    virtual bool wait(deadline until) = 0;
    /// Ends a task that has not ended. Then it ends with Cancelled, at once.
    /// \return false if it had ended
    virtual bool cancel() = 0;

    // --- for as_completed(): one of many

    /// A descriptor that is readable once it has ended; -1: wait_for() instead.
    virtual int sentinel() const noexcept { return -1; }
    /// Those of the same pool are waited for together.
    virtual const void* pool() const noexcept { return nullptr; }
    /// Until `done(with)`: asked whenever anything of the same pool has ended.
    /// \return false if the deadline came
    virtual bool wait_for(deadline until, bool (*done)(void*), void* with) {
        static_cast<void>(until);
        return done(with);
    }

    /// A descriptor that is readable once it has ended; made when asked for.
    /// \throws OsError if there is none left
    int completion() {
        if (const int fd = sentinel(); fd >= 0) return fd;
        if (completion_.load(std::memory_order_acquire) < 0) {
            unique_fd made = off_stdio(
                unique_fd(call("eventfd of a result", [] { return ::eventfd(0, EFD_CLOEXEC); })));
            int none = -1;
            // seq_cst: this, then finished_; tell_completion() the other way round.
            if (completion_.compare_exchange_strong(none, made.get(), std::memory_order_seq_cst)) {
                made.release();
                if (finished_.load(std::memory_order_seq_cst)) tell_completion();
            }
        }
        return completion_.load(std::memory_order_acquire);
    }

    bool finished() const noexcept { return finished_.load(std::memory_order_acquire); }  // (B)
    bool has_failed() const noexcept { return outcome_.index() == is_error; }
    std::exception_ptr error() const noexcept {
        return has_failed() ? std::get<is_error>(outcome_) : nullptr;
    }
    value_type& value() noexcept { return std::get<is_value>(outcome_); }

    /// For a value that can't be copied: only the first get() has it.
    bool take() noexcept { return !taken_.exchange(true, std::memory_order_relaxed); }  // who, only

protected:
    // Once, by one thread.
    template <class... Args>
    void finish(Args&&... args) {
        outcome_.template emplace<is_value>(std::forward<Args>(args)...);
        finished_.store(true, std::memory_order_seq_cst);  // (A) outcome_; and see completion()
        tell_completion();
    }
    void fail(std::exception_ptr error) noexcept {
        outcome_.template emplace<is_error>(std::move(error));
        finished_.store(true, std::memory_order_seq_cst);  // (A) outcome_; and see completion()
        tell_completion();
    }

private:
    static constexpr std::size_t is_value = 1, is_error = 2;

    void tell_completion() noexcept {
        const int fd = completion_.load(std::memory_order_seq_cst);
        if (fd >= 0) retry([&] { return ::eventfd_write(fd, 1); });
    }

    // The flags may lie in its padding: a million results may be awaited.
    [[no_unique_address]] std::variant<std::monostate, value_type, std::exception_ptr> outcome_;
    std::atomic<bool> finished_{false};
    std::atomic<bool> taken_{false};
    std::atomic<int> completion_{-1};
};

}  // namespace detail

/// The result of a task that runs in another process. To drop it does not end the task.
///
/// Threads: any number may call anything but the moves at once. Processes: the one that started
/// the task; in a forked child a result that had not arrived is a ProcessError.
template <class R>
class AsyncResult {
public:
    /// Of no task: only valid() may be called.
    AsyncResult() = default;
    explicit AsyncResult(std::shared_ptr<detail::async_state<R>> state) noexcept
        : state_(std::move(state)) {}
    AsyncResult(AsyncResult&&) noexcept = default;
    AsyncResult& operator=(AsyncResult&&) noexcept = default;

    bool valid() const noexcept { return state_ != nullptr; }

    /// Waits for the result. May be repeated if R can be copied: each call copies, but on an rvalue
    /// (`async(f).get()`) it moves.
    /// \throws what the task threw: with its own type if that is standard or registered, else
    ///     RemoteError; WorkerCrashed if its process ended first; Cancelled
    R get() & { return wait_and_take<false>(detail::deadline::never()); }
    R get() && { return wait_and_take<true>(detail::deadline::never()); }
    /// \throws TimeoutError if the task has not ended in time: it goes on; and as get()
    R get(duration timeout) & { return wait_and_take<false>(detail::deadline::after(timeout)); }
    R get(duration timeout) && { return wait_and_take<true>(detail::deadline::after(timeout)); }

    /// Waits until the task has ended, one way or the other.
    void wait() { state().wait(detail::deadline::never()); }
    /// \return false if it has not ended in time
    bool wait(duration timeout) { return state().wait(detail::deadline::after(timeout)); }

    /// Whether it has ended. Holds for ever then, after get() too.
    bool ready() { return state().wait(detail::deadline::at_once()); }
    /// Whether it ended without an exception.
    /// \throws Error if it has not ended
    bool successful() {
        if (!ready()) throw Error("successful: the task has not ended; wait() for it first");
        return !state_->has_failed();
    }

    /// Ends the task; get() throws Cancelled then.
    /// \return false if it had ended: its result stands
    bool cancel() { return state().cancel(); }

private:
    template <class T>
    friend class CompletedResults;
    friend struct detail::wait_access;

    detail::async_state<R>& state() const {
        if (!state_) throw Error("this AsyncResult has no task: it was moved from");
        return *state_;
    }

    template <bool Move>
    R wait_and_take(detail::deadline until) {
        detail::async_state<R>& from = state();
        if (!from.wait(until))
            throw TimeoutError("get: the task has not ended in time; it goes on, ask again");
        if (from.has_failed()) std::rethrow_exception(from.error());
        if constexpr (std::is_void_v<R>) {
            return;
        } else if constexpr (detail::can_copy<R>() && !Move) {
            return from.value();
        } else {
            if (!from.take()) throw Error("get: an earlier get() has taken the result");
            return std::move(from.value());
        }
    }

    std::shared_ptr<detail::async_state<R>> state_;
};

}  // namespace multiprocessing
