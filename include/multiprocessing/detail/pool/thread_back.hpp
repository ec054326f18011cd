// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The back of mp::ThreadPool: threads of this process, behind the same rings.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <utility>
#include <vector>

#include <unistd.h>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/thread.hpp>
#include <multiprocessing/detail/pool/ring_back.hpp>

namespace multiprocessing::detail {

template <compiled When = compiled::when_used>
class thread_back final : public ring_back<When> {
    using base = ring_back<When>;
    using base::board_, base::drain, base::init_failure, base::results_, base::send_stops,
        base::tasks_;

public:
    thread_back(std::size_t threads, std::function<void()> initializer)
        : base(threads), initializer_(std::move(initializer)) {
        try {
            for (std::uint32_t w = 0; w < threads; ++w)
                threads_.emplace_back([this, w] { run(w); });
        } catch (...) {
            finish();
            throw;
        }
    }
    ~thread_back() override { finish(); }

    /// Nothing stops a thread that runs.
    bool arrest(task_id) override { return false; }
    void watch(duration) override {}

    bool collect(pool_events& to) override {
        const bool any = base::collect(to);
        if (failed_.load(std::memory_order_acquire)) {  // (C) its exception is in a ring
            for (std::uint32_t w = 0; w < results_.size(); ++w) drain(w, to);
            std::exception_ptr why = init_failure(::getpid());
            failed_.store(false, std::memory_order_relaxed);  // another's changes nothing
            to.broken(std::move(why));
        }
        return any;
    }

    void finish() override {
        terminate();
        for (thread& each : threads_) each.join();
        threads_.clear();
    }
    /// What is queued was withdrawn, what runs goes on to its end; finish() waits for it.
    void terminate() override {
        if (!stopped_.exchange(true, std::memory_order_relaxed)) send_stops();  // once, that is all
    }

private:
    void run(std::uint32_t w) {
        if (work<When>({board_, *tasks_, *results_[w], w, 1, 0, initializer_, false}) == 0) return;
        failed_.store(true, std::memory_order_release);  // (C)
        board_.ring();
    }

    std::function<void()> initializer_;
    std::atomic<bool> failed_{false}, stopped_{false};
    std::vector<later<When, thread>> threads_;
};

}  // namespace multiprocessing::detail
