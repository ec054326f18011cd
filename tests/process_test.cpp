// SPDX-License-Identifier: BSL-1.0
//
// Process as its users see it: options, lifetime, exit codes, errors, what a child has and prints.

#include <multiprocessing/process.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"
#include "support/reports.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;
using test::output_of;
using test::report;

namespace {

/// Stands in for a Queue: a type that says it is a handle.
struct handle {
    using mp_handle_tag = void;
    int number = 0;
};

void sleep_for_ever() {
    for (;;) ::pause();
}

/// Runs `f` in a child; its exit code.
template <class F>
int code_of(F f) {
    mp::Process p(std::move(f));
    p.start();
    p.join();
    return p.exitcode().value();
}

}  // namespace

TEST_CASE("Process: runs a callable with its arguments in another process", "[process]") {
    const test::no_leaks guard;
    report said;
    mp::Process p(
        [&](const std::string& text, std::unique_ptr<int> number, int& counter, double half) {
            ++counter;
            said.line(text, ' ', *number, ' ', counter, ' ', half, ' ', ::getpid() != ::getppid());
        },
        std::string("text"), std::make_unique<int>(7), std::ref(test::shared_memory<int>()), 0.5);
    p.start();
    p.join();
    CHECK(p.exitcode() == 0);
    CHECK(said.text() == "text 7 1 0.5 1\n");
}

TEST_CASE("Process: members, functions and move-only callables can be called", "[process]") {
    report said;
    struct worker {
        report* to;
        int base;
        void add(int more) { to->line(base + more); }
    };
    worker w{&said, 40};
    mp::Process member(&worker::add, &w, 2);
    member.start();
    member.join();
    mp::Process moved([&said, value = std::make_unique<int>(43)] { said.line(*value); });
    moved.start();
    moved.join();
    CHECK(said.text() == "42\n43\n");
    mp::Process function(sleep_for_ever);
    function.daemon(true);
    function.start();
}

TEST_CASE("Process: a handle arrives as an lvalue, std::ref as a reference to the child's copy",
          "[process]") {
    report said;
    int mine = 1;
    const handle h{5};
    mp::Process p(
        [&](handle& by_reference, handle by_value, int& changed) {
            changed = 9;
            said.line(by_reference.number + by_value.number, ' ', mine);
        },
        h, handle{6}, std::ref(mine));
    p.start();
    p.join();
    CHECK(said.text() == "11 9\n");
    CHECK(mine == 1);  // a fork: the child changed its copy
}

TEST_CASE("Process: callable and arguments are dropped in the parent when start() returns",
          "[process]") {
    auto held = std::make_shared<int>(1);
    mp::Process p([held](const std::shared_ptr<int>&) {}, held);
    CHECK(held.use_count() == 3);
    p.start();
    CHECK(held.use_count() == 1);
}

TEST_CASE("Process: names count up, and a child's children extend its number", "[process]") {
    mp::Process a, b;
    const auto number = [](const std::string& name) {
        return std::stoi(name.substr(name.find('-') + 1));
    };
    CHECK(a.name() == "Process-" + std::to_string(number(a.name())));
    CHECK(number(b.name()) == number(a.name()) + 1);

    report said;
    mp::Process c([&] {
        mp::Process first([&] {
            mp::Process deeper;
            said.line(mp::current_process().name(), ' ', deeper.name());
        });
        first.start();
        first.join();
        mp::Process second;
        said.line(second.name());
    });
    const std::string name = c.name();
    c.start();
    c.join();
    CHECK(said.text() == name + ":1 " + name + ":1:1\n" + name + ":2\n");

    mp::Process named(mp::ProcessOptions{.name = "worker"}, [] {});
    CHECK(named.name() == "worker");
    named.name("another");
    CHECK(named.name() == "another");
    mp::Process braces({.name = "braces", .daemon = true}, [] {});
    CHECK(braces.name() == "braces");
    CHECK(braces.daemon());
}

