// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/connection.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

namespace {

struct job {
    int id;
    std::string name;
    std::vector<double> values;
    bool operator==(const job&) const = default;
};

std::span<const std::byte> bytes(const std::string& text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}
std::string text(std::span<const std::byte> message) {
    return {reinterpret_cast<const char*>(message.data()), message.size()};
}

/// poll() of the descriptor, for at most 30 s or not at all.
bool readable(int fd, bool waits = false) {
    pollfd one{fd, POLLIN, 0};
    return ::poll(&one, 1, waits ? 30'000 : 0) == 1 && (one.revents & POLLIN) != 0;
}

template <class Connection>
bool at_end(Connection& c) {
    try {
        c.recv_bytes();
    } catch (const mp::EndOfFile&) {
        return true;
    }
    return false;
}

/// System calls of `f` in a child.
template <class F>
long count_calls_once(F f) {
    const pid_t pid = test::fork_child([&] {
        ::ptrace(PTRACE_TRACEME, 0, 0, 0);
        f(0);  // warm
        ::raise(SIGSTOP);
        f(1);
        ::raise(SIGSTOP);
        return 0;
    });
    long stops = 0;
    test::wait_status(pid);
    ::ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD);
    for (;;) {
        ::ptrace(PTRACE_SYSCALL, pid, 0, 0);
        const int status = test::wait_status(pid);
        if (!WIFSTOPPED(status) || WSTOPSIG(status) == SIGSTOP) break;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) ++stops;
    }
    ::kill(pid, SIGKILL);
    test::wait_status(pid);
    return stops / 2;
}

/// The fewest of some runs: a slow machine only adds, since a send may look whether the other end
/// lives if it was not seen for a while.
template <class F>
long count_calls(F f) {
    long fewest = count_calls_once(f);
    for (int i = 0; i < 9; ++i) fewest = std::min(fewest, count_calls_once(f));
    return fewest;
}

/// Makes a pipe while it is decoded, which looks after the ends that were sent.
struct decoded_slowly {
    mp::Connection<int> end;
    template <class Archive>
    void save(Archive& archive) const {
        archive(end);
    }
    template <class Archive>
    void load(Archive& archive) {
        for (int i = 0; i < 3; ++i) mp::Pipe<int>{};
        archive(end);
    }
};

/// `is_readable`, which looks at the fileno of `a`, tells at each moment whether recv would block.
template <class F>
void readable_while_there(mp::Connection<int>& a, mp::Connection<int>& b, F is_readable) {
    for (int i = 0; i < 100; ++i) {
        CHECK_FALSE(is_readable());
        b.send(1);
        CHECK(is_readable());
        b.send(2);
        CHECK(a.recv() == 1);
        CHECK((is_readable() && is_readable()));
        CHECK(a.recv() == 2);
    }
    CHECK_FALSE(a.poll());
    CHECK_FALSE(is_readable());
    b.send(3);
    b.close();
    CHECK(is_readable());
    CHECK(a.recv() == 3);
    CHECK(is_readable());
    CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    CHECK(is_readable());
}

[[noreturn]] void sleep_for_ever() {
    for (;;) ::pause();
}

template <class T>
void sleep_for_ever_with(T) {
    sleep_for_ever();
}

