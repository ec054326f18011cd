// SPDX-License-Identifier: BSL-1.0

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <multiprocessing/detail/net/tcp.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"
#include "support/raw_tcp.hpp"

namespace mp = multiprocessing;
using mp::detail::connect_to_any;
using mp::detail::deadline;

namespace {

/// A port of 127.0.0.1 at which nobody answers: its queue of one is full.
class silent_port {
public:
    silent_port() : listens_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in where = test::loopback(0);
        socklen_t size = sizeof where;
        if (::bind(listens_.get(), reinterpret_cast<const sockaddr*>(&where), size) != 0 ||
            ::listen(listens_.get(), 0) != 0 ||
            ::getsockname(listens_.get(), reinterpret_cast<sockaddr*>(&where), &size) != 0)
            test::give_up("listen");
        number_ = ntohs(where.sin_port);
        for (int i = 0; i < 3; ++i) {
            waiting_.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            ::connect(waiting_.back().get(), reinterpret_cast<const sockaddr*>(&where), size);
        }
    }
    std::uint16_t number() const noexcept { return number_; }
    /// Answers whoever tries, until stop().
    void accept() {
        do {
            waiting_.emplace_back(::accept4(listens_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        } while (waiting_.back().get() >= 0);
    }
    void stop() const { ::shutdown(listens_.get(), SHUT_RDWR); }

private:
    test::tcp_socket listens_;
    std::vector<test::tcp_socket> waiting_;
    std::uint16_t number_;
};

/// Addresses of a host, as the resolver gives them.
class addresses {
public:
    explicit addresses(std::vector<std::uint16_t> ports) {
        for (const std::uint16_t port : ports) where_.push_back(test::loopback(port));
        for (sockaddr_in& each : where_) {
            addrinfo one{};
            one.ai_family = AF_INET;
            one.ai_socktype = SOCK_STREAM;
            one.ai_addr = reinterpret_cast<sockaddr*>(&each);
            one.ai_addrlen = sizeof each;
            list_.push_back(one);
        }
        for (std::size_t i = 1; i < list_.size(); ++i) list_[i - 1].ai_next = &list_[i];
    }
    addresses(const addresses&) = delete;
    addresses& operator=(const addresses&) = delete;
    const addrinfo* get() const noexcept { return list_.data(); }

private:
    std::vector<sockaddr_in> where_;
    std::vector<addrinfo> list_;
};

std::uint16_t free_port() { return test::port_of(test::tcp_server().address()); }

}  // namespace

TEST_CASE("tcp: an address that does not answer takes no time from the next ones", "[net]") {
    const test::no_leaks guard;
    const silent_port first, second;
    const test::tcp_server answers;
    const addresses all(
        {first.number(), free_port(), second.number(), test::port_of(answers.address())});
    const auto socket = connect_to_any<>(all.get(), deadline::after(test::patience), "connecting");
    CHECK(mp::detail::peer_address_of(socket.get()) == answers.address());
}

TEST_CASE("tcp: an address that answers late is taken, though others were tried",
          "[net][threads]") {
    silent_port late;
    const silent_port silent;
    const addresses all({late.number(), silent.number()});
    std::thread accepts([&] { late.accept(); });
    const auto socket = connect_to_any<>(all.get(), deadline::after(test::patience), "connecting");
    CHECK(test::port_of(mp::detail::peer_address_of(socket.get())) == late.number());
    late.stop();
    accepts.join();
}

TEST_CASE("tcp: none that answers", "[net]") {
    const test::no_leaks guard;
    SECTION("is an OsError if all refuse") {
        const addresses all({free_port(), free_port()});
        try {
            connect_to_any<>(all.get(), deadline::after(test::patience), "connecting");
            FAIL("nobody listens there");
        } catch (const mp::OsError& e) {
            CHECK(e.code().value() == ECONNREFUSED);
        }
    }
    SECTION("is a TimeoutError if one is silent, at the deadline") {
        const silent_port silent;
        const auto begin = test::clock::now();
        for (const bool first : {true, false}) {
            const addresses all(first ? std::vector{silent.number(), free_port()}
                                      : std::vector{free_port(), silent.number()});
            CHECK_THROWS_AS(
                connect_to_any<>(all.get(), deadline::after(std::chrono::milliseconds(300)),
                                 "connecting"),
                mp::TimeoutError);
        }
        CHECK(test::clock::now() - begin >= std::chrono::milliseconds(600));
    }
}
