// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Pool: calls functions in worker processes, as Python's multiprocessing.Pool. ThreadPool: the
/// same with threads. map: workers forked for one call.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/types.h>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/kept_by_thread.hpp>
#include <multiprocessing/detail/pool/bind.hpp>
#include <multiprocessing/detail/pool/calls.hpp>
#include <multiprocessing/detail/pool/front.hpp>
#include <multiprocessing/detail/pool/imap.hpp>
#include <multiprocessing/detail/pool/jobs.hpp>
#include <multiprocessing/detail/pool/process_back.hpp>
#include <multiprocessing/detail/pool/progress.hpp>
#include <multiprocessing/detail/pool/ranges.hpp>
#include <multiprocessing/detail/pool/task_log.hpp>
#include <multiprocessing/detail/pool/thread_back.hpp>
#include <multiprocessing/detail/process/as_completed.hpp>
#include <multiprocessing/errors.hpp>
#include <multiprocessing/process.hpp>

namespace multiprocessing {

/// How a Pool is made; what is left out is as Python has it.
struct PoolOptions {
    /// 0: cpu_count().
    std::size_t processes = 0;
    /// Called once in each worker before its first task. If it throws, or ends its worker eight
    /// times in a row, the pool is broken: every call throws PoolBroken with the reason.
    std::function<void()> initializer = {};
    /// A worker is replaced after so many items, also inside a chunk. 0: never.
    std::size_t maxtasksperchild = 0;
    /// From an item's start. Then its worker is killed and replaced, and it ends with TaskTimeout.
    std::optional<duration> task_timeout = {};
    /// Items whose worker crashed are run again so often. 0: an item runs at most once.
    std::size_t retries = 0;
    /// What each worker may use at most.
    Limits limits = {};
    /// Each worker stays on one processor, one after the other of those that may be used.
    bool pin_workers = false;
    /// "": "Pool-1", "Pool-2"... The workers are "Pool-1-Worker-1"...
    std::string name = {};
    /// An initializer that runs longer breaks the pool. Nothing: it may take its time. Then tasks
    /// wait for one that hangs in all workers: get(timeout) throws TimeoutError, cancel() ends what
    /// is queued, terminate() and the end of this process end the workers; get(), join() and the
    /// destructor wait.
    std::optional<duration> initializer_timeout = {};
};

/// What may be said of a map.
struct MapOptions {
    /// Items that travel together. 0: as many as take 0.1 ms, found out on the way; imap: 1.
    std::size_t chunksize = 0;
    /// imap: how many inputs are read ahead of the result that is consumed. 0: 4 chunks a worker.
    std::size_t buffersize = 0;
    /// true: a bar on a terminal, lines elsewhere. A function: gets a Progress.
    ProgressReport progress = {};
    /// As PoolOptions::task_timeout, which it replaces.
    std::optional<duration> timeout = {};
};

namespace detail {

/// The calls of Pool and ThreadPool.
template <compiled When = compiled::when_used>
class pool_calls {
public:
    pool_calls(const pool_calls&) = delete;
    pool_calls& operator=(const pool_calls&) = delete;

    /// Calls `callable(args...)` in a worker and waits for the result.
    ///
    /// `callable`: a function, a lambda without captures, a function object that cereal can
    /// serialize, a pointer to member (the object is the first argument), or bind(f, values...).
    /// Arguments and result travel serialized; handles (Queue, Lock...) arrive as lvalues, every
    /// other argument as an rvalue.
    /// \throws what the task threw: with its own type if that is standard or registered, else
    ///     RemoteError; WorkerCrashed if its worker died; TaskTimeout; SerializationError;
    ///     PoolBroken; ClosedError after close()
    template <class F, class... Args>
    auto apply(F callable, Args&&... args) {
        using R = task_result_t<F, std::decay_t<Args>...>;
        return AsyncResult<R>(start_call<R>({}, false, callable, std::forward<Args>(args)...))
            .get();
    }

    /// The same without waiting. Returns once the task is on its way; blocks only for memory.
    template <class F, class... Args>
    requires(!is_task_options<std::decay_t<F>>) auto apply_async(F callable, Args&&... args) {
        using R = task_result_t<F, std::decay_t<Args>...>;
        return AsyncResult<R>(start_call<R>({}, true, callable, std::forward<Args>(args)...));
    }
    template <class R, class F, class... Args>
    AsyncResult<R> apply_async(TaskOptions<R> options, F callable, Args&&... args) {
        return AsyncResult<R>(
            start_call<R>(std::move(options), true, callable, std::forward<Args>(args)...));
    }

