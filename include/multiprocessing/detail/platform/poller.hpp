// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Waiting for descriptors with a deadline; pipes that serve as doorbells.

#include <cerrno>
#include <cstddef>
#include <span>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>

namespace multiprocessing::detail {

/// \return how many are ready; 0 once the deadline passed. A signal handler does not end the wait.
inline int poll_until(pollfd* fds, std::size_t count, deadline until) {
    for (;;) {
        const timespec left = deadline::to_timespec(until.remaining().count());
        const int ready = ::ppoll(fds, count, until.is_never() ? nullptr : &left, nullptr);
        if (ready >= 0) return ready;
        if (errno != EINTR) throw_os_error(errno, "poll");
    }
}

template <compiled = compiled::when_used>
int poll_until(std::span<pollfd> fds, deadline until) {
    return poll_until(fds.data(), fds.size(), until);
}

/// \return false once the deadline passed
inline bool wait_readable(int fd, deadline until) {
    pollfd one{fd, POLLIN, 0};
    return poll_until(&one, 1, until) > 0;
}

struct pipe_ends {
    unique_fd reader, writer;
};

/// A pipe, close-on-exec.
inline pipe_ends make_pipe(int flags = 0) {
    int fds[2];
    call("pipe2", [&] { return ::pipe2(fds, O_CLOEXEC | flags); });
    unique_fd first(fds[0]), second(fds[1]);
    return {off_stdio(std::move(first)), off_stdio(std::move(second))};
}

}  // namespace multiprocessing::detail
