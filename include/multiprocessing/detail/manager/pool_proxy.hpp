// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// PoolProxy: a Pool in a manager's server, whose workers any client may use.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/types.h>

#include <multiprocessing/detail/manager/client.hpp>
#include <multiprocessing/detail/manager/proxy.hpp>
#include <multiprocessing/detail/manager/server.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/robust_mutex.hpp>
#include <multiprocessing/detail/pool/ranges.hpp>
#include <multiprocessing/errors.hpp>
#include <multiprocessing/pool.hpp>

namespace multiprocessing {
namespace detail {

template <compiled When = compiled::when_used>
class hosted_pool {
public:
    using mp_concurrent_tag = void;

    explicit hosted_pool(std::size_t processes) : pool(processes) {}
    ~hosted_pool() { pool.terminate(); }  // nobody is left who could ask for results

    void close() { pool.close(); }
    void terminate() { pool.terminate(); }
    /// As wait_for_client().
    void join() {
        while (!pool.join(look_again)) manager_caller<When>::current()->require_peer();
    }
    std::size_t processes() const { return pool.processes(); }
    std::vector<pid_t> worker_pids() const { return pool.worker_pids(); }
    PoolStats stats() const { return pool.stats(); }

    Pool pool;
};

/// What travels of MapOptions: the progress is not reported.
struct sent_map_options {
    std::uint64_t chunksize = 0, buffersize = 0;
    std::optional<duration> timeout = {};

    MapOptions received() const {
        MapOptions options;
        options.chunksize = static_cast<std::size_t>(chunksize);
        options.buffersize = static_cast<std::size_t>(buffersize);
        options.timeout = timeout;
        return options;
    }
    static sent_map_options of(const MapOptions& options) {
        return {options.chunksize, options.buffersize, options.timeout};
    }
};

/// Until the task has ended. Every look_again it looks after the client: the pool knows none, and
/// who waits in it keeps it and its workers.
/// \return false if the deadline came first
/// \throws peer_gone
template <class R>
bool wait_for_client(AsyncResult<R>& result, deadline until) {
    for (;;) {
        const deadline next = deadline::earlier(until, deadline::after(look_again));
        if (result.wait(next.remaining())) return true;
        if (until.passed()) return false;
        manager_caller<used_by<R>>::current()->require_peer();
    }
}
template <class R>
R get_for_client(AsyncResult<R> result) {
    wait_for_client(result, deadline::never());
    return std::move(result).get();
}

/// The result of a task; keeps its pool.
template <class R>
class hosted_result {
public:
    using mp_concurrent_tag = void;

    explicit hosted_result(AsyncResult<R> result)
        : pool_(manager_caller<used_by<R>>::current()->object), result_(std::move(result)) {}

    R get(duration timeout) {
        wait_for_client(result_, deadline::after(timeout));
        return result_.get(duration::zero());
    }
    bool wait(duration timeout) { return wait_for_client(result_, deadline::after(timeout)); }
    bool ready() { return result_.ready(); }
    bool successful() { return result_.successful(); }
    bool cancel() { return result_.cancel(); }

private:
    std::shared_ptr<void> pool_;
    AsyncResult<R> result_;
};

/// Items that were submitted one by one, taken in order or as they end.
template <class R>
class hosted_imap {
public:
    using mp_concurrent_tag = void;

    explicit hosted_imap(bool in_order) : in_order_(in_order) {}
    ~hosted_imap() {
        for (auto& [number, each] : state_->results) {
            try {
                each.cancel();
            } catch (...) {  // the pool has ended
            }
        }
    }

    template <class F, class Item>
    void submit(Pool& pool, F& callable, Item& item) {
        const std::lock_guard one_by_one(submitting_);
        const std::uint64_t number = submitted_++;
        pool_ = manager_caller<used_by<R>>::current()->object;
        TaskOptions<R> told;
        // Kept by the pool until the task has ended.
        const auto ended = [state = state_, number] {
            const std::lock_guard lock(state->mutex);
            state->ended.insert(number);
            state->line.wake_all();
        };
        if constexpr (std::is_void_v<R>)
            told.callback = ended;
        else
            told.callback = [ended](const R&) { ended(); };
        told.error_callback = [ended](const std::exception_ptr&) { ended(); };
        AsyncResult<R> result =
            pool.apply_async(std::move(told), callable, static_cast<argument_t<Item>>(item));
        const std::lock_guard lock(state_->mutex);
        state_->results.emplace(number, std::move(result));
    }