/// Pipes that this process can write into. Makes system calls only.
int writable_pipes() {
    int n = 0;
    for (int fd = 0; fd < 1024; ++fd) {
        struct stat info;
        if (::fstat(fd, &info) == 0 && S_ISFIFO(info.st_mode) &&
            (::fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
            ++n;
    }
    return n;
}

/// While this lives, the process can open so many descriptors more.
class few_descriptors {
public:
    explicit few_descriptors(int left) {
        try {  // UBSan needs a pipe to look at a class for the first time
            throw mp::OsError(EMFILE, "");
        } catch (const mp::OsError& e) {
            static_cast<void>(e.code());
        }
        ::getrlimit(RLIMIT_NOFILE, &before_);
        const int first = ::dup(2);
        ::close(first);
        rlimit few = before_;
        few.rlim_cur = static_cast<rlim_t>(first + left);
        ::setrlimit(RLIMIT_NOFILE, &few);
    }
    few_descriptors(const few_descriptors&) = delete;
    few_descriptors& operator=(const few_descriptors&) = delete;
    ~few_descriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

private:
    rlimit before_{};
};

/// Runs `f` until it does not fail, first with so many descriptors left.
template <class F>
auto with_few_descriptors(int left, F f) {
    try {
        const few_descriptors few(left);
        return f();
    } catch (const mp::OsError& e) {
        if (e.code() != std::errc::too_many_files_open) throw;
    }
    return f();
}

}  // namespace

TEST_CASE("Pipe: messages of one type go both ways, in order", "[connection]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<job>();
    for (int i = 0; i < 100; ++i) {
        a.send({i, "there", {1.5}});
        b.send({i, "back", {}});
    }
    for (int i = 0; i < 100; ++i) {
        CHECK(b.recv() == job{i, "there", {1.5}});
        CHECK(a.recv() == job{i, "back", {}});
    }
    CHECK_FALSE(a.poll());
    CHECK_FALSE(b.poll(1ms));
}

TEST_CASE("Pipe<>: carries any type, and a message of another type than asked for is consumed",
          "[connection]") {
    auto [a, b] = mp::Pipe<>();
    a.send(42);
    a.send(job{1, "x", {2}});
    a.send("text");
    a.send(std::map<std::string, int>{{"one", 1}});
    CHECK(b.recv<int>() == 42);
    CHECK(b.recv<job>() == job{1, "x", {2}});
    CHECK(b.recv<std::string>() == "text");
    CHECK_THROWS_WITH(b.recv<int>(), Catch::Contains("std::map<std::string, int>") &&
                                         Catch::Contains("int was asked for"));
    a.send_bytes(bytes("raw"));
    CHECK_THROWS_WITH(b.recv<int>(), Catch::Contains("send_bytes"));
    a.send(3);
    CHECK(b.recv<int>() == 3);
}

TEST_CASE("Pipe: each end of a simplex one knows one direction", "[connection]") {
    auto [in, out] = mp::Pipe<int>(false);
    CHECK((in.readable() && !in.writable() && !out.readable() && out.writable()));
    out.send(1);
    CHECK(in.poll());
    CHECK(in.recv() == 1);
    CHECK_THROWS_WITH(in.send(1), Catch::Contains("can only receive"));
    CHECK_THROWS_WITH(out.recv(), Catch::Contains("can only send"));
    CHECK_THROWS_AS(out.poll(), mp::Error);
    auto [c, d] = mp::Pipe<int>();
    CHECK((c.readable() && c.writable() && d.readable() && d.writable()));
}

TEST_CASE("Connection: bytes travel as messages, empty ones too", "[connection]") {
    auto [a, b] = mp::Pipe<>();
    a.send_bytes(bytes("hello"));
    a.send_bytes({});
    a.send_bytes(bytes("world"));
    CHECK(text(b.recv_bytes()) == "hello");
    CHECK(b.poll());
    CHECK(b.recv_bytes().empty());
    std::vector<std::byte> buffer(8, std::byte{'.'});
    CHECK(b.recv_bytes_into(buffer, 2) == 5);
    CHECK(text(buffer) == "..world.");
    a.send_bytes({});
    CHECK(b.recv_bytes_into(buffer, 8) == 0);
    CHECK_THROWS_AS(b.recv_bytes_into(buffer, 9), mp::Error);
}

TEST_CASE("Connection: a message too long for its buffer is in the error, and the next one follows",
          "[connection]") {
    auto [a, b] = mp::Pipe<>();
    std::vector<std::byte> buffer(4, std::byte{'.'});
    for (int i = 0; i < 2; ++i) a.send_bytes(bytes("too long"));
    a.send_bytes(bytes("next"));
    try {
        b.recv_bytes_into(buffer, 1);
        FAIL("no error");
    } catch (const mp::BufferTooShort& e) {
        CHECK(text(e.message()) == "too long");
        CHECK(text(buffer) == "....");
    }
    try {
        static_cast<void>(b.recv_bytes(7));
        FAIL("no error");
    } catch (const mp::BufferTooShort& e) {
        CHECK(text(e.message()) == "too long");
    }
    CHECK(text(b.recv_bytes(4)) == "next");
}

TEST_CASE("Connection: after the other end was closed what it sent arrives, then the end",
          "[connection]") {
    auto [a, b] = mp::Pipe<int>();
    a.send(1);
    a.send(2);
    a.close();
    a.close();
    CHECK(a.closed());
    CHECK(b.recv() == 1);
    CHECK(b.poll());
    CHECK(b.recv() == 2);
    CHECK(b.poll());
    CHECK(b.poll(1h));
    CHECK_THROWS_AS(b.recv(), mp::EndOfFile);
    CHECK_THROWS_AS(b.recv(), mp::EndOfFile);
    CHECK_THROWS_AS(b.send(1), mp::EndOfFile);
    CHECK_FALSE(b.closed());
    CHECK_THROWS_AS(a.send(1), mp::ClosedError);
    CHECK_THROWS_AS(a.recv(), mp::ClosedError);
    CHECK_THROWS_AS(a.poll(), mp::ClosedError);
    CHECK_THROWS_AS(a.fileno(), mp::ClosedError);
    CHECK_FALSE((a.readable() || a.writable()));
}

TEST_CASE("Connection: a destroyed end is closed; a moved one is the same end", "[connection]") {
    std::optional<mp::Connection<int>> kept;
    {
        auto [a, b] = mp::Pipe<int>();
        a.send(1);
        kept = std::move(b);
        CHECK(b.closed());
        CHECK_THROWS_AS(b.recv(), mp::ClosedError);
        auto [c, d] = mp::Pipe<int>();
        c = std::move(a);  // closes c
        CHECK_THROWS_AS(d.recv(), mp::EndOfFile);
        c.send(2);
    }
    CHECK(kept->recv() == 1);
    CHECK(kept->recv() == 2);
    CHECK_THROWS_AS(kept->recv(), mp::EndOfFile);
    CHECK_THROWS_AS(mp::Connection<int>().recv(), mp::ClosedError);
}

TEST_CASE("Connection: both sides may send 10,000 messages before either receives",
          "[connection]") {
    auto [a, b] = mp::Pipe<std::string>();
    const std::string message(100, 'x');
    for (int i = 0; i < 10'000; ++i) {
        a.send(message);
        b.send(message);
    }
    for (int i = 0; i < 10'000; ++i) {
        CHECK(a.recv() == message);
        CHECK(b.recv() == message);
    }
}

TEST_CASE("Connection: send blocks while much is unread, and a message of any size passes",
          "[connection][process]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<>();
    auto [told, tell] = mp::Pipe<int>();
    mp::Process sender(
        [](mp::Connection<> out, mp::Connection<int> sent) {
            const std::vector<std::byte> message(1000);
            for (int i = 0; i < 3000; ++i) {
                out.send_bytes(message);
                sent.send(i);
            }
            out.send_bytes(std::vector<std::byte>(std::size_t{20} << 20, std::byte{7}));
        },
        std::move(b), std::move(tell));
    sender.start();
    int count = 0;
    while (count < 65) count = told.recv() + 1;
    // There is nothing else that it would sleep for; if it never waited it would end.
    CHECK(test::wait_asleep(sender.pid().value()));
    while (told.poll()) count = told.recv() + 1;
    CHECK(count < 3000);
    for (int i = 0; i < 3000; ++i) CHECK(a.recv_bytes().size() == 1000);
    const auto large = a.recv_bytes();
    CHECK(large.size() == std::size_t{20} << 20);
    CHECK(std::all_of(large.begin(), large.end(), [](std::byte x) { return x == std::byte{7}; }));
    CHECK(at_end(a));
    sender.join();
}

TEST_CASE("Connection: what is moved into a Process belongs to the child, wherever it lies",
          "[connection][process]") {
    const test::no_leaks guard;
    struct bundle {
        std::vector<mp::Connection<int>> many;
        std::unique_ptr<mp::Connection<int>> one;
        std::map<std::string, mp::Connection<int>> named;
    };
    bundle given;
    std::vector<mp::Connection<int>> ours;
    const auto make = [&] {
        mp::Pipe<int> made;
        ours.push_back(std::move(made.first));
        return std::move(made.second);
    };
    for (int i = 0; i < 3; ++i) given.many.push_back(make());
    given.one = std::make_unique<mp::Connection<int>>(make());
    given.named.emplace("x", make());
    auto argument = make();
    mp::Process child(
        [given = std::move(given)](mp::Connection<int>&& last) mutable {
            int n = 0;
            for (auto& c : given.many) c.send(n++);
            given.one->send(n++);
            given.named.at("x").send(n++);
            last.send(n++);
            last.recv();
        },
        std::move(argument));
    child.start();
    for (std::size_t i = 0; i < ours.size(); ++i) CHECK(ours[i].recv() == static_cast<int>(i));
    for (std::size_t i = 0; i + 1 < ours.size(); ++i) CHECK_FALSE(ours[i].poll(1ms));
    ours.back().send(1);
    for (auto& c : ours) CHECK_THROWS_AS(c.recv(), mp::EndOfFile);
    child.join();
    CHECK(child.exitcode() == 0);
}

TEST_CASE("Connection: the end of a child is the end of the file, however it ends",
          "[connection][process]") {
    const test::no_leaks guard;
    enum how { returns, exits, exits_at_once, killed, stopped_and_killed };
    const auto way = GENERATE(returns, exits, exits_at_once, killed, stopped_and_killed);
    auto [a, b] = mp::Pipe<int>();
    mp::Process child(
        [way](mp::Connection<int> c) {
            c.send(1);
            c.send(2);
            if (way == returns) return;
            if (way == exits) std::exit(3);
            if (way == exits_at_once) ::_exit(3);
            if (way == stopped_and_killed) ::raise(SIGSTOP);
            sleep_for_ever();
        },
        std::move(b));
    child.start();
    CHECK(a.recv() == 1);
    if (way >= killed) {
        test::eventually([&] {  // it has sent both
            const char state = test::process_state(child.pid().value());
            return state == 'S' || state == 'T';
        });
        child.kill();
    }
    CHECK(a.recv() == 2);
    CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    child.join();
    CHECK(a.poll());
    CHECK_THROWS_AS(a.send(1), mp::EndOfFile);
}

TEST_CASE("Connection: a child that executes another program has closed its end",
          "[connection][process]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<int>();
    mp::Process child(
        [](mp::Connection<int> c) {
            c.send(1);
            ::execl("/bin/sleep", "sleep", "1000", nullptr);
        },
        std::move(b));
    child.start();
    CHECK(a.recv() == 1);
    CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    CHECK_THROWS_AS(a.send(1), mp::EndOfFile);  // and no SIGPIPE
    CHECK(child.is_alive());
    child.kill();
    child.join();
}

TEST_CASE("Connection: the first send after the death of the other process says so",
          "[connection][process]") {
    auto [a, b] = mp::Pipe<int>();
    mp::Process child(
        [](mp::Connection<int> c) {
            for (;;) c.send(c.recv());
        },
        std::move(b));
    child.start();
    for (int i = 0; i < 1000; ++i) {
        a.send(i);
        CHECK(a.recv() == i);
    }
    child.kill();
    child.join();
    CHECK_THROWS_AS(a.send(1), mp::EndOfFile);
}

TEST_CASE("Connection: a send that waits for room ends with the other process",
          "[connection][process]") {
    auto [a, b] = mp::Pipe<std::string>();
    mp::Process child(
        [](mp::Connection<std::string> c) {
            c.send("ready");
            sleep_for_ever();
        },
        std::move(b));
    child.start();
    a.recv();
    std::thread killer([&] {
        test::wait_asleep(child.pid().value());
        child.kill();
    });
    const std::string message(100'000, 'x');
    const auto fill = [&message, &end = a] {
        for (;;) end.send(message);
    };
    CHECK_THROWS_AS(fill(), mp::EndOfFile);
    killer.join();
    child.join();
}

TEST_CASE(
    "Connection: a child that sleeps in recv gets the end when its parent is killed, though "
    "it and others have copies of the parent's end",
    "[connection][process]") {
    mp::Queue<int> told;
    test::child parent([&] {
        auto [a, b] = mp::Pipe<int>();
        // These have copies of both ends, and use none.
        mp::Process bystander(sleep_for_ever);
        bystander.start();
        const pid_t raw = ::fork();
        if (raw == 0) sleep_for_ever();
        mp::Process child(
            [&told, &theirs = a](mp::Connection<int> mine) {
                told.put(theirs.closed());  // a copy: in this process it is nobody's
                try {
                    mine.recv();
                } catch (const mp::EndOfFile&) {
                    told.put(0);
                }
            },
            std::move(b));
        child.start();
        test::wait_asleep(child.pid().value());
        told.put(bystander.pid().value());
        told.put(raw);
        sleep_for_ever();
        return 0;
    });
    CHECK(told.get() == 0);
    const pid_t bystanders[] = {told.get(), told.get()};
    parent.kill();
    CHECK(told.get(test::patience) == 0);
    for (const pid_t pid : bystanders) ::kill(pid, SIGKILL);
}

TEST_CASE("Connection: a forked process that uses its copy first is the owner",
          "[connection][process]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<int>();
    mp::Process child([&b = b] {
        b.send(1);
        b.send(b.recv());
        sleep_for_ever();
    });
    child.start();
    CHECK(a.recv() == 1);
    a.send(5);
    CHECK(a.recv() == 5);
    CHECK_THROWS_WITH(
        b.send(1), Catch::Contains("taken over by process " + std::to_string(child.pid().value())));
    CHECK_THROWS_AS(b.recv(), mp::ClosedError);
    child.kill();
    CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    child.join();
}

TEST_CASE("Connection: of two forked processes that use one end, the first has it",
          "[connection][process]") {
    auto [a, b] = mp::Pipe<int>();
    mp::Queue<int> results;
    const auto use = [&b = b, results]() mutable {
        try {
            b.send(1);
            results.put(1);
            b.recv();
        } catch (const mp::ClosedError&) {
            results.put(2);
        } catch (const mp::EndOfFile&) {
        }
    };
    mp::Process first(use), second(use);
    first.start();
    second.start();
    CHECK(results.get() + results.get() == 3);
    CHECK(a.recv() == 1);
    a.close();
    first.join();
    second.join();
}

TEST_CASE("Connection: a grandchild gets the end that its parent was given",
          "[connection][process]") {
    auto [a, b] = mp::Pipe<std::string>();
    mp::Process child(
        [](mp::Connection<std::string> c) {
            c.send("child");
            mp::Process grandchild(
                [](mp::Connection<std::string> d) {
                    d.send("grandchild");
                    d.send(d.recv());
                },
                std::move(c));
            grandchild.start();
            grandchild.join();
        },
        std::move(b));
    child.start();
    CHECK(a.recv() == "child");
    CHECK(a.recv() == "grandchild");
    a.send("back");
    CHECK(a.recv() == "back");
    CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    child.join();
}

TEST_CASE("Connection: async and a class derived from Process take ends, too",
          "[connection][process]") {
    const test::no_leaks guard;
    {
        auto [a, b] = mp::Pipe<int>();
        auto result = mp::async([](mp::Connection<int> c) { return c.recv() + 1; }, std::move(b));
        a.send(1);
        CHECK(result.get() == 2);
        CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    }
    struct worker : mp::Process {
        mp::Connection<int> connection;
        explicit worker(mp::Connection<int> c) : connection(std::move(c)) {}
        void run() override { connection.send(7); }
    };
    auto [a, b] = mp::Pipe<int>();
    worker one(std::move(b));
    one.start();
    CHECK(a.recv() == 7);
    CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    one.join();
}

TEST_CASE("Connection: what hand_over of a derived class drops is the child's, used or not",
          "[connection][process]") {
    const test::no_leaks guard;
    struct worker : mp::Process {
        std::vector<mp::Connection<int>> connections;
        bool uses = false, throws = false;
        void run() override {
            if (!uses) sleep_for_ever();
            connections[1].send(7);
        }
        void hand_over() override {
            connections.clear();
            if (throws) throw std::runtime_error("nothing more to hand over");
        }
    };
    const bool uses = GENERATE(false, true);
    mp::Pipe<int> pipes[2];
    worker one;
    one.uses = uses;
    for (auto& [a, b] : pipes) one.connections.push_back(std::move(b));
    one.start();
    if (uses) CHECK(pipes[1].first.recv() == 7);
    one.kill();
    for (auto& [a, b] : pipes) CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    one.join();
    worker other;
    other.uses = other.throws = true;
    mp::Pipe<int> more[2];
    for (auto& [a, b] : more) other.connections.push_back(std::move(b));
    CHECK_THROWS_WITH(other.start(), "nothing more to hand over");
    CHECK(more[1].first.recv() == 7);
    other.join();
    CHECK(other.exitcode() == 0);
}

TEST_CASE("Connection: an end that was sent belongs to its receiver once that has it",
          "[connection][process]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<mp::Connection<int>>();
    auto [c, d] = mp::Pipe<int>();
    mp::Process child(
        [](mp::Connection<mp::Connection<int>> from) {
            mp::Connection<int> mine = from.recv();
            mine.send(1);
            mine.recv();
            sleep_for_ever();
        },
        std::move(b));
    SECTION("the sender keeps its object") {
        a.send(d);
        d.send(0);  // still ours
        child.start();
        CHECK(c.recv() == 0);
        CHECK(c.recv() == 1);
        CHECK_THROWS_AS(d.send(1), mp::ClosedError);
    }
    SECTION("or lets go of it") {
        a.send(std::exchange(d, {}));
        CHECK_FALSE(c.poll(1ms));
        child.start();
        CHECK(c.recv() == 1);
    }
    c.send(1);
    child.kill();
    CHECK_THROWS_AS(c.recv(), mp::EndOfFile);
    child.join();
}

TEST_CASE("Connection: an end that could not be sent is still its sender's", "[connection]") {
    auto [a, b] = mp::Pipe<mp::Connection<int>>();
    auto [c, d] = mp::Pipe<int>();
    b.close();
    CHECK_THROWS_AS(a.send(d), mp::EndOfFile);
    d.send(1);
    CHECK(c.recv() == 1);
    d = {};
    CHECK_THROWS_AS(c.recv(), mp::EndOfFile);
}

TEST_CASE("Connection: an end goes through a process back to where it came from", "[connection]") {
    auto [a, b] = mp::Pipe<>();
    auto [c, d] = mp::Pipe<int>();
    a.send(std::exchange(d, {}));
    CHECK_THROWS_WITH(b.recv<mp::Connection<std::string>>(), Catch::Contains("Connection<int>"));
    // That one is lost: its sender has let go of it, and nobody can receive it any more.
    CHECK_THROWS_AS(c.recv(), mp::EndOfFile);
    auto [e, f] = mp::Pipe<int>();
    a.send(f);
    auto received = b.recv<mp::Connection<int>>();
    received.send(1);
    CHECK(e.recv() == 1);
    CHECK_THROWS_AS(f.send(1), mp::ClosedError);
    f.close();
    received.send(2);
    CHECK(e.recv() == 2);
    received.close();
    CHECK_THROWS_AS(e.recv(), mp::EndOfFile);
    c.close();
}

TEST_CASE("Connection: poll finds fileno readable exactly while recv would not block",
          "[connection]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<int>();
    const int fd = a.fileno();
    CHECK(a.fileno() == fd);
    readable_while_there(a, b, [fd] { return readable(fd); });
}

TEST_CASE("Connection: epoll finds fileno readable exactly while recv would not block",
          "[connection]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<int>();
    const int set = ::epoll_create1(EPOLL_CLOEXEC), number = 5;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = number;
    REQUIRE(::epoll_ctl(set, EPOLL_CTL_ADD, a.fileno(), &event) == 0);
    readable_while_there(a, b, [&] {
        epoll_event found{};
        const int count = ::epoll_wait(set, &found, 1, 0);
        return count == 1 && found.data.fd == number;
    });
    ::close(set);
}

TEST_CASE("Connection: fileno is readable for what came before it was asked for", "[connection]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<int>();
    b.send(0);
    const int fd = a.fileno();
    CHECK(readable(fd));
    CHECK(a.recv() == 0);
    CHECK_FALSE(readable(fd));
}

TEST_CASE("Connection: fileno shows the death of the other process", "[connection][process]") {
    const test::no_leaks guard;
    const bool inherits = GENERATE(false, true);
    auto [a, b] = mp::Pipe<int>();
    const auto work = [](mp::Connection<int>& c) {
        c.send(1);
        sleep_for_ever();
    };
    mp::Process child(
        [&, &copy = b, moved = inherits ? mp::Connection<int>() : std::move(b)]() mutable {
            work(inherits ? copy : moved);
        });
    const int fd = a.fileno();
    child.start();
    CHECK(readable(fd, true));
    CHECK(a.recv() == 1);
    CHECK_FALSE(a.poll());
    CHECK_FALSE(readable(fd));
    child.kill();
    CHECK(readable(fd, true));
    CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    child.join();
}

TEST_CASE("Connection: an end given to a child does not make the other's fileno readable",
          "[connection][process]") {
    auto [a, b] = mp::Pipe<int>();
    auto [go, wait] = mp::Pipe<int>();
    const int fd = a.fileno();
    mp::Process child(
        [](mp::Connection<int> c, mp::Connection<int> until) {
            until.recv();
            c.send(1);
        },
        std::move(b), std::move(wait));
    child.start();
    CHECK_FALSE(readable(fd));
    go.send(1);
    CHECK(readable(fd, true));
    CHECK(a.recv() == 1);
    CHECK(readable(fd, true));
    CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    child.join();
}

TEST_CASE("Connection: fileno works in asio's stream_descriptor", "[connection][process]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<int>();
    mp::Process child(
        [](mp::Connection<int> c) {
            for (int i = 0; i < 100; ++i) {
                c.send(i);
                if (i % 3 == 0) c.send(++i);
                if (i % 10 == 0) ::usleep(1000);
            }
        },
        std::move(b));
    child.start();
    boost::asio::io_context io;
    boost::asio::posix::stream_descriptor descriptor(io, ::dup(a.fileno()));
    std::vector<int> got;
    bool ended = false;
    std::function<void()> next = [&, &end = a] {
        descriptor.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                              [&](const boost::system::error_code& error) {
                                  if (error) return;
                                  try {
                                      got.push_back(end.recv());
                                  } catch (const mp::EndOfFile&) {
                                      ended = true;
                                      return;
                                  }
                                  next();
                              });
    };
    next();
    io.run();
    CHECK(ended);
    REQUIRE(got.size() >= 100);
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == static_cast<int>(i));
    child.join();
}

