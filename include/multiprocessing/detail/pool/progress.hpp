// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// How far a map has come, as a bar on a terminal, as lines, or told to a function.

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <unistd.h>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/process/logging.hpp>

namespace multiprocessing {

/// How far a map has come.
struct Progress {
    std::uint64_t done = 0;                   // items with a result or an error
    std::optional<std::uint64_t> total = {};  // nothing if the range does not know its size
    std::uint64_t failed = 0;                 // of those done
    duration elapsed = {};                    // since the call
    double rate = 0;                          // items a second so far
    std::optional<duration> remaining = {};   // at that rate

    bool over() const noexcept { return total && done >= *total; }
};

/// MapOptions::progress. Of `true`: a bar on stderr if that is a terminal, else a line every five
/// seconds. Of a function: it is called with a Progress, or with (done, total), each time that
/// items come home; one that throws makes that the map's error.
class ProgressReport {
public:
    ProgressReport() = default;
    template <std::same_as<bool> Bool>
    ProgressReport(Bool on) {  // NOLINT: `.progress = true`
        if (on) tell_ = bar<detail::used_by<Bool>>();
    }
    template <class F>
    requires(std::invocable<F&, const Progress&> ||
             std::invocable<F&, std::uint64_t, std::uint64_t>)
        ProgressReport(F tell) {  // NOLINT: `.progress = [](const mp::Progress& p) {}`
        if constexpr (std::invocable<F&, const Progress&>)
            tell_ = std::move(tell);
        else
            tell_ = [tell = std::move(tell)](const Progress& p) mutable {
                tell(p.done, p.total.value_or(0));
            };
    }

    explicit operator bool() const noexcept { return tell_ != nullptr; }
    void operator()(const Progress& p) const { tell_(p); }

private:
    template <detail::compiled>
    static std::function<void(const Progress&)> bar() {
        return [terminal = ::isatty(STDERR_FILENO) == 1,
                last = deadline_of_next()](const Progress& p) mutable {
            const std::int64_t now = detail::deadline::clock();
            if (now < last && !p.over()) return;
            if (terminal) {
                detail::write_stderr('\r' + line(p, 30) + "\x1b[K" + (p.over() ? "\n" : ""));
                last = now + 100'000'000;
            } else {
                detail::write_stderr(line(p, 0) + '\n');
                last = now + 5'000'000'000;
            }
        };
    }
    static std::int64_t deadline_of_next() { return detail::deadline::clock() + 100'000'000; }

    static std::string line(const Progress& p, std::size_t width) {
        std::string text;
        if (p.total && width != 0) {
            const std::size_t full =
                *p.total == 0 ? width : static_cast<std::size_t>(p.done * width / *p.total);
            text = '[' + std::string(std::min(full, width), '#') +
                   std::string(width - std::min(full, width), ' ') + "] ";
        }
        text += std::to_string(p.done);
        if (p.total) text += '/' + std::to_string(*p.total);
        char rate[32];
        std::snprintf(rate, sizeof rate, p.rate < 10 ? ", %.1f/s" : ", %.0f/s", p.rate);
        text += rate;
        if (p.remaining && !p.over()) {
            const auto seconds = p.remaining->count() / 1'000'000'000;
            char eta[48];
            std::snprintf(eta, sizeof eta, ", %lld:%02lld left",
                          static_cast<long long>(seconds / 60),
                          static_cast<long long>(seconds % 60));
            text += eta;
        }
        if (p.failed != 0) text += ", " + std::to_string(p.failed) + " failed";
        return text;
    }

    std::function<void(const Progress&)> tell_;
};

namespace detail {

/// Counts for a report. One thread at a time.
class progress_count {
public:
    progress_count(ProgressReport report, std::optional<std::uint64_t> total)
        : report_(std::move(report)) {
        now_.total = total;
    }
    bool wanted() const noexcept { return static_cast<bool>(report_); }
    void add(std::uint64_t done, std::uint64_t failed) {
        now_.done += done;
        now_.failed += failed;
        now_.elapsed = duration(deadline::clock() - began_);
        const double seconds = static_cast<double>(now_.elapsed.count()) / 1e9;
        now_.rate = seconds > 0 ? static_cast<double>(now_.done) / seconds : 0;
        if (now_.total && now_.rate > 0) {
            const double left = static_cast<double>(*now_.total - std::min(*now_.total, now_.done));
            now_.remaining = duration(static_cast<std::int64_t>(left / now_.rate * 1e9));
        }
        report_(now_);
    }

private:
    ProgressReport report_;
    Progress now_;
    std::int64_t began_ = deadline::clock();
};

}  // namespace detail
}  // namespace multiprocessing
