// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What lies in a manager's server behind Queue, JoinableQueue, Lock, RLock, Semaphore,
/// BoundedSemaphore, Condition, Event, Barrier, Value and Array.
///
/// Each has its own mutex, which is held for moments, and a line of callers that wait. Timeouts
/// come as nanoseconds, duration::max() for ever. A lock belongs to the caller that took it, which
/// is a thread of a client.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <multiprocessing/detail/manager/caller.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

template <class T>
class hosted_queue {
public:
    using mp_concurrent_tag = void;

    explicit hosted_queue(std::size_t maxsize) : maxsize_(maxsize) {}

    /// \return false if it was full until the deadline
    bool put(T item, duration timeout) {
        std::unique_lock lock(mutex_);
        if (is_full() && !putters_.wait(lock, deadline::after(timeout), [&] { return !is_full(); }))
            return false;
        items_.push_back(std::move(item));
        ++unfinished_;
        getters_.wake();
        return true;
    }
    std::optional<T> get(duration timeout) {
        std::unique_lock lock(mutex_);
        if (!getters_.wait(lock, deadline::after(timeout), [&] { return !items_.empty(); }))
            return std::nullopt;
        std::optional<T> item(std::move(items_.front()));
        items_.pop_front();
        putters_.wake();
        return item;
    }
    std::size_t qsize() const {
        const std::lock_guard lock(mutex_);
        return items_.size();
    }
    bool full() const {
        const std::lock_guard lock(mutex_);
        return is_full();
    }
    void task_done() {
        const std::lock_guard lock(mutex_);
        if (unfinished_ == 0)
            throw Error("task_done: called more often than items were put into the queue");
        if (--unfinished_ == 0) {
            ++times_done_;
            joiners_.wake_all();
        }
    }
    bool join(duration timeout) {
        std::unique_lock lock(mutex_);
        const std::uint64_t first = times_done_;
        return joiners_.wait(lock, deadline::after(timeout),
                             [&] { return unfinished_ == 0 || times_done_ != first; });
    }

private:
    bool is_full() const noexcept { return maxsize_ != 0 && items_.size() >= maxsize_; }

    const std::size_t maxsize_;
    mutable std::mutex mutex_;  // guards the rest
    std::deque<T> items_;
    std::size_t unfinished_ = 0;
    std::uint64_t times_done_ = 0;
    waiting_line<> getters_, putters_, joiners_;
};

/// Lock and RLock.
template <compiled When = compiled::when_used>
class hosted_lock {
public:
    using mp_concurrent_tag = void;

    explicit hosted_lock(bool recursive) : recursive_(recursive) {}

    /// \return false if the deadline came first
    bool acquire(duration timeout) {
        std::unique_lock lock(mutex_);
        if (owner_ == me()) return again(lock, timeout);
        if (!line_.wait(lock, deadline::after(timeout), [&] { return owner_ == 0 || abandoned_; }))
            return false;
        if (abandoned_) throw_abandoned("acquire");
        own(1);
        return true;
    }
    void release() {
        const std::lock_guard lock(mutex_);
        require_mine("release");
        if (--depth_ == 0) free();
    }
    /// Takes it though it is abandoned.
    bool recover(duration timeout) {
        std::unique_lock lock(mutex_);
        if (owner_ == me()) {
            if (!abandoned_)
                throw ProcessError("recover: this thread holds the lock; it is not abandoned");
            abandoned_ = false;
            return true;
        }
        if (!line_.wait(lock, deadline::after(timeout), [&] { return owner_ == 0; })) return false;
        abandoned_ = false;
        own(1);
        return true;
    }
    bool locked() const {
        const std::lock_guard lock(mutex_);
        return owner_ != 0 || abandoned_;
    }

    /// The thread that holds it is gone.
    void abandon(std::uint64_t who) noexcept {
        const std::lock_guard lock(mutex_);
        if (owner_ != who) return;
        owner_ = 0;
        depth_ = 0;
        abandoned_ = true;
        line_.wake_all();
    }

    // For conditions.

    /// Gives it back, however often it was taken. \return how often
    std::uint32_t give_all() {
        const std::lock_guard lock(mutex_);
        const std::uint32_t times = depth_;
        free();
        return times;
    }
    /// Until it is free, abandoned or not; what is abandoned stays so.
    /// \throws AbandonedLock, with the lock
    void take_anyway(std::uint32_t times) {
        std::unique_lock lock(mutex_);
        line_.wait(lock, deadline::never(), [&] { return owner_ == 0; });
        own(times);
        if (abandoned_) throw_abandoned("wait");
    }
    void require_held(const char* what) const {
        const std::lock_guard lock(mutex_);
        require_mine(what);
    }

private:
    static std::uint64_t me() {
        const manager_caller<When>* const caller = manager_caller<When>::current();
        if (caller == nullptr) throw Error("a lock of a manager belongs to threads of its clients");
        return caller->number();
    }
    bool again(std::unique_lock<std::mutex>& lock, duration timeout) {
        if (recursive_) {
            if (depth_ == std::numeric_limits<std::uint32_t>::max())
                throw Error("acquire: this thread has the RLock 2^32 - 1 times");
            ++depth_;
            return true;
        }
        if (timeout == duration::max())
            throw ProcessError(
                "acquire: this thread holds the lock already and would wait for itself for ever; "
                "use an RLock, or a timeout");
        return line_.wait(lock, deadline::after(timeout), [] { return false; });
    }
    void own(std::uint32_t times) {
        manager_caller<When>& caller = *manager_caller<When>::current();
        caller.holds(std::shared_ptr<hosted_lock>(keep(), this));
        owner_ = caller.number();
        depth_ = times;
    }
    void free() {
        owner_ = 0;
        depth_ = 0;
        manager_caller<When>::current()->holds_no_more(this);
        line_.wake();
    }
    /// While it is held, the object that it is part of stays.
    static const std::shared_ptr<void>& keep() { return manager_caller<When>::current()->object; }

