// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// as_completed: results in the order in which their tasks end.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include <poll.h>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/process/async_result.hpp>

namespace multiprocessing {

/// The results given to as_completed(): an input range of AsyncResult<R>, to be walked once.
template <class R>
class CompletedResults {
public:
    class iterator {
    public:
        using value_type = AsyncResult<R>;
        using difference_type = std::ptrdiff_t;
        using iterator_concept = std::input_iterator_tag;

        iterator() = default;
        explicit iterator(CompletedResults& from) : from_(&from) {}
        AsyncResult<R>& operator*() const noexcept { return from_->current_; }
        /// Waits until another one has ended.
        iterator& operator++() {
            from_->next();
            return *this;
        }
        void operator++(int) { ++*this; }
        friend bool operator==(const iterator& it, std::default_sentinel_t) noexcept {
            return it.is_over();
        }

    private:
        bool is_over() const noexcept { return !from_->current_.valid(); }

        CompletedResults* from_ = nullptr;
    };

    explicit CompletedResults(std::vector<AsyncResult<R>> results) : left_(std::move(results)) {}

    /// Once. Waits until the first has ended.
    iterator begin() {
        next();
        return iterator(*this);
    }
    std::default_sentinel_t end() const noexcept { return {}; }

private:
    bool find() {
        for (auto& one : left_)
            if (one.state().finished() || (one.state().sentinel() >= 0 && one.ready())) {
                std::swap(one, left_.back());
                current_ = std::move(left_.back());
                left_.pop_back();
                return true;
            }
        return false;
    }

    void next() {
        current_ = {};
        if (left_.empty()) return;
        while (!find()) {
            std::vector<detail::later<detail::used_by<R>, pollfd>> fds;
            detail::async_state<R>* of_pool = nullptr;
            bool mixed = false;
            for (auto& one : left_) {
                detail::async_state<R>& state = one.state();
                if (const int fd = state.sentinel(); fd >= 0)
                    fds.push_back({fd, POLLIN, 0});
                else if (!of_pool)
                    of_pool = &state;
                else if (of_pool->pool() != state.pool())
                    mixed = true;
            }
            // Processes tell by descriptors, a pool tells those who wait for it: of a mixture each
            // has its turn.
            const auto turn = mixed || (of_pool && !fds.empty())
                                  ? detail::deadline::after(std::chrono::milliseconds(5))
                                  : detail::deadline::never();
            if (!fds.empty()) detail::poll_until(fds, turn);
            if (of_pool) of_pool->wait_for(turn, any, this);
        }
    }
    static bool any(void* self) {
        auto& left = static_cast<CompletedResults*>(self)->left_;
        return std::any_of(left.begin(), left.end(),
                           [](auto& one) { return one.state().finished(); });
    }

    std::vector<AsyncResult<R>> left_;
    AsyncResult<R> current_;
};

/// The results in the order in which their tasks end, whether with a value or an error:
/// `for (auto& result : as_completed(std::move(results))) use(result.get());`
/// Processes and threads: as AsyncResult. Results of several pools are looked at every 5 ms.
template <class R>
CompletedResults<R> as_completed(std::vector<AsyncResult<R>> results) {
    return CompletedResults<R>(std::move(results));
}

}  // namespace multiprocessing
