// SPDX-License-Identifier: BSL-1.0

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"
#include "support/raw_tcp.hpp"
#include "support/reports.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

namespace {

const mp::ListenerOptions listens{.transport = mp::insecure};
const mp::ClientOptions connects{.transport = mp::insecure, .timeout = test::patience};

/// Both ends of a connection through TCP.
struct pair_of_ends {
    mp::Connection<> client, server;
};
pair_of_ends connect(mp::Listener& listener, const mp::ClientOptions& options = connects) {
    pair_of_ends made;
    std::thread other([&] { made.client = mp::Client(listener.address(), options); });
    made.server = listener.accept(test::patience);
    other.join();
    return made;
}
pair_of_ends connect() {
    mp::Listener listener("127.0.0.1:0", listens);
    return connect(listener);
}

template <class F>
std::string refused(F f) {
    try {
        f();
    } catch (const mp::Error& e) {
        return e.what();
    }
    return "";
}

std::string hello() {
    const mp::detail::remote_hello says{.max_message = 1 << 20};
    return std::string(reinterpret_cast<const char*>(&says), sizeof says);
}
std::string header(std::uint64_t length) {
    const mp::detail::remote_header says{length, 0};
    return std::string(reinterpret_cast<const char*>(&says), sizeof says);
}

struct point {
    int x, y;
    std::string name;
};

}  // namespace

TEST_CASE("remote: messages of any type and size, in both directions", "[remote]") {
    const test::no_leaks guard;
    auto [a, b] = connect();
    a.send(point{1, 2, "three"});
    const auto p = b.recv<point>();
    CHECK((p.x == 1 && p.y == 2 && p.name == "three"));
    b.send(std::map<std::string, std::vector<int>>{{"k", {1, 2}}});
    CHECK(a.recv<std::map<std::string, std::vector<int>>>().at("k").back() == 2);
    for (const std::size_t size :
         std::vector<std::size_t>{0, 1, 16367, 16368, 16369, 65536, 1'000'001}) {
        const std::string text(size, 'x');
        a.send_bytes(std::as_bytes(std::span(text)));
        CHECK(b.recv_bytes().size() == size);
    }
    std::vector<double> many(1'000'000);
    std::iota(many.begin(), many.end(), 0.0);
    std::thread sends([&, &to = a] { to.send(many); });  // longer than the kernel buffers
    CHECK(b.recv<std::vector<double>>() == many);
    sends.join();
    CHECK_THROWS_AS((b.send(1), a.recv<std::string>()), mp::SerializationError);
    b.send(2);
    CHECK(a.recv<int>() == 2);
}

TEST_CASE("remote: each side may send while it receives", "[remote][threads]") {
    auto [a, b] = connect();
    static constexpr int count = 300;
    const auto sends = [](mp::Connection<>& to) {
        for (int i = 0; i < count; ++i)
            to.send(std::vector<int>(static_cast<std::size_t>(i) * 50, i));
    };
    const auto receives = [](mp::Connection<>& from) {
        int right = 0;
        for (int i = 0; i < count; ++i)
            right += from.recv<std::vector<int>>() ==
                     std::vector<int>(static_cast<std::size_t>(i) * 50, i);
        return right;
    };
    std::thread one([&, &e = a] { sends(e); }), two([&, &e = b] { sends(e); });
    int right = 0;
    std::thread three([&, &e = a] { right = receives(e); });
    CHECK(receives(b) == count);
    for (std::thread* t : {&one, &two, &three}) t->join();
    CHECK(right == count);
}

TEST_CASE("remote: addresses", "[remote]") {
    for (const char* where : {"127.0.0.1:0", "localhost:0", "[::1]:0"}) {
        CAPTURE(where);
        std::optional<mp::Listener> listener;
        try {
            listener.emplace(where, listens);
        } catch (const mp::OsError&) {
            if (std::strcmp(where, "[::1]:0") != 0) throw;
            WARN("no IPv6 on this machine");
            continue;
        }
        CHECK(listener->address().is_tcp());
        CHECK(test::port_of(listener->address()) != 0);
        CHECK(!listener->last_accepted());
        auto [a, b] = connect(*listener);
        a.send(7);
        CHECK(b.recv<int>() == 7);
        REQUIRE(listener->last_accepted());
        CHECK(listener->last_accepted()->is_tcp());
    }
    CHECK_THAT(refused([] { mp::Client("no.such.host.invalid:1", connects); }),
               Catch::Contains("no.such.host.invalid"));
    std::string free;
    {
        mp::Listener listener("127.0.0.1:0", listens);
        free = listener.address().to_string();
        CHECK_THAT(refused([&] { mp::Listener(free, listens); }),
                   Catch::Contains("Address already in use"));
    }
    CHECK_THAT(refused([&] { mp::Client(free, connects); }), Catch::Contains("Connection refused"));
}

