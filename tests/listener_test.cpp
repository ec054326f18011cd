// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/connection.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <multiprocessing/process.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

namespace {

/// A directory of its own, gone at the end.
struct directory {
    std::string path;
    directory() {
        char name[] = "/tmp/mp-listener-XXXXXX";
        path = ::mkdtemp(name);
    }
    ~directory() {
        ::unlink((path + "/s").c_str());
        ::rmdir(path.c_str());
    }
};

/// A client that does not know the protocol.
int connect_to(const mp::Address& to) {
    const mp::detail::unix_address where(to);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::connect(fd, where.get(), where.size()) != 0) test::give_up("connect");
    return fd;
}

/// Sends a greeting with these descriptors.
void greet(int socket, mp::detail::greeting hello, const std::vector<int>& fds) {
    iovec bytes{&hello, sizeof hello};
    alignas(cmsghdr) char control[CMSG_SPACE(3 * sizeof(int))]{};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
        cmsghdr* part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
        std::memcpy(CMSG_DATA(part), fds.data(), fds.size() * sizeof(int));
    }
    REQUIRE(::sendmsg(socket, &message, MSG_NOSIGNAL) == sizeof hello);
}
mp::detail::greeting greeting_of(mp::detail::region_id id, std::uint64_t size,
                                 std::uint64_t owner) {
    using mp::detail::greeting;
    return {greeting::right_magic, greeting::right_version, sizeof(void*), id, size, owner};
}

bool exists(const std::string& path) {
    struct stat info;
    return ::lstat(path.c_str(), &info) == 0;
}

bool dropped(int fd) {
    pollfd one{fd, POLLIN, 0};
    char byte;
    return ::poll(&one, 1, 30'000) == 1 && ::read(fd, &byte, 1) <= 0;
}

}  // namespace

TEST_CASE("Listener: a client is accepted, and both speak as through a pipe", "[listener]") {
    const test::no_leaks guard;
    directory place;
    const std::string kind = GENERATE("path", "abstract", "default");
    mp::Listener listener(kind == "path"       ? mp::Address(place.path + "/s")
                          : kind == "abstract" ? "@mp-test-" + std::to_string(::getpid())
                                               : mp::Address());
    CHECK_THROWS_AS(listener.accept(0s), mp::TimeoutError);
    auto client = mp::Client(listener.address());
    client.send(1);
    auto server = listener.accept();
    CHECK_FALSE(listener.last_accepted());
    server.send("text");
    CHECK(server.recv<int>() == 1);
    CHECK(client.recv<std::string>() == "text");
    client.send(2);
    client.close();
    CHECK(server.recv<int>() == 2);
    CHECK_THROWS_AS(server.recv<int>(), mp::EndOfFile);
}

TEST_CASE("Listener: a client in another process, killed, is at its end", "[listener][process]") {
    const test::no_leaks guard;
    mp::Listener listener;
    mp::Process child([to = listener.address()] {
        auto c = mp::Client(to);
        c.send(c.recv<int>() + 1);
        c.recv<int>();
    });
    child.start();
    auto server = listener.accept();
    server.send(1);
    CHECK(server.recv<int>() == 2);
    child.kill();
    CHECK_THROWS_AS(server.recv<int>(), mp::EndOfFile);
    child.join();
}

TEST_CASE("Listener: a server that is killed is the client's end, accepted or not",
          "[listener][process]") {
    mp::Listener listener;
    auto first = mp::Client(listener.address()), second = mp::Client(listener.address());
    {
        auto server = listener.accept();
        first.send(1);
        CHECK(server.recv<int>() == 1);
        listener.close();
        CHECK_THROWS_AS(second.recv<int>(), mp::EndOfFile);  // never accepted
        CHECK_FALSE(first.poll());
    }
    CHECK_THROWS_AS(first.recv<int>(), mp::EndOfFile);
    CHECK_THROWS_AS(first.send(1), mp::EndOfFile);
    mp::Process server([] {
        mp::Listener in_child("@mp-test-server-" + std::to_string(::getppid()));
        auto accepted = in_child.accept();
        accepted.send(1);
        accepted.recv<int>();
    });
    server.start();
    std::optional<mp::Connection<>> client;
    REQUIRE(test::eventually([&] {
        try {
            client = mp::Client("@mp-test-server-" + std::to_string(::getpid()));
            return true;
        } catch (const mp::OsError&) {
            return false;
        }
    }));
    CHECK(client->recv<int>() == 1);
    server.kill();
    CHECK_THROWS_AS(client->recv<int>(), mp::EndOfFile);
    server.join();
}