    void require_mine(const char* what) const {
        if (owner_ != me())
            throw ProcessError(
                std::string(what) + ": this thread does not hold the lock (" +
                (owner_ == 0 ? "nobody does" : "another one does") +
                "); only the thread that took it may release it; to hand over, use Semaphore(1)");
    }
    [[noreturn]] static void throw_abandoned(const char* what) {
        throw AbandonedLock(
            std::string(what) +
            ": a thread of a client died while it held this lock of a manager, so what it guards "
            "may be half written; call recover(), which takes the lock, put that right, and "
            "release it");
    }

    const bool recursive_;
    mutable std::mutex mutex_;  // guards the rest
    std::uint64_t owner_ = 0;   // number of a caller
    std::uint32_t depth_ = 0;
    bool abandoned_ = false;
    waiting_line<> line_;
};

/// Units belong to nobody.
template <compiled = compiled::when_used>
class hosted_semaphore {
public:
    using mp_concurrent_tag = void;

    hosted_semaphore(std::size_t units, bool bounded)
        : most_(bounded ? units : limit), units_(units) {
        if (units > limit)
            throw Error("a semaphore has at most 2147483647 units, not " + std::to_string(units));
    }

    bool acquire(duration timeout) {
        std::unique_lock lock(mutex_);
        if (!line_.wait(lock, deadline::after(timeout), [&] { return units_ != 0; })) return false;
        --units_;
        return true;
    }
    void release(std::size_t units) {
        const std::lock_guard lock(mutex_);
        if (units > most_ - units_)
            throw Error("release: " + std::to_string(units) + " more units than " +
                        std::to_string(units_) + " are more than the semaphore can have, " +
                        std::to_string(most_));
        units_ += units;
        line_.wake(units);
    }
    std::size_t value() const {
        const std::lock_guard lock(mutex_);
        return units_;
    }

private:
    static constexpr std::size_t limit = std::numeric_limits<std::int32_t>::max();

    const std::size_t most_;
    mutable std::mutex mutex_;  // guards the rest
    std::size_t units_;
    waiting_line<> line_;
};

template <compiled When = compiled::when_used>
class hosted_condition {
public:
    using mp_concurrent_tag = void;

    hosted_condition() : lock_(std::make_shared<hosted_lock<When>>(true)) {}
    explicit hosted_condition(std::shared_ptr<hosted_lock<When>> lock) : lock_(std::move(lock)) {}

    bool acquire(duration timeout) { return lock_->acquire(timeout); }
    void release() { lock_->release(); }
    bool recover(duration timeout) { return lock_->recover(timeout); }
    bool locked() const { return lock_->locked(); }

    /// \return false if the deadline came first. The lock is held in any case, but for peer_gone.
    bool wait(duration timeout) {
        lock_->require_held("wait");
        std::unique_lock lock(mutex_);
        const std::uint32_t times = lock_->give_all();
        bool notified = false;
        try {
            notified =
                line_.wait_for_turn(lock, deadline::after(timeout)) == waiting_line<>::turn::came;
        } catch (const peer_gone&) {
            throw;
        } catch (...) {
            lock.unlock();
            lock_->take_anyway(times);
            throw;
        }
        lock.unlock();
        try {
            lock_->take_anyway(times);
        } catch (...) {
            if (notified) notify(1);  // to the next one: this caller does not know
            throw;
        }
        return notified;
    }
    void notify(std::size_t n) {
        const std::lock_guard lock(mutex_);
        line_.wake(n);
    }

private:
    const std::shared_ptr<hosted_lock<When>> lock_;
    std::mutex mutex_;  // guards the line
    waiting_line<> line_;
};

template <compiled = compiled::when_used>
class hosted_event {
public:
    using mp_concurrent_tag = void;