    /// The results of `callable(item)` for every item of an input range, in order. Bit-identical
    /// for any number of workers and any chunk size. Of a callable that returns nothing: waits.
    /// \throws the failure of the lowest index, whatever the timing; what was not begun behind it
    ///     is not begun
    template <class F, input_range Range>
    auto map(F callable, Range&& range, MapOptions options = {}) {
        return map_now<false>(callable, range, options);
    }
    /// The same for items that are tuples or pairs: `callable(a, b...)`.
    template <class F, input_range Range>
    auto starmap(F callable, Range&& range, MapOptions options = {}) {
        return map_now<true>(callable, range, options);
    }

    /// The same without waiting. The items are copied in now, or moved out of a container that is
    /// given away. TaskOptions in front, of
    /// std::vector<R> (of void if the callable returns nothing), have callbacks.
    template <class F, input_range Range>
    requires(!is_task_options<F>) auto map_async(F callable, Range&& range,
                                                 MapOptions options = {}) {
        return map_later<false>(TaskOptions<mapped<false, F, Range>>{}, callable,
                                std::forward<Range>(range), options);
    }
    template <class M, class F, input_range Range>
    auto map_async(TaskOptions<M> told, F callable, Range&& range, MapOptions options = {}) {
        return map_later<false>(std::move(told), callable, std::forward<Range>(range), options);
    }
    template <class F, input_range Range>
    requires(!is_task_options<F>) auto starmap_async(F callable, Range&& range,
                                                     MapOptions options = {}) {
        return map_later<true>(TaskOptions<mapped<true, F, Range>>{}, callable,
                               std::forward<Range>(range), options);
    }
    template <class M, class F, input_range Range>
    auto starmap_async(TaskOptions<M> told, F callable, Range&& range, MapOptions options = {}) {
        return map_later<true>(std::move(told), callable, std::forward<Range>(range), options);
    }

    /// The results as an input range, in order: the input, which may be endless, is read while they
    /// are consumed. An lvalue range must outlive the results. `*it` throws the error of its item,
    /// and `++it` goes on behind it. To leave early is prompt: what was not begun is not begun.
    template <class F, input_range Range>
    auto imap(F callable, Range&& range, MapOptions options = {}) {
        return results_of<true>(callable, std::forward<Range>(range), options);
    }
    /// In the order in which they end.
    template <class F, input_range Range>
    auto imap_unordered(F callable, Range&& range, MapOptions options = {}) {
        return results_of<false>(callable, std::forward<Range>(range), options);
    }

    /// No more calls: ClosedError. What was submitted goes on.
    void close() { front_->close(); }
    /// Ends what is queued or running with Cancelled. A worker process is killed; a thread goes on
    /// to the end of its item.
    void terminate() { front_->terminate(); }
    /// Waits until all is answered and the workers have ended.
    /// \throws ProcessError before close() or terminate()
    void join() { join_until(deadline::never()); }
    /// \return false if something was not answered when the timeout ended
    bool join(duration timeout) { return join_until(deadline::after(timeout)); }

    /// What the pool did so far. Waits for its workers to be there, as worker_pids().
    PoolStats stats() const { return front_->stats(); }

protected:
    pool_calls(std::unique_ptr<later<When, pool_back>> back, std::string name, std::int64_t timeout,
               std::size_t retries)
        : timeout_(timeout),
          retries_(retries),
          unwinding_(std::uncaught_exceptions()),
          front_(std::make_shared<pool_front<When>>(std::move(back), std::move(name))) {}
    ~pool_calls() {
        try {
            if (std::uncaught_exceptions() > unwinding_) front_->terminate();
            front_->close();
            front_->join();
        } catch (...) {  // a forked copy, or the workers are gone
        }
    }

    pool_front<When>& front() const noexcept { return *front_; }

    static std::string name_or(std::string name, const char* kind) {
        static std::atomic<unsigned> made{0};
        if (!name.empty()) return name;
        return std::string(kind) + '-' +
               std::to_string(made.fetch_add(1, std::memory_order_relaxed) + 1);  // only unique
    }

private:
    bool join_until(deadline until) {
        if (!front_->closed())
            throw ProcessError("join: close() or terminate() the pool first, else it never ends");
        return front_->join(until);
    }

