// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The front of a pool: which tasks are out, who waits for them, what happens when one comes home.
/// It knows no worker; a back (back.hpp) carries.
///
/// Who waits works: a thread blocked for a result collects results itself. One collector thread,
/// started by the first asynchronous call, does it when nobody waits. Only one thread collects at a
/// time; the others wait for it to finish something or to leave.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/thread.hpp>
#include <multiprocessing/detail/pool/back.hpp>
#include <multiprocessing/detail/pool/task_log.hpp>
#include <multiprocessing/detail/process/async_child.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// What tasks have that may be sent again, or that others have a word in.
struct task_extra {
    callable_ref callable{};
    std::uint64_t first = 0;      // number of the first item in its job
    bool numbered = false;        // errors name the item
    std::int64_t timeout = 0;     // nanoseconds an item; 0: none
    std::size_t retries = 0;      // of each item
    std::vector<std::byte> kept;  // its bytes, if some of it may have to run again
    std::uint32_t base = 0;       // items that were answered before this message
    std::uint32_t failures = 0;   // items with an error; those who answer them count
    std::int64_t busy = 0;        // nanoseconds in workers
    std::size_t tried = 0;        // how often the next item was run
};

/// Some items that travel together. Kept by the front until each has a result or an error. A
/// million of them may be out: hence the extra part, which a plain call does without.
class pool_task {
public:
    virtual ~pool_task() = default;

    /// Fixed once it was submitted, but for base, busy and tried, which are the front's, and
    /// failures.
    virtual task_extra* extra() noexcept { return nullptr; }
    /// Results of so many items from the given one on, framed; what is malformed is an error. On
    /// the collecting thread.
    virtual void results(std::uint32_t from, std::uint32_t count, std::span<const std::byte> frames,
                         pid_t worker) noexcept = 0;
    virtual void failed(std::uint32_t item, std::exception_ptr error) noexcept = 0;
    /// The bytes of its items from `item` on, cut out of `kept`.
    virtual std::vector<std::byte> rest(std::uint32_t item) = 0;
    /// All items have been answered.
    virtual void complete() noexcept {}
    /// Items with an error, once all have been answered.
    virtual std::uint32_t failures() noexcept { return extra() ? extra()->failures : 0; }

    // Set before submit().
    const char* name = "";  // of the callable, for errors; lives as long as the program
    std::uint32_t items = 1;

    // The front's.
    std::uint32_t answered = 0;
    task_id id{};
    std::int64_t submitted = 0;  // CLOCK_MONOTONIC
};

template <compiled When = compiled::when_used>
class pool_front final : private pool_events {
    using pool_task = later<When, detail::pool_task>;

public:
    pool_front(std::unique_ptr<later<When, pool_back>> back, std::string name)
        : back_(std::move(back)), name_(std::move(name)), pid_(this_pid()) {}
    pool_front(const pool_front&) = delete;
    pool_front& operator=(const pool_front&) = delete;
    ~pool_front() {
        if (pid_ != this_pid()) {  // a forked copy: the threads and workers are the other's
            static_cast<void>(back_.release());
            static_cast<void>(collector_.release());
            return;
        }
        end();
    }

    pool_back& back() noexcept { return *back_; }

    /// A map that sends its tasks little by little: close() lets it go on, join() waits for it.
    class job {
    public:
        explicit job(pool_front& front) : front_(&front) {
            front.require_here();
            const std::lock_guard lock(front.mutex_);
            front.check_open();
            ++front.jobs_;
        }
        job(const job&) = delete;
        job& operator=(const job&) = delete;
        ~job() { end(); }
        void end() noexcept {
            if (!front_) return;
            {
                const std::lock_guard lock(front_->mutex_);
                --front_->jobs_;
            }
            std::exchange(front_, nullptr)->changed_.notify_all();
        }

    private:
        pool_front* front_;
    };

