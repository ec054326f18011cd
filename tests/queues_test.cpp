// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/queues.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <multiprocessing/process.hpp>

#include "support/catch.hpp"
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

struct request {
    int value;
    mp::Queue<int> reply;
};

/// Throws when loaded with an odd number, or saved with a negative one.
struct moody {
    int value = 0;
    template <class Archive>
    void save(Archive& archive) const {
        if (value < 0) throw std::domain_error("negative");
        archive(value);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(value);
        if (value % 2 != 0) throw std::range_error("odd");
    }
};

bool readable(int fd) {
    pollfd one{fd, POLLIN, 0};
    return ::poll(&one, 1, 0) == 1;
}

void echo(mp::Queue<int>& in, mp::Queue<int> out) {
    for (int i = in.get(); i >= 0; i = in.get()) out.put(i * 10);
}

}  // namespace

TEST_CASE("Queue: items of one producer come out in order, in another process", "[queue]") {
    const test::no_leaks leaks;
    mp::Queue<job> q;
    mp::Process p([&] {
        for (int i = 0; i < 1000; ++i) q.put({i, "job " + std::to_string(i), {0.5 * i, 1.0}});
    });
    p.start();
    for (int i = 0; i < 1000; ++i)
        CHECK(q.get() == job{i, "job " + std::to_string(i), {0.5 * i, 1.0}});
    p.join();
    CHECK(p.exitcode() == 0);
    CHECK(q.empty());
}

TEST_CASE("Queue: handles go to a Process by reference, by value and by capture", "[queue]") {
    mp::Queue<int> in, out, third;
    mp::Process p(echo, in, out);
    mp::Process captured([third]() mutable { third.put(3); });
    p.start();
    captured.start();
    for (int i : {1, 2, 3, -1}) in.put(i);
    CHECK(out.get() == 10);
    CHECK(out.get() == 20);
    CHECK(out.get() == 30);
    CHECK(third.get() == 3);
    p.join();
    CHECK(p.exitcode() == 0);
}

TEST_CASE("Queue: what put returned from is there at once, for every process", "[queue]") {
    mp::Queue<int> q, seen;
    mp::Process p([&] {
        q.put(1);
        seen.put(static_cast<int>(q.qsize()));
    });
    p.start();
    CHECK(seen.get() == 1);
    CHECK_FALSE(q.empty());
    CHECK(q.qsize() == 1);
    CHECK(q.get_nowait() == 1);
    CHECK(q.empty());
    p.join();
}

TEST_CASE("Queue: a process that put a large item ends and is joined before anybody gets it",
          "[queue]") {
    mp::Queue<std::vector<double>> q;
    mp::Process p([&] { q.put(std::vector<double>(1'000'000, 1.5)); });
    p.start();
    p.join();
    CHECK(p.exitcode() == 0);
    CHECK(q.get() == std::vector<double>(1'000'000, 1.5));
}

TEST_CASE("Queue: items of any size go through, also larger than the window", "[queue]") {
    mp::Queue<std::string> q;
    for (const std::size_t size : {0u, 1u, 4095u, 4096u, 1u << 20, (1u << 20) + 1, 50u << 20}) {
        q.put(std::string(size, 'x'));
        CHECK(q.get() == std::string(size, 'x'));
    }
}

TEST_CASE("Queue: maxsize bounds it, and the words that don't wait say so", "[queue]") {
    mp::Queue<int> q(2);
    CHECK_FALSE(q.full());
    q.put(1);
    CHECK(q.try_put(2));
    CHECK(q.full());
    CHECK_FALSE(q.try_put(3));
    CHECK_THROWS_AS(q.put_nowait(3), mp::QueueFull);
    CHECK_THROWS_AS(q.put(3, -1h), mp::QueueFull);
    const auto before = std::chrono::steady_clock::now();
    CHECK_THROWS_AS(q.put(3, 20ms), mp::QueueFull);
    CHECK(std::chrono::steady_clock::now() - before >= 20ms);

    mp::Process p([&] { q.put(3); });  // waits for the get
    p.start();
    CHECK(q.get() == 1);
    CHECK(q.get() == 2);
    CHECK(q.get() == 3);
    p.join();

    mp::Queue<int> unbounded;
    unbounded.put(1);
    CHECK_FALSE(unbounded.full());
}

