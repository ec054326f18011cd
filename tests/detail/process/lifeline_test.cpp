// SPDX-License-Identifier: BSL-1.0
//
// Daemons end with their parent, however that ends.

#include <multiprocessing/process.hpp>

#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/reports.hpp"

namespace mp = multiprocessing;
using test::report;

namespace {

const mp::ProcessOptions daemon_options{.daemon = true};

void sleep_for_ever() {
    for (;;) ::pause();
}

[[noreturn]] void spin() {
    for (volatile unsigned n = 0;;) n = n + 1;
}

/// Of processes that say their pid: to see them end without being their parent.
std::vector<mp::detail::unique_fd> watch(report& pids, int count) {
    std::vector<mp::detail::unique_fd> watched;
    for (int i = 0; i < count; ++i)
        watched.push_back(mp::detail::open_pidfd(std::stoi(pids.wait_line())));
    return watched;
}

bool all_end(const std::vector<mp::detail::unique_fd>& watched) {
    for (const auto& pidfd : watched)
        if (!pidfd ||
            !mp::detail::wait_readable(pidfd.get(), mp::detail::deadline::after(test::patience)))
            return false;
    return true;
}

/// Starts `f` in a host that is then killed; `count` processes below it must end.
template <class F>
bool die_with_host(int count, F f) {
    report pids, ready;
    test::child host([&] {
        f(pids);
        ready.line("x");
        sleep_for_ever();
        return 0;
    });
    const auto watched = watch(pids, count);
    ready.wait_line();
    host.kill();
    return all_end(watched);
}

}  // namespace

TEST_CASE("lifeline: SIGKILL of the parent ends its daemons", "[process][lifeline]") {
    CHECK(die_with_host(5, [](report& pids) {
        static std::vector<mp::Process> daemons;
        for (int i = 0; i < 5; ++i)
            daemons.emplace_back(daemon_options, [&] {
                pids.line(::getpid());
                sleep_for_ever();
            });
        for (auto& d : daemons) d.start();
    }));
}

TEST_CASE("lifeline: daemons that block all signals, are stopped, or busy, end too",
          "[process][lifeline]") {
    CHECK(die_with_host(3, [](report& pids) {
        static std::vector<mp::Process> daemons;
        for (int i = 0; i < 3; ++i)
            daemons.emplace_back(daemon_options, [&, i] {
                sigset_t all;
                ::sigfillset(&all);
                ::sigprocmask(SIG_BLOCK, &all, nullptr);
                pids.line(::getpid());
                if (i == 1) ::raise(SIGSTOP);
                if (i == 2) spin();
                sleep_for_ever();
            });
        for (auto& d : daemons) d.start();
    }));
}

TEST_CASE("lifeline: a daemon's daemons end with it", "[process][lifeline]") {
    CHECK(die_with_host(3, [](report& pids) {
        static mp::Process top(daemon_options, [&] {
            mp::Process middle([&] {
                mp::Process bottom([&] {
                    pids.line(::getpid());
                    sleep_for_ever();
                });
                bottom.start();
                pids.line(::getpid());
                sleep_for_ever();
            });
            middle.start();
            pids.line(::getpid());
            sleep_for_ever();
        });
        top.start();
    }));
}

TEST_CASE("lifeline: a raw fork of the host does not keep the daemons alive",
          "[process][lifeline]") {
    report raw_pid;
    CHECK(die_with_host(1, [&](report& pids) {
        static mp::Process daemon(daemon_options, [&] {
            pids.line(::getpid());
            sleep_for_ever();
        });
        daemon.start();
        const pid_t raw = ::fork();
        if (raw == 0) sleep_for_ever();
        raw_pid.line(raw);
    }));
    ::kill(std::stoi(raw_pid.wait_line()), SIGKILL);
}

TEST_CASE("lifeline: a daemon that runs another program ends too", "[process][lifeline]") {
    CHECK(die_with_host(1, [](report& pids) {
        static mp::Process daemon(daemon_options, [&] {
            pids.line(::getpid());
            ::execl("/bin/sleep", "sleep", "1000", nullptr);
        });
        daemon.start();
    }));
}

TEST_CASE("lifeline: the end of the thread that started a daemon is no end of it",
          "[process][lifeline]") {
    mp::Process p(daemon_options, sleep_for_ever);
    std::thread([&] { p.start(); }).join();
    CHECK_FALSE(p.join(std::chrono::milliseconds(50)));
}

TEST_CASE("lifeline: the parent is killed while it starts daemons", "[process][lifeline]") {
    // Whatever is left would be handed to the nearest subreaper: this process.
    REQUIRE(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    for (int round = 0; round < 60; ++round) {
        report started;
        {
            test::child host([&] {
                std::vector<mp::Process> daemons;
                for (int i = 0;; ++i) {
                    daemons.emplace_back(daemon_options, sleep_for_ever).start();
                    if (i == 0) started.line("x");
                    if (i > 40) sleep_for_ever();
                }
                return 0;
            });
            started.wait_line();
            for (volatile int spin = 0; spin < round * 20'000;) spin = spin + 1;
            host.kill();
        }
        // Each ends by itself; an orphan that stays makes this wait for ever: CTest's limit.
        while (::waitpid(-1, nullptr, 0) > 0) {
        }
    }
    REQUIRE(::prctl(PR_SET_CHILD_SUBREAPER, 0) == 0);
}

TEST_CASE("lifeline: a child that is no daemon outlives its parent", "[process][lifeline]") {
    report pids;
    {
        test::child host([&] {
            static mp::Process p(mp::ProcessOptions{.daemon = false}, [&] {
                pids.line(::getpid());
                sleep_for_ever();
            });
            p.start();
            sleep_for_ever();
            return 0;
        });
        const auto watched = watch(pids, 1);
        host.kill();
        CHECK_FALSE(mp::detail::wait_readable(
            watched[0].get(), mp::detail::deadline::after(std::chrono::milliseconds(50))));
        mp::detail::send_signal(watched[0], SIGKILL);
        CHECK(all_end(watched));
    }
}