    /// \param in_background  somebody may not wait for it
    /// \param continues  it belongs to what was begun before
    void submit(const std::shared_ptr<pool_task>& task, const callable_ref& callable, pieces bytes,
                bool in_background, bool continues = false) {
        require_here();
        {
            std::unique_lock lock(mutex_);
            if (continues && terminated_)
                throw Cancelled(describe(*task, 0) + " was not begun: the pool was terminated");
            if (!continues || joined_) check_open();
            if (broken_) std::rethrow_exception(broken_);
            if (in_background) start_collector();
            enter(task);
        }
        if (const task_extra* extra = task->extra(); extra && extra->timeout != 0)
            watch(extra->timeout);
        send(task, callable, bytes);
        if (in_background && idle_.load(std::memory_order_seq_cst)) wake_collector();
    }

    /// Collects until `done()`. Threads: any, at once.
    /// \return false if the deadline came
    template <class Done>
    bool wait(deadline until, Done done) {
        if (done()) return true;
        require_here();
        std::unique_lock lock(mutex_);
        if (is_collector()) {  // in a callback
            lock.unlock();
            return collect(until, done);
        }
        struct count {
            int& of;
            explicit count(int& n) : of(n) { ++of; }
            ~count() { --of; }
        } waiting(waiting_);
        if (collecting_ && in_background_) back_->interrupt();
        while (!done()) {
            if (until.passed() && !until.is_at_once()) return false;
            if (!collecting_) {
                const bool got = [&] {
                    const role mine(*this, lock, false);
                    return collect(until, done);
                }();
                if (!got && wanted_.load(std::memory_order_seq_cst) == 0 && until.passed())
                    return done();
                if (!got && wanted_ != 0)
                    changed_.wait(lock, [this] { return wanted_ == 0 && !collecting_; });
            } else if (until.is_at_once()) {
                return done();
            } else {
                changed_.wait(lock, until);
            }
        }
        return true;
    }

    /// \return false if it is answered already
    bool cancel(const pool_task& which) {
        std::shared_ptr<pool_task> task;
        task_id id;
        {
            const std::lock_guard lock(mutex_);
            if (!is_out(which)) return false;
            id = which.id;
            task = find(id);
        }
        if (back_->withdraw(id)) {
            exclusively([&] {
                {
                    const std::lock_guard lock(mutex_);
                    if (!is_out(*task) || !(task->id == id)) return;
                    leave(*task);
                }
                fail_rest(*task, cancelled(*task, " was cancelled"));
            });
            return true;
        }
        return back_->arrest(id);
    }

    /// Nobody wants its results: if it was not begun it will not be.
    void drop(const std::shared_ptr<pool_task>& task) {
        task_id id;
        {
            const std::lock_guard lock(mutex_);
            if (!is_out(*task)) return;
            id = task->id;
        }
        if (!back_->withdraw(id)) return;
        const std::lock_guard lock(mutex_);
        if (is_out(*task) && task->id == id) leave(*task);
    }

    /// For the collecting thread: the task will not be begun, and is answered without a word.
    /// \return false if it was begun
    bool withdraw(pool_task& task) {
        if (!back_->withdraw(task.id)) return false;
        const std::lock_guard lock(mutex_);
        if (is_out(task)) leave(task);
        return true;
    }

    void require_open() const {
        require_here();
        const std::lock_guard lock(mutex_);
        check_open();
    }
    void close() {
        const std::lock_guard lock(mutex_);
        closed_ = true;
    }
    bool closed() const {
        const std::lock_guard lock(mutex_);
        return closed_;
    }

    /// Waits until every task is answered, and ends the workers.
    /// \return false if the deadline came before all was answered
    bool join(deadline until = deadline::never()) {
        require_here();
        const bool answered = wait(until, [this] {
            return out_.load(std::memory_order_acquire) == 0 &&
                   jobs_.load(std::memory_order_acquire) == 0;
        });
        if (!answered) return false;
        bool broken;
        {
            const std::lock_guard lock(mutex_);
            if (std::exchange(joined_, true)) return true;
            broken = broken_ != nullptr;
        }
        stop_collector();
        if (broken || terminated_) back_->terminate();
        back_->finish();
        return true;
    }

