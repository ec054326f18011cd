// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <multiprocessing/detail/platform/pidfd.hpp>

#include "support/child.hpp"

using namespace multiprocessing::detail;
using namespace test;

namespace {

pid_t sleeping_process() {
    return fork_child([] {
        for (;;) ::pause();
        return 0;
    });
}

}  // namespace

TEST_CASE("pidfd: becomes readable when the process ends, which reap() then tells",
          "[platform][pidfd]") {
    const pid_t pid = sleeping_process();
    const unique_fd fd = open_pidfd(pid);
    REQUIRE(fd);
    CHECK(!wait_readable(fd.get(), deadline::at_once()));
    bool running = false;
    CHECK(!reap(fd, &running));
    CHECK(running);
    CHECK(send_signal(fd, SIGKILL));
    CHECK(wait_readable(fd.get(), deadline::after(patience)));
    CHECK(reap(fd, &running) == -SIGKILL);
    CHECK(!running);
    CHECK(!reap(fd, &running));  // was reaped
    CHECK(!running);
    CHECK(!send_signal(fd, SIGKILL));
}

TEST_CASE("pidfd: an exit code is told as such", "[platform][pidfd]") {
    const pid_t pid = fork_child([] { return 7; });
    const unique_fd fd = open_pidfd(pid);
    REQUIRE(fd);
    CHECK(wait_readable(fd.get(), deadline::after(patience)));
    bool running = true;
    CHECK(reap(fd, &running) == 7);
    CHECK(!running);
}

TEST_CASE("pidfd: there is none of a process that has ended and was reaped", "[platform][pidfd]") {
    const pid_t pid = fork_child([] { return 0; });
    wait_status(pid);
    CHECK(!open_pidfd(pid));
}

TEST_CASE("pidfd: a process is named by its pid and start, and gone once it ended",
          "[platform][pidfd]") {
    const std::uint64_t mine = start_time(::getpid());
    CHECK(mine != 0);
    CHECK(!is_gone(::getpid(), mine));
    CHECK(is_gone(::getpid(), mine + 1));  // another one of this pid
    CHECK(!is_gone(::getpid(), 0));        // not known
    const pid_t pid = sleeping_process();
    const std::uint64_t started = start_time(pid);
    CHECK(started >= mine);
    CHECK(!is_gone(pid, started));
    ::kill(pid, SIGKILL);
    CHECK(eventually([&] { return is_gone(pid, started); }));  // also before it is reaped
    wait_status(pid);
    CHECK(is_gone(pid, started));
    CHECK(start_time(pid) == 0);
}
