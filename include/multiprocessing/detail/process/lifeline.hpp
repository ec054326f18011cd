// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Ends a daemon whose parent is gone, SIGKILL of the parent included.
///
/// A pipe, made before the first daemon. Its write end lives in the parent alone; nothing is ever
/// written to it. Each daemon opens the read end anew (O_ASYNC and its signal belong to the open
/// file, which a fork would share) and asks for SIGKILL when something happens there: the only
/// thing that can happen is that the parent, and with it the write end, is gone. Then it looks
/// once, in case that was earlier. The descriptor stays open over exec.
///
/// The write end is closed by the fork hook in every child, so in the host's own forks too.
/// Not covered: vfork, _Fork and clone without exec in the host; a child that closes all its
/// descriptors; a child that is init of its own PID namespace.
///
/// Not PR_SET_PDEATHSIG: that follows the thread that forked, not the process.

#include <cerrno>
#include <csignal>
#include <cstdio>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/detail/process/early.hpp>

namespace multiprocessing::detail {

class lifeline {
public:
    /// In the parent, under process_identity::tables.
    void make() {
        if (ends_.writer) return;
        ends_ = make_pipe(O_NONBLOCK);
        std::snprintf(path_, sizeof path_, "/proc/self/fd/%d", ends_.reader.get());
    }

    /// In any forked child: the line is its parent's. The read end is kept for arm().
    void let_go() noexcept { ends_.writer.reset(); }

    /// In a child of ours that is no daemon.
    void drop() noexcept { ends_.reader.reset(); }

    /// In a daemon. \return 0 or an errno value; does not return if the parent is gone
    int arm() noexcept {
        int line = retry([&] { return early<::open>(path_, O_RDONLY | O_NONBLOCK); });
        if (line >= 0 && line <= STDERR_FILENO) {  // closed by the program; as off_stdio()
            const int low = line;
            line = early<::fcntl>(low, F_DUPFD, STDERR_FILENO + 1);
            ::close(low);
        }
        if (line < 0) return errno;
        if (early<::fcntl>(line, F_SETOWN, ::getpid()) != 0 ||
            early<::fcntl>(line, F_SETSIG, SIGKILL) != 0 ||
            early<::fcntl>(line, F_SETFL, O_ASYNC | O_NONBLOCK) != 0)
            return errno;
        pollfd now{line, POLLIN, 0};
        retry([&] { return early<::poll>(&now, 1, 0); });
        if ((now.revents & POLLHUP) != 0) ::_exit(0);
        drop();
        return 0;  // the descriptor stays open for life
    }

private:
    pipe_ends ends_;
    char path_[32] = {};  // of the read end
};

}  // namespace multiprocessing::detail