    void terminate() {
        require_here();
        {
            const std::lock_guard lock(mutex_);
            closed_ = terminated_ = true;
        }
        back_->terminate();
        exclusively([&] {
            std::vector<std::shared_ptr<pool_task>> all;
            {
                const std::lock_guard lock(mutex_);
                all = take_all();
            }
            for (const auto& task : all)
                fail_rest(*task, cancelled(*task, " ended: the pool was terminated"));
        });
    }

    bool joined() const {
        const std::lock_guard lock(mutex_);
        return joined_;
    }

    std::vector<pid_t> worker_pids() const {
        require_here();
        std::vector<later<When, pid_t>> pids;
        if (!back_->start_workers()) return pids;
        for (const worker_facts& one : back_->facts())
            if (one.pid > 0) pids.push_back(one.pid);
        return pids;
    }
    PoolStats stats() const {
        require_here();
        back_->start_workers();
        later<When, PoolStats> all{};
        {
            const std::lock_guard lock(mutex_);
            log_.report(all);
            all.failed = failed_;
        }
        for (const worker_facts& one : back_->facts())
            all.workers.push_back(
                {one.pid, one.items,
                 static_cast<double>(one.busy) /
                     static_cast<double>(std::max<std::int64_t>(all.uptime.count(), 1)),
                 one.restarts});
        return all;
    }
    void write_trace(const char* path) const {
        require_here();
        task_log<When> copy = [this] {
            const std::lock_guard lock(mutex_);
            return log_;
        }();
        copy.write(path, name_, back_->workers());
    }

    /// Runs on the collecting thread, one at a time, in the order of completion.
    void after(std::function<void()> callback) {
        const std::lock_guard lock(callbacks_);
        later_.push_back(std::move(callback));
    }

private:
    void require_here() const {
        if (pid_ != this_pid())
            throw ProcessError("only process " + std::to_string(pid_) +
                               ", which made the pool, may use it; this is process " +
                               std::to_string(this_pid()));
    }

    void check_open() const {  // under mutex_
        if (broken_) std::rethrow_exception(broken_);
        if (closed_) throw ClosedError("the pool was closed or terminated: it takes no more tasks");
    }

    // --- the table; under mutex_

    void enter(const std::shared_ptr<pool_task>& task) {
        std::uint32_t index;
        if (!free_.empty()) {
            index = free_.back();
            free_.pop_back();
        } else {
            if (table_.size() >= pool_board::most_tasks)
                throw Error("the pool has " + std::to_string(table_.size()) +
                            " unanswered tasks, which is the most");
            index = static_cast<std::uint32_t>(table_.size());
            if (free_.capacity() <= index) free_.reserve(2 * table_.size() + 16);  // for leave()
            table_.emplace_back();
        }
        table_[index] = task;
        task->id = {index, ++generations_};
        if (task_extra* extra = task->extra()) extra->base = task->answered;
        if (task->submitted == 0) task->submitted = deadline::clock();
        out_.fetch_add(1, std::memory_order_relaxed);  // under the lock
    }
    bool is_out(const pool_task& task) const {
        return task.id.index < table_.size() && table_[task.id.index].get() == &task;
    }
    std::shared_ptr<pool_task> find(task_id id) const {
        if (id.index >= table_.size() || !table_[id.index] || !(table_[id.index]->id == id))
            return nullptr;
        return table_[id.index];
    }
    /// Its index may be used again.
    void leave(pool_task& task) {
        back_->forget(task.id);
        table_[task.id.index] = nullptr;
        free_.push_back(task.id.index);
        if (out_.fetch_sub(1, std::memory_order_release) == 1 && table_.size() > (1u << 16)) {
            back_->forget_all(static_cast<std::uint32_t>(table_.size()));
            table_ = {};
            free_ = {};
        }
    }
    std::vector<std::shared_ptr<pool_task>> take_all() {
        std::vector<std::shared_ptr<pool_task>> all;
        all.reserve(out_.load(std::memory_order_relaxed));  // all of them, or none
        for (const auto& at : table_)
            if (const auto task = at) {
                all.push_back(task);
                leave(*task);
                if (table_.empty()) break;
            }
        return all;
    }

