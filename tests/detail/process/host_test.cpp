// SPDX-License-Identifier: BSL-1.0
//
// Processes in programs that make it hard: they ignore SIGCHLD or reap everything, have threads
// that hold libc's locks, get signals all the time, have no descriptors, processes or /proc left.

#include <multiprocessing/process.hpp>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <link.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"
#include "support/reports.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;
using test::report;

namespace {

void sleep_for_ever() {
    for (;;) ::pause();
}

/// Exit codes of children that end in each way, with the status that should come from each.
int wrong_codes() {
    int wrong = 0;
    const auto expect = [&](int code, auto f) {
        mp::Process p(f);
        p.start();
        p.join();
        if (p.exitcode() != code) {
            std::fprintf(stderr, "exit code %d instead of %d\n", *p.exitcode(), code);
            ++wrong;
        }
    };
    for (int i = 0; i < 20; ++i) {
        expect(0, [] {});
        expect(7, [] { std::exit(7); });
        expect(44, [] { std::exit(300); });
        expect(-SIGKILL, [] { ::raise(SIGKILL); });
    }
    return wrong;
}

/// Runs `work` over and over in a thread while `f` runs.
template <class Work, class F>
int beside(Work work, F f) {
    std::atomic<bool> stop{false};
    std::thread thread([&] {
        while (!stop) work();
    });
    const int result = f();
    stop = true;
    thread.join();
    return result;
}

int start_and_join(int times) {
    for (int i = 0; i < times; ++i) {
        mp::Process p([] { std::atexit([] {}); });
        p.start();
        p.join();
        if (p.exitcode() != 0) return 1;
    }
    return 0;
}

}  // namespace

TEST_CASE("Process: the host ignores SIGCHLD", "[process]") {
    test::child host([] {
        std::signal(SIGCHLD, SIG_IGN);
        return wrong_codes();
    });
    CHECK(host.exit_status() == 0);
}

TEST_CASE("Process: the host reaps every child in its SIGCHLD handler", "[process]") {
    test::child host([] {
        std::signal(SIGCHLD, [](int) {
            const int saved = errno;
            while (::waitpid(-1, nullptr, WNOHANG) > 0) {
            }
            errno = saved;
        });
        return wrong_codes();
    });
    CHECK(host.exit_status() == 0);
}

TEST_CASE("Process: a thread of the host sits in a loop of waitpid(-1)", "[process]") {
    test::child host([] {
        return beside(
            [] {
                if (::waitpid(-1, nullptr, 0) == -1) std::this_thread::yield();
            },
            [] {
                const int wrong = wrong_codes();
                ::_exit(wrong);  // the thread may wait for a child that never comes
                return 0;
            });
    });
    CHECK(host.exit_status() == 0);
}

TEST_CASE("Process: a child lives on when the thread that started it ends", "[process]") {
    const test::no_leaks guard;
    for (const bool daemon : {false, true}) {
        mp::Process p(mp::ProcessOptions{.daemon = daemon}, sleep_for_ever);
        std::thread([&] { p.start(); }).join();
        CHECK_FALSE(p.join(50ms));
        p.kill();
        p.join();
        CHECK(p.exitcode() == -SIGKILL);
    }
}

TEST_CASE("Process: all threads may start processes at once", "[process]") {
    const test::no_leaks guard;
    std::atomic<int> right{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 25; ++i) {
                mp::Process p(mp::ProcessOptions{.daemon = i % 2 == 0}, [=] { std::exit(t); });
                p.start();
                p.join();
                right += p.exitcode() == t;
            }
        });
    for (auto& t : threads) t.join();
    CHECK(right == 200);
}

TEST_CASE("Process: a thread sits in a read of stdin", "[process]") {
    test::child host([] {
        int ends[2];
        if (::pipe(ends) != 0) return 90;
        ::dup2(ends[0], STDIN_FILENO);
        std::thread([] { static_cast<void>(std::getchar()); }).detach();
        // Until it holds the stream.
        while (::ftrylockfile(stdin) == 0) {
            ::funlockfile(stdin);
            std::this_thread::yield();
        }
        for (int i = 0; i < 50; ++i) {
            mp::Process p([] {
                mp::Process below([] {});
                below.start();
                below.join();
                std::exit(std::getchar() == EOF ? 3 : 4);
            });
            p.start();
            p.join();
            if (p.exitcode() != 3) return 1;
        }
        ::_exit(0);
        return 0;
    });
    CHECK(host.exit_status() == 0);
}