TEST_CASE("Listener: of a killed one's clients none waits, whatever its children have (K1)",
          "[listener][process]") {
    const std::string way = GENERATE("recv", "poll", "wait", "fileno", "send", "later");
    directory place;
    const std::string path = place.path + "/s";
    struct facts {
        std::atomic<int> idle, connected;
    };
    auto& sh = test::shared_memory<facts>();
    test::child server([&] {
        mp::Listener here(path);
        if (const pid_t idle = ::fork(); idle != 0)
            sh.idle = idle;
        else
            ::pause();  // has the socket
        return ::pause();
    });
    REQUIRE(test::eventually([&] { return sh.idle != 0; }));
    test::child client([&] {
        auto c = mp::Client(path);
        auto [carried, kept] = mp::Pipe<int>();
        c.send(carried);
        sh.connected = 1;
        if (way == "poll" && !c.poll(1h)) return 1;
        if (way == "wait" && mp::wait({c}).size() != 1) return 2;
        if (pollfd one{way == "fileno" ? c.fileno() : -1, POLLIN, 0};
            one.fd >= 0 && ::poll(&one, 1, -1) != 1)
            return 3;
        if (way == "later") ::raise(SIGSTOP);
        try {
            for (;;)
                if (way == "send")
                    c.send(std::string(100'000, 'x'));
                else
                    c.recv<int>();
        } catch (const mp::EndOfFile&) {
        }
        { const auto gone = std::move(carried); }
        try {
            kept.recv();
        } catch (const mp::EndOfFile&) {
            return 0;
        }
        return 4;
    });
    REQUIRE(test::eventually([&] { return sh.connected == 1; }));
    if (way == "later")
        REQUIRE(test::eventually([&] { return test::process_state(client.pid()) == 'T'; }));
    else
        CHECK(client.wait_asleep());
    server.kill();
    client.go_on();
    CHECK(client.exit_status() == std::optional<int>(0));
    try {
        mp::Client(path).poll();
        FAIL("connected");
    } catch (const mp::OsError& e) {
        CHECK(e.code() == std::errc::connection_refused);
    }
    mp::Listener next(path);  // its file is replaced
    auto c = mp::Client(path);
    c.send(1);
    CHECK(next.accept(test::patience).recv<int>() == 1);
    ::kill(sh.idle, SIGKILL);
}

TEST_CASE("Listener: forked children accept on when its maker was killed, each in its turn (K1)",
          "[listener][process]") {
    directory place;
    const std::string path = place.path + "/s";
    struct facts {
        std::atomic<int> listens, child[2];
    };
    auto& sh = test::shared_memory<facts>();
    test::child maker([&] {
        mp::Listener here(path);
        for (auto& pid : sh.child) {
            const pid_t forked = ::fork();
            if (forked == 0)
                for (;;) {
                    auto accepted = here.accept();
                    accepted.send(::getpid());
                    try {
                        accepted.recv<int>();
                    } catch (const mp::EndOfFile&) {
                    }
                }
            pid = forked;
        }
        sh.listens = 1;
        return ::pause();
    });
    REQUIRE(test::eventually([&] { return sh.listens == 1; }));
    const auto served = [&] {
        int by = 0;
        REQUIRE(test::eventually([&] {
            try {
                by = mp::Client(path).recv<int>();
            } catch (const mp::OsError&) {  // nobody noticed yet
            } catch (const mp::EndOfFile&) {
            }
            return by != 0;
        }));
        return by;
    };
    auto before = mp::Client(path);
    const int first = before.recv<int>();
    REQUIRE((first == sh.child[0] || first == sh.child[1]));
    const int second = first == sh.child[0] ? sh.child[1] : sh.child[0];
    maker.kill();
    CHECK(served() == second);   // the first is busy with one
    CHECK_FALSE(before.poll());  // which does not end with the maker
    CHECK_THROWS_AS(mp::Listener(path), mp::OsError);
    before.close();
    ::kill(second, SIGKILL);
    CHECK(test::eventually(
        [&] { return std::strchr("?Z", test::process_state(second)) != nullptr; }));
    CHECK(served() == first);
    ::kill(first, SIGKILL);
}

TEST_CASE("Listener: moved into a Process it outlives its maker", "[listener][process]") {
    auto& child = test::shared_memory<std::atomic<int>>();
    auto& go = test::shared_memory<std::atomic<int>>();
    const std::string name = "@mp-test-moved-" + std::to_string(::getpid());
    test::child maker([&] {
        mp::Listener listener(name);
        mp::Process one([mine = std::move(listener), &go]() mutable {
            while (go == 0) test::pause_briefly();
            mine.accept().send(1);
        });
        one.start();
        child = *one.pid();
        return ::pause();
    });
    REQUIRE(test::eventually([&] { return child != 0; }));
    CHECK(test::eventually([&] {  // says so before its user code runs
        const mp::detail::unique_fd probe(connect_to(name));
        return mp::detail::peer_of(probe.get()).pid == child;
    }));
    auto c = mp::Client(name);
    maker.kill();
    CHECK_FALSE(c.poll());
    go = 1;
    CHECK(c.recv<int>() == 1);
}

TEST_CASE("Listener: the file has mode 0600, and is gone after close", "[listener]") {
    directory place;
    const std::string path = place.path + "/s";
    const mode_t mask = ::umask(0);
    mp::Listener listener(path);
    ::umask(mask);
    struct stat info;
    REQUIRE(::lstat(path.c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
    mp::Process child([&] { listener.close(); });
    child.start();
    child.join();
    CHECK(exists(path));  // it is not the child's
    listener.close();
    CHECK_FALSE(exists(path));
    CHECK_THROWS_AS(listener.accept(), mp::ClosedError);
    CHECK_THROWS_AS(mp::Client(path), mp::OsError);
}

TEST_CASE("Listener: the file of a killed one is replaced, that of a living one is not",
          "[listener][process]") {
    directory place;
    const std::string path = place.path + "/s";
    mp::Process child([&] {
        mp::Listener here(path);
        here.accept();
        here.accept();
    });
    child.start();
    REQUIRE(test::eventually([&] {
        try {
            mp::Client(path).poll();
            return true;
        } catch (const mp::OsError&) {
            return false;
        }
    }));
    try {
        mp::Listener second(path);
        FAIL("no error");
    } catch (const mp::OsError& e) {
        CHECK(e.code() == std::errc::address_in_use);
    }
    child.kill();
    child.join();
    CHECK(exists(path));
    CHECK_THROWS_AS(mp::Client(path), mp::OsError);
    mp::Listener third(path);
    auto client = mp::Client(path);
    client.send(1);
    CHECK(third.accept().recv<int>() == 1);
    third.close();
    ::close(::open(path.c_str(), O_CREAT | O_WRONLY, 0600));
    CHECK_THROWS_AS(mp::Listener(path), mp::OsError);  // no socket: not ours to remove
    CHECK(exists(path));
}

TEST_CASE("Listener: silent clients and those that send garbage delay nobody", "[listener]") {
    const test::no_leaks guard;
    mp::Listener listener({}, {.login_timeout = 50ms});
    std::vector<int> silent, loud;
    for (int i = 0; i < 20; ++i) silent.push_back(connect_to(listener.address()));
    for (int i = 0; i < 20; ++i) {
        loud.push_back(connect_to(listener.address()));
        const std::string garbage(static_cast<std::size_t>(1 + 13 * i), 'x');
        ::send(loud.back(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
    }
    auto client = mp::Client(listener.address());
    client.send(1);
    CHECK(listener.accept(test::patience).recv<int>() == 1);
    CHECK_THROWS_AS(listener.accept(100ms), mp::TimeoutError);
    for (const int fd : silent) CHECK(dropped(fd));
    for (const int fd : loud) CHECK(dropped(fd));
    for (const int fd : silent) ::close(fd);
    for (const int fd : loud) ::close(fd);
}

TEST_CASE("Listener: a greeting with the wrong descriptors is refused", "[listener]") {
    const test::no_leaks guard;
    mp::Listener listener;
    const int right = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (const int count : {0, 1, 3}) {
        const int fd = connect_to(listener.address());
        greet(fd, greeting_of({1, 2}, 4096, 7),
              std::vector<int>(static_cast<std::size_t>(count), right));
        CHECK_THROWS_AS(listener.accept(1ms), mp::TimeoutError);
        CHECK(dropped(fd));
        ::close(fd);
    }
    ::close(right);
}

TEST_CASE("Listener: clients that keep connecting delay nobody for ever", "[listener][process]") {
    mp::Listener listener({}, {.backlog = 4000});
    auto client = mp::Client(listener.address());
    std::vector<test::child> flood;
    for (int i = 0; i < 8; ++i)
        flood.emplace_back([&]() -> int {
            for (;;) ::close(connect_to(listener.address()));
        });
    std::atomic<int> done{0};
    std::thread accepts([&] {
        try {
            auto server = listener.accept(test::patience);
            server.send(1);
            done = 1;
            listener.accept(50ms);
        } catch (const mp::TimeoutError&) {
            done = done + 1;
        }
    });
    CHECK(test::eventually([&] { return done == 2; }));
    CHECK(client.poll(0s));
    for (auto& one : flood) one.kill();
    accepts.join();
}

TEST_CASE("Listener: what a client sends that can't be mapped is its own failure", "[listener]") {
    const test::no_leaks guard;
    mp::Listener listener;
    const int file = ::memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    for (const int bits : {34, 40, 47, 62}) {
        const std::uint64_t size = std::uint64_t{1} << bits;
        if (::ftruncate(file, static_cast<off_t>(size)) != 0) continue;
        const int fd = connect_to(listener.address());
        const mp::detail::pipe_ends pipe = mp::detail::make_pipe();
        const int sealed = ::fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK);
        REQUIRE(sealed == 0);
        const int both = ::open(("/proc/self/fd/" + std::to_string(pipe.reader.get())).c_str(),
                                O_RDWR | O_CLOEXEC);
        greet(fd, greeting_of({1, 2}, size, 7), {file, pipe.reader.get(), both});
        CHECK_THROWS_AS(listener.accept(1ms), mp::TimeoutError);
        CHECK(dropped(fd));
        ::close(fd);
        ::close(both);
    }
    ::close(file);
    auto client = mp::Client(listener.address());
    client.send(1);
    CHECK(listener.accept().recv<int>() == 1);
}

TEST_CASE("Listener: a client with pipes that block does not block its server", "[listener]") {
    const test::no_leaks guard;
    mp::Listener listener;
    auto [mine, theirs] = mp::detail::end<>::make_pair(0, true);
    mp::detail::end<>::departure leaves(std::move(theirs), ::getpid(), 0);
    const auto fds = leaves.descriptors();
    const int fd = connect_to(listener.address());
    const int bell = ::dup(fds[1]);
    REQUIRE(::fcntl(bell, F_SETFL, 0) == 0);
    greet(fd, greeting_of(leaves.id(), leaves.size(), leaves.owner()), {fds.begin(), fds.end()});
    leaves.gone();
    auto server = listener.accept(test::patience);
    REQUIRE(::fcntl(bell, F_SETFL, 0) == 0);
    // Else it is stuck under a lock of the ring, until somebody writes into the pipe.
    std::atomic<bool> polled{false}, found{false};
    std::thread polls([&] {
        found = server.poll(10ms);
        polled = true;
    });
    CHECK(test::eventually([&] { return polled.load(); }, 10s));
    const int writer = ::open(("/proc/self/fd/" + std::to_string(bell)).c_str(),
                              O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (!polled) REQUIRE(::write(writer, "", 1) == 1);
    polls.join();
    CHECK_FALSE(found);
    ::close(writer);
    ::close(bell);
    ::close(fd);
    mp::detail::end<>::let_go(std::move(mine));
}

TEST_CASE("Listener: a forked child's close changes nothing for its parent",
          "[listener][process]") {
    directory place;
    const std::string path = place.path + "/s";
    mp::Listener listener(path);
    test::child closes([&] {
        listener.close();
        return 0;
    });
    CHECK(closes.exit_status() == std::optional<int>(0));
    CHECK(exists(path));
    pollfd one{listener.fileno(), POLLIN, 0};
    CHECK(::poll(&one, 1, 0) == 0);
    auto client = mp::Client(path);
    client.send(1);
    CHECK(listener.accept(test::patience).recv<int>() == 1);
    CHECK(::poll(&one, 1, 0) == 0);
}

TEST_CASE("Listener: forked children accept, while threads of the parent do",
          "[listener][process][threads]") {
    mp::Listener listener;
    std::atomic<bool> connecting{true}, accepting{true};
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&] {
            while (accepting) try {
                    listener.accept(0s);
                } catch (const mp::TimeoutError&) {
                }
        });
    std::thread connects([&] {
        while (connecting) try {
                mp::Client(listener.address()).poll();
            } catch (const mp::OsError&) {  // a child took it in, and ended
            }
    });
    for (int i = 0; i < 50; ++i) {
        test::child accepts([&] {
            try {
                listener.accept(0s);
            } catch (const mp::TimeoutError&) {
            }
            listener.fileno();
            return 0;
        });
        REQUIRE(accepts.exit_status() == std::optional<int>(0));
    }
    connecting = false;
    connects.join();  // while others accept: it may wait for the backlog
    accepting = false;
    for (auto& one : threads) one.join();
}

TEST_CASE("Listener: close ends it in forked children, and for those who were not accepted",
          "[listener][process]") {
    const bool accepting = GENERATE(false, true);
    mp::Listener listener;
    auto& started = test::shared_memory<std::atomic<int>>();
    const auto end_of_it = [&] {
        started = 1;
        if (!accepting) ::pause();
        try {
            for (;;) listener.accept();
        } catch (const mp::ClosedError&) {
            return 0;
        }
    };
    test::child child(end_of_it);
    REQUIRE(test::eventually([&] { return started == 1; }));
    if (accepting) {
        CHECK(child.wait_asleep());
        listener.close();
        CHECK(child.exit_status() == std::optional<int>(0));
    } else {
        auto client = mp::Client(listener.address());
        const mp::Address address = listener.address();
        std::vector<int> fill;  // it takes no descriptor that it has not got
        rlimit before{};
        ::getrlimit(RLIMIT_NOFILE, &before);
        const rlimit now{std::min<rlim_t>(256, before.rlim_max), before.rlim_max};
        ::setrlimit(RLIMIT_NOFILE, &now);
        if (!test::address_sanitizer)  // UBSan reads memory through a pipe, and says it can't
            for (int fd; (fd = ::dup(2)) >= 0;) fill.push_back(fd);
        listener.close();
        for (const int fd : fill) ::close(fd);
        ::setrlimit(RLIMIT_NOFILE, &before);
        REQUIRE(client.poll(test::patience));
        CHECK_THROWS_AS(client.recv<int>(), mp::EndOfFile);
        try {
            mp::Client(address).poll();
            FAIL("connected");
        } catch (const mp::OsError& e) {
            CHECK(e.code() == std::errc::connection_refused);
        }
    }
}

TEST_CASE("Listener: a client is dropped though a forked child was there", "[listener][process]") {
    mp::Listener listener({}, {.login_timeout = 20ms});
    const int silent = connect_to(listener.address());
    CHECK_THROWS_AS(listener.accept(0s), mp::TimeoutError);
    test::child child([] { return ::pause(); });
    CHECK_THROWS_AS(listener.accept(50ms), mp::TimeoutError);
    CHECK(dropped(silent));
    ::close(silent);
}

TEST_CASE("Listener: moved into a Process it is the child's", "[listener][process]") {
    directory place;
    const std::string path = place.path + "/s";
    {
        mp::Listener listener(path);
        mp::Process child([mine = std::move(listener)]() mutable {
            mine.accept().send(1);
            mine.close();
            ::pause();
        });
        child.start();
        CHECK(mp::Client(path).recv<int>() == 1);
        CHECK(test::eventually([&] { return !exists(path); }));
        CHECK_THROWS_AS(mp::Client(path), mp::OsError);
        child.kill();
        child.join();
    }
}

TEST_CASE("Listener: what has no transport here says which there are", "[listener]") {
    CHECK_THROWS_WITH(mp::Listener("127.0.0.1:0"),
                      Catch::Contains("mp::tls") && Catch::Contains("mp::insecure"));
    CHECK_THROWS_WITH(mp::Client("localhost:80"),
                      Catch::Contains("mp::tls") && Catch::Contains("mp::insecure"));
    CHECK_THROWS_WITH(mp::Listener("@x", {.authkey = mp::AuthKey::generate()}),
                      Catch::Contains("mp::tls") && Catch::Contains("mp::insecure"));
    const std::string path = "/tmp/" + std::string(103, 'x');
    CHECK_THROWS_WITH(mp::Listener(path), Catch::Contains("107"));
    CHECK_THROWS_WITH(mp::Client('@' + std::string(108, 'x')), Catch::Contains("107"));
    mp::Listener longest('@' + std::string(100, 'x') + std::to_string(1'000'000 + ::getpid()));
    CHECK(longest.address().to_string().size() == 108);
    CHECK_THROWS_AS(mp::Client(""), mp::Error);
    CHECK_THROWS_AS(mp::Client("/nowhere/s"), mp::OsError);
    CHECK(mp::Address("[::1]:80").is_tcp());
    CHECK_FALSE(mp::Address("./a:80").is_tcp());
    CHECK(mp::Address(std::string_view("a")) == mp::Address("a"));
}

TEST_CASE("Listener: wait names it when a client logged in, and only then", "[listener][wait]") {
    mp::Listener listener;
    auto [a, b] = mp::Pipe<int>();
    CHECK(mp::wait({listener, a}, 0s).empty());
    const int silent = connect_to(listener.address());
    CHECK(mp::wait({listener, a}, 1ms).empty());
    auto client = mp::Client(listener.address());
    pollfd one{listener.fileno(), POLLIN, 0};
    CHECK(::poll(&one, 1, 30'000) == 1);
    CHECK(mp::wait({a, listener}) == std::vector<std::size_t>{1});
    auto server = listener.accept();
    CHECK(mp::wait({listener, a}, 1ms).empty());
    ::close(silent);
}

TEST_CASE("Listener: processes of other users get nowhere, whatever they say",
          "[listener][process]") {
    if (::geteuid() != 0) return;  // who can't be another user
    mp::Listener listener({}, {.login_timeout = 1h});
    const auto accepted = [&] {
        try {
            static_cast<void>(listener.accept(1ms));
        } catch (const mp::TimeoutError&) {
            return false;
        }
        return true;
    };
    test::child same([&] {
        const int fd = connect_to(listener.address());
        const auto end = mp::detail::give_end<>(fd, "a client of its own");
        return dropped(fd) ? 0 : 3;
    });
    CHECK(test::eventually(accepted));
    CHECK(same.exit_status() == std::optional<int>(0));
    test::child other([&] {
        if (::setresuid(65534, 65534, 65534) != 0) return 2;
        try {
            mp::Client(listener.address());
            return 4;
        } catch (const mp::AuthenticationError&) {
        }
        const int silent = connect_to(listener.address()), fd = connect_to(listener.address());
        try {
            static_cast<void>(mp::detail::give_end<>(fd, "a client of its own"));
        } catch (const mp::OsError& e) {  // dropped already
            if (e.code() != std::errc::broken_pipe) return 5;
        }
        return dropped(silent) && dropped(fd) ? 0 : 3;
    });
    bool any = false;
    CHECK(test::eventually([&] {
        any = accepted() || any;
        return other.ended();
    }));
    CHECK_FALSE(any);
    CHECK(other.exit_status() == std::optional<int>(0));
}

TEST_CASE("Listener: a signal does not end accept", "[listener][process][signal]") {
    const test::no_leaks guard;
    mp::Listener listener;
    test::interruptions signals;
    test::child accepts([&] {
        signals.count_here();
        return listener.accept().recv<int>();
    });
    CHECK(signals.interrupt(accepts));
    auto client = mp::Client(listener.address());
    CHECK(signals.interrupt(accepts));  // in recv by now
    client.send(7);
    CHECK(accepts.exit_status() == 7);
}

TEST_CASE("Listener: close ends an accept in another thread", "[listener][threads]") {
    mp::Listener listener;
    std::atomic<bool> told{false};
    std::thread waits([&] {
        try {
            listener.accept();
        } catch (const mp::ClosedError&) {
            told = true;
        }
    });
    test::pause_briefly(5ms);  // most of them sleep by now; the result is the same if not
    listener.close();
    waits.join();
    CHECK(told);
}

TEST_CASE("Listener: max_message bounds what is sent and received", "[listener]") {
    mp::Listener listener({}, {.max_message = 100});
    auto client = mp::Client(listener.address());
    auto server = listener.accept();
    client.send(std::string(500, 'x'));
    client.send(1);
    CHECK_THROWS_AS(server.recv<std::string>(), mp::SerializationError);
    CHECK(server.recv<int>() == 1);
    CHECK_THROWS_WITH(server.send(std::string(500, 'x')), Catch::Contains("max_message"));
    auto careful = mp::Client(listener.address(), {.max_message = 10});
    CHECK_THROWS_WITH(careful.send(std::string(50, 'x')), Catch::Contains("max_message"));
}

TEST_CASE("Listener: many clients at once, and 1,000 one after the other", "[listener][process]") {
    const test::no_leaks guard;
    mp::Listener listener;
    std::vector<mp::Process> children;
    for (int i = 0; i < 8; ++i)
        children.emplace_back([i, to = listener.address()] {
            auto c = mp::Client(to);
            c.send(i);
            if (c.recv<int>() != i) ::_exit(2);
        });
    for (auto& child : children) child.start();
    for (std::size_t i = 0; i < children.size(); ++i) {
        auto c = listener.accept();
        c.send(c.recv<int>());
        CHECK_THROWS_AS(c.recv<int>(), mp::EndOfFile);
    }
    for (auto& child : children) {
        child.join();
        CHECK(child.exitcode() == 0);
    }
    for (int i = 0; i < 1000; ++i) {
        auto c = mp::Client(listener.address());
        auto s = listener.accept();
    }
}

TEST_CASE("Listener: 1,000 made and closed leave nothing", "[listener]") {
    directory place;
    const test::no_leaks guard;
    for (int i = 0; i < 1000; ++i) {
        mp::Listener one(i % 2 == 0 ? mp::Address(place.path + "/s") : mp::Address());
        auto waits = mp::Client(one.address());
    }
    CHECK_FALSE(exists(place.path + "/s"));
}

TEST_CASE("Listener: without descriptors left each failure is an OsError and leaks nothing",
          "[listener][process]") {
    if (test::address_sanitizer) return;  // UBSan reads memory through a pipe, and says it can't
    test::child limited([] {
        {
            mp::Listener first;
            auto c = mp::Client(first.address());
            first.accept();
        }
        const rlimit few{64, 64};
        ::setrlimit(RLIMIT_NOFILE, &few);
        const std::size_t before = test::open_descriptors().size();
        for (int taken = 0; taken < 64; ++taken) {
            std::vector<int> fill;
            for (int i = 0; i < taken; ++i)
                if (const int fd = ::dup(2); fd >= 0) fill.push_back(fd);
            try {
                mp::Listener listener;
                auto c = mp::Client(listener.address());
                auto s = listener.accept(1s);
                s.send(1);
                if (c.recv<int>() != 1) return 2;
            } catch (const mp::OsError& e) {
                if (e.code() != std::errc::too_many_files_open) return 3;
            }
            for (const int fd : fill) ::close(fd);
            if (test::open_descriptors().size() != before) return 4;
        }
        return 0;
    });
    CHECK(limited.exit_status() == std::optional<int>(0));
}
