// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// One call in a child of its own: what async() starts.
///
/// The child puts one message, the result or the exception, into a ring that only the two have, and
/// ends. The parent waits for its end and then looks into the ring: what was put is there, whatever
/// happened afterwards; nothing means that the process ended first.

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <string.h>

#include <multiprocessing/detail/archive/exception.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/process/async_result.hpp>
#include <multiprocessing/detail/process/child.hpp>
#include <multiprocessing/detail/process/child_process.hpp>
#include <multiprocessing/detail/ring/ring.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// "was killed by signal 9 (Killed)", "ended with exit code 3"
inline std::string describe_exit(int exitcode) {
    if (exitcode >= 0) return "ended with exit code " + std::to_string(exitcode);
    return "was killed by signal " + std::to_string(-exitcode) + " (" + ::strsignal(-exitcode) +
           ')';
}

template <class R>
class async_child final : public async_state<R> {
public:
    /// Forks. \param task  what it calls, for errors
    template <class Call>
    async_child(std::shared_ptr<child_process<used_by<R>>> child, std::string task, Call& call)
        : child_(std::move(child)),
          task_(std::move(task)),
          ring_(message_ring::create("mp:async")) {
        launch(child_, [&] { return run(call); });
    }

    bool wait(deadline until) override {
        if (this->finished()) return true;
        child_->require_owner("wait for the result of");
        if (!child_->wait(until)) return false;
        collect();
        return true;
    }

    bool cancel() override {
        if (this->finished()) return false;
        child_->require_owner("cancel");
        {
            const std::lock_guard lock(collecting_);
            if (this->finished()) return false;
            if (!child_->exitcode()) {
                cancelled_ = true;
                child_->signal(SIGKILL);
            }
        }
        child_->wait(deadline::never());
        collect();
        return cancelled_;
    }

    int sentinel() const noexcept override { return child_->sentinel(); }

private:
    enum kind : std::uint64_t { result = 1, exception = 2 };

    /// In the child. \return its exit code
    template <class Call>
    int run(Call& call) {
        try {
            if constexpr (std::is_void_v<R>) {
                call();
                ring_->put({}, result, deadline::never());
            } else {
                const R value = call();
                const encoded message = encode(value);
                ring_->put(message.pieces(), result, deadline::never());
            }
            return 0;
        } catch (...) {
            if (is_forced_unwind()) throw;
            const std::vector<std::byte> bytes = encode_exception(std::current_exception());
            const std::span<const std::byte> piece(bytes);
            ring_->put({&piece, 1}, exception, deadline::never());
            return 1;
        }
    }

    /// After the child's end. The ring is this process's alone now, so user code may run under it.
    void collect() {
        const std::lock_guard lock(collecting_);
        if (this->finished()) return;
        if (cancelled_) {
            this->fail(std::make_exception_ptr(
                Cancelled("the call of " + task_ + " in " + who() + " was cancelled")));
        } else {
            try {
                take();
            } catch (...) {  // the result can't be rebuilt here
                this->fail(std::current_exception());
            }
        }
        ring_.reset();
    }

    void take() {
        const bool found = ring_->get(deadline::at_once(),
                                      [&](std::uint64_t is, std::span<const std::byte> bytes) {
                                          if (is == exception)
                                              this->fail(decode_exception(bytes, child_->pid()));
                                          else if constexpr (std::is_void_v<R>)
                                              this->finish();
                                          else
                                              this->finish(decode<R>(bytes));
                                      });
        if (found) return;
        const int code = child_->exitcode().value();
        this->fail(std::make_exception_ptr(
            WorkerCrashed(who() + ' ' + describe_exit(code) + " before " + task_ + " returned",
                          code, child_->pid())));
    }

    std::string who() const {
        return child_->facts.name + " (pid " + std::to_string(child_->pid()) + ')';
    }

    std::shared_ptr<child_process<used_by<R>>> child_;
    std::string task_;
    std::shared_ptr<message_ring> ring_;
    std::mutex collecting_;
    bool cancelled_ = false;  // under collecting_; before that the child's end orders it
};

}  // namespace multiprocessing::detail