TEST_CASE("Process: a class may override run() and sees itself in the child", "[process]") {
    struct task : mp::Process {
        report* to;
        explicit task(report& said) : to(&said) {}
        void run() override {
            to->line(*pid() == ::getpid(), is_alive(), exitcode().has_value(), ' ',
                     name() == mp::current_process().name());
            std::exit(3);
        }
    };
    report said;
    task t(said);
    t.start();
    t.join();
    CHECK(t.exitcode() == 3);
    CHECK(said.text() == "110 1\n");
    mp::Process nothing;  // its run() has nothing to call
    nothing.start();
    nothing.join();
    CHECK(nothing.exitcode() == 0);
}

TEST_CASE("Process: exit codes", "[process]") {
    const test::no_leaks guard;
    CHECK(code_of([] {}) == 0);
    CHECK(code_of([] { return 7; }) == 0);  // a result is ignored
    CHECK(code_of([] { std::exit(3); }) == 3);
    CHECK(code_of([] { std::exit(300); }) == 44);
    CHECK(code_of([] { std::exit(-1); }) == 255);
    CHECK(code_of([] { ::_exit(5); }) == 5);
    CHECK(code_of([] { std::quick_exit(6); }) == 6);
    CHECK(code_of([] { ::raise(SIGKILL); }) == -SIGKILL);
    CHECK(code_of([] { std::signal(SIGTERM, SIG_DFL), ::raise(SIGTERM); }) == -SIGTERM);
    CHECK(code_of([] { ::pthread_exit(nullptr); }) == 0);
    CHECK(code_of([] { std::thread([] { std::exit(8); }).join(); }) == 8);
}

TEST_CASE("Process: abort and std::terminate are told as SIGABRT", "[process]") {
    output_of(STDERR_FILENO, [] {
        CHECK(code_of([] { std::abort(); }) == -SIGABRT);
        CHECK(code_of([] { std::terminate(); }) == -SIGABRT);
    });
}

TEST_CASE("Process: an uncaught exception is one line on stderr and exit code 1", "[process]") {
    std::string expected;
    const std::string text = output_of(STDERR_FILENO, [&] {
        mp::Process a([] { throw std::runtime_error("what it says"); });
        a.start();
        a.join();
        CHECK(a.exitcode() == 1);
        expected = "Process " + a.name() + " (pid " + std::to_string(*a.pid()) +
                   "): uncaught std::runtime_error: what it says\n";
        mp::Process b(mp::ProcessOptions{.name = "B"}, [] { throw 42; });
        b.start();
        b.join();
        CHECK(b.exitcode() == 1);
        expected += "Process B (pid " + std::to_string(*b.pid()) + "): uncaught int\n";
    });
    CHECK(text == expected);
}

TEST_CASE("Process: a closed or broken stdout and stderr change no exit code", "[process]") {
    const test::no_leaks guard;
    const auto broken = [](int fd) {
        int ends[2];
        if (::pipe(ends) != 0) ::_exit(90);
        ::close(ends[0]);
        ::dup2(ends[1], fd);
        ::close(ends[1]);
    };
    test::child host([&] {
        for (const bool closed : {true, false}) {
            for (const int fd : {0, 1, 2}) closed ? void(::close(fd)) : broken(fd);
            if (code_of([] { std::printf("x"); }) != 0) return 1;
            if (code_of([] { throw std::runtime_error("x"); }) != 1) return 2;
            if (code_of([] { std::exit(9); }) != 9) return 3;
            mp::log_to_stderr();
            if (code_of([] { std::cout << "x"; }) != 0) return 4;
        }
        return 0;
    });
    CHECK(host.exit_status() == 0);
}

