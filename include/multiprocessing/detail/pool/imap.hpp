// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Results of a pool as an input range.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>  // declares std::ranges::enable_view, without the rest of <ranges>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/pool/jobs.hpp>

namespace multiprocessing {
namespace detail {

/// A range that was given: borrowed if it is an lvalue, else kept.
template <class Range>
class held_range {
public:
    explicit held_range(Range&& range) : range_(std::forward<Range>(range)) {}
    Range& get() { return range_; }

private:
    Range range_;
};

/// What an imap iterator draws from. Single-threaded but for on_complete().
template <class R>
class result_source {
public:
    virtual ~result_source() = default;
    /// The next chunk of results; null at the end. Blocks.
    virtual std::shared_ptr<chunk<R>> next() = 0;
};

/// A chunker with its range, which is there before the iterators and goes after them.
template <class Range, class Chunker>
class range_chunker final : held_range<Range>, public Chunker {
public:
    template <class Front, class F>
    range_chunker(Front& front, Range&& range, const F& callable, std::optional<std::size_t> total,
                  chunk_plan plan)
        : held_range<Range>(std::forward<Range>(range)),
          Chunker(front, callable, std::ranges::begin(this->get()), std::ranges::end(this->get()),
                  total, plan) {}
};

template <class R, bool Ordered>
class imap_job final : public result_source<R>,
                       public std::enable_shared_from_this<imap_job<R, Ordered>> {
public:
    imap_job(std::shared_ptr<pool_front<used_by<R>>> front,
             std::unique_ptr<chunk_source<R>> chunks_in)
        : front_(std::move(front)),
          chunks_in_(std::move(chunks_in)),
          window_(chunks_in_->window()) {}

    /// What was not begun is not begun; what runs is let go.
    void abandon() noexcept {
        std::list<std::shared_ptr<chunk<R>>> left;
        {
            const std::lock_guard lock(mutex_);
            abandoned_ = true;
            left.swap(out_);
        }
        for (const auto& each : left) try {
                if (!each->is_complete()) front_->drop(each);
            } catch (...) {  // it runs, then
            }
    }

    std::shared_ptr<chunk<R>> next() override {
        fill();
        std::shared_ptr<chunk<R>> found;
        if (count() == 0) return nullptr;
        if constexpr (Ordered) {
            found = out_.front();
            front_->wait(deadline::never(), [&] { return found->is_complete(); });
            const std::lock_guard lock(mutex_);
            out_.pop_front();
        } else {
            front_->wait(deadline::never(), [&] {
                if (found) return true;
                const std::lock_guard lock(mutex_);
                if (done_.empty()) return false;
                found = std::move(done_.front());
                done_.pop_front();
                return true;
            });
        }
        return found;
    }

private:
    std::size_t count() {
        const std::lock_guard lock(mutex_);
        return out_.size() + done_.size();
    }

    void fill() {
        while (!failed_ && count() < window_ && !chunks_in_->at_end()) {
            try {
                chunks_in_->send(false, [&](const std::shared_ptr<chunk<R>>& made) {
                    const std::lock_guard lock(mutex_);
                    out_.push_back(made);
                    if constexpr (!Ordered)  // it moves over without an allocation
                        made->on_complete = [this, weak = this->weak_from_this(),
                                             at = std::prev(out_.end())](chunk<R>&) {
                            const auto self = weak.lock();
                            if (!self) return;
                            const std::lock_guard again(mutex_);
                            if (!abandoned_) done_.splice(done_.end(), out_, at);
                        };
                });
            } catch (...) {  // at its place; of the range or of sending, it is the last
                const auto why = std::current_exception();
                failed_ = true;
                auto place = std::make_shared<chunk<R>>();
                if constexpr (!std::is_void_v<R>) place->values.resize(1);
                place->errors[0] = why;
                const std::lock_guard lock(mutex_);
                if (!out_.empty() && out_.back()->id.generation == 0) out_.pop_back();
                (Ordered ? out_ : done_).push_back(place);
                place->complete();
                failed_ = !chunks_in_->pass();
            }
        }
    }

    std::shared_ptr<pool_front<used_by<R>>> front_;
    std::unique_ptr<chunk_source<R>> chunks_in_;
    std::size_t window_;  // chunks
    std::mutex mutex_;    // the rest, against on_complete
    std::list<std::shared_ptr<chunk<R>>> out_, done_;
    bool abandoned_ = false;
    bool failed_ = false;  // the caller's alone: no more can be sent
};

}  // namespace detail

/// Results of imap: an input range, to be walked once. Leaving it early is prompt: what was not
/// begun is not begun.
/// `*it` throws the error of that item; `++it` goes on behind it. A view: `pool.imap(f, endless) |
/// std::views::take(3)`.
template <class R>
class ImapResults {
public:
    class iterator {
    public:
        using value_type = R;
        using difference_type = std::ptrdiff_t;
        using iterator_concept = std::input_iterator_tag;

        iterator() = default;
        explicit iterator(ImapResults& from) : from_(&from) {}
        iterator(iterator&&) noexcept = default;
        iterator& operator=(iterator&&) noexcept = default;

        /// \throws the error of this item
        R operator*() const { return from_->take(); }
        iterator& operator++() {
            from_->advance();
            return *this;
        }
        void operator++(int) { ++*this; }
        friend bool operator==(const iterator& it, std::default_sentinel_t) { return it.is_over(); }

    private:
        bool is_over() const noexcept { return from_->current_ == nullptr; }

        ImapResults* from_ = nullptr;
    };

    ImapResults(std::shared_ptr<detail::result_source<R>> source, std::function<void()> abandon,
                detail::progress_count progress)
        : source_(std::move(source)),
          abandon_(std::move(abandon)),
          progress_(std::move(progress)) {}
    ImapResults(ImapResults&&) noexcept = default;
    ImapResults& operator=(ImapResults&& other) noexcept {
        if (this != &other) {
            std::destroy_at(this);
            std::construct_at(this, std::move(other));
        }
        return *this;
    }
    ~ImapResults() {
        if (abandon_) abandon_();
    }

    /// Once.
    iterator begin() {
        if (!begun_) {
            begun_ = true;
            fetch();
        }
        return iterator(*this);
    }
    std::default_sentinel_t end() const noexcept { return {}; }

private:
    void fetch() {
        at_ = 0;
        do current_ = source_->next();
        while (current_ && current_->values.empty() && current_->items == 0);
    }
    std::size_t size() const { return std::max<std::size_t>(current_->items, 1); }
    R take() {
        if (std::exception_ptr error = current_->error(at_)) std::rethrow_exception(error);
        if constexpr (!std::is_void_v<R>) return static_cast<R>(std::move(current_->values[at_]));
    }
    void advance() {
        if (++at_ < size()) return;
        if (progress_.wanted()) progress_.add(current_->items, current_->more.failures);
        fetch();
    }

    std::shared_ptr<detail::result_source<R>> source_;
    std::function<void()> abandon_;
    detail::progress_count progress_;
    std::shared_ptr<detail::chunk<R>> current_;
    std::uint32_t at_ = 0;
    bool begun_ = false;
};

}  // namespace multiprocessing

template <class R>
inline constexpr bool std::ranges::enable_view<multiprocessing::ImapResults<R>> = true;