TEST_CASE("Queue: an empty one says so, after its time", "[queue]") {
    mp::Queue<int> q;
    CHECK_THROWS_AS(q.get_nowait(), mp::QueueEmpty);
    CHECK(q.try_get() == std::nullopt);
    CHECK_THROWS_AS(q.get(-5s), mp::QueueEmpty);
    const auto before = std::chrono::steady_clock::now();
    CHECK_THROWS_AS(q.get(15ms), mp::QueueEmpty);
    CHECK(q.try_get_for(15ms) == std::nullopt);
    CHECK(std::chrono::steady_clock::now() - before >= 30ms);
    q.put(7);
    CHECK(q.try_get_for(std::chrono::hours(1)) == 7);
    q.put(8);
    CHECK(q.get(mp::duration::max()) == 8);
}

TEST_CASE("Queue: items need not be copyable", "[queue]") {
    mp::Queue<std::unique_ptr<int>> q;
    q.put(std::make_unique<int>(5));
    const auto item = q.get();
    REQUIRE(item);
    CHECK(*item == 5);
}

TEST_CASE("Queue: a queue sent inside a message is the same queue", "[queue][handle]") {
    mp::Queue<request> requests;
    mp::Process server([&] {
        for (;;) {
            request r = requests.get();
            r.reply.put(r.value * 2);
            if (r.value == 0) return;
        }
    });
    server.start();
    for (int i = 3; i >= 0; --i) {
        mp::Queue<int> reply;  // made after the fork: the server opens it
        requests.put({i, reply});
        CHECK(reply.get() == 2 * i);
    }
    server.join();
    CHECK(server.exitcode() == 0);
}

TEST_CASE("Queue: a queue received where it is known is the same object", "[queue][handle]") {
    mp::Queue<mp::Queue<int>> q;
    mp::Queue<int> inner;
    q.put(inner);
    mp::Queue<int> back = q.get();
    CHECK(back == inner);
    back.close();
    CHECK_THROWS_AS(inner.put(1), mp::ClosedError);
}

TEST_CASE("Queue: a queue in a message outlives its sender's handle", "[queue][handle]") {
    mp::Queue<mp::Queue<std::string>> q;
    mp::Queue<int> go;
    mp::Process receiver([&] {
        go.get();
        mp::Queue<std::string> inner = q.get();
        if (inner.get() != "kept") ::_exit(2);
    });
    receiver.start();
    {
        mp::Queue<std::string> inner;
        inner.put("kept");
        q.put(inner);
    }
    go.put(1);
    receiver.join();
    CHECK(receiver.exitcode() == 0);
}

TEST_CASE("Queue: a queue whose last holder has ended can't be received, and it says so",
          "[queue][handle]") {
    mp::Queue<mp::Queue<int>> q;
    mp::Process sender([&] { q.put(mp::Queue<int>()); });
    sender.start();
    sender.join();
    try {
        q.get();
        FAIL("received a queue that is gone");
    } catch (const mp::Error& e) {
        CHECK(std::string(e.what()).find("last holder ended") != std::string::npos);
    }
    CHECK(q.empty());  // the message is consumed
}

TEST_CASE("Queue: a handle of a queue of another type is refused, with both types named",
          "[queue][handle]") {
    // A message that claims to be a Queue<double> but names a Queue<int>.
    mp::Queue<int> ints;
    const mp::detail::encoded message = mp::detail::encode(ints);
    std::vector<std::byte> bytes;
    for (const auto& piece : message.pieces())
        bytes.insert(bytes.end(), piece.begin(), piece.end());
    try {
        (void)mp::detail::decode<mp::Queue<double>>(bytes);
        FAIL("decoded a queue of another type");
    } catch (const mp::SerializationError& e) {
        const std::string what = e.what();
        CHECK(what.find("int") != std::string::npos);
        CHECK(what.find("double") != std::string::npos);
    }
}