    void send(const std::shared_ptr<pool_task>& task, const callable_ref& callable, pieces bytes) {
        const task_extra* extra = task->extra();
        const task_header header{task->id.index, task->id.generation,
                                 task->items - (extra ? extra->base : 0),
                                 extra ? extra->timeout : 0, callable};
        try {
            back_->send(header, bytes);
        } catch (...) {
            const std::lock_guard lock(mutex_);
            if (is_out(*task)) {
                leave(*task);
                task->id = {};  // it was never out
            }
            throw;
        }
    }

    void watch(std::int64_t timeout) {
        std::int64_t least = watched_.load(std::memory_order_relaxed);
        while (least == 0 || timeout < least)
            if (watched_.compare_exchange_weak(least, timeout))
                return back_->watch(duration(timeout));
    }

    // --- collecting

    bool is_collector() const { return collecting_ && who_ == thread::this_id(); }
    /// While it lives this thread collects, without the lock, which it has before and behind.
    class role {
    public:
        role(pool_front& front, std::unique_lock<std::mutex>& lock, bool in_background)
            : front_(front), lock_(lock) {
            front_.collecting_ = true;
            front_.in_background_ = in_background;
            front_.who_ = thread::this_id();
            lock_.unlock();
        }
        role(const role&) = delete;
        role& operator=(const role&) = delete;
        ~role() {
            lock_.lock();
            front_.collecting_ = front_.in_background_ = false;
            front_.who_ = {};
            front_.changed_.notify_all();
        }

    private:
        pool_front& front_;
        std::unique_lock<std::mutex>& lock_;
    };
    /// Runs `f` while nobody else collects.
    template <class F>
    void exclusively(F f) {
        std::unique_lock lock(mutex_);
        std::optional<role> mine;
        if (is_collector()) {
            lock.unlock();
        } else {
            ++waiting_;
            if (collecting_) back_->interrupt();
            ++wanted_;
            changed_.wait(lock, [this] { return !collecting_; });
            --wanted_;
            --waiting_;
            mine.emplace(*this, lock, false);
        }
        f();
        run_callbacks();
    }

    template <class Done>
    bool collect(deadline until, Done done) {
        bool hot = true;
        for (;;) {
            const std::uint32_t seen = back_->seen();
            const bool any = back_->collect(*this);
            run_callbacks();
            if (any) tell();
            if (done()) return true;
            if (wanted_.load(std::memory_order_seq_cst) != 0 && !nested_) return false;
            if (any) {
                hot = true;
                continue;
            }
            if (until.passed()) return false;
            back_->sleep(seen, until, hot);
            hot = false;
        }
    }

    /// Others may wait for what was finished.
    void tell() {
        bool others;
        {
            const std::lock_guard lock(mutex_);
            others = waiting_ > 1 || (waiting_ == 1 && in_background_) || !collecting_;
        }
        if (others) changed_.notify_all();
    }

    void run_callbacks() {
        if (nested_) return;  // one at a time
        struct nesting {
            bool& flag;
            explicit nesting(bool& f) : flag(f) { flag = true; }
            ~nesting() { flag = false; }
        };
        for (;;) {
            std::vector<later<When, std::function<void()>>> now;
            {
                const std::lock_guard lock(callbacks_);
                if (later_.empty()) return;
                now.swap(later_);
            }
            const nesting here(nested_);
            for (auto& callback : now) callback();
        }
    }

