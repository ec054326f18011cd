// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What children say, and what a program prints.

#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include <multiprocessing/process.hpp>

#include "support/child.hpp"

namespace test {

/// Lines from any process. The pipe stays open in the test, so nothing waits for its end.
class report {
public:
    report() {
        if (::pipe2(ends_, O_CLOEXEC) != 0) give_up("pipe2");
    }
    report(const report&) = delete;
    report& operator=(const report&) = delete;
    ~report() {
        ::close(ends_[0]);
        ::close(ends_[1]);
    }

    template <class... Parts>
    void line(const Parts&... parts) {
        std::ostringstream text;
        (text << ... << parts) << '\n';
        const std::string bytes = text.str();
        if (::write(ends_[1], bytes.data(), bytes.size()) < 0) ::_exit(97);
    }

    /// The next line, without its end; waits for it.
    std::string wait_line() {
        std::string text;
        for (char byte; ::read(ends_[0], &byte, 1) == 1 && byte != '\n';) text += byte;
        return text;
    }

    /// All that has been said.
    std::string text() {
        ::fcntl(ends_[0], F_SETFL, O_NONBLOCK);
        std::string text;
        char bytes[4096];
        for (ssize_t n; (n = ::read(ends_[0], bytes, sizeof bytes)) > 0;)
            text.append(bytes, static_cast<std::size_t>(n));
        ::fcntl(ends_[0], F_SETFL, 0);
        return text;
    }

private:
    int ends_[2];
};

/// What f(), and the children that it waits for, write to descriptor 1 or 2.
template <class F>
std::string output_of(int fd, F f) {
    std::fflush(nullptr);
    std::cout.flush();
    std::FILE* file = std::tmpfile();
    if (file == nullptr) give_up("tmpfile");
    const int before = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    ::dup2(::fileno(file), fd);
    f();
    std::fflush(nullptr);
    std::cout.flush();
    ::dup2(before, fd);
    ::close(before);
    std::string text(static_cast<std::size_t>(::lseek(::fileno(file), 0, SEEK_END)), '\0');
    if (::pread(::fileno(file), text.data(), text.size(), 0) < 0) give_up("pread");
    std::fclose(file);
    return text;
}

/// What processes that f() starts, and waits for, write to the log: warnings and worse.
template <class F>
std::string log_of(F f) {
    using multiprocessing::LogLevel;
    auto& level = multiprocessing::detail::process_state::get().log_level;
    const int before = level.exchange(static_cast<int>(LogLevel::warning));
    const std::string text = output_of(STDERR_FILENO, f);
    level = before;
    return text;
}

}  // namespace test