    R take() {
        std::optional<AsyncResult<R>> one;
        {
            std::unique_lock lock(state_->mutex);
            std::uint64_t number = 0;
            state_->line.wait(lock, deadline::never(), [&] {
                if (state_->results.empty() || state_->ended.empty()) return false;
                number = in_order_ ? state_->results.begin()->first : *state_->ended.begin();
                return state_->ended.contains(number) && state_->results.contains(number);
            });
            one = std::move(state_->results.at(number));
            state_->results.erase(number);
            state_->ended.erase(number);
        }
        return std::move(*one).get();
    }

private:
    struct state {
        std::mutex mutex;  // guards the rest
        std::map<std::uint64_t, AsyncResult<R>> results;
        std::set<std::uint64_t> ended;
        waiting_line<> line;
    };

    const bool in_order_;
    std::mutex submitting_;
    std::uint64_t submitted_ = 0;
    std::shared_ptr<void> pool_;
    std::shared_ptr<state> state_ = std::make_shared<state>();
};

template <class F, class... Args>
struct pool_apply_thunk {
    using output = manager_call<>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        out.enter();
        bound_call<F> callable;
        std::tuple<Args...> args;
        std::apply([&](auto&... each) { decode_into(bytes, callable, each...); }, args);
        Pool& pool = out.template object<hosted_pool<used_by<F>>>().pool;
        out.run([&] {
            return get_for_client(std::apply(
                [&](auto&... each) { return pool.apply_async(callable, each...); }, args));
        });
    }
};
template <class F, class... Args>
struct pool_apply_async_thunk {
    using output = manager_call<>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        out.enter();
        using R = task_result_t<F, Args...>;
        bound_call<F> callable;
        std::optional<duration> timeout;
        std::tuple<Args...> args;
        std::apply([&](auto&... each) { decode_into(bytes, callable, timeout, each...); }, args);
        Pool& pool = out.template object<hosted_pool<used_by<F>>>().pool;
        TaskOptions<R> told;
        told.timeout = timeout;
        out.created(std::make_shared<hosted<hosted_result<R>>>(
            std::in_place,
            std::apply(
                [&](auto&... each) { return pool.apply_async(std::move(told), callable, each...); },
                args)));
    }
};
template <bool Star, class F, class Item>
struct pool_map_thunk {
    using output = manager_call<>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        out.enter();
        bound_call<F> callable;
        std::vector<Item> items;
        sent_map_options options;
        decode_into(bytes, callable, items, options);
        Pool& pool = out.template object<hosted_pool<used_by<F>>>().pool;
        out.run([&] {
            if constexpr (Star)
                return get_for_client(
                    pool.starmap_async(callable, std::move(items), options.received()));
            else
                return get_for_client(
                    pool.map_async(callable, std::move(items), options.received()));
        });
    }
};
template <bool Star, class F, class Item>
struct pool_map_async_thunk {
    using output = manager_call<>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        out.enter();
        using M = map_result<item_result_t<Star, F, Item>>;
        bound_call<F> callable;
        std::vector<Item> items;
        sent_map_options options;
        decode_into(bytes, callable, items, options);
        Pool& pool = out.template object<hosted_pool<used_by<F>>>().pool;
        const auto start = [&] {
            if constexpr (Star)
                return pool.starmap_async(callable, std::move(items), options.received());
            else
                return pool.map_async(callable, std::move(items), options.received());
        };
        out.created(std::make_shared<hosted<hosted_result<M>>>(std::in_place, start()));
    }
};
/// Submits an item of an imap, by the number of that.
template <class F, class Item>
struct pool_submit_thunk {
    using output = manager_call<>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        out.enter();
        using wanted = hosted<hosted_imap<task_result_t<F, Item>>>;
        std::uint64_t to = 0;
        bound_call<F> callable;
        Item item = Item();
        decode_into(bytes, to, callable, item);
        Pool& pool = out.template object<hosted_pool<used_by<F>>>().pool;
        const auto object = manager_server<used_by<F>>::here()->get(to);
        auto* const imap = dynamic_cast<wanted*>(object.get());
        if (imap == nullptr) throw Error("a call of a manager's object that is no imap");
        out.run([&] { imap->value.submit(pool, callable, item); });
    }
};

template <class R>
class imap_proxy final : public proxy_of<hosted_imap<R>> {
public:
    using proxy_of<hosted_imap<R>>::proxy_of;
    R take() const { return this->template call<&hosted_imap<R>::take>(); }
};

}  // namespace detail

/// The result of a task of a manager's Pool, as AsyncResult; a proxy, so it may be sent. A thread
/// that waits for it has a thread of the server wait.
template <class R>
class AsyncResultProxy : public detail::proxy_of<detail::hosted_result<R>> {
    using result = detail::hosted_result<R>;
    using base = detail::proxy_of<result>;

public:
    AsyncResultProxy() = default;
    using base::base;