    void start_collector() {
        if (collector_ || joined_) return;
        collector_ = std::make_unique<later<When, thread>>([this] {
            std::unique_lock lock(mutex_);
            while (!stopping_) {
                if (out_.load(std::memory_order_relaxed) == 0) {
                    idle_.store(true, std::memory_order_seq_cst);
                    changed_.wait(lock, [this] {
                        return stopping_ || out_.load(std::memory_order_relaxed) != 0;
                    });
                    idle_.store(false, std::memory_order_relaxed);
                } else if (collecting_ || waiting_ > 0) {
                    changed_.wait(lock, deadline::after(std::chrono::milliseconds(2)));
                } else {
                    collect_in_background(lock);
                }
            }
        });
    }
    void collect_in_background(std::unique_lock<std::mutex>& lock) {
        try {
            const role mine(*this, lock, true);
            collect(deadline::never(), [this] {
                const std::lock_guard again(mutex_);
                return stopping_ || waiting_ > 0 || out_.load(std::memory_order_relaxed) == 0;
            });
            return;
        } catch (...) {  // no memory, of which there may be more soon
            if (is_forced_unwind()) throw;
        }
        changed_.wait(lock, deadline::after(std::chrono::milliseconds(100)));
    }
    void wake_collector() {
        { const std::lock_guard lock(mutex_); }
        changed_.notify_all();
    }
    void stop_collector() {
        std::unique_ptr<later<When, thread>> ended;
        {
            const std::lock_guard lock(mutex_);
            stopping_ = true;
            ended = std::move(collector_);
        }
        changed_.notify_all();
        back_->interrupt();
        if (!ended) return;
        if (ended->get_id() == thread::this_id())
            ended->detach();  // the pool's end in one of its own callbacks
        else
            ended->join();
    }

    void end() noexcept {
        try {
            if (!joined()) {
                if (!closed_) close();
                join();
            }
        } catch (...) {  // a destructor does not throw; what is left ends with the back
        }
        stop_collector();
    }

    // --- what comes home

    void batch(task_id id, std::uint32_t items, std::span<const std::byte> frames,
               const worker_run& run) noexcept override {
        const std::shared_ptr<pool_task> task = find_and_log(id, items, run, "done");
        if (!task) return;
        task_extra* const extra = task->extra();
        if (extra) extra->busy += run.busy;
        items = std::min(items, task->items - task->answered);
        task->results(task->answered, items, frames, run.pid);
        task->answered += items;
        if (items != 0 && extra) extra->tried = 0;
        if (task->answered == task->items) settle(*task);
    }
    void unread(task_id id, std::uint32_t items, const worker_run& run) noexcept override {
        const std::shared_ptr<pool_task> task = find_and_log(id, items, run, "unread");
        if (!task) return;
        if (task_extra* const extra = task->extra()) extra->busy += run.busy;
        items = std::min(items, task->items - task->answered);
        const std::exception_ptr why = std::make_exception_ptr(std::bad_alloc());
        for (; items != 0; --items) fail_next(*task, why);
        if (task->answered == task->items) settle(*task);
    }

    void ended(task_id id, task_end how, std::uint64_t item, int exitcode,
               const worker_run& run) noexcept override {
        const pid_t worker = run.pid;
        const std::shared_ptr<pool_task> task = find_and_log(id, 1, run, outcome(how));
        if (!task || task->answered == task->items) return;
        task_extra* const extra = task->extra();
        try {
            if (how == task_end::cancelled) {
                {
                    const std::lock_guard lock(mutex_);
                    leave(*task);
                }
                fail_rest(*task, std::make_exception_ptr(
                                     Cancelled(describe(*task, task->answered) +
                                               " was cancelled while it ran; its worker (pid " +
                                               std::to_string(worker) + ") was killed")));
                return;
            }
            const std::uint32_t next = task->answered;
            if (how == task_end::timed_out && extra && item != next - extra->base)
                how = task_end::retired;
            if (how == task_end::timed_out) {
                fail_next(*task,
                          std::make_exception_ptr(TaskTimeout(
                              describe(*task, next) + " ran longer than " +
                              std::to_string((extra ? extra->timeout : 0) / 1'000'000) +
                              " ms; its worker (pid " + std::to_string(worker) + ") was killed")));
            } else if ((how == task_end::crashed || how == task_end::no_memory) &&
                       (!extra || extra->tried++ >= extra->retries)) {
                fail_next(*task,
                          std::make_exception_ptr(WorkerCrashed(
                              describe(*task, next) + " did not return: its worker (pid " +
                                  std::to_string(worker) + ") " + describe_exit(exitcode) +
                                  (how == task_end::no_memory
                                       ? " by the kernel, out of memory: the limit of its cgroup, "
                                         "or the machine's memory, was reached"
                                       : ""),
                              exitcode, worker)));
            }
            if (task->answered == task->items)
                settle(*task);
            else if (extra)
                send_rest(task);
        } catch (...) {  // no memory to run the rest
            {
                const std::lock_guard lock(mutex_);
                if (is_out(*task)) leave(*task);
            }
            fail_rest(*task, std::current_exception());
        }
    }