    template <bool Star, class F, class Range>
    using each_result = item_result_t<Star, F, item_of<Range>>;
    template <bool Star, class F, class Range>
    using mapped = map_result<each_result<Star, F, Range>>;

    template <class R, class F, class... Args>
    std::shared_ptr<call_job<R>> start_call(TaskOptions<R> options, bool in_background,
                                            const F& callable, const Args&... args) {
        if constexpr (!check_call<F, std::decay_t<const Args&>...>()) {
            return nullptr;
        } else {
            using job_type = call_job<R>;
            std::unique_ptr<typename job_type::wishes> wanted;
            const std::int64_t timeout = options.timeout ? options.timeout->count() : timeout_;
            if (timeout != 0 || retries_ != 0 || options.callback || options.error_callback) {
                wanted = std::make_unique<typename job_type::wishes>();
                wanted->told = std::move(options);
                wanted->extra.timeout = timeout;
                wanted->extra.retries = retries_;
            }
            auto job = std::make_shared<job_type>(front_, std::move(wanted));
            job->name = type_name_text<F>.data();
            // Taken out meanwhile: user code may get here again.
            struct kept {
                std::vector<std::byte> bytes;
            };
            std::vector<std::byte> bytes;
            if (kept* const spare = detail::kept_by_thread<kept>()) bytes.swap(spare->bytes);
            bytes.clear();
            append_callable(bytes, callable);
            const encoded item = encode(static_cast<const std::decay_t<const Args&>&>(args)...);
            append(bytes, item.pieces(), item.size());
            job->start(job, reference_to<call_thunk<F, std::decay_t<const Args&>...>>(), bytes,
                       in_background);
            if (kept* const spare = detail::kept_by_thread<kept>();
                spare && bytes.capacity() <= 65536)
                spare->bytes.swap(bytes);
            return job;
        }
    }

    template <class Range>
    static std::optional<std::size_t> size_of(Range& range) {
        if constexpr (sized_range<Range>)
            return static_cast<std::size_t>(std::ranges::size(range));
        else
            return std::nullopt;
    }
    template <class F>
    chunk_plan plan(const MapOptions& options) const {
        return {options.chunksize, options.buffersize,
                options.timeout ? options.timeout->count() : timeout_, retries_,
                type_name_text<F>.data()};
    }

    template <bool Star, class F, class Range>
    auto map_now(const F& callable, Range& range, const MapOptions& options) {
        using R = each_result<Star, F, Range>;
        using M = map_result<R>;
        if constexpr (!item_result<Star, F, item_of<Range>>::check()) {
            return refused_as<M>();
        } else {
            using chunks = chunker<R, F, iterator_of<Range>, sentinel_of<Range>, Star>;
            front_->require_open();
            const auto total = size_of(range);
            const auto job = std::make_shared<map_job<R>>(
                front_, TaskOptions<M>{}, progress_count(options.progress, total),
                std::make_unique<chunks>(*front_, callable, std::ranges::begin(range),
                                         std::ranges::end(range), total, plan<F>(options)));
            job->run();
            return AsyncResult<M>(job).get();
        }
    }

    template <class M, bool Star, class F, class Range>
    static consteval bool check_options() {
        using items = item_result<Star, F, item_of<Range>>;
        if constexpr (!items::check()) {
            return false;
        } else {
            constexpr bool same = std::is_same_v<M, map_result<typename items::type>>;
            static_assert(
                same,
                "multiprocessing: map_async's options are TaskOptions<std::vector<R>>, R being "
                "what the callable returns (TaskOptions<void> if that is nothing)");
            return same;
        }
    }

    template <bool Star, class M, class F, class Range>
    auto map_later(TaskOptions<M> told, const F& callable, Range&& range,
                   const MapOptions& options) {
        using R = each_result<Star, F, Range>;
        if constexpr (!check_options<M, Star, F, Range>()) {
            return refused_as<AsyncResult<M>>();
        } else {
            using item = item_of<Range>;
            front_->require_open();
            // Kept, so that the range need not outlive the call.
            auto kept = std::make_shared<std::vector<item>>();
            for (auto&& each : range)
                if constexpr (owns_items<Range>)
                    kept->push_back(std::move(each));
                else
                    kept->push_back(std::forward<decltype(each)>(each));
            using chunks = chunker<R, F, keeping_iterator<item>, std::default_sentinel_t, Star>;
            const std::optional<std::size_t> total = kept->size();
            const auto job = std::make_shared<map_job<R>>(
                front_, std::move(told), progress_count(options.progress, total),
                std::make_unique<chunks>(*front_, callable, keeping_iterator<item>(kept),
                                         std::default_sentinel, total, plan<F>(options)));
            job->pump(true);
            return AsyncResult<M>(job);
        }
    }

