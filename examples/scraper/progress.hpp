// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// How far the crawl is, on stderr: a bar that is drawn again on a terminal, else a line a second.

#include <algorithm>
#include <clocale>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "crawl.hpp"

namespace scraper {

class ProgressBar {
public:
    /// \param label  stands in front
    explicit ProgressBar(std::string label) : label_(std::move(label)) {
        std::setlocale(LC_CTYPE, "");
        utf8_ = std::strcmp(::nl_langinfo(CODESET), "UTF-8") == 0;
    }
    ~ProgressBar() {
        if (terminal_ && drawn_ >= 0) std::fputs("\r\033[K", stderr);  // the report takes its place
    }
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;

    void operator()(const Progress& now) {
        if (now.seconds - drawn_ < (terminal_ ? 0.05 : 1.0)) return;
        if (!terminal_ && drawn_ < 0) {  // nothing to say about the first second
            drawn_ = now.seconds;
            return;
        }
        drawn_ = now.seconds;
        const double rate = static_cast<double>(now.done) / std::max(now.seconds, 1e-3);
        std::string text = format("%5zu pages %5.0f/s %5zu queued", now.done, rate, now.queued);
        if (now.done > 0) text += "  ETA " + clock_time(static_cast<double>(now.queued) / rate);
        if (now.killed > 0) text += format("  %u killed", now.killed);
        if (!terminal_) {
            std::fprintf(stderr, "%s: %s\n", label_.c_str(), text.c_str());
            return;
        }
        const int room = columns() - static_cast<int>(label_.size() + text.size()) - 5;
        const double share = static_cast<double>(now.done) /
                             static_cast<double>(std::max<std::size_t>(now.done + now.queued, 1));
        std::fprintf(stderr, "\r%s %s %s\033[K", label_.c_str(),
                     bar(std::min(room, 40), share).c_str(), text.c_str());
        std::fflush(stderr);
    }

private:
    template <class... Args>
    static std::string format(const char* pattern, Args... args) {
        char buffer[128];
        std::snprintf(buffer, sizeof buffer, pattern, args...);
        return buffer;
    }

    static std::string clock_time(double seconds) {
        const auto whole = static_cast<long>(std::ceil(seconds));
        return format("%ld:%02ld", whole / 60, whole % 60);
    }

    static int columns() {
        winsize size{};
        return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
    }

    std::string bar(int width, double share) const {
        if (width < 4) return {};
        const int full = static_cast<int>(share * width);
        std::string text;
        for (int i = 0; i < width; ++i)
            text += i < full ? (utf8_ ? "█" : "#") : (utf8_ ? "░" : ".");
        return text;
    }

    std::string label_;
    bool terminal_ = ::isatty(STDERR_FILENO) == 1;
    bool utf8_ = false;
    double drawn_ = -1;  // when; negative: never
};

}  // namespace scraper