TEST_CASE("Process: other threads allocate", "[process]") {
    CHECK(beside([] { std::vector<std::string>(100, std::string(100, 'x')).clear(); },
                 [] { return start_and_join(100); }) == 0);
}

extern "C" int __cxa_atexit(void (*)(void*), void*, void*) noexcept;
extern "C" void __cxa_finalize(void*);

TEST_CASE("Process: another thread registers exit handlers all the time", "[process]") {
    // What dlopen and dlclose do: the lock of exit handlers is held much of the time. Not always: a
    // child that finds it held is forked anew, and that would go on for long.
    if (test::address_sanitizer) return;  // it adds a handler of its own to each, for ever
    static char key;
    const auto work = [] {
        for (int i = 0; i < 100; ++i) ::__cxa_atexit([](void*) {}, nullptr, &key);
        ::__cxa_finalize(&key);
        std::this_thread::sleep_for(std::chrono::microseconds(5));
    };
    CHECK(beside(work, [] { return start_and_join(50); }) == 0);
}

TEST_CASE("Process: another thread holds the loader's locks, and children load libraries",
          "[process]") {
    const auto work = [] {
        for (int i = 0; i < 100; ++i)
            ::dl_iterate_phdr([](dl_phdr_info*, std::size_t, void*) { return 0; }, nullptr);
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    };
    CHECK(beside(work, [] {
              for (int i = 0; i < 100; ++i) {
                  mp::Process p([] {
                      ::dl_iterate_phdr([](dl_phdr_info*, std::size_t, void*) { return 0; },
                                        nullptr);
                      if (::dlopen("libm.so.6", RTLD_NOW) == nullptr) std::exit(2);
                  });
                  p.start();
                  p.join();
                  if (p.exitcode() != 0) return 1;
              }
              return 0;
          }) == 0);
}

TEST_CASE("Process: a storm of signals", "[process]") {
    test::child host([] {
        struct sigaction ignore {};
        ignore.sa_handler = [](int) {};  // without SA_RESTART
        ::sigaction(SIGALRM, &ignore, nullptr);
        const itimerval every{{0, 200}, {0, 200}};
        ::setitimer(ITIMER_REAL, &every, nullptr);
        if (start_and_join(100) != 0) return 1;
        mp::Process p(mp::ProcessOptions{.daemon = true}, sleep_for_ever);
        p.start();
        const auto start = std::chrono::steady_clock::now();
        if (p.join(50ms)) return 2;
        if (std::chrono::steady_clock::now() - start < 50ms) return 3;
        p.terminate();
        p.join();
        return p.exitcode() == -SIGTERM ? 0 : 4;
    });
    CHECK(host.exit_status() == 0);
}

TEST_CASE("Process: in a chroot without /proc daemons are refused, the rest works", "[process]") {
    if (::geteuid() != 0) {
        WARN("skipped: needs root");
        return;
    }
    char directory[] = "/tmp/mp-chroot-XXXXXX";
    REQUIRE(::mkdtemp(directory) != nullptr);
    test::child host([&] {
        if (::chroot(directory) != 0 || ::chdir("/") != 0) return 90;
        if (start_and_join(3) != 0) return 1;
        mp::Process stdin_there([] { std::exit(std::getchar() == EOF ? 0 : 1); });
        stdin_there.start();
        stdin_there.join();
        if (stdin_there.exitcode() != 0) return 2;
        if (mp::cpu_count() < 1) return 3;
        const auto refused = [](mp::ProcessOptions options) {
            mp::Process p(std::move(options), [] { ::_exit(77); });
            try {
                p.start();
            } catch (const mp::OsError& e) {
                return e.code().value() == ENOENT && !p.pid() && !p.is_alive() &&
                       std::string(e.what()).find("/proc") != std::string::npos;
            }
            return false;
        };
        if (!refused({.daemon = true})) return 4;
        if (!refused({.limits = {.memory = std::size_t{1} << 20}})) return 5;
        return ::waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD ? 0 : 6;
    });
    CHECK(host.exit_status() == 0);
    CHECK(::rmdir(directory) == 0);
}

