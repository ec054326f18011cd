// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// An owned file descriptor.

#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>

namespace multiprocessing::detail {

/// Closes its descriptor at the end of its life. A forked child has a copy of its own.
class unique_fd {
public:
    unique_fd() = default;
    explicit unique_fd(int fd) noexcept : fd_(fd) {}
    unique_fd(unique_fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    unique_fd& operator=(unique_fd&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~unique_fd() { reset(); }

    int get() const noexcept { return fd_; }
    int release() noexcept { return std::exchange(fd_, -1); }
    void reset() noexcept {
        if (fd_ >= 0) ::close(std::exchange(fd_, -1));  // EINTR: closed all the same on Linux
    }
    explicit operator bool() const noexcept { return fd_ >= 0; }

private:
    int fd_ = -1;
};

/// Moves a new descriptor off the numbers 0, 1 and 2, which the kernel hands out in a program that
/// closed its standard streams: printf would write into it, and a child has /dev/null for its 0.
inline unique_fd off_stdio(unique_fd fd) {
    if (fd.get() > STDERR_FILENO || !fd) return fd;
    return unique_fd(call("fcntl(F_DUPFD_CLOEXEC)",
                          [&] { return ::fcntl(fd.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1); }));
}

}  // namespace multiprocessing::detail