    template <bool Ordered, class F, class Range>
    auto results_of(const F& callable, Range&& range, MapOptions options) {
        using R = each_result<false, F, Range>;
        if constexpr (!item_result<false, F, item_of<Range>>::check()) {
            return refused_as<ImapResults<R>>();
        } else {
            using chunks =
                range_chunker<Range, chunker<R, F, iterator_of<Range>, sentinel_of<Range>, false>>;
            front_->require_open();
            if (options.chunksize == 0) options.chunksize = 1;
            const auto total = size_of(range);
            const auto job = std::make_shared<imap_job<R, Ordered>>(
                front_, std::make_unique<chunks>(*front_, std::forward<Range>(range), callable,
                                                 total, plan<F>(options)));
            return ImapResults<R>(
                job, [job] { job->abandon(); }, progress_count(options.progress, total));
        }
    }

    std::int64_t timeout_;
    std::size_t retries_;
    int unwinding_;
    std::shared_ptr<pool_front<When>> front_;
};

/// What mp::map sends instead of the callable and the items, which its workers inherited.
template <class F, class Iterator>
struct inherited_call {
    struct inherited {
        F& callable;
        Iterator items;
    };
    std::uintptr_t at = 0;  // of an `inherited`, in the memory that was forked

    decltype(auto) operator()(std::size_t i) const {
        const auto& from = *reinterpret_cast<const inherited*>(at);
        return std::invoke(from.callable, from.items[static_cast<std::ptrdiff_t>(i)]);
    }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(at);
    }
};

/// The numbers from 0 to below `size`, as a range.
struct indices {
    struct iterator {
        using value_type = std::size_t;
        using difference_type = std::ptrdiff_t;
        std::size_t at = 0;
        std::size_t operator*() const noexcept { return at; }
        iterator& operator++() noexcept { return ++at, *this; }
        iterator operator++(int) noexcept { return {at++}; }
        friend bool operator==(iterator, iterator) = default;
    };
    std::size_t count;

    iterator begin() const noexcept { return {0}; }
    iterator end() const noexcept { return {count}; }
    std::size_t size() const noexcept { return count; }
};

/// What Pool adds to the calls.
template <compiled When = compiled::when_used>
class process_pool : public pool_calls<When> {
    using base = pool_calls<When>;
    using base::front, base::name_or;

public:
    /// \param processes  0: cpu_count()
    /// \throws OsError if the kernel refuses memory, descriptors or the fork
    explicit process_pool(std::size_t processes = 0)
        : process_pool(PoolOptions{.processes = processes}) {}
    explicit process_pool(PoolOptions options) : process_pool(complete(std::move(options)), 0) {}

    std::size_t processes() const { return front().back().workers(); }
    /// Of those that are there now: fewer than processes() while one is replaced, none once the
    /// pool has ended. Workers are forked with the first task or a moment after the pool was made;
    /// this has them forked now, and waits for it.
    std::vector<pid_t> worker_pids() const { return front().worker_pids(); }
    /// A timeline of the tasks that came home, the last 262,144 of them, a track for each worker:
    /// as JSON for Perfetto or chrome://tracing. Items that came home together share a slice.
    /// \throws OsError that names the path
    void write_trace(const std::string& path) const { front().write_trace(path.c_str()); }

private:
    static PoolOptions complete(PoolOptions options) {
        if (options.processes == 0) options.processes = cpu_count();
        if (options.processes > pool_board::most_workers)
            throw Error("a pool of " + std::to_string(options.processes) + " processes: at most " +
                        std::to_string(pool_board::most_workers));
        options.name = name_or(std::move(options.name), "Pool");
        module_table<When>::get();  // the workers inherit it
        return options;
    }
    process_pool(PoolOptions options, int)
        : base(std::make_unique<process_back<When>>(process_back_options{
                   options.processes, options.name, options.maxtasksperchild,
                   options.task_timeout.value_or(duration::zero()),
                   options.initializer_timeout.value_or(duration::zero()), options.limits,
                   options.pin_workers, std::move(options.initializer)}),
               options.name, options.task_timeout.value_or(duration::zero()).count(),
               options.retries) {}
};

/// What ThreadPool adds to the calls.
template <compiled When = compiled::when_used>
class thread_pool : public pool_calls<When> {
    using base = pool_calls<When>;

public:
    /// \param processes  threads; 0: cpu_count()
    /// \param initializer  called once in each thread; if it throws, the pool is broken
    explicit thread_pool(std::size_t processes = 0, std::function<void()> initializer = {})
        : base(std::make_unique<thread_back<When>>(processes != 0 ? processes : cpu_count(),
                                                   std::move(initializer)),
               base::name_or({}, "ThreadPool"), 0, 0) {}