TEST_CASE("Queue: an item that can't be encoded is not put", "[queue]") {
    mp::Queue<moody> q;
    CHECK_THROWS_AS(q.put(moody{-1}), std::domain_error);
    CHECK(q.empty());
    q.put(moody{2});
    CHECK(q.get().value == 2);
}

TEST_CASE("Queue: an item that can't be decoded is gone, the next one is fine", "[queue]") {
    mp::Queue<moody> q;
    q.put(moody{1});
    q.put(moody{4});
    CHECK_THROWS_AS(q.get(), std::range_error);
    CHECK(q.get().value == 4);
}

TEST_CASE("Queue: close ends the calls of this process, those that block now included",
          "[queue][threads]") {
    mp::Queue<int> q(1);
    mp::Queue<int> empty_one;
    q.put(1);
    std::atomic<int> ended{0};
    const auto closed = [&](auto f) {
        return std::thread([&ended, f] {
            try {
                f();
            } catch (const mp::ClosedError&) {
                ++ended;
            }
        });
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
        threads.push_back(closed([&] { q.put(2); }));
        threads.push_back(closed([&] { empty_one.get(); }));
        threads.push_back(closed([&] { empty_one.get(1h); }));
    }
    q.close();
    empty_one.close();
    for (auto& thread : threads) thread.join();
    CHECK(ended == 9);
    CHECK_THROWS_AS(q.put(3), mp::ClosedError);
    CHECK_THROWS_AS(q.get(), mp::ClosedError);
    CHECK_THROWS_AS(q.try_get(), mp::ClosedError);
    CHECK_THROWS_AS(q.qsize(), mp::ClosedError);
    CHECK_THROWS_AS(q.fileno(), mp::ClosedError);
}

TEST_CASE("Queue: close in one process changes nothing for another", "[queue]") {
    mp::Queue<int> q;
    mp::Process p([&] { q.close(); });
    p.start();
    p.join();
    q.put(1);
    CHECK(q.get() == 1);
}

TEST_CASE("Queue: fileno is readable exactly while something is in the queue", "[queue][bell]") {
    const test::no_leaks leaks;
    mp::Queue<int> q;
    q.put(0);
    const int fd = q.fileno();
    CHECK(fd == q.fileno());
    CHECK(readable(fd));
    CHECK(q.get() == 0);
    CHECK_FALSE(readable(fd));
    q.put(1);
    q.put(2);
    CHECK(readable(fd));
    q.get();
    CHECK(readable(fd));
    q.get();
    CHECK_FALSE(readable(fd));
    CHECK(q.try_get() == std::nullopt);

    mp::Queue<int> go;
    mp::Process p([&] {  // forked after, and puts
        q.put(go.get());
    });
    p.start();
    CHECK_FALSE(readable(fd));
    go.put(5);
    pollfd one{fd, POLLIN, 0};
    CHECK(::poll(&one, 1, -1) == 1);
    CHECK(q.get() == 5);
    p.join();  // while it was still unlocking, a needless byte may have stayed: the next call goes
    CHECK(q.try_get() == std::nullopt);
    CHECK_FALSE(readable(fd));
}

TEST_CASE("Queue: several processes may poll one queue, with putters forked before",
          "[queue][bell]") {
    mp::Queue<int> q, armed, done;
    mp::Queue<int> go;
    mp::Process putter([&] {
        go.get();
        q.put(1);
        go.get();
        q.put(2);
    });
    putter.start();
    const auto poller = [&] {
        const int poll_set = ::epoll_create1(EPOLL_CLOEXEC);
        epoll_event event{};
        event.events = EPOLLIN;
        ::epoll_ctl(poll_set, EPOLL_CTL_ADD, q.fileno(), &event);
        armed.put(1);
        for (;;) {
            if (::epoll_wait(poll_set, &event, 1, -1) != 1) continue;
            if (const auto item = q.try_get()) return done.put(*item);
        }
    };
    mp::Process a(poller), b(poller);
    a.start();
    b.start();
    armed.get();
    armed.get();
    go.put(1);
    CHECK(done.get() == 1);
    go.put(1);
    CHECK(done.get() == 2);
    for (mp::Process* p : {&putter, &a, &b}) {
        p->join();
        CHECK(p->exitcode() == 0);
    }
}