TEST_CASE("Connection: awake sides make no system call, those with a fileno two a change",
          "[connection]") {
    constexpr int n = 200;
    std::optional<mp::Pipe<int>> pipe;
    const auto exchange = [&](int) {
        if (!pipe) pipe.emplace();
        for (int i = 0; i < n; ++i) {
            pipe->first.send(i);
            pipe->second.send(pipe->second.recv());
            pipe->first.recv();
        }
    };
    CHECK(count_calls(exchange) < n / 4);
    const auto with_fileno = [&](int round) {
        if (!pipe) pipe.emplace();
        if (round == 0) pipe->first.fileno();
        for (int i = 0; i < n; ++i) {
            pipe->second.send(i);
            pipe->first.recv();
        }
    };
    const long calls = count_calls(with_fileno);
    CHECK(calls >= 2 * n);
    CHECK(calls < 2 * n + n / 2);
}

TEST_CASE("Connection: close ends what other threads wait for here", "[connection][threads]") {
    auto [a, b] = mp::Pipe<int>();
    std::atomic<int> errors{0};
    std::vector<std::thread> waiting;
    for (int i = 0; i < 2; ++i)
        waiting.emplace_back([&, i, &end = a] {
            try {
                i == 0 ? static_cast<void>(end.recv()) : static_cast<void>(end.poll(1h));
            } catch (const mp::ClosedError&) {
                ++errors;
            }
        });
    test::pause_briefly(5ms);  // most of them sleep by now; the result is the same if not
    a.close();
    for (auto& thread : waiting) thread.join();
    CHECK(errors == 2);
    CHECK_THROWS_AS(b.recv(), mp::EndOfFile);
}