TEST_CASE("Process: start() is for once, and for the process that made the object", "[process]") {
    mp::Process p(sleep_for_ever);
    CHECK_FALSE(p.pid());
    CHECK_FALSE(p.ident());
    CHECK_FALSE(p.exitcode());
    CHECK_FALSE(p.is_alive());
    CHECK_THROWS_AS(p.join(), mp::ProcessError);
    CHECK_THROWS_AS(p.join(1ms), mp::ProcessError);
    CHECK_THROWS_AS(p.terminate(), mp::ProcessError);
    CHECK_THROWS_AS(p.sentinel(), mp::ProcessError);
    p.daemon(true);
    p.start();
    CHECK(p.pid() == p.ident());
    CHECK(p.is_alive());
    CHECK_THROWS_AS(p.start(), mp::ProcessError);
    CHECK_THROWS_AS(p.daemon(false), mp::ProcessError);
    CHECK_THROWS_AS(p.authkey(mp::AuthKey("x")), mp::ProcessError);
    p.kill();
    p.join();
    CHECK(p.exitcode() == -SIGKILL);
    CHECK_THROWS_AS(p.start(), mp::ProcessError);
    CHECK_THROWS_WITH(p.start(), Catch::Contains(p.name()));
}

TEST_CASE("Process: only its creator may join, kill or query it; a copy ends without effect",
          "[process]") {
    const test::no_leaks guard;
    mp::Process runs(sleep_for_ever), idle([] {});
    runs.start();
    const auto refused = [](auto f) {
        try {
            f();
        } catch (const mp::ProcessError&) {
            return true;
        }
        return false;
    };
    const auto body = [&] {
        int seen = 0;
        for (const std::function<void()>& f : std::vector<std::function<void()>>{
                 [&] { runs.join(); }, [&] { runs.join(0s); }, [&] { runs.kill(); },
                 [&] { static_cast<void>(runs.is_alive()); }, [&] { runs.exitcode(); },
                 [&] { runs.close(); }, [&] { runs.terminate(); }, [&] { runs.interrupt(); },
                 [&] { static_cast<void>(runs.sentinel()); }, [&] { idle.start(); }})
            seen += refused(f);
        if (!runs.pid() || runs.name().empty()) return 0;
        { const mp::Process copy = std::move(runs); }  // ends here, without a word
        return seen;
    };
    mp::Process ours([&] { std::exit(body()); });
    ours.start();
    ours.join();
    CHECK(ours.exitcode() == 10);
    test::child raw(body);
    CHECK(raw.exit_status() == 10);
    CHECK(runs.is_alive());
    runs.kill();
}

TEST_CASE("Process: close() gives up the child once it ended", "[process]") {
    const test::no_leaks guard;
    mp::Process p(sleep_for_ever);
    p.start();
    CHECK_THROWS_AS(p.close(), mp::ProcessError);
    p.kill();
    p.join();
    p.close();
    p.close();  // idempotent, as in Python
    CHECK_THROWS_AS(p.join(), mp::ClosedError);
    CHECK_THROWS_AS(p.join(1ms), mp::ClosedError);
    CHECK_THROWS_AS(p.start(), mp::ClosedError);
    CHECK_THROWS_AS(p.exitcode(), mp::ClosedError);
    CHECK_THROWS_AS(p.is_alive(), mp::ClosedError);
    CHECK_THROWS_AS(p.pid(), mp::ClosedError);
    CHECK_THROWS_AS(p.kill(), mp::ClosedError);
    CHECK_THROWS_AS(p.daemon(), mp::ClosedError);
    CHECK_THROWS_AS(p.authkey(), mp::ClosedError);
    CHECK_THROWS_AS(p.sentinel(), mp::ClosedError);
    CHECK_THROWS_AS(p.name(), mp::ClosedError);
    mp::Process unstarted([] {});
    unstarted.close();
    CHECK_THROWS_AS(unstarted.start(), mp::ClosedError);
}