TEST_CASE("Queue: a killed getter that waits takes nothing with it", "[queue]") {
    mp::Queue<int> q;
    mp::Process victim([&] { q.get(); }), other([&] { ::_exit(q.get()); });
    victim.start();
    other.start();
    victim.kill();
    victim.join();
    CHECK(victim.exitcode() == -SIGKILL);
    q.put(9);
    other.join();
    CHECK(other.exitcode() == 9);
}

TEST_CASE("JoinableQueue: join waits until every item is done", "[queue]") {
    mp::JoinableQueue<int> q;
    q.join();  // nothing to wait for
    mp::Queue<int> results;
    for (int i = 0; i < 100; ++i) q.put(i);
    CHECK_FALSE(q.join(1ms));
    const auto work = [&] {
        while (const auto i = q.try_get()) {
            results.put(*i);
            q.task_done();
        }
    };
    mp::Process a(work), b(work);
    a.start();
    b.start();
    q.join();
    CHECK(results.qsize() == 100);
    a.join();
    b.join();
    CHECK_THROWS_AS(q.task_done(), mp::Error);
    CHECK(q.join(0ms));
}

TEST_CASE("JoinableQueue: is a queue, and travels", "[queue][handle]") {
    mp::Queue<mp::JoinableQueue<int>> q;
    mp::JoinableQueue<int> inner(3);
    q.put(inner);
    mp::Process p([&] {
        mp::JoinableQueue<int> received = q.get();
        mp::Queue<int>& as_queue = received;
        as_queue.get();
        received.task_done();
    });
    inner.put(1);
    p.start();
    inner.join();
    p.join();
    CHECK(p.exitcode() == 0);
}

TEST_CASE("SimpleQueue: put, get, empty, close", "[queue]") {
    mp::SimpleQueue<std::map<std::string, int>> q;
    CHECK(q.empty());
    mp::Process p([&] { q.put({{"a", 1}, {"b", 2}}); });
    p.start();
    CHECK(q.get() == std::map<std::string, int>{{"a", 1}, {"b", 2}});
    p.join();
    q.close();
    CHECK_THROWS_AS(q.get(), mp::ClosedError);
}

TEST_CASE("Queue: a thousand of them leave nothing behind", "[queue]") {
    const test::no_leaks leaks;
    for (int round = 0; round < 10; ++round) {
        std::vector<mp::Queue<int>> queues(100);
        for (auto& q : queues) q.put(round);
        for (auto& q : queues) CHECK(q.get() == round);
    }
}

TEST_CASE("Queue: its memory is private to the user, sealed, and not in /dev/shm", "[queue]") {
    mp::Queue<int> q;
    int found = 0;
    for (int fd = 3; fd < 1024; ++fd) {
        char name[256] = {};
        const std::string path = "/proc/self/fd/" + std::to_string(fd);
        if (::readlink(path.c_str(), name, sizeof name - 1) < 0 ||
            std::string(name).find("memfd:mp:Queue") == std::string::npos)
            continue;
        ++found;
        struct stat info {};
        REQUIRE(::fstat(fd, &info) == 0);
        CHECK((info.st_mode & 0777) == 0600);
    }
    CHECK(found == 1);
}

