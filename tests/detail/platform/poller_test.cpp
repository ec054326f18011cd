// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <array>
#include <csignal>
#include <utility>

#include <sys/time.h>

#include <multiprocessing/detail/platform/poller.hpp>

#include "support/child.hpp"

using namespace multiprocessing::detail;
using namespace test;

TEST_CASE("poller: a pipe is readable while a byte is in it", "[platform][poller]") {
    const auto [reader, writer] = make_pipe();
    CHECK(!wait_readable(reader.get(), deadline::at_once()));
    CHECK(::write(writer.get(), "", 1) == 1);
    CHECK(wait_readable(reader.get(), deadline::at_once()));
    CHECK(wait_readable(reader.get(), deadline::never()));
    CHECK((::fcntl(reader.get(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK((::fcntl(writer.get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("poller: waits until its deadline, whatever signals come", "[platform][poller]") {
    child waiter([] {
        struct sigaction act {};
        act.sa_handler = [](int) {};
        ::sigaction(SIGALRM, &act, nullptr);
        const itimerval tick{{0, 2000}, {0, 2000}};
        ::setitimer(ITIMER_REAL, &tick, nullptr);
        const auto [reader, writer] = make_pipe();
        const auto begin = clock::now();
        if (wait_readable(reader.get(), deadline::after(30ms))) return 1;
        return clock::now() - begin < 30ms ? 2 : 0;
    });
    CHECK(waiter.exit_status() == 0);
}

TEST_CASE("poller: tells how many of many are ready", "[platform][poller]") {
    const auto a = make_pipe(), b = make_pipe();
    std::array<pollfd, 2> both{pollfd{a.reader.get(), POLLIN, 0},
                               pollfd{b.reader.get(), POLLIN, 0}};
    CHECK(poll_until(both, deadline::at_once()) == 0);
    CHECK(::write(b.writer.get(), "", 1) == 1);
    CHECK(poll_until(both, deadline::never()) == 1);
    CHECK(both[0].revents == 0);
    CHECK(both[1].revents == POLLIN);
}

TEST_CASE("unique_fd: closes what it owns, once", "[platform][fd]") {
    int number = -1;
    {
        auto [reader, writer] = make_pipe();
        number = reader.get();
        unique_fd moved = std::move(reader);
        CHECK(moved.get() == number);
        CHECK(!reader);
        const unique_fd again(writer.release());
        CHECK(again);
        CHECK(!writer);
    }
    CHECK(::fcntl(number, F_GETFD) == -1);
}

TEST_CASE("unique_fd: new descriptors stay off 0, 1 and 2", "[platform][fd]") {
    CHECK(child([] {
              ::close(0), ::close(1);
              const auto [reader, writer] = make_pipe();
              return reader.get() > 2 && writer.get() > 2 ? 0 : 1;
          }).exit_status() == 0);
}