TEST_CASE("Connection: close ends a wait() for it in another thread, and nothing else is polled",
          "[connection][threads]") {
    const test::no_leaks guard;
    for (int i = 0; i < 200; ++i) {
        auto [a, b] = mp::Pipe<int>();
        std::atomic<pid_t> waits{0};
        std::atomic<int> ended{0};
        std::thread waiting([&, &end = a] {
            waits = ::gettid();
            try {
                mp::wait({end});
            } catch (const mp::ClosedError&) {
                ended = 1;
            }
        });
        while (waits == 0) test::pause_briefly();
        // Sometimes before it sleeps.
        if (i % 2 == 0) test::wait_asleep(waits);
        a.close();
        // What might get the numbers of what was closed.
        mp::Pipe<int> other;
        waiting.join();
        CHECK(ended == 1);
    }
}

TEST_CASE("Connection: one thread sends while another receives", "[connection][threads]") {
    constexpr int n = 20'000;
    auto [a, b] = mp::Pipe<int>();
    std::thread echo([&end = b] {
        for (int i = 0; i < n; ++i) end.send(end.recv());
    });
    std::thread sender([&end = a] {
        for (int i = 0; i < n; ++i) end.send(i);
    });
    int wrong = 0;
    for (int i = 0; i < n; ++i) wrong += a.recv() != i;
    CHECK(wrong == 0);
    sender.join();
    echo.join();
}