TEST_CASE("Process: a refused fork is an OsError and leaves nothing", "[process]") {
    if (::geteuid() != 0) {
        WARN("skipped: needs root");
        return;
    }
    test::child host([] {
        const rlimit none{1, 1};
        ::setrlimit(RLIMIT_NPROC, &none);
        if (::setresuid(54321, 54321, 54321) != 0) return 90;
        mp::Process first(mp::ProcessOptions{.daemon = true}, [] {});
        try {
            first.start();
            return 1;
        } catch (const mp::OsError& e) {
            if (e.code().value() != EAGAIN) return 2;
            if (std::string(e.what()).find("fork for " + first.name()) != 0) return 3;
        }
        const auto before = test::open_descriptors().size();
        for (int i = 0; i < 1000; ++i) {
            try {
                first.start();
                return 4;
            } catch (const mp::OsError&) {
            }
        }
        if (test::open_descriptors().size() != before) return 5;
        if (first.pid() || first.is_alive() || first.exitcode()) return 6;
        if (!mp::active_children().empty()) return 7;
        return ::waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD ? 0 : 8;
    });
    CHECK(host.exit_status() == 0);
}

TEST_CASE("Process: without a free descriptor start() throws, and the callable never runs",
          "[process]") {
    if (test::address_sanitizer) return;  // UBSan reads memory through a pipe, and says it can't
    test::child host([] {
        static std::atomic<int>& ran = test::shared_memory<std::atomic<int>>();
        {
            mp::Process p(mp::ProcessOptions{.daemon = true}, [] {});
            p.start();
        }
        const rlimit few{32, 32};
        ::setrlimit(RLIMIT_NOFILE, &few);
        std::vector<int> open;
        for (int fd; (fd = ::eventfd(0, EFD_CLOEXEC)) >= 0;) open.push_back(fd);
        mp::Process p([] { ++ran; });
        try {
            p.start();
            return 1;
        } catch (const mp::OsError& e) {
            if (e.code().value() != EMFILE) return 2;
        }
        if (ran != 0 || !mp::active_children().empty()) return 3;
        for (const int fd : open) ::close(fd);
        p.start();  // and now it may
        p.join();
        return ran == 1 && p.exitcode() == 0 ? 0 : 4;
    });
    CHECK(host.exit_status() == 0);
}

TEST_CASE("Process: a raw fork of the host has no children, and ends as the host wants it to",
          "[process]") {
    const test::no_leaks guard;
    mp::Process p(sleep_for_ever);
    p.start();
    const std::string text = test::output_of(STDOUT_FILENO, [] {
        test::child host([] {
            std::atexit([] { std::printf("handler of the raw fork's parent\n"); });
            const pid_t raw = ::fork();
            if (raw == 0) {
                if (!mp::active_children().empty()) ::_exit(1);
                if (mp::parent_process()) ::_exit(2);
                if (start_and_join(2) != 0) ::_exit(3);
                std::exit(7);  // runs the handler: an ordinary fork
            }
            const int status = test::wait_status(raw);
            ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
            return 0;
        });
        CHECK(host.exit_status() == 7);
    });
    CHECK(text == "handler of the raw fork's parent\n");
    p.kill();
}

TEST_CASE("Process: a raw fork inside a child leaves the child's exit code alone", "[process]") {
    test::child host([] {
        std::signal(SIGCHLD, SIG_IGN);  // so the code comes from the child's own word
        mp::Process p([] {
            const pid_t raw = ::fork();
            if (raw == 0) std::exit(9);
            ::waitpid(raw, nullptr, 0);
            std::exit(4);
        });
        p.start();
        p.join();
        return *p.exitcode();
    });
    CHECK(host.exit_status() == 4);
}
