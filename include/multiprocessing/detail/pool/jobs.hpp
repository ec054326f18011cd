// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a pool's functions make of tasks: one call; a map over a range; a range of results.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <multiprocessing/detail/archive/exception.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/pool/calls.hpp>
#include <multiprocessing/detail/pool/front.hpp>
#include <multiprocessing/detail/pool/progress.hpp>
#include <multiprocessing/detail/process/async_result.hpp>

namespace multiprocessing {

/// What may be said of one call.
template <class R>
struct TaskOptions {
    /// Gets the result, in the process of the pool. One that throws makes that the result's error.
    std::conditional_t<std::is_void_v<R>, std::function<void()>,
                       std::function<void(const std::conditional_t<std::is_void_v<R>, int, R>&)>>
        callback = {};
    /// Gets the error of a task that failed.
    std::function<void(std::exception_ptr)> error_callback = {};
    /// From the task's start; then its worker is killed and replaced, and it ends with TaskTimeout.
    std::optional<duration> timeout = {};
};

namespace detail {

template <class T>
inline constexpr bool is_task_options = false;
template <class R>
inline constexpr bool is_task_options<TaskOptions<R>> = true;

/// What a callable makes of an item. check() as check_call().
template <bool Star, class F, class Item>
struct item_result {  // Star, of what is neither a tuple nor a pair
    using type = refused_value;
    static consteval bool check() {
        static_assert(!Star,
                      "multiprocessing: starmap takes a range of std::tuple or std::pair, whose "
                      "elements become the arguments; map passes each item as it is.");
        return false;
    }
};
template <class F, class Item>
struct item_result<false, F, Item> {
    using type = task_result_t<F, Item>;
    static consteval bool check() { return check_call<F, Item>(); }
};
template <class F, class... Args>
struct item_result<true, F, std::tuple<Args...>> {
    using type = task_result_t<F, std::decay_t<Args>...>;
    static consteval bool check() { return check_call<F, std::decay_t<Args>...>(); }
};
template <class F, class A, class B>
struct item_result<true, F, std::pair<A, B>> : item_result<true, F, std::tuple<A, B>> {};
template <bool Star, class F, class Item>
using item_result_t = typename item_result<Star, F, Item>::type;

/// Walks a vector that it keeps alive.
template <class T>
class keeping_iterator {
public:
    using value_type = T;
    using difference_type = std::ptrdiff_t;

    explicit keeping_iterator(std::shared_ptr<std::vector<T>> from) : from_(std::move(from)) {}
    decltype(auto) operator*() const { return (*from_)[at_]; }
    keeping_iterator& operator++() {
        ++at_;
        return *this;
    }
    void operator++(int) { ++at_; }
    friend bool operator==(const keeping_iterator& it, std::default_sentinel_t) {
        return it.at_ == it.from_->size();
    }

private:
    std::shared_ptr<std::vector<T>> from_;
    std::size_t at_ = 0;
};

/// Runs the callbacks of a result, then lets it be seen. On the collecting thread.
template <class R, class Value, class Finish, class Fail>
void tell_result(const TaskOptions<R>& options, Value* value, std::exception_ptr error,
                 Finish finish, Fail fail) noexcept {
    try {
        if (error) {
            if (options.error_callback) options.error_callback(error);
        } else if (options.callback) {
            if constexpr (std::is_void_v<R>)
                options.callback();
            else
                options.callback(*value);
        }
    } catch (...) {
        error = std::current_exception();
    }
    if (error)
        fail(error);
    else
        finish();
}

/// One call: a task of one item, and its result.
template <class R>
class call_job final : public pool_task, public async_state<R> {
public:
    using value_type = typename async_state<R>::value_type;

    /// What was said of this call, or of all calls of its pool.
    struct wishes {
        TaskOptions<R> told;
        task_extra extra;
        std::weak_ptr<call_job> self;
    };