    /// \throws what the task threw
    R get() const { return this->template call<&result::get>(duration::max()); }
    /// \throws TimeoutError
    R get(duration timeout) const { return this->template call<&result::get>(timeout); }
    void wait() const { this->template call<&result::wait>(duration::max()); }
    bool wait(duration timeout) const { return this->template call<&result::wait>(timeout); }
    bool ready() const { return this->template call<&result::ready>(); }
    bool successful() const { return this->template call<&result::successful>(); }
    bool cancel() const { return this->template call<&result::cancel>(); }
};

/// The results of an imap of a manager's Pool: an input range, to be walked once.
/// `*it` throws the error of its item, `++it` goes on behind it.
template <class R, class Feed>
class ImapResultsProxy {
    using kept = std::conditional_t<std::is_void_v<R>, bool, R>;

public:
    class iterator {
    public:
        using value_type = R;
        using difference_type = std::ptrdiff_t;
        using iterator_concept = std::input_iterator_tag;

        iterator() = default;
        explicit iterator(ImapResultsProxy& from) : from_(&from) {}

        R operator*() const { return from_->take(); }
        iterator& operator++() {
            from_->advance();
            return *this;
        }
        void operator++(int) { ++*this; }
        friend bool operator==(const iterator& it, std::default_sentinel_t) { return it.is_over(); }

    private:
        bool is_over() const noexcept { return from_->over_; }

        ImapResultsProxy* from_ = nullptr;
    };

    /// \param feed  submits the next item; false if there is none
    ImapResultsProxy(detail::imap_proxy<R> of, Feed feed, std::size_t window)
        : of_(std::move(of)), feed_(std::move(feed)), window_(window) {}

    /// Once.
    iterator begin() {
        if (!std::exchange(begun_, true)) advance();
        return iterator(*this);
    }
    std::default_sentinel_t end() const noexcept { return {}; }

private:
    void advance() {
        value_.reset();
        error_ = nullptr;
        try {
            while (!fed_ && out_ < window_) {
                if (feed_())
                    ++out_;
                else
                    fed_ = true;
            }
        } catch (...) {  // of the range, or of encoding: at its place, and the last
            fed_ = true;
            late_ = std::current_exception();
        }
        if (out_ == 0) {
            error_ = std::exchange(late_, nullptr);
            over_ = error_ == nullptr;
            return;
        }
        --out_;
        try {
            if constexpr (std::is_void_v<R>)
                of_.take();
            else
                value_.emplace(of_.take());
        } catch (...) {
            error_ = std::current_exception();
        }
    }
    R take() {
        if (error_) std::rethrow_exception(error_);
        if constexpr (!std::is_void_v<R>) return std::move(*value_);
    }

    detail::imap_proxy<R> of_;
    Feed feed_;
    const std::size_t window_;
    std::size_t out_ = 0;  // submitted and not taken
    bool begun_ = false, fed_ = false, over_ = false;
    std::optional<kept> value_;
    std::exception_ptr error_, late_;
};

namespace detail {

template <compiled When = compiled::when_used>
class pool_proxy : public proxy_of<hosted_pool<When>> {
    using pool = hosted_pool<When>;
    template <bool Star, class F, class Range>
    using result_of = item_result_t<Star, F, item_of<Range>>;

public:
    pool_proxy() = default;
    using proxy_of<hosted_pool<When>>::proxy_of;

    template <class F, class... Args>
    auto apply(F callable, const Args&... args) const {
        using R = task_result_t<F, std::decay_t<const Args&>...>;
        if constexpr (!check_call<F, std::decay_t<const Args&>...>())
            return refused_as<R>();
        else
            return this->template ask<pool_apply_thunk<F, std::decay_t<const Args&>...>, R>(
                bound_call<F>(std::move(callable)),
                static_cast<const std::decay_t<const Args&>&>(args)...);
    }

    template <class F, class... Args>
    requires(!is_task_options<std::decay_t<F>>) auto apply_async(F callable,
                                                                 const Args&... args) const {
        return start<F>(std::optional<duration>(), std::move(callable), args...);
    }
    /// \throws Error if the options have a callback
    template <class R, class F, class... Args>
    AsyncResultProxy<R> apply_async(const TaskOptions<R>& options, F callable,
                                    const Args&... args) const {
        if (options.callback || options.error_callback)
            throw Error(
                "apply_async: a callback can't be sent to a manager's Pool; wait for the "
                "result, in a thread perhaps");
        return start<F>(options.timeout, std::move(callable), args...);
    }

    template <class F, input_range Range>
    auto map(F callable, Range&& range, const MapOptions& options = {}) const {
        return map_now<false>(std::move(callable), range, options);
    }
    template <class F, input_range Range>
    auto starmap(F callable, Range&& range, const MapOptions& options = {}) const {
        return map_now<true>(std::move(callable), range, options);
    }
    template <class F, input_range Range>
    auto map_async(F callable, Range&& range, const MapOptions& options = {}) const {
        return map_later<false>(std::move(callable), range, options);
    }
    template <class F, input_range Range>
    auto starmap_async(F callable, Range&& range, const MapOptions& options = {}) const {
        return map_later<true>(std::move(callable), range, options);
    }