    std::size_t processes() const { return this->front().back().workers(); }
};

}  // namespace detail

/// Worker processes that call functions.
///
/// A supervisor process is forked now. It forks the workers, with the first task or a millisecond
/// later, and replaces them when they die; all of them have the memory of this moment, and end with
/// this process, even if it is killed. A worker that dies (signal, exit, out of memory) ends the
/// item that it was at, with WorkerCrashed, and nothing else: items of its chunk that were done
/// keep their results, the others run elsewhere, none twice. If the supervisor is killed, every
/// call throws PoolBroken. Workers ignore SIGINT, have the default for every other signal, and read
/// nothing from stdin.
///
/// Threads: any number may use a pool at once; who waits for a result collects for all. Callbacks
/// run one at a time, in the order of completion, and may use the pool.
/// Processes: the one that made it; in a forked child every call throws ProcessError, and the
/// destructor does nothing.
class MP_EXPORT Pool : public detail::process_pool<> {
public:
    using process_pool::process_pool;
    /// close() and join(); if an exception leaves the pool's scope, terminate() and join().
    ~Pool() = default;
};

/// The same calls over threads of this process, for code that waits more than it computes:
/// arguments and results travel serialized as in a Pool, so one can be put in the other's place.
/// A crash ends the program, and nothing stops a running item: cancel() of it returns false.
class MP_EXPORT ThreadPool : public detail::thread_pool<> {
public:
    using thread_pool::thread_pool;
    ~ThreadPool() = default;
};

/// The results of `callable(item)` for every item, in order, from workers forked for this call: so
/// any callable will do, [&] too, and the items are never serialized; only the results are. What
/// the callable changes stays in its worker. Errors and crashes as Pool::map.
template <class F, detail::input_range Range>
auto map(F&& callable, Range&& range, MapOptions options = {}) {
    if constexpr (detail::random_access_range<Range> && detail::sized_range<Range>) {
        constexpr bool fits = std::is_invocable_v<F&, detail::item_reference_of<Range>>;
        static_assert(fits,
                      "multiprocessing: mp::map's callable does not take the items of this range");
        if constexpr (!fits) {
            return std::vector<detail::later<detail::used_by<F>, detail::refused_value>>();
        } else {
            using call =
                detail::inherited_call<std::remove_reference_t<F>, detail::iterator_of<Range>>;
            const std::size_t count = static_cast<std::size_t>(std::ranges::size(range));
            const typename call::inherited kept{callable, std::ranges::begin(range)};
            Pool pool(std::clamp<std::size_t>(count, 1, cpu_count()));
            return pool.map(call{reinterpret_cast<std::uintptr_t>(&kept)}, detail::indices{count},
                            std::move(options));
        }
    } else if constexpr (std::forward_iterator<detail::iterator_of<Range>> &&
                         std::is_lvalue_reference_v<detail::item_reference_of<Range>> &&
                         std::is_invocable_v<F&, detail::item_reference_of<Range>>) {
        std::vector<std::add_pointer_t<detail::item_reference_of<Range>>> places;
        for (auto& each : range) places.push_back(std::addressof(each));
        return map(
            [&callable](auto* item) -> decltype(auto) { return std::invoke(callable, *item); },
            places, std::move(options));
    } else {
        std::vector<detail::item_of<Range>> kept;
        for (auto&& each : range) kept.push_back(std::forward<decltype(each)>(each));
        return map(callable, kept, std::move(options));
    }
}

}  // namespace multiprocessing