    /// \param wanted  null: nothing was said
    call_job(std::shared_ptr<pool_front<used_by<R>>> front, std::unique_ptr<wishes> wanted)
        : front_(std::move(front)), wishes_(std::move(wanted)) {}

    task_extra* extra() noexcept override { return wishes_ ? &wishes_->extra : nullptr; }

    void start(const std::shared_ptr<call_job>& self, const callable_ref& callable,
               const std::vector<std::byte>& bytes, bool in_background) {
        if (wishes_) {
            wishes_->self = self;
            wishes_->extra.callable = callable;
            wishes_->extra.kept = bytes;
        }
        const std::span<const std::byte> piece(bytes);
        front_->submit(self, callable, {&piece, 1}, in_background);
    }

    bool wait(deadline until) override {
        return front_->wait(until, [this] { return this->finished(); });
    }
    const void* pool() const noexcept override { return front_.get(); }
    bool wait_for(deadline until, bool (*done)(void*), void* with) override {
        return front_->wait(until, [&] { return done(with); });
    }
    bool cancel() override {
        if (this->finished()) return false;
        if (!front_->cancel(*this)) return false;
        wait(deadline::never());
        return this->has_failed() && was_cancelled();
    }

    void results(std::uint32_t, std::uint32_t count, std::span<const std::byte> frames,
                 pid_t worker) noexcept override {
        if (count == 0) return;
        std::exception_ptr error;
        std::optional<value_type> value;
        const result_frame got = read_frame(frames, flat_size());
        try {
            require_value(got, worker);
            if constexpr (std::is_void_v<R>)
                value.emplace();
            else
                value.emplace(decode<R>(got.bytes));
        } catch (...) {
            error = std::current_exception();
        }
        end(std::move(value), std::move(error));
    }
    void failed(std::uint32_t, std::exception_ptr error) noexcept override {
        end(std::nullopt, std::move(error));
    }
    std::vector<std::byte> rest(std::uint32_t) override { return wishes_->extra.kept; }
    std::uint32_t failures() noexcept override {
        return wishes_ ? wishes_->extra.failures : this->has_failed();
    }

private:
    static constexpr std::size_t flat_size() {
        if constexpr (std::is_void_v<R>)
            return 0;
        else
            return sizeof(R);
    }

    void end(std::optional<value_type> value, std::exception_ptr error) noexcept {
        if (error && wishes_) ++wishes_->extra.failures;
        if (!wishes_ || (!wishes_->told.callback && !wishes_->told.error_callback)) {
            if (error)
                this->fail(std::move(error));
            else
                this->finish(std::move(*value));
            return;
        }
        auto self = wishes_->self.lock();
        if (!self) return;
        try {
            auto kept_value = std::make_shared<std::optional<value_type>>(std::move(value));
            front_->after([this, self = std::move(self), kept_value, error] {
                tell_result(
                    wishes_->told, kept_value->has_value() ? &**kept_value : nullptr, error,
                    [&] { this->finish(std::move(**kept_value)); },
                    [&](std::exception_ptr e) { this->fail(std::move(e)); });
            });
        } catch (...) {  // no memory for the callback
            this->fail(std::current_exception());
        }
    }

    bool was_cancelled() const {
        try {
            std::rethrow_exception(this->error());
        } catch (const Cancelled&) {
            return true;
        } catch (...) {
            return false;
        }
    }

    std::shared_ptr<pool_front<used_by<R>>> front_;
    std::unique_ptr<wishes> wishes_;
};

/// Some items of a map, and their results.
template <class R>
class chunk final : public pool_task {
public:
    using value_type = std::conditional_t<
        std::is_void_v<R>, std::byte,
        std::conditional_t<std::is_same_v<R, bool>, unsigned char,  // no vector<bool>
                           std::conditional_t<std::is_void_v<R>, std::byte, R>>>;