TEST_CASE("Process: moving hands the child on; assignment ends what was there", "[process]") {
    const test::no_leaks guard;
    report said;
    mp::Process a([&] { said.line("a"); });
    mp::Process b(std::move(a));
    CHECK_THROWS_AS(a.start(), mp::ProcessError);  // NOLINT: moved from
    b.start();
    mp::Process c(sleep_for_ever);
    c.daemon(true);
    c.start();
    const pid_t pid = *c.pid();
    c = std::move(b);
    CHECK(::kill(pid, 0) == -1);  // ended and reaped
    c.join();
    CHECK(c.exitcode() == 0);
    CHECK(said.text() == "a\n");
    std::vector<mp::Process> many;
    for (int i = 0; i < 8; ++i) many.emplace_back([i] { std::exit(i); });
    for (auto& p : many) p.start();
    for (int i = 0; i < 8; ++i) {
        many[static_cast<std::size_t>(i)].join();
        CHECK(many[static_cast<std::size_t>(i)].exitcode() == i);
    }
}

TEST_CASE("Process: the destructor joins", "[process]") {
    const test::no_leaks guard;
    report said;
    int go[2];
    REQUIRE(::pipe2(go, O_CLOEXEC) == 0);
    std::thread later;
    {
        mp::Process p([&] {
            char byte;
            if (::read(go[0], &byte, 1) == 1) said.line("ended");
        });
        p.start();
        later = std::thread([&] { REQUIRE(::write(go[1], "x", 1) == 1); });
    }
    CHECK(said.text() == "ended\n");
    later.join();
    ::close(go[0]);
    ::close(go[1]);
}

TEST_CASE("Process: the destructor terminates a daemon, and kills one that ignores SIGTERM",
          "[process]") {
    const test::no_leaks guard;
    report said;
    {
        mp::Process p(mp::ProcessOptions{.daemon = true}, [&] {
            std::signal(SIGTERM, [](int) { ::_exit(0); });
            said.line("ready");
            sleep_for_ever();
        });
        p.start();
        said.wait_line();
    }
    const auto start = std::chrono::steady_clock::now();
    {
        mp::Process p(mp::ProcessOptions{.daemon = true}, [&] {
            std::signal(SIGTERM, SIG_IGN);
            said.line("ready");
            sleep_for_ever();
        });
        p.start();
        said.wait_line();
    }
    CHECK(std::chrono::steady_clock::now() - start >= 1s);
}

TEST_CASE("Process: join with a timeout", "[process]") {
    const test::no_leaks guard;
    mp::Process p(sleep_for_ever);
    p.start();
    CHECK_FALSE(p.join(0s));
    CHECK_FALSE(p.join(-5s));
    CHECK_FALSE(p.join(mp::duration::min()));
    const auto start = std::chrono::steady_clock::now();
    CHECK_FALSE(p.join(30ms));
    CHECK(std::chrono::steady_clock::now() - start >= 30ms);
    p.terminate();
    CHECK(p.join(mp::duration::max()));
    CHECK(p.join(0s));
    CHECK(p.join(std::chrono::hours(1)));
    p.join();
    CHECK(p.exitcode() == -SIGTERM);
    p.terminate();  // nothing happens
    p.kill();
    p.interrupt();
    CHECK(p.exitcode() == -SIGTERM);
}

TEST_CASE("Process: interrupt, terminate and kill send SIGINT, SIGTERM and SIGKILL", "[process]") {
    const test::no_leaks guard;
    using member = void (mp::Process::*)();
    for (const auto& [send, signal] : {std::pair<member, int>(&mp::Process::interrupt, SIGINT),
                                       std::pair<member, int>(&mp::Process::terminate, SIGTERM),
                                       std::pair<member, int>(&mp::Process::kill, SIGKILL)}) {
        mp::Process p([] {
            std::signal(SIGINT, SIG_DFL);
            sleep_for_ever();
        });
        p.start();
        (p.*send)();
        p.join();
        CHECK_FALSE(p.is_alive());
        CHECK(p.exitcode() == -signal);
    }
}

TEST_CASE("Process: many threads may wait for one child", "[process]") {
    const test::no_leaks guard;
    for (int round = 0; round < 20; ++round) {
        mp::Process p([] { std::exit(4); });
        p.start();
        std::atomic<int> right{0};
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; ++i)
            threads.emplace_back([&, i] {
                if (i % 2 == 0)
                    p.join();
                else
                    while (p.is_alive()) std::this_thread::yield();
                right += p.exitcode() == 4;
            });
        for (auto& t : threads) t.join();
        CHECK(right == 4);
    }
}