    /// The input is read while results are consumed; an lvalue range must outlive them. One item a
    /// message.
    template <class F, input_range Range>
    auto imap(F callable, Range&& range, const MapOptions& options = {}) const {
        return results_of(true, std::move(callable), std::forward<Range>(range), options);
    }
    template <class F, input_range Range>
    auto imap_unordered(F callable, Range&& range, const MapOptions& options = {}) const {
        return results_of(false, std::move(callable), std::forward<Range>(range), options);
    }

    void close() const { this->template call<&pool::close>(); }
    void terminate() const { this->template call<&pool::terminate>(); }
    void join() const { this->template call<&pool::join>(); }
    std::size_t processes() const { return this->template call<&pool::processes>(); }
    std::vector<pid_t> worker_pids() const { return this->template call<&pool::worker_pids>(); }
    PoolStats stats() const { return this->template call<&pool::stats>(); }

private:
    template <class Thunk, class P, class... Args>
    P make(const Args&... args) const {
        return P(this->template ask_for<Thunk>(args...));
    }

    template <class F, class... Args>
    auto start(std::optional<duration> timeout, F callable, const Args&... args) const {
        using R = task_result_t<F, std::decay_t<const Args&>...>;
        if constexpr (!check_call<F, std::decay_t<const Args&>...>())
            return refused_as<AsyncResultProxy<R>>();
        else
            return make<pool_apply_async_thunk<F, std::decay_t<const Args&>...>,
                        AsyncResultProxy<R>>(
                bound_call<F>(std::move(callable)), timeout,
                static_cast<const std::decay_t<const Args&>&>(args)...);
    }
    template <bool Star, class F, class Range>
    auto map_now(F callable, Range& range, const MapOptions& options) const {
        using item = item_of<Range>;
        using M = map_result<result_of<Star, F, Range>>;
        if constexpr (!item_result<Star, F, item>::check())
            return refused_as<M>();
        else
            return this->template ask<pool_map_thunk<Star, F, item>, M>(
                bound_call<F>(std::move(callable)), collect<item>(range),
                sent_map_options::of(options));
    }
    template <bool Star, class F, class Range>
    auto map_later(F callable, Range& range, const MapOptions& options) const {
        using item = item_of<Range>;
        using M = map_result<result_of<Star, F, Range>>;
        if constexpr (!item_result<Star, F, item>::check())
            return refused_as<AsyncResultProxy<M>>();
        else
            return make<pool_map_async_thunk<Star, F, item>, AsyncResultProxy<M>>(
                bound_call<F>(std::move(callable)), collect<item>(range),
                sent_map_options::of(options));
    }
    template <class Item, class Range>
    static std::vector<Item> collect(Range& range) {
        std::vector<Item> all;
        for (auto&& each : range) all.push_back(std::forward<decltype(each)>(each));
        return all;
    }

    template <class F, class Range>
    auto results_of(bool in_order, F callable, Range&& range, const MapOptions& options) const {
        using item = item_of<Range>;
        using R = result_of<false, F, Range>;
        if constexpr (!item_result<false, F, item>::check()) {
            return refused_as<ImapResults<R>>();
        } else {
            auto held = std::make_shared<held_range<Range>>(std::forward<Range>(range));
            auto to = imap_proxy<R>(
                this->template ask_to_create<create_thunk<hosted_imap<R>, bool>>(in_order));
            auto feed = [self = *this, to, held, callable = bound_call<F>(std::move(callable)),
                         at = std::optional<iterator_of<Range>>()]() mutable {
                if (at)
                    ++*at;
                else
                    at.emplace(std::ranges::begin(held->get()));
                if (*at == std::ranges::end(held->get())) return false;
                const item each = **at;
                self.template ask<pool_submit_thunk<F, item>, void>(proxy_access::object(to),
                                                                    callable, each);
                return true;
            };
            const std::size_t window =
                options.buffersize != 0 ? options.buffersize : 4 * processes();
            return ImapResultsProxy<R, decltype(feed)>(std::move(to), std::move(feed), window);
        }
    }
};

}  // namespace detail

/// A Pool in a manager's server: the calls of Pool, for any process that has the proxy. Callables
/// and arguments as there. Callbacks and progress would run in the server, so there are none;
/// apply_async and map_async return proxies. The last proxy gone terminates the pool.
class PoolProxy : public detail::pool_proxy<> {
public:
    PoolProxy() = default;
    using pool_proxy::pool_proxy;
};

}  // namespace multiprocessing