    task_extra more;
    std::size_t item_size = 0;  // of flat items, else 0
    std::vector<value_type> values;
    std::map<std::uint32_t, std::exception_ptr> errors;  // by item
    // Of items that are not in there for want of memory, from the first to the last of them.
    std::exception_ptr unlisted;
    std::uint32_t unlisted_from = 0, unlisted_to = 0;
    std::function<void(chunk&, std::uint32_t)> on_error;
    std::function<void(chunk&)> on_complete;

    task_extra* extra() noexcept override { return &more; }
    void results(std::uint32_t item, std::uint32_t count, std::span<const std::byte> frames,
                 pid_t worker) noexcept override {
        for (const std::uint32_t end = item + count; item != end; ++item) {
            const result_frame got = read_frame(frames, flat_size());
            frames = frames.subspan(got.size);
            try {
                require_value(got, worker);
                if constexpr (std::is_same_v<R, bool>)
                    values[item] = decode<R>(got.bytes);
                else if constexpr (flat<R>)
                    std::memcpy(&values[item], got.bytes.data(), sizeof(R));
                else if constexpr (!std::is_void_v<R>)
                    decode_into(got.bytes, values[item]);
            } catch (...) {
                failed(item, std::current_exception());
            }
        }
    }
    void failed(std::uint32_t item, std::exception_ptr error) noexcept override {
        try {
            errors[item] = error;
        } catch (...) {
            if (!unlisted) unlisted_from = item;
            unlisted_to = item + 1;
            unlisted = std::move(error);
        }
        ++more.failures;
        if (on_error) on_error(*this, item);
    }
    std::vector<std::byte> rest(std::uint32_t item) override {
        return cut_rest({more.kept.data(), more.kept.size()}, item, item_size);
    }
    void complete() noexcept override {
        complete_.store(true, std::memory_order_release);  // (A) values, errors
        if (on_complete) on_complete(*this);
    }
    /// Null: the item has a result.
    std::exception_ptr error(std::uint32_t item) const noexcept {
        const auto found = errors.find(item);
        if (found != errors.end()) return found->second;
        return item >= unlisted_from && item < unlisted_to ? unlisted : nullptr;
    }
    bool is_complete() const noexcept { return complete_.load(std::memory_order_acquire); }  // (A)

private:
    static constexpr std::size_t flat_size() {
        if constexpr (std::is_void_v<R>)
            return 0;
        else
            return sizeof(R);
    }

    std::atomic<bool> complete_{false};
};

struct chunk_plan {
    std::size_t chunksize = 0;  // 0: automatic
    std::size_t window = 0;     // items out and not consumed; 0: as many as keep the workers busy
    std::int64_t timeout = 0;
    std::size_t retries = 0;
    const char* name = "";
};

/// Cuts an input range into chunks and sends them. One thread at a time. What depends on the
/// callable and on the range is its heir's, so that a job is compiled once for each result type.
template <class R>
class chunk_source {
public:
    /// \param item_size  of items that are flat, else 0
    chunk_source(pool_front<used_by<R>>& front, std::size_t item_size,
                 std::optional<std::size_t> total, chunk_plan plan)
        : front_(front), item_size_(item_size), total_(total), plan_(plan) {}
    chunk_source(const chunk_source&) = delete;
    chunk_source& operator=(const chunk_source&) = delete;
    virtual ~chunk_source() = default;

    bool at_end() { return !refused_ && is_over(); }
    /// Chunks that should be out for each worker, the one that it is at included. While all
    /// processors compute, this thread may get its turn after some milliseconds only: so much work
    /// lies ready, unless the items may turn out to be longer.
    std::size_t depth() const noexcept {
        const bool in_ones = last_ == 1 || plan_.chunksize != 0;
        const double time = each_ * static_cast<double>(std::max(plan_.chunksize, last_));
        return in_ones && time > 0 ? static_cast<std::size_t>(std::clamp(8e6 / time, 3.0, 64.0))
                                   : 3;
    }
    std::uint64_t sent() const noexcept { return sent_; }
    /// Chunks that may be out and not consumed yet.
    std::size_t window() const {
        const std::size_t size = std::max<std::size_t>(1, plan_.chunksize);
        return std::max<std::size_t>(
            1, plan_.window != 0 ? (plan_.window + size - 1) / size : 4 * front_.back().workers());
    }