TEST_CASE("Process: the sentinel is readable once the child has ended, grandchildren or not",
          "[process]") {
    const test::no_leaks guard;
    report grandchild;
    mp::Process p([&] {
        const pid_t pid = ::fork();  // keeps every descriptor that it inherits
        if (pid == 0) sleep_for_ever();
        grandchild.line(pid);
        ::_exit(0);
    });
    p.start();
    pollfd end{p.sentinel(), POLLIN, 0};
    CHECK(::poll(&end, 1, -1) == 1);
    CHECK((end.revents & POLLIN) != 0);
    CHECK(p.join(0s));
    CHECK(::poll(&end, 1, 0) == 1);  // after the join too
    ::kill(std::stoi(grandchild.wait_line()), SIGKILL);
}

static_assert(!mp::Sendable<mp::AuthKey>);
template <class T>
concept printable = requires(std::ostream& out, const T& value) {
    out << value;
};
static_assert(!printable<mp::AuthKey>);

TEST_CASE("AuthKey: compares, is random, inherited, and replaceable before start()", "[process]") {
    CHECK(mp::AuthKey("abc") == mp::AuthKey("abc"));
    CHECK(mp::AuthKey("abc") != mp::AuthKey("abd"));
    CHECK(mp::AuthKey("abc") != mp::AuthKey("ab"));
    CHECK(mp::AuthKey("") == mp::AuthKey(""));
    CHECK(mp::AuthKey::generate() != mp::AuthKey::generate());
    CHECK(mp::AuthKey::generate().bytes().size() == 32);
    mp::AuthKey moved("abc"), copy(moved), taken(std::move(moved));
    CHECK(copy == taken);
    copy = mp::AuthKey("xyz");
    CHECK(copy != taken);

    const mp::AuthKey own = mp::current_process().authkey();
    CHECK(own == mp::current_process().authkey());
    mp::Process same([&] { std::exit(mp::current_process().authkey() == own); });
    CHECK(same.authkey() == own);
    same.start();
    same.join();
    CHECK(same.exitcode() == 1);
    mp::Process other([] {
        const bool there = mp::current_process().authkey() == mp::AuthKey("secret");
        mp::Process below(
            [] { std::exit(mp::current_process().authkey() == mp::AuthKey("secret")); });
        below.start();
        below.join();
        std::exit(there ? 10 + *below.exitcode() : 0);
    });
    other.authkey(mp::AuthKey("secret"));
    CHECK(other.authkey() == mp::AuthKey("secret"));
    other.start();
    other.join();
    CHECK(other.exitcode() == 11);
    CHECK(mp::current_process().authkey() == own);
}

TEST_CASE("current_process, parent_process: who I am and where I come from", "[process]") {
    const test::no_leaks guard;
    CHECK(mp::current_process().name() == "MainProcess");
    CHECK(mp::current_process().pid() == ::getpid());
    CHECK_FALSE(mp::current_process().daemon());
    CHECK(mp::current_process().is_alive());
    CHECK_THROWS_AS(mp::current_process().join(), mp::ProcessError);
    CHECK_FALSE(mp::parent_process());
    report said;
    const pid_t me = ::getpid();
    mp::Process p(mp::ProcessOptions{.name = "child", .daemon = true}, [&] {
        const auto self = mp::current_process();
        auto parent = mp::parent_process().value();
        said.line(self.name(), ' ', self.daemon(), self.pid() == ::getpid());
        said.line(parent.name(), ' ', parent.daemon(), parent.pid() == me, parent.is_alive(),
                  parent.join(0s));
        mp::Process below([&] { said.line(mp::current_process().daemon()); });
        below.start();  // a daemon's children are daemons
        below.join();
    });
    p.start();
    p.join();
    CHECK(said.text() == "child 11\nMainProcess 0110\n1\n");
}