TEST_CASE("Queue: a poller that was killed and not yet reaped stops nobody, root or not",
          "[queue][bell]") {
    // /proc of such a process belongs to root.
    mp::Process outer([] {
        if (::getuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
        ::prctl(PR_SET_DUMPABLE, 1);
        mp::Queue<int> q, armed;
        const pid_t poller = ::fork();  // not reaped until the end
        if (poller == 0) {
            q.fileno();
            armed.put(1);
            for (;;) ::pause();
        }
        armed.get();
        ::kill(poller, SIGKILL);
        siginfo_t info;
        ::waitid(P_PID, static_cast<id_t>(poller), &info, WEXITED | WNOWAIT);
        q.put(1);
        if (q.get() != 1 || q.try_get()) ::_exit(3);
        ::waitpid(poller, nullptr, 0);
    });
    outer.start();
    outer.join();
    CHECK(outer.exitcode() == 0);
}

TEST_CASE("Queue: a getter without descriptors left loses nothing to a bell", "[queue][bell]") {
    if (test::address_sanitizer) return;  // UBSan reads memory through a pipe, and says it can't
    mp::Queue<int> q, go;
    mp::Process getter([&] {
        go.get();
        rlimit none{3, 3};
        ::setrlimit(RLIMIT_NOFILE, &none);  // it has yet to open the poller's pipe
        if (q.get() != 1 || q.get() != 2 || q.try_get()) ::_exit(2);
    });
    getter.start();
    const int fd = q.fileno();
    q.put(1);
    q.put(2);
    go.put(0);
    getter.join();
    CHECK(getter.exitcode() == 0);
    CHECK(readable(fd));  // it could not drain the pipe: one look too many
    CHECK(q.try_get() == std::nullopt);
    CHECK_FALSE(readable(fd));
}

TEST_CASE("Queue: a putter that sees no /proc does not silence a poller", "[queue][bell]") {
    if (::getuid() != 0) return;  // chroot
    mp::Queue<int> q, go;
    mp::Process putter([&] {
        go.get();
        if (::chroot("/sys") != 0) ::_exit(2);
        try {
            q.put(1);
            ::_exit(3);
        } catch (const mp::OsError&) {  // nothing is put that the poller would not hear of
        }
    });
    putter.start();
    const int fd = q.fileno();
    go.put(1);
    putter.join();
    CHECK(putter.exitcode() == 0);
    CHECK(q.empty());
    q.put(2);
    CHECK(readable(fd));
}

TEST_CASE("Queue: a received queue stays off stdin, stdout and stderr", "[queue][handle]") {
    mp::Queue<mp::Queue<int>> q;
    mp::Process receiver([&] {
        for (const int fd : {0, 1, 2}) ::close(fd);
        mp::Queue<int> inner = q.get();
        for (int i = 0; i < 100; ++i) std::fprintf(stderr, "all over the shared memory %d\n", i);
        if (inner.get() != 5) ::_exit(2);
    });
    receiver.start();
    mp::Queue<int> inner;
    inner.put(5);
    q.put(inner);
    receiver.join();
    CHECK(receiver.exitcode() == 0);
}

TEST_CASE("Queue: queues in messages that were not put leave nothing behind", "[queue][handle]") {
    const test::no_leaks leaks;
    mp::Queue<request> full(1);
    full.put({0, mp::Queue<int>()});
    for (int i = 0; i < 50; ++i) CHECK_FALSE(full.try_put({i, mp::Queue<int>()}));
    CHECK(full.get().value == 0);
}

TEST_CASE("Queue: under a limit of file size that leaves it no room it can't be made",
          "[queue][limits]") {
    mp::Process p([] {
        rlimit small{4096, 4096};
        ::setrlimit(RLIMIT_FSIZE, &small);
        try {
            mp::Queue<int> q;
            ::_exit(2);
        } catch (const mp::OsError& e) {
            ::_exit(e.code() == std::errc::file_too_large ? 0 : 3);
        }
    });
    p.start();
    p.join();
    CHECK(p.exitcode() == 0);
}

TEST_CASE("Queue: close wakes a thread that polls", "[queue][bell][threads]") {
    mp::Queue<int> q;
    const int fd = q.fileno();
    std::thread poller([&] {
        pollfd one{fd, POLLIN, 0};
        ::poll(&one, 1, -1);
    });
    q.close();
    poller.join();
    CHECK(readable(fd));
}