    /// Sends the next chunk. What can't be read or encoded ends the chunk before it; the next call
    /// throws the exception, sent() being its number.
    template <class Prepare>
    std::shared_ptr<chunk<R>> send(bool in_background, Prepare prepare) {
        if (refused_) std::rethrow_exception(std::exchange(refused_, nullptr));
        passes_ = false;
        auto made = std::make_shared<chunk<R>>();
        bytes_.clear();
        append_function();
        const std::size_t most = size();
        const std::uint32_t items = append_items(most);
        made->items = items;
        made->more.first = sent_;
        made->more.numbered = true;
        made->more.timeout = plan_.timeout;
        made->more.retries = plan_.retries;
        made->name = plan_.name;
        made->more.callable = reference();
        made->item_size = item_size_;
        if constexpr (!std::is_void_v<R>) made->values.resize(items);
        if (items > 1 || plan_.retries != 0) made->more.kept = bytes_;
        sent_ += items;
        prepare(made);
        const std::span<const std::byte> piece(bytes_);
        front_.submit(made, made->more.callable, {&piece, 1}, in_background, true);
        return made;
    }

    /// After send() threw. \return whether that was of an item, which is passed over now; else of
    /// the range, of which no more can be read
    bool pass() {
        if (!std::exchange(passes_, false)) return false;
        skip();
        ++sent_;
        return true;
    }

    /// Items that came back and the time they took, for automatic sizes.
    void note_done(const chunk<R>& task) noexcept {
        busy_.fetch_add(task.more.busy, std::memory_order_relaxed);
        done_.fetch_add(task.items, std::memory_order_release);  // (D) busy_
    }

protected:
    std::vector<std::byte> bytes_;  // of the chunk that is being made
    std::exception_ptr refused_;    // of the next item, or of reading it
    bool passes_ = false;           // the exception is an item's

private:
    static constexpr std::int64_t target = 100'000;  // nanoseconds of work in a chunk

    virtual bool is_over() = 0;
    virtual void skip() = 0;
    virtual callable_ref reference() const = 0;
    // Both to bytes_.
    virtual void append_function() = 0;
    /// \return how many: `most`, or what is left, or what is in front of one that was refused
    virtual std::uint32_t append_items(std::size_t most) = 0;

    std::size_t size() {
        const std::uint64_t done = done_.exchange(0, std::memory_order_acquire);  // (D)
        const auto workers = front_.back().workers();
        if (done != 0)  // of late: items may differ
            each_ = static_cast<double>(busy_.exchange(0, std::memory_order_relaxed)) /
                    static_cast<double>(done);
        if (plan_.chunksize != 0) return plan_.chunksize;
        if (each_ == 0) return 1;
        const double each = each_;
        double best = static_cast<double>(target) / std::max(each, 1.0);
        best = std::min(best, static_cast<double>(8 * last_));
        if (total_)  // smaller towards the end, so that all workers end together
            best = std::min(best,
                            static_cast<double>(*total_ - std::min<std::size_t>(*total_, sent_)) /
                                static_cast<double>(4 * workers));
        last_ = static_cast<std::size_t>(std::clamp(best, 1.0, 65536.0));
        return last_;
    }