TEST_CASE("parent_process: a child can wait for the end of its parent", "[process]") {
    report said, parent_pid;
    test::child host([&] {
        mp::Process p([&] {
            auto parent = mp::parent_process().value();
            said.line("waiting");
            parent.join();
            said.line(parent.is_alive());
        });
        p.start();
        said.wait_line();
        ::_exit(0);
        return 0;
    });
    CHECK(host.exit_status() == 0);
    CHECK(said.wait_line() == "0");
}

TEST_CASE("active_children: those that run; it reaps the others", "[process]") {
    const test::no_leaks guard;
    CHECK(mp::active_children().empty());
    mp::Process a([] { std::exit(6); }), b(mp::ProcessOptions{.name = "b"}, sleep_for_ever);
    a.start();
    b.start();
    pollfd end{a.sentinel(), POLLIN, 0};
    REQUIRE(::poll(&end, 1, -1) == 1);
    CHECK(test::children().contains(*a.pid()));  // a zombie
    auto active = mp::active_children();
    CHECK_FALSE(test::children().contains(*a.pid()));
    CHECK(a.exitcode() == 6);
    REQUIRE(active.size() == 1);
    CHECK(active[0].pid() == b.pid());
    CHECK(active[0].name() == "b");
    CHECK(active[0].is_alive());
    CHECK_FALSE(active[0].join(0s));
    active[0].terminate();
    active[0].join();
    CHECK(active[0].exitcode() == -SIGTERM);
    CHECK(mp::active_children().empty());
}

TEST_CASE("Process: buffered text is printed once, the child's at its end", "[process]") {
    const std::string text = output_of(STDOUT_FILENO, [] {
        std::printf("parent ");
        std::cout << "stream ";
        mp::Process p([] {
            std::printf("child ");
            std::cout << "stream ";
        });
        p.start();
        p.join();
        mp::Process q([] {
            std::printf("exit ");
            std::exit(2);
        });
        q.start();
        q.join();
        std::printf("end\n");
        std::fflush(stdout);
    });
    CHECK(text == "parent stream child stream exit end\n");
}

TEST_CASE("Process: text in any stream is printed once while other threads exist", "[process]") {
    std::FILE* file = std::tmpfile();
    REQUIRE(file != nullptr);
    std::thread thread([&] {
        ::flockfile(file);
        std::fputs("once ", file);
        mp::Process p([] {});  // the thread holds the stream: its text can't be flushed by another
        std::thread([&] { p.start(); }).join();
        p.join();
        ::funlockfile(file);
    });
    thread.join();
    std::fputs("twice", file);
    mp::Process([] {}).start();
    std::fflush(file);
    std::rewind(file);
    char line[64] = "";
    CHECK(std::fgets(line, sizeof line, file) == line);
    CHECK(std::string(line) == "once twice");
    std::fclose(file);
}

namespace {
struct says_when_destroyed {
    const char* text;
    ~says_when_destroyed() { std::printf("%s ", text); }
};
}  // namespace

TEST_CASE("Process: of exit handlers and statics only those that the child made run in it",
          "[process]") {
    const std::string text = output_of(STDOUT_FILENO, [] {
        test::child host([] {
            std::atexit([] { std::printf("parent-handler "); });
            static says_when_destroyed of_parent{"parent-static"};
            for (const bool call_exit : {false, true}) {
                mp::Process p([=] {
                    std::atexit([] { std::printf("child-handler "); });
                    static says_when_destroyed of_child{"child-static"};
                    if (call_exit) std::exit(0);
                });
                p.start();
                p.join();
            }
            std::printf("| ");
            std::exit(0);
            return 0;
        });
        CHECK(host.exit_status() == 0);
    });
    CHECK(text ==
          "child-static child-handler child-static child-handler | "
          "parent-static parent-handler ");
}