    void set() {
        const std::lock_guard lock(mutex_);
        if (std::exchange(up_, true)) return;
        ++times_;
        line_.wake_all();
    }
    void clear() {
        const std::lock_guard lock(mutex_);
        up_ = false;
    }
    bool is_set() const {
        const std::lock_guard lock(mutex_);
        return up_;
    }
    bool wait(duration timeout) {
        std::unique_lock lock(mutex_);
        const std::uint64_t first = times_;
        return up_ ||
               line_.wait(lock, deadline::after(timeout), [&] { return up_ || times_ != first; });
    }

private:
    mutable std::mutex mutex_;  // guards the rest
    bool up_ = false;
    std::uint64_t times_ = 0;  // that it was raised
    waiting_line<> line_;
};

template <compiled = compiled::when_used>
class hosted_barrier {
public:
    using mp_concurrent_tag = void;

    /// \param timeout  of those that say none, a negative one; nothing: for ever
    hosted_barrier(std::size_t parties, std::optional<duration> timeout)
        : parties_(parties), timeout_(timeout.value_or(duration::max())) {
        if (parties == 0 || parties > 1'000'000)
            throw Error("a Barrier has 1 to 1,000,000 parties, not " + std::to_string(parties));
    }

    std::size_t wait(std::optional<duration> timeout) {
        std::unique_lock lock(mutex_);
        if (round_->end == ends::broken) throw_broken("it was broken before");
        const std::shared_ptr<round> mine = round_;
        if (mine->there + 1 == parties_) {
            auto next = std::make_shared<round>();
            const std::size_t last = mine->there++;
            finish(ends::complete);
            round_ = std::move(next);
            return last;
        }
        const std::size_t index = mine->there++;
        try {
            if (!line_.wait(lock, deadline::after(timeout.value_or(timeout_)),
                            [&] { return mine->end != ends::no; })) {
                finish(ends::broken);
                throw_broken("the timeout ended before all parties were there");
            }
        } catch (...) {
            if (mine->end == ends::no) finish(ends::broken);
            throw;
        }
        if (mine->end == ends::broken)
            throw_broken(
                "another party's timeout ended, or it died, or reset() or abort() was "
                "called");
        return index;
    }
    /// Those that wait get BrokenBarrier; then it is as new.
    void reset() {
        auto next = std::make_shared<round>();
        const std::lock_guard lock(mutex_);
        finish(ends::broken);
        round_ = std::move(next);
    }
    void abort() {
        const std::lock_guard lock(mutex_);
        finish(ends::broken);
    }
    bool broken() const {
        const std::lock_guard lock(mutex_);
        return round_->end == ends::broken;
    }
    std::size_t parties() const { return parties_; }
    std::size_t n_waiting() const {
        const std::lock_guard lock(mutex_);
        return round_->end == ends::broken ? 0 : round_->there;
    }

private:
    enum class ends { no, complete, broken };
    struct round {
        std::size_t there = 0;
        ends end = ends::no;
    };

    void finish(ends how) noexcept {
        round_->end = how;
        line_.wake_all();
    }
    [[noreturn]] static void throw_broken(const char* why) {
        throw BrokenBarrier(std::string("wait: ") + why +
                            "; reset() makes the barrier usable again");
    }

    const std::size_t parties_;
    const duration timeout_;
    mutable std::mutex mutex_;  // guards the rest
    std::shared_ptr<round> round_ = std::make_shared<round>();
    waiting_line<> line_;
};

/// Value and Array: elements, and an RLock that guards them if all agree on it.
template <class T>
class hosted_elements {
public:
    using mp_concurrent_tag = void;

    explicit hosted_elements(std::vector<T> elements)
        : elements_(std::move(elements)), lock_(true) {}

    T at(std::size_t index) const {
        const std::lock_guard lock(mutex_);
        return elements_[place(index)];
    }
    void set(std::size_t index, T value) {
        const std::lock_guard lock(mutex_);
        elements_[place(index)] = std::move(value);
    }
    void assign(std::size_t from, std::vector<T> values) {
        const std::lock_guard lock(mutex_);
        if (from > elements_.size() || values.size() > elements_.size() - from)
            throw std::out_of_range("assign: " + std::to_string(values.size()) +
                                    " values from index " + std::to_string(from) +
                                    " on, to an Array of " + std::to_string(elements_.size()));
        std::move(values.begin(), values.end(),
                  elements_.begin() + static_cast<std::ptrdiff_t>(from));
    }
    std::size_t size() const { return elements_.size(); }
    std::vector<T> copy() const {
        const std::lock_guard lock(mutex_);
        return elements_;
    }

    bool acquire(duration timeout) { return lock_.acquire(timeout); }
    void release() { lock_.release(); }
    bool recover(duration timeout) { return lock_.recover(timeout); }
    bool locked() const { return lock_.locked(); }

private:
    std::size_t place(std::size_t index) const {
        if (index >= elements_.size())
            throw std::out_of_range("index " + std::to_string(index) +
                                    " of an Array of a manager that has " +
                                    std::to_string(elements_.size()) + " elements");
        return index;
    }

    mutable std::mutex mutex_;  // guards the elements' values
    std::vector<T> elements_;
    hosted_lock<used_by<T>> lock_;
};

}  // namespace multiprocessing::detail