    pool_front<used_by<R>>& front_;
    const std::size_t item_size_;
    const std::optional<std::size_t> total_;
    const chunk_plan plan_;
    double each_ = 0;  // nanoseconds an item took lately; 0: not known yet
    std::size_t last_ = 1;
    std::uint64_t sent_ = 0;
    std::atomic<std::uint64_t> done_{0};
    std::atomic<std::int64_t> busy_{0};
};

/// Reads the range, and encodes its items and the callable.
template <class R, class F, class Iterator, class Sentinel, bool Star>
class chunker : public chunk_source<R> {
public:
    using item = std::iter_value_t<Iterator>;

    chunker(pool_front<used_by<R>>& front, F callable, Iterator begin, Sentinel end,
            std::optional<std::size_t> total, chunk_plan plan)
        : chunk_source<R>(front, !Star && flat<item> ? sizeof(item) : 0, total, plan),
          callable_(std::move(callable)),
          next_(std::move(begin)),
          end_(std::move(end)) {}

private:
    using chunk_source<R>::bytes_, chunk_source<R>::refused_, chunk_source<R>::passes_;

    bool is_over() override { return next_ == end_; }
    void skip() override { ++next_; }
    void append_function() override { append_callable(bytes_, callable_); }
    std::uint32_t append_items(std::size_t most) override {
        std::uint32_t items = 0;
        std::size_t whole = bytes_.size();
        try {
            if constexpr (!Star && flat<item>) {
                bytes_.resize(whole + most * sizeof(item));
                std::byte* const to = bytes_.data();
                for (; items < most && next_ != end_; ++next_, ++items, whole += sizeof(item)) {
                    const item copy(*next_);
                    std::memcpy(to + whole, &copy, sizeof copy);
                }
            } else {
                for (; items < most && next_ != end_; ++next_, ++items, whole = bytes_.size())
                    append_item(*next_);
            }
        } catch (...) {
            if (items == 0) throw;
            refused_ = std::current_exception();
        }
        bytes_.resize(whole);
        return items;
    }

    template <class T>
    void append_item(T&& value) {
        if constexpr (Star && requires { std::tuple_size<std::remove_cvref_t<T>>::value; }) {
            append_elements(value, std::make_index_sequence<std::tuple_size_v<item>>());
        } else {
            const item& one = value;  // of a proxy reference, what it stands for
            if constexpr (Star)
                append_elements(one, std::make_index_sequence<std::tuple_size_v<item>>());
            else
                append_encoded(one);
        }
    }
    template <class T, std::size_t... I>
    void append_elements(T& value, std::index_sequence<I...>) {
        append_encoded<std::decay_t<std::tuple_element_t<I, item>>...>(std::get<I>(value)...);
    }
    template <class... Parts>
    void append_encoded(const Parts&... parts) {
        passes_ = true;
        const encoded e = encode(parts...);
        append_framed(bytes_, e.pieces(), e.size());
        passes_ = false;
    }

    template <class... Args>
    static callable_ref star_reference(const std::tuple<Args...>*) {
        return reference_to<star_thunk<F, std::decay_t<Args>...>>();
    }
    template <class A, class B>
    static callable_ref star_reference(const std::pair<A, B>*) {
        return reference_to<star_thunk<F, std::decay_t<A>, std::decay_t<B>>>();
    }
    callable_ref reference() const override {
        if constexpr (Star)
            return star_reference(static_cast<const item*>(nullptr));
        else
            return reference_to<map_thunk<F, item>>();
    }