TEST_CASE("remote: a transport must be said, and go with the key", "[remote]") {
    const auto key = mp::AuthKey::generate();
    const auto names_both = [](const std::string& text) {
        return text.find("mp::tls") != text.npos && text.find("mp::insecure") != text.npos;
    };
    CHECK(names_both(refused([] { mp::Listener("127.0.0.1:0"); })));
    CHECK(names_both(refused([] { mp::Client("127.0.0.1:1"); })));
    CHECK(names_both(refused([&] { mp::Listener("", {.authkey = key}); })));
    CHECK(names_both(refused([&] { mp::Client("@x", {.authkey = key}); })));
    CHECK(names_both(refused(
        [&] { mp::Listener("127.0.0.1:0", {.authkey = key, .transport = mp::insecure}); })));
}

TEST_CASE("remote: what was sent arrives, and then the end of the file", "[remote][process]") {
    mp::Listener listener("127.0.0.1:0", listens);
    SECTION("after close()") {
        auto [a, b] = connect(listener);
        for (int i = 0; i < 100; ++i) a.send(i);
        b.send(1);  // never received
        a.close();
        CHECK(a.closed());
        CHECK_THROWS_AS(a.send(1), mp::ClosedError);
        for (int i = 0; i < 100; ++i) CHECK(b.recv<int>() == i);
        CHECK(b.poll());
        CHECK_THROWS_AS(b.recv<int>(), mp::EndOfFile);
        CHECK_THROWS_AS(b.recv<int>(), mp::EndOfFile);
        // The kernel learns by the first that nobody is there.
        const auto send_on = [&, &to = b] {
            for (;;) to.send(std::string(100'000, 'x'));
        };
        CHECK_THROWS_AS(send_on(), mp::EndOfFile);
    }
    SECTION("after SIGKILL, though a child of the dead one lives") {
        auto& grandchild = test::shared_memory<std::atomic<pid_t>>();
        test::child dies([&] {
            auto c = mp::Client(listener.address(), connects);
            const pid_t pid = ::fork();
            if (pid == 0) ::pause();
            c.send(5);
            grandchild = pid;
            return ::pause();
        });
        auto c = listener.accept(test::patience);
        CHECK(c.recv<int>() == 5);
        REQUIRE(test::eventually([&] { return grandchild != 0; }));
        dies.kill();
        CHECK_THROWS_AS(c.recv<int>(), mp::EndOfFile);
        CHECK(::kill(grandchild, SIGKILL) == 0);
    }
    SECTION("in the middle of a message") {
        const auto stranger = test::tcp_connect(listener.address());
        REQUIRE(stranger.send(hello()));
        auto c = listener.accept(test::patience);
        REQUIRE(stranger.send(header(100) + "ten bytes."));
        CHECK(!c.poll());
        ::shutdown(stranger.get(), SHUT_WR);
        CHECK(c.poll(test::patience));
        CHECK_THAT(refused([&] { c.recv_bytes(); }), Catch::Contains("in the middle"));
    }
}

TEST_CASE("remote: what was sent arrives, though the receiver sends while the sender closes",
          "[remote]") {
    for (int round = 0; round < 20; ++round) {
        auto [a, b] = connect();
        std::thread sends([&, &to = b] {
            refused([&] {
                for (;;) to.send(1);
            });
        });
        int got = 0;
        std::thread receives([&, &from = b] {
            refused([&] {
                for (;;) got += from.recv<std::string>().size() == 100'000;
            });
        });
        for (int i = 0; i < 20; ++i) a.send(std::string(100'000, 'x'));
        a.close();
        receives.join();
        sends.join();
        CHECK(got == 20);
    }
}

TEST_CASE("remote: close() in another thread ends what waits", "[remote][threads]") {
    auto [a, b] = connect();
    bool closed = false;
    std::thread waits([&, &from = a] {
        try {
            from.recv<int>();
        } catch (const mp::ClosedError&) {
            closed = true;
        } catch (const mp::EndOfFile&) {  // its own end: it was just looking there
            closed = true;
        }
    });
    test::pause_briefly(1ms);  // it may come before or after: both end
    a.close();
    waits.join();
    CHECK(closed);
    CHECK_THROWS_AS(b.recv<int>(), mp::EndOfFile);
}

TEST_CASE("remote: one that stops in the middle of a message is given up, whoever waits how",
          "[remote]") {
    mp::Listener listener("127.0.0.1:0", {.transport = mp::insecure, .unreachable_timeout = 50ms});
    const auto stranger = test::tcp_connect(listener.address());
    REQUIRE(stranger.send(hello()));
    auto c = listener.accept(test::patience);
    const auto begin = test::clock::now();
    REQUIRE(stranger.send(header(100) + "ten bytes."));
    SECTION("in recv()") {}
    SECTION("in poll(), which is asked again and again") {
        CHECK(!c.poll());
        CHECK(test::eventually([&] { return c.poll(1ms); }));
    }
    SECTION("in wait()") { CHECK(mp::wait({c}, test::patience) == std::vector<std::size_t>{0}); }
    SECTION("in poll(2) of fileno()") {
        CHECK(!c.poll());
        pollfd one{c.fileno(), POLLIN, 0};
        while (!c.poll()) REQUIRE(::poll(&one, 1, 30'000) == 1);
        CHECK(::poll(&one, 1, 0) == 1);
    }
    CHECK_THAT(refused([&] { c.recv_bytes(); }), Catch::Contains("stopped in the middle"));
    CHECK(test::clock::now() - begin >= 50ms);
    CHECK(c.poll());
    CHECK_THROWS_AS(c.recv_bytes(), mp::EndOfFile);
    CHECK(stranger.ended());
}

TEST_CASE("remote: one that receives nothing is given up, and holds up nobody else",
          "[remote][threads]") {
    mp::Listener listener("127.0.0.1:0", {.transport = mp::insecure, .unreachable_timeout = 200ms});
    const auto reads_nothing = test::tcp_connect(listener.address());
    REQUIRE(reads_nothing.send(hello()));  // it takes a MiB at most
    auto to_it = listener.accept(test::patience);
    const auto begin = test::clock::now();
    std::string what;
    std::atomic<bool> ended{false};
    std::thread sends([&] {
        what = refused([&] {
            for (const std::string text(1'000'000, 'x');;) to_it.send(text);
        });
        ended = true;
    });
    do {
        auto [good, served] = connect(listener);
        good.send(1);
        CHECK(served.recv<int>() == 1);
        served.send(std::string(100'000, 'y'));
        CHECK(good.recv<std::string>().size() == 100'000);
    } while (!ended && test::clock::now() - begin < test::patience);
    CHECK(ended);
    ::shutdown(reads_nothing.get(), SHUT_RDWR);  // so that a failed test ends
    sends.join();
    CHECK(test::clock::now() - begin >= 200ms);
    CHECK_THAT(what, Catch::Contains("can't be reached"));
    CHECK_THROWS_AS(to_it.send(1), mp::EndOfFile);
    CHECK_THROWS_AS(to_it.recv<int>(), mp::EndOfFile);
}

TEST_CASE("remote: small messages go at once, and a lost host is given up", "[remote]") {
    mp::Listener listener("127.0.0.1:0",
                          {.transport = mp::insecure, .unreachable_timeout = 1234ms});
    auto options = connects;
    options.unreachable_timeout = 5678ms;
    const auto before = test::open_descriptors();
    const auto ends = connect(listener, options);
    std::multiset<int> limits;
    for (const auto& [fd, target] : test::open_descriptors()) {
        sockaddr_storage other{};
        socklen_t size = sizeof other;
        if (before.contains(fd) || !target.starts_with("socket:") ||
            ::getpeername(fd, reinterpret_cast<sockaddr*>(&other), &size) != 0 ||
            other.ss_family != AF_INET)
            continue;
        const auto option = [fd = fd](int level, int name) {
            int value = -1;
            socklen_t length = sizeof value;
            ::getsockopt(fd, level, name, &value, &length);
            return value;
        };
        CHECK(option(IPPROTO_TCP, TCP_NODELAY) == 1);
        CHECK(option(SOL_SOCKET, SO_KEEPALIVE) == 1);
        // A silent line is probed, as often as a second is short enough for.
        CHECK(option(IPPROTO_TCP, TCP_KEEPIDLE) == 1);
        CHECK(option(IPPROTO_TCP, TCP_KEEPINTVL) == 1);
        CHECK(option(IPPROTO_TCP, TCP_KEEPCNT) == 4);
        limits.insert(option(IPPROTO_TCP, TCP_USER_TIMEOUT));
    }
    CHECK(limits == std::multiset<int>{1234, 5678});
}

TEST_CASE("remote: a message that comes bit by bit is whole at its end, not before", "[remote]") {
    mp::Listener listener("127.0.0.1:0", listens);
    const auto stranger = test::tcp_connect(listener.address());
    REQUIRE(stranger.send(hello()));
    auto c = listener.accept(test::patience);
    const std::string message = header(10) + "ten bytes.";
    const bool polled = GENERATE(false, true);
    pollfd one{polled ? c.fileno() : -1, POLLIN, 0};
    for (const char byte : message) {
        CHECK(!c.poll());
        CHECK(mp::wait({c}, 0s).empty());
        if (polled) CHECK(::poll(&one, 1, 0) == 0);
        REQUIRE(stranger.send({&byte, 1}));
        if (polled) CHECK(::poll(&one, 1, 30'000) == 1);
    }
    CHECK(c.poll(test::patience));
    if (polled) CHECK(::poll(&one, 1, 0) == 1);  // though poll() has taken it in
    CHECK(c.recv_bytes().size() == 10);
    if (polled) CHECK(::poll(&one, 1, 0) == 0);
}

TEST_CASE("remote: what is announced is not believed", "[remote]") {
    const bool limited = GENERATE(true, false);  // by default there is hardly a limit
    mp::ListenerOptions options = listens;
    if (limited) options.max_message = 1000;
    mp::Listener listener("127.0.0.1:0", options);
    std::vector<std::uint64_t> lengths{std::uint64_t{1} << 63, ~std::uint64_t{0},
                                       ~std::uint64_t{0} - 1, ~std::uint64_t{0} - 15};
    if (limited) lengths.push_back(1001);
    for (const std::uint64_t length : lengths) {
        CAPTURE(limited, length);
        const auto stranger = test::tcp_connect(listener.address());
        REQUIRE(stranger.send(hello()));
        auto c = listener.accept(test::patience);
        REQUIRE(stranger.send(header(length) + std::string(5000, 'x')));
        CHECK(mp::wait({c}, test::patience).size() == 1);
        CHECK_THAT(refused([&] { c.recv_bytes(); }), Catch::Contains(std::to_string(length)));
        CHECK(c.closed());
        CHECK(stranger.ended());
    }
}

TEST_CASE("remote: memory grows with what came, not with what was announced", "[remote]") {
    mp::Listener listener("127.0.0.1:0", listens);
    test::child receives([&] {
        mp::Process small(mp::ProcessOptions{.limits = {.memory = std::size_t{64} << 20}}, [&] {
            const auto stranger = test::tcp_connect(listener.address());
            stranger.send(hello());
            auto c = listener.accept(test::patience);
            stranger.send(header(std::uint64_t{1} << 40) + "a little");
            ::shutdown(stranger.get(), SHUT_WR);
            try {
                c.recv_bytes();
            } catch (const mp::EndOfFile&) {
                ::_exit(0);
            }
        });
        small.start();
        small.join();
        return small.exitcode().value_or(1);
    });
    CHECK(receives.exit_status() == std::optional<int>(0));
}

TEST_CASE("remote: a message longer than the other side takes is refused at its sender",
          "[remote]") {
    mp::Listener listener("127.0.0.1:0", {.transport = mp::insecure, .max_message = 1000});
    auto [a, b] = connect(listener);
    CHECK_THAT(refused([&, &e = a] { e.send(std::string(2000, 'x')); }),
               Catch::Contains("max_message, 1000"));
    a.send(3);
    CHECK(b.recv<int>() == 3);
}

TEST_CASE("remote: a short buffer keeps the message in the error", "[remote]") {
    auto [a, b] = connect();
    a.send_bytes(std::as_bytes(std::span("0123456789", 10)));
    a.send_bytes(std::as_bytes(std::span("abc", 3)));
    std::byte buffer[5];
    try {
        b.recv_bytes_into(buffer);
        FAIL("it fits");
    } catch (const mp::BufferTooShort& e) {
        CHECK(e.message().size() == 10);
    }
    CHECK(b.recv_bytes_into(buffer, 2) == 3);
    CHECK(buffer[2] == std::byte{'a'});
}

TEST_CASE("remote: silent clients and garbage delay nobody", "[remote]") {
    mp::Listener listener("127.0.0.1:0", {.transport = mp::insecure, .login_timeout = 1h});
    std::vector<test::tcp_socket> silent;
    std::thread accepts;
    std::optional<mp::Connection<>> accepted;
    accepts = std::thread([&] { accepted = listener.accept(test::patience); });
    for (int i = 0; i < 1000; ++i) silent.push_back(test::tcp_connect(listener.address()));
    const auto garbage = test::tcp_connect(listener.address());
    REQUIRE(garbage.send(std::string(1000, '?')));
    CHECK(garbage.ended());
    auto good = mp::Client(listener.address(), connects);
    accepts.join();
    REQUIRE(accepted);
    good.send(1);
    CHECK(accepted->recv<int>() == 1);
    CHECK(silent.front().ended());  // no more than 256 may wait
}

TEST_CASE("remote: a client that says nothing is dropped after the login timeout", "[remote]") {
    mp::Listener listener("127.0.0.1:0", {.transport = mp::insecure, .login_timeout = 20ms});
    const auto silent = test::tcp_connect(listener.address());
    std::thread accepts([&] { refused([&] { listener.accept(test::patience); }); });
    CHECK(silent.ended());
    listener.close();
    accepts.join();
}

TEST_CASE("remote: a client that says nothing is dropped though nobody but wait() looks",
          "[remote][threads]") {
    mp::Listener listener("127.0.0.1:0", {.transport = mp::insecure, .login_timeout = 20ms});
    const auto silent = test::tcp_connect(listener.address());
    std::vector<std::size_t> ready;
    std::thread waits([&] { ready = mp::wait({listener}, 2 * test::patience); });
    CHECK(silent.ended());
    mp::Client(listener.address(), connects);
    waits.join();
    CHECK(ready == std::vector<std::size_t>{0});
}

TEST_CASE("remote: who listens there is no Listener", "[remote]") {
    const test::tcp_server other;
    SECTION("it says something else") {
        std::thread answers([&] {
            const auto c = other.accept();
            c.send("HTTP/1.1 400 Bad Request\r\n\r\n");
            c.ended();
        });
        CHECK_THAT(refused([&] { mp::Client(other.address(), connects); }),
                   Catch::Contains("no Listener"));
        answers.join();
    }
    SECTION("it says nothing") {
        CHECK_THROWS_AS(mp::Client(other.address(), {.transport = mp::insecure, .timeout = 20ms}),
                        mp::TimeoutError);
    }
}

TEST_CASE("remote: the bytes on the wire are those of version 1", "[remote]") {
    // So programs of other builds say it: magic, version, max_message; and an int, 7, as a length,
    // a fingerprint and its bytes.
    const std::string says_hello =
        test::from_hex("702d72656d6f7465 01000000 00000000 e803000000000000");
    const std::string message = test::from_hex("0400000000000000 a8aeab0acd98ea3d 07000000");
    SECTION("at a Listener") {
        mp::Listener listener("127.0.0.1:0", {.transport = mp::insecure, .max_message = 1000});
        const auto other = test::tcp_connect(listener.address());
        REQUIRE(other.send(says_hello + message));
        auto c = listener.accept(test::patience);
        CHECK(test::to_hex(other.receive(says_hello.size())) == test::to_hex(says_hello));
        CHECK(c.recv<int>() == 7);
        c.send(7);
        CHECK(test::to_hex(other.receive(message.size())) == test::to_hex(message));
    }
    SECTION("at a Client") {
        const test::tcp_server server;
        std::string said;
        std::thread answers([&] {
            const auto c = server.accept();
            said = c.receive(says_hello.size());
            c.send(says_hello + message);
            said += c.receive(message.size());
        });
        auto options = connects;
        options.max_message = 1000;
        {
            auto c = mp::Client(server.address(), options);
            CHECK(c.recv<int>() == 7);
            c.send(7);
        }
        answers.join();
        CHECK(test::to_hex(said) == test::to_hex(says_hello + message));
    }
}

TEST_CASE("remote: a side of another version is told so, and refused", "[remote]") {
    const std::string newer = test::from_hex("702d72656d6f7465 02000000 00000000 e803000000000000");
    SECTION("a client: it learns the server's version, then the end, and the log has it") {
        const std::string log = test::log_of([&] {
            mp::Listener listener("127.0.0.1:0", listens);
            const auto other = test::tcp_connect(listener.address());
            REQUIRE(other.send(newer));
            // Refused while this one is accepted.
            auto [a, b] = connect(listener);
            CHECK(test::to_hex(other.receive(16)) == "702d72656d6f74650100000000000000");
            CHECK(other.ended());
            a.send(1);
            CHECK(b.recv<int>() == 1);
        });
        CHECK_THAT(log, Catch::Contains("a client was turned away, of 127.0.0.1:") &&
                            Catch::Contains("version 2"));
    }
    SECTION("a server: the error names both") {
        const test::tcp_server server;
        std::thread answers([&] {
            const auto c = server.accept();
            c.send(newer);
            c.ended();
        });
        const std::string what = refused([&] { mp::Client(server.address(), connects); });
        answers.join();
        CHECK_THAT(what, Catch::Contains("version 2") && Catch::Contains("version 1"));
    }
}

TEST_CASE("remote: what names shared memory can't be sent", "[remote]") {
    auto [a, b] = connect();
    mp::Queue<int> queue;
    CHECK_THAT(refused([&, &e = a] { e.send(queue); }), Catch::Contains("another host"));
    mp::Pipe<int> pipe;
    CHECK_THAT(refused([&, &e = a] { e.send(pipe.first); }), Catch::Contains("another host"));
    auto [c, d] = mp::Pipe<>();
    CHECK_THAT(refused([&, &e = c, &f = b] { e.send(f); }), Catch::Contains("Process"));
    a.send(1);
    CHECK(b.recv<int>() == 1);
}

TEST_CASE("remote: an end goes to the child of a Process, and to no other", "[remote][process]") {
    auto [a, b] = connect();
    SECTION("moved into a Process it is the child's") {
        mp::Process echo([c = std::move(a)]() mutable { c.send(c.recv<int>() + 1); });
        echo.start();
        b.send(41);
        CHECK(b.recv<int>() == 42);
        CHECK_THROWS_AS(b.recv<int>(), mp::EndOfFile);
        echo.join();
        CHECK(echo.exitcode() == 0);
    }
    SECTION("a Process that was not given it does not keep it open") {
        mp::Process sleeps([] { ::pause(); });
        sleeps.start();
        a.close();
        CHECK_THROWS_AS(b.recv<int>(), mp::EndOfFile);
        sleeps.kill();
    }
    SECTION("nor while another thread of its parent receives") {
        std::atomic<pid_t> receives{0};
        int got = 0;
        std::thread receiver([&, &e = a] {
            receives = ::gettid();
            got = e.recv<int>();
        });
        REQUIRE(test::eventually([&] { return receives != 0; }));
        REQUIRE(test::wait_asleep(receives));
        test::child forked([&, &e = a] {
            try {
                e.poll();
            } catch (const mp::ClosedError&) {
                return 0;
            }
            return 1;
        });
        CHECK(forked.exit_status() == std::optional<int>(0));
        b.send(3);
        receiver.join();
        CHECK(got == 3);
    }
    SECTION("a forked process has none of it") {
        test::child forked([&, &e = a] {
            try {
                e.send(1);
            } catch (const mp::ClosedError&) {
                return 0;
            }
            return 1;
        });
        CHECK(forked.exit_status() == std::optional<int>(0));
        a.send(2);
        CHECK(b.recv<int>() == 2);
    }
}

TEST_CASE("remote: a child that was forked while a client logs in keeps none of that",
          "[remote][process]") {
    const bool by_process = GENERATE(false, true);
    const test::tcp_server server;  // which does not answer
    auto& heard = test::shared_memory<std::atomic<bool>>();
    auto& grandchild = test::shared_memory<std::atomic<pid_t>>();
    test::child dies([&] {
        std::thread logs_in([&] {
            refused([&] {
                mp::Client(server.address(),
                           {.transport = mp::insecure, .timeout = 2 * test::patience});
            });
        });
        if (!test::eventually([&] { return heard.load(); })) return 1;
        mp::Pipe<> pipe;  // children of a Process wait until they know what they have
        mp::Process sleeps([] { ::pause(); });
        if (by_process) {
            sleeps.start();
            grandchild = *sleeps.pid();
        } else {
            const pid_t pid = ::fork();
            if (pid == 0) ::pause();
            grandchild = pid;
        }
        logs_in.join();
        return 0;
    });
    const auto client = server.accept();
    CHECK(client.receive().size() == hello().size());
    heard = true;
    REQUIRE(test::eventually([&] { return grandchild != 0; }));
    dies.kill();
    CHECK(client.ended());
    CHECK(::kill(grandchild, SIGKILL) == 0);
}

TEST_CASE("remote: a client does not connect to itself", "[remote][process]") {
    // The kernel gives it a port of its range, so its own one if nobody listens there.
    test::child alone([] {
        if (::unshare(CLONE_NEWNET) != 0) return 77;
        const test::tcp_socket any(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        ifreq loopback_device{};
        std::strcpy(loopback_device.ifr_name, "lo");
        loopback_device.ifr_flags = IFF_UP;
        if (::ioctl(any.get(), SIOCSIFFLAGS, &loopback_device) != 0) return 77;
        std::ofstream range("/proc/sys/net/ipv4/ip_local_port_range");
        if (!(range << "20000 20001" << std::flush)) return 77;
        for (int i = 0; i < 4; ++i)
            for (const char* where : {"127.0.0.1:20000", "127.0.0.1:20001"}) try {
                    mp::Client(where, connects);
                    return 1;
                } catch (const mp::OsError&) {
                }
        return 0;
    });
    const auto status = alone.exit_status();
    if (status == 77)
        WARN("no network namespaces on this machine");
    else
        CHECK(status == std::optional<int>(0));
}

TEST_CASE("remote: fileno() is readable while a message is there, read or not", "[remote]") {
    auto [a, b] = connect();
    const auto readable = [&, &e = b](int milliseconds) {
        pollfd one{e.fileno(), POLLIN, 0};
        return ::poll(&one, 1, milliseconds) == 1;
    };
    CHECK(!readable(0));
    for (int i = 0; i < 3; ++i) a.send(i);
    for (int i = 0; i < 3; ++i) {
        CHECK(readable(30'000));  // the later ones were read with the first
        CHECK(b.recv<int>() == i);
    }
    CHECK(!readable(0));
    a.close();
    CHECK(readable(30'000));
    CHECK_THROWS_AS(b.recv<int>(), mp::EndOfFile);
    CHECK(readable(0));
}

TEST_CASE("remote: wait() tells which are ready", "[remote]") {
    auto [a, b] = connect();
    auto [c, d] = connect();
    CHECK(mp::wait({b, d}, 0s).empty());
    c.send(1);
    c.send(2);
    CHECK(mp::wait({b, d}, test::patience) == std::vector<std::size_t>{1});
    CHECK(d.recv<int>() == 1);
    CHECK(mp::wait({b, d}, test::patience) == std::vector<std::size_t>{1});  // read already
    CHECK(d.recv<int>() == 2);
    a.close();
    CHECK(mp::wait({b, d}, test::patience) == std::vector<std::size_t>{0});
    mp::Listener listener("127.0.0.1:0", listens);
    std::thread comes([&] { mp::Client(listener.address(), connects); });
    CHECK(mp::wait({listener}, test::patience).size() == 1);
    listener.accept();
    comes.join();
}