TEST_CASE("Connection: a send that answers a dead process throws, however its message was found",
          "[connection][process]") {
    const test::no_leaks guard;
    const auto found = GENERATE(0, 1, 2);
    auto [a, b] = mp::Pipe<int>();
    mp::Process p(
        [](mp::Connection<int> c) {
            c.recv();
            c.send(1);
            sleep_for_ever();
        },
        std::move(b));
    p.start();
    a.send(0);
    REQUIRE(a.poll(test::patience));
    p.kill();
    p.join();
    if (found == 1) CHECK(mp::wait({a}) == std::vector<std::size_t>{0});
    if (found == 2) CHECK(a.poll());
    CHECK(a.recv() == 1);
    CHECK_THROWS_AS(a.send(2), mp::EndOfFile);
}

TEST_CASE("Connection: a signal ends neither recv nor a send that waits for room",
          "[connection][process][signal]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<std::string>();
    const auto message = [](int i) { return std::to_string(i) + std::string(100'000, 'x'); };
    test::interruptions signals;
    test::child other([&, &end = b] {
        signals.count_here();
        if (end.recv() != "go") return 1;
        for (int i = 0; i < 30; ++i) end.send(message(i));
        return end.recv() == "end" ? 0 : 2;
    });
    CHECK(signals.interrupt(other));
    a.send("go");
    CHECK(signals.interrupt(other));
    for (int i = 0; i < 30; ++i) CHECK((a.recv() == message(i)));
    CHECK(signals.interrupt(other));
    a.send("end");
    CHECK(other.exit_status() == 0);
}

TEST_CASE("Connection: poll waits so long at least, and for the message", "[connection][process]") {
    auto [a, b] = mp::Pipe<int>();
    for (const auto time : {0ms, 1ms, 30ms, -5ms}) {
        const auto begin = test::clock::now();
        CHECK_FALSE(a.poll(time));
        CHECK(test::clock::now() - begin >= time);
    }
    mp::Process child(
        [](mp::Connection<int> c) {
            ::usleep(20'000);
            c.send(1);
            c.recv();
        },
        std::move(b));
    child.start();
    CHECK(a.poll(test::patience));
    CHECK(a.recv() == 1);
    a.close();
    child.join();
}

TEST_CASE("Pipe: 1,000 made and dropped leave nothing", "[connection]") {
    const test::no_leaks guard;
    const auto mappings = [] {
        std::ifstream maps("/proc/self/maps");
        int n = 0;
        for (std::string line; std::getline(maps, line);) n += line.find("mp:Pipe") != line.npos;
        return n;
    };
    const int before = mappings();
    for (int i = 0; i < 1000; ++i) {
        auto [a, b] = mp::Pipe<int>();
        if (i % 2 == 0) a.fileno();
        a.send(i);
        if (i % 3 == 0) b.close();
    }
    CHECK(mappings() == before);
}

TEST_CASE("Pipe: without descriptors left each failure is an OsError and leaks nothing",
          "[connection][process]") {
    if (test::address_sanitizer) return;  // UBSan reads memory through a pipe, and says it can't
    test::child limited([] {
        static_cast<void>(mp::current_process());
        const rlimit few{64, 64};
        ::setrlimit(RLIMIT_NOFILE, &few);
        const auto descriptors = [] { return test::open_descriptors().size(); };
        { mp::Pipe<int> first; }
        const std::size_t before = descriptors();
        for (int taken = 0; taken < 64; ++taken) {
            std::vector<int> fill;
            for (int i = 0; i < taken; ++i)
                if (const int fd = ::dup(2); fd >= 0) fill.push_back(fd);
            try {
                mp::Pipe<int> pipe;
                pipe.second.send(1);
                pipe.first.fileno();
                if (pipe.first.recv() != 1) return 2;
                mp::Pipe<mp::Connection<int>> other;
                other.first.send(pipe.first);
                if (other.second.recv().poll()) return 3;
            } catch (const mp::OsError& e) {
                if (e.code() != std::errc::too_many_files_open) return 4;
            }
            for (const int fd : fill) ::close(fd);
            if (descriptors() != before) return 5;
        }
        return 0;
    });
    CHECK(limited.exit_status() == 0);
}

TEST_CASE(
    "Connection: without descriptors left a process that takes an end, or asks whether the "
    "other one lives, fails and may try again",
    "[connection][process]") {
    if (test::address_sanitizer) return;  // UBSan reads memory through a pipe, and says it can't
    const int left = GENERATE(0, 1, 2, 3, 4, 5);
    CAPTURE(left);
    SECTION("one that inherited it") {
        auto [a, b] = mp::Pipe<int>();
        test::child taker([&, &end = b] {
            with_few_descriptors(left, [&] {
                end.send(1);
                return 0;
            });
            end.send(end.recv());
            return 0;
        });
        CHECK(a.recv() == 1);
        CHECK_FALSE(a.poll());
        a.send(2);
        CHECK(a.recv() == 2);
        CHECK(taker.exit_status() == 0);
        CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    }
    SECTION("one that receives it") {
        auto [carrier, from] = mp::Pipe<mp::Connection<int>>();
        auto [a, b] = mp::Pipe<int>();
        for (int i = 0; i < 2; ++i) carrier.send(b);  // the first may be lost
        test::child taker([&, &in = from] {
            static_cast<void>(in.poll());
            mp::Connection<int> mine = with_few_descriptors(left, [&] { return in.recv(); });
            mine.send(1);
            mine.send(mine.recv());
            return 0;
        });
        CHECK(a.recv() == 1);
        CHECK_FALSE(a.poll());
        a.send(2);
        CHECK(a.recv() == 2);
        CHECK(taker.exit_status() == 0);
        CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    }
    SECTION("the owner of the other end") {
        test::child watcher([&] {
            auto [a, b] = mp::Pipe<int>();
            test::child taker([&end = b] {
                end.send(1);
                end.send(end.recv());
                return 0;
            });
            if (!a.poll(test::patience)) return 1;
            try {
                const few_descriptors few(left);
                if (a.recv() != 1) return 2;
                if (a.poll(1ms)) return 3;
            } catch (const mp::OsError& e) {
                if (e.code() != std::errc::too_many_files_open) return 4;
            }
            a.send(2);
            return a.recv() == 2 && taker.exit_status() == 0 && at_end(a) ? 0 : 5;
        });
        CHECK(watcher.exit_status() == 0);
    }
}

TEST_CASE("Connection: no message is lost when the other end's owner can't be watched",
          "[connection][process]") {
    test::child limited([] {
        auto [a, b] = mp::Pipe<int>();
        const int fd = a.fileno();
        test::child taker([&end = b] {
            end.send(1);
            end.send(2);
            sleep_for_ever();
            return 0;
        });
        if (!readable(fd, true)) return 1;
        try {
            const few_descriptors none(0);
            if (a.recv() != 1 || a.recv() != 2) return 2;
            if (!readable(fd)) return 3;  // in vain, so that somebody looks again
            static_cast<void>(a.poll());
            return 4;
        } catch (const mp::OsError&) {
        }
        if (a.poll() || readable(fd)) return 5;
        taker.kill();
        return readable(fd, true) && at_end(a) && readable(fd) ? 0 : 6;
    });
    CHECK(limited.exit_status() == 0);
}

TEST_CASE("Pipe: a process forked meanwhile by another thread has none of the pipes",
          "[connection][process][threads]") {
    auto [carrier, from] = mp::Pipe<mp::Connection<int>>();
    const auto count = [] { return test::wait_for_exit(test::fork_child(writable_pipes)); };
    const auto before = count();
    std::atomic<bool> stop{false};
    std::thread maker([&, &to = carrier, &in = from] {
        while (!stop) {
            auto [a, b] = mp::Pipe<int>();
            to.send(b);
            mp::Connection<int> received = in.recv();
            received.send(1);
        }
    });
    int wrong = 0;
    for (int i = 0; i < 500; ++i) wrong += count() != before;
    stop = true;
    maker.join();
    CHECK(wrong == 0);
}

TEST_CASE(
    "Connection: ends among a child's arguments are its own though another child is started "
    "while they are dropped",
    "[connection][process]") {
    struct starter {
        pid_t of = ::getpid();
        bool last = true;
        starter() = default;
        starter(starter&& other) noexcept : last(std::exchange(other.last, false)) {}
        ~starter() {
            if (!last || ::getpid() != of) return;
            mp::Process other([] {});
            other.start();
            other.join();
        }
    };
    struct both {
        mp::Connection<int> end;
        starter first;  // dropped before
    };
    auto [a, b] = mp::Pipe<int>();
    mp::Process child([given = both{std::move(b), {}}]() mutable { given.end.send(1); });
    child.start();
    CHECK(a.recv() == 1);
    CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    child.join();
}

TEST_CASE("Connection: an accepted one that is sent on still refuses what is too long",
          "[connection]") {
    mp::ListenerOptions options;
    options.max_message = 100;
    mp::Listener listener({}, options);
    auto client = mp::Client(listener.address());
    auto [carrier, from] = mp::Pipe<mp::Connection<>>();
    carrier.send(listener.accept());
    auto server = from.recv();
    client.send_bytes(std::vector<std::byte>(100));
    CHECK(server.recv_bytes().size() == 100);
    client.send_bytes(std::vector<std::byte>(101));
    CHECK_THROWS_WITH(server.recv_bytes(), Catch::Contains("max_message"));
    CHECK_THROWS_WITH(server.send_bytes(std::vector<std::byte>(101)),
                      Catch::Contains("max_message"));
}

TEST_CASE(
    "Connection: an end that was sent and let go of stays until it is received, though its "
    "other one was closed",
    "[connection]") {
    const test::no_leaks guard;
    const bool closed_first = GENERATE(false, true);
    auto [carrier, from] = mp::Pipe<mp::Connection<int>>();
    {
        auto [a, b] = mp::Pipe<int>();
        a.send(5);
        carrier.send(b);
        if (closed_first) a.close();
        b = {};
    }
    { mp::Pipe<int> looks; }
    carrier.close();
    auto received = from.recv();
    CHECK(received.recv() == 5);
    CHECK_THROWS_AS(received.recv(), mp::EndOfFile);
}

TEST_CASE("Connection: an end in a message that nobody can receive any more is closed",
          "[connection][process]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<int>();
    auto [carrier, from] = mp::Pipe<>();
    SECTION("the receiver is killed") {
        mp::Process child(
            [](mp::Connection<> c) {
                c.send(1);
                sleep_for_ever();
            },
            std::move(from));
        child.start();
        CHECK(carrier.recv<int>() == 1);
        carrier.send(std::exchange(b, {}));
        CHECK_FALSE(a.poll(1ms));
        std::thread killer([&] {
            test::pause_briefly(5ms);  // a sleeps by now; the result is the same if not
            child.kill();
        });
        CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
        killer.join();
        child.join();
    }
    SECTION("the receiver is killed, and what carried it was closed before") {
        mp::Process child(sleep_for_ever_with<mp::Connection<>>, std::move(from));
        child.start();
        carrier.send(std::exchange(b, {}));
        carrier.close();
        CHECK_FALSE(a.poll(1ms));
        child.kill();
        CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
        child.join();
    }
    SECTION("the receiver closes its end") {
        carrier.send(std::exchange(b, {}));
        from.close();
        CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    }
    SECTION("both ends of what carried it are closed") {
        carrier.send(std::exchange(b, {}));
        carrier.close();
        CHECK_FALSE(a.poll());
        from.close();
        CHECK(a.poll());
    }
    SECTION("it is received as something else") {
        carrier.send(std::exchange(b, {}));
        CHECK_THROWS_AS(from.recv<int>(), mp::SerializationError);
        CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    }
    SECTION("it is received as bytes") {
        carrier.send(std::exchange(b, {}));
        static_cast<void>(from.recv_bytes());
        CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    }
    SECTION("it travels in an end that is lost itself") {
        auto [inner, into] = mp::Pipe<mp::Connection<int>>();
        inner.send(std::exchange(b, {}));
        carrier.send(std::exchange(into, {}));
        from.close();
        CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    }
}

TEST_CASE("Connection: an end stays its sender's while its message is decoded", "[connection]") {
    auto [carrier, from] = mp::Pipe<decoded_slowly>();
    auto [a, b] = mp::Pipe<int>();
    carrier.send({std::exchange(b, {})});
    decoded_slowly received = from.recv();
    received.end.send(1);
    CHECK(a.recv() == 1);
}

TEST_CASE("Connection: ends sent and not received leave descriptors for others", "[connection]") {
    test::child limited([] {
        static_cast<void>(mp::current_process());
        const rlimit few{512, 512};
        ::setrlimit(RLIMIT_NOFILE, &few);
        { mp::Pipe<int> first; }
        const std::size_t before = test::open_descriptors().size();
        {
            auto [carrier, from] = mp::Pipe<mp::Connection<int>>();
            for (int i = 0; i < 1000; ++i) {
                auto [a, b] = mp::Pipe<int>();
                carrier.send(a);
                carrier.send(b);
            }
        }
        { mp::Pipe<int> looks; }
        return test::open_descriptors().size() == before ? 0 : 1;
    });
    CHECK(limited.exit_status() == 0);
}
