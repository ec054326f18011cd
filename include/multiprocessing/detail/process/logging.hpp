// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Lines on stderr: the log, silent unless asked for, and the last words of a failed child.

#include <csignal>
#include <string>
#include <string_view>

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>

namespace multiprocessing {

/// Python's levels; the numbers are those of its `logging`.
enum class LogLevel {
    subdebug = 5,
    debug = 10,
    info = 20,
    subwarning = 25,
    warning = 30,
    error = 40
};

namespace detail {

/// While it lives, this thread's writes to a pipe that nobody reads fail rather than raise SIGPIPE.
class no_sigpipe {
public:
    no_sigpipe() noexcept {
        sigset_t pending;
        ::sigemptyset(&pending);
        ::sigpending(&pending);
        pending_ = ::sigismember(&pending, SIGPIPE) == 1;
        const sigset_t only = sigpipe();
        ::pthread_sigmask(SIG_BLOCK, &only, &before_);
    }
    no_sigpipe(const no_sigpipe&) = delete;
    no_sigpipe& operator=(const no_sigpipe&) = delete;
    ~no_sigpipe() {
        const sigset_t only = sigpipe();
        const timespec at_once{};
        if (!pending_) retry([&] { return ::sigtimedwait(&only, nullptr, &at_once); });
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }

private:
    static sigset_t sigpipe() noexcept {
        sigset_t set;
        ::sigemptyset(&set);
        ::sigaddset(&set, SIGPIPE);
        return set;
    }

    sigset_t before_;
    bool pending_;
};

/// One write(2), so that lines of several processes don't mix. A closed or broken stderr is no
/// matter.
inline void write_stderr(std::string_view text) noexcept {
    const no_sigpipe guard;
    [[maybe_unused]] const auto written =
        retry([&] { return ::write(STDERR_FILENO, text.data(), text.size()); });
}

/// A line of the log as Python writes it: "[INFO/Process-1] text".
inline void write_log_line(LogLevel level, std::string_view process, std::string_view text) {
    const char* label = level >= LogLevel::error        ? "ERROR"
                        : level >= LogLevel::warning    ? "WARNING"
                        : level >= LogLevel::subwarning ? "SUBWARNING"
                        : level >= LogLevel::info       ? "INFO"
                        : level >= LogLevel::debug      ? "DEBUG"
                                                        : "SUBDEBUG";
    std::string line = "[";
    line.append(label).append("/").append(process).append("] ").append(text).append("\n");
    write_stderr(line);
}

}  // namespace detail
}  // namespace multiprocessing