    F callable_;
    Iterator next_;
    Sentinel end_;
};

template <class R>
using map_result = std::conditional_t<std::is_void_v<R>, void,
                                      std::vector<std::conditional_t<std::is_void_v<R>, int, R>>>;

/// A map: all results in order, or the failure of the lowest index.
template <class R>
class map_job final : public async_state<map_result<R>>,
                      public std::enable_shared_from_this<map_job<R>> {
public:
    using async_value = map_result<R>;

    map_job(std::shared_ptr<pool_front<used_by<R>>> front, TaskOptions<map_result<R>> options,
            progress_count progress, std::unique_ptr<chunk_source<R>> chunks_in)
        : front_(std::move(front)),
          job_(*front_),
          options_(std::move(options)),
          progress_(std::move(progress)),
          chunks_in_(std::move(chunks_in)) {}

    /// Sends chunks until enough are out. One thread does; another that comes meanwhile leaves it a
    /// note to look again.
    void pump(bool in_background) {
        if (notes_.fetch_add(1, std::memory_order_acq_rel) != 0) return;
        int read;
        do {
            read = notes_.load(std::memory_order_acquire);
            send_some(in_background);
        } while (notes_.fetch_sub(read, std::memory_order_acq_rel) != read);
        settle();
    }

    bool wants_more() const {
        return !ended_.load(std::memory_order_acquire) &&
               out_.load(std::memory_order_acquire) <
                   enough_.load(std::memory_order_relaxed) * 2 / 3;
    }

    bool wait(deadline until) override {
        return front_->wait(until, [this] { return this->finished(); });
    }
    const void* pool() const noexcept override { return front_.get(); }
    bool wait_for(deadline until, bool (*done)(void*), void* with) override {
        return front_->wait(until, [&] { return done(with); });
    }
    bool cancel() override {
        if (this->finished()) return false;
        std::vector<std::shared_ptr<chunk<R>>> all;
        {
            const std::lock_guard lock(mutex_);
            ended_.store(true, std::memory_order_release);
            fail_at(0, std::make_exception_ptr(Cancelled("the map was cancelled")));
            all = chunks_;
        }
        for (const auto& each : all) front_->cancel(*each);
        front_->wait(deadline::never(), [&] {
            settle();
            return this->finished();
        });
        return true;
    }

    /// Waits and sends, in the calling thread.
    void run() {
        pump(false);
        while (!this->finished()) {
            front_->wait(deadline::never(), [this] { return this->finished() || wants_more(); });
            if (!this->finished()) pump(false);
        }
    }

private:
    void send_some(bool in_background) {
        const auto enough = [this] {
            const std::size_t chunks = chunks_in_->depth() * front_->back().workers();
            enough_.store(chunks, std::memory_order_relaxed);  // a guess
            return chunks;
        };
        try {
            while (!failing() && out_.load(std::memory_order_acquire) < enough() &&
                   !chunks_in_->at_end())
                chunks_in_->send(in_background, [&](const std::shared_ptr<chunk<R>>& made) {
                    made->on_error = [this](chunk<R>& c, std::uint32_t item) { on_error(c, item); };
                    made->on_complete = [this, self = this->shared_from_this(), in_background](
                                            chunk<R>& c) { on_complete(c, in_background); };
                    const std::lock_guard lock(mutex_);
                    chunks_.push_back(made);
                    out_.fetch_add(1, std::memory_order_relaxed);  // (C): one thread sends
                });
            ended_.store(failing() || chunks_in_->at_end(), std::memory_order_release);
        } catch (...) {  // of the range, of encoding, of sending
            const std::lock_guard lock(mutex_);
            if (!chunks_.empty() && chunks_.back()->id.generation == 0) {
                chunks_.pop_back();
                out_.fetch_sub(1, std::memory_order_relaxed);
            }
            fail_at(chunks_in_->sent(), std::current_exception());
            ended_.store(true, std::memory_order_release);
        }
    }

    bool failing() const { return error_at_.load(std::memory_order_acquire) != none; }

    void fail_at(std::uint64_t index, std::exception_ptr error) {  // under mutex_
        if (index >= error_at_.load(std::memory_order_relaxed)) return;
        error_ = std::move(error);
        error_at_.store(index, std::memory_order_release);
    }

    /// On the collecting thread: what lies behind a failure and was not begun is not begun.
    void on_error(chunk<R>& at, std::uint32_t item) {
        std::vector<std::shared_ptr<chunk<R>>> behind;
        {
            const std::lock_guard lock(mutex_);
            fail_at(at.more.first + item, at.error(item));
            try {
                for (const auto& each : chunks_)
                    if (each->more.first > at.more.first + item && !each->is_complete())
                        behind.push_back(each);
            } catch (...) {  // no memory: the others are begun, then
            }
        }
        for (const auto& each : behind)
            if (!each->is_complete() && front_->withdraw(*each)) each->complete();
    }

    void on_complete(chunk<R>& c, bool in_background) {
        chunks_in_->note_done(c);
        if (progress_.wanted() && later([this, self = this->shared_from_this(), items = c.items,
                                         failed = c.more.failures, in_background] {
                try {
                    progress_.add(items, failed);
                } catch (...) {
                    give_up();
                }
                after_chunk(in_background);
            }))
            return;
        after_chunk(in_background);
    }

    void after_chunk(bool in_background) {
        out_.fetch_sub(1, std::memory_order_acq_rel);
        if (in_background && later([self = this->shared_from_this()] {
                if (!self->finished()) self->pump(true);
            }))
            return;
        settle();
    }

    /// As a callback. \return false if there is no memory for it: this is the map's error then
    template <class F>
    bool later(F f) noexcept {
        try {
            front_->after(std::move(f));
            return true;
        } catch (...) {
            give_up();
            return false;
        }
    }
    /// The exception that is being handled ends the map. On the collecting thread.
    void give_up() noexcept {
        const std::lock_guard lock(mutex_);
        fail_at(0, std::current_exception());
        ended_.store(true, std::memory_order_release);
    }

    void settle() {
        if (!ended_.load(std::memory_order_acquire) || out_.load(std::memory_order_acquire) != 0)
            return;
        std::vector<std::shared_ptr<chunk<R>>> all;
        std::exception_ptr error;
        {
            const std::lock_guard lock(mutex_);
            if (std::exchange(settled_, true)) return;
            all.swap(chunks_);
            error = error_;
        }
        using value = typename async_state<map_result<R>>::value_type;
        std::shared_ptr<value> values;
        if (!error) try {
                values = std::make_shared<value>();
                if constexpr (!std::is_void_v<R>) {
                    values->reserve(chunks_in_->sent());
                    for (const auto& each : all)
                        if constexpr (std::is_same_v<R, bool>)
                            for (const unsigned char one : each->values)
                                values->push_back(one != 0);
                        else
                            values->insert(values->end(),
                                           std::make_move_iterator(each->values.begin()),
                                           std::make_move_iterator(each->values.end()));
                }
            } catch (...) {  // no memory for all of them
                error = std::current_exception();
            }
        const auto tell = [this, values, error] {
            tell_result(
                options_, values.get(), error, [&] { this->finish(std::move(*values)); },
                [&](std::exception_ptr e) { this->fail(std::move(e)); });
        };
        if (options_.callback || options_.error_callback) try {
                front_->after([this, tell, self = this->shared_from_this()] {
                    tell();
                    job_.end();
                });
                return;
            } catch (...) {  // no memory for the callback
                this->fail(std::current_exception());
                return job_.end();
            }
        tell();
        job_.end();
    }

    static constexpr std::uint64_t none = ~std::uint64_t{0};

    std::shared_ptr<pool_front<used_by<R>>> front_;
    typename pool_front<used_by<R>>::job job_;  // until it is settled
    TaskOptions<map_result<R>> options_;
    progress_count progress_;  // the collecting thread's
    std::unique_ptr<chunk_source<R>> chunks_in_;
    std::mutex mutex_;
    std::vector<std::shared_ptr<chunk<R>>> chunks_;
    std::exception_ptr error_;
    std::atomic<std::uint64_t> error_at_{none};
    std::atomic<std::size_t> out_{0}, enough_{0};
    std::atomic<int> notes_{0};  // for the thread that sends
    std::atomic<bool> ended_{false};
    bool settled_ = false;
};

}  // namespace detail
}  // namespace multiprocessing