    static const char* outcome(task_end how) noexcept {
        switch (how) {
            case task_end::crashed:
                return "crashed";
            case task_end::no_memory:
                return "out of memory";
            case task_end::timed_out:
                return "timed out";
            case task_end::cancelled:
                return "cancelled";
            case task_end::retired:
                break;
        }
        return nullptr;  // nothing of the task was run
    }

    std::shared_ptr<pool_task> find_and_log(task_id id, std::uint32_t items, const worker_run& run,
                                            const char* outcome) noexcept {
        const std::lock_guard lock(mutex_);
        std::shared_ptr<pool_task> task = find(id);
        if (task && outcome && task->answered < task->items) try {
                const task_extra* extra = task->extra();
                log_.add({task->submitted, run, task->name,
                          (extra ? extra->first : 0) + task->answered,
                          std::min(items, task->items - task->answered), outcome});
            } catch (...) {  // no memory: not in the log, then
            }
        return task;
    }

    void broken(std::exception_ptr why) noexcept override {
        std::vector<std::shared_ptr<pool_task>> all;
        {
            const std::lock_guard lock(mutex_);
            if (terminated_) return;
            broken_ = why;
            all = take_all();
        }
        for (const auto& task : all) fail_rest(*task, why);
    }

    void settle(pool_task& task) {
        {
            const std::lock_guard lock(mutex_);
            if (is_out(task)) leave(task);
            failed_ += task.failures();
        }
        task.complete();
    }

    void send_rest(const std::shared_ptr<pool_task>& task) {
        const std::vector<std::byte> bytes = task->rest(task->answered);
        {
            const std::lock_guard lock(mutex_);
            leave(*task);
            enter(task);
        }
        const std::span<const std::byte> piece(bytes);
        send(task, task->extra()->callable, {&piece, 1});
    }

    void fail_next(pool_task& task, std::exception_ptr error) noexcept {
        task.failed(task.answered++, std::move(error));
        if (task_extra* extra = task.extra()) extra->tried = 0;
    }
    void fail_rest(pool_task& task, const std::exception_ptr& error) noexcept {
        while (task.answered < task.items) fail_next(task, error);
        task.complete();
    }

    /// Without memory for the text, the exception that says so.
    static std::exception_ptr cancelled(pool_task& task, const char* how) noexcept {
        try {
            return std::make_exception_ptr(Cancelled(describe(task, task.answered) + how));
        } catch (...) {
            return std::current_exception();
        }
    }
    static std::string describe(pool_task& task, std::uint32_t item) {
        std::string text = "the task";
        if (const task_extra* extra = task.extra(); extra && extra->numbered)
            text += " number " + std::to_string(extra->first + item);
        return text + " of " + std::string(task.name);
    }

    std::unique_ptr<later<When, pool_back>> back_;
    const std::string name_;
    const pid_t pid_;

    mutable std::mutex mutex_;
    condition changed_;
    std::vector<std::shared_ptr<pool_task>> table_;
    std::vector<later<When, std::uint32_t>> free_;
    task_log<When> log_;        // under mutex_
    std::uint64_t failed_ = 0;  // likewise
    std::uint32_t generations_ = 0;
    std::atomic<std::size_t> out_{0}, jobs_{0};
    std::exception_ptr broken_;
    bool closed_ = false, terminated_ = false, joined_ = false, stopping_ = false;
    bool collecting_ = false, in_background_ = false;
    thread::id who_;  // collects
    int waiting_ = 0;
    std::atomic<int> wanted_{0};  // the role, by one that will not collect
    bool nested_ = false;         // in a callback; the collecting thread's
    std::atomic<bool> idle_{false};
    std::unique_ptr<later<When, thread>> collector_;
    std::atomic<std::int64_t> watched_{0};

    std::mutex callbacks_;
    std::vector<later<When, std::function<void()>>> later_;
};

}  // namespace multiprocessing::detail