TEST_CASE("Process: a program that exits ends its daemons and waits for its other children",
          "[process]") {
    report said;
    test::child host([&] {
        static mp::Process* daemon;  // static: reachable, for LeakSanitizer
        daemon = new mp::Process(mp::ProcessOptions{.daemon = true}, sleep_for_ever);
        daemon->start();
        static mp::Process* stays;
        stays = new mp::Process([&, pid = *daemon->pid()] {
            // Ends only once the daemon, which was terminated first, is gone.
            while (::kill(pid, 0) == 0) ::sched_yield();
            said.line("child ended");
        });
        stays->start();
        std::exit(5);  // no destructor of the two runs
        return 0;
    });
    CHECK(host.exit_status() == 5);
    said.line("host ended");
    CHECK(said.text() == "child ended\nhost ended\n");
}

TEST_CASE("Process: a child joins its own children before it ends", "[process]") {
    const test::no_leaks guard;
    report said;
    mp::Process p([&] {
        auto* child = new mp::Process([&] {
            ::usleep(20'000);  // the parent comes to its end first
            said.line("grandchild");
        });
        child->start();
        auto* daemon = new mp::Process(mp::ProcessOptions{.daemon = true}, sleep_for_ever);
        daemon->start();
    });
    p.start();
    p.join();
    CHECK(p.exitcode() == 0);
    said.line("end");
    CHECK(said.text() == "grandchild\nend\n");
}

TEST_CASE("Process: stdin of a child is empty", "[process]") {
    const test::no_leaks guard;
    test::child host([] {
        int ends[2];
        if (::pipe(ends) != 0 || ::write(ends[1], "one\ntwo\n", 8) != 8) return 90;
        ::dup2(ends[0], STDIN_FILENO);
        char line[16];
        if (!std::fgets(line, sizeof line, stdin)) return 91;  // reads ahead
        mp::Process p([] {
            std::string word;
            std::exit(std::getchar() == EOF && !(std::cin >> word) ? 0 : 1);
        });
        p.start();
        p.join();
        if (p.exitcode() != 0) return 92;
        if (!std::fgets(line, sizeof line, stdin) || std::string(line) != "two\n") return 93;
        ::close(STDIN_FILENO);
        mp::Process q([] { std::exit(std::getchar() == EOF ? 0 : 1); });
        q.start();
        q.join();
        return *q.exitcode();
    });
    CHECK(host.exit_status() == 0);
}

TEST_CASE("log_to_stderr: Python's format, silent unless asked", "[process]") {
    const std::string text = output_of(STDERR_FILENO, [] {
        test::child host([] {
            mp::Process silent([] {});
            silent.start();
            silent.join();
            mp::log_to_stderr(mp::LogLevel::info);
            mp::Process p(mp::ProcessOptions{.name = "P"}, [] { std::exit(3); });
            p.start();
            p.join();
            mp::log_to_stderr(mp::LogLevel::warning);
            mp::Process q([] {});
            q.start();
            q.join();
            return 0;
        });
        CHECK(host.exit_status() == 0);
    });
    CHECK(text ==
          "[INFO/P] child process calling run()\n"
          "[INFO/P] process shutting down\n"
          "[INFO/P] process exiting with exitcode 3\n");
}

TEST_CASE("Process: cycles leave descriptors, memory and zombies as they were", "[process]") {
    const test::no_leaks guard;
    const auto cycle = [](int times) {
        for (int i = 0; i < times; ++i) {
            mp::Process p(mp::ProcessOptions{.daemon = i % 2 == 0}, [] {});
            p.start();
            p.join();
        }
    };
    cycle(100);
    const auto before = mp::detail::private_bytes().value();
    // AddressSanitizer takes ten times as long, and keeps what was freed, to find its late users.
    cycle(test::address_sanitizer ? 300 : 1900);
    const std::uint64_t kept = test::address_sanitizer ? 16 << 20 : 256 << 10;
    CHECK(mp::detail::private_bytes().value() <= before + kept);
    CHECK(mp::active_children().empty());
}
