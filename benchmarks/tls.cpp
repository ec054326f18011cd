// SPDX-License-Identifier: BSL-1.0
//
// tls WHAT [insecure]: one figure of connections through TCP on 127.0.0.1, by TLS or in clear.
//   WHAT  round_trip  64 bytes there and back: us
//         stream      messages of 256 KiB one way: GB/s
//         call        a method of an object that another program serves: us
//         login       a client connects, logs in and has an answer: ms
//         crowd       the same beside 1,000 clients that say nothing
//         unix, pipe  round trip at a Unix socket after a login with a key, and of a Pipe: us

#include <multiprocessing/managers.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/tls.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <future>
#include <stdexcept>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "support.hpp"

namespace {

namespace mp = multiprocessing;

struct Counter {
    int add(int n) { return value += n; }
    int value = 0;
};
struct Counters : mp::BaseManager<Counters> {
    static void register_types(mp::Registry& r) {
        r.add<Counter>("counter", mp::method<&Counter::add>("add"));
    }
};

const mp::AuthKey key = mp::AuthKey::generate();

/// The median of rounds, each of so many calls, in nanoseconds a call.
template <class F>
double a_call(int calls, F f) {
    std::vector<std::int64_t> rounds;
    for (int round = 0; round < 15; ++round) {
        const std::int64_t begin = bench::now();
        for (int i = 0; i < calls; ++i) f();
        rounds.push_back(bench::now() - begin);
    }
    return static_cast<double>(bench::median(rounds)) / calls;
}

template <class Options>
Options options(bool insecure) {
    Options made;
    made.transport = insecure ? mp::insecure : mp::tls;
    if (!insecure) made.authkey = key;
    return made;
}

/// A round trip to a process that has the other end.
double round_trip(mp::Connection<>& here, mp::Connection<> there) {
    mp::Process other(
        [](mp::Connection<> c) {
            std::vector<std::byte> message(64);
            try {
                for (;;) c.recv_bytes_into(message), c.send_bytes(message);
            } catch (const mp::EndOfFile&) {
            }
        },
        std::move(there));
    other.start();
    std::vector<std::byte> message(64);
    const double time =
        a_call(20'000, [&] { here.send_bytes(message), here.recv_bytes_into(message); });
    here.close();
    other.join();
    return time / 1e3;
}

/// Clients of that port that say nothing, until this process ends.
void crowd(std::uint16_t port, int clients) {
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < clients; ++i)
        if (::connect(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
                      reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0)
            throw std::runtime_error("no socket for a silent client");
}

double log_in(bool insecure, int silent) {
    mp::Listener listener("127.0.0.1:0", options<mp::ListenerOptions>(insecure));
    mp::Process server({.daemon = true}, [&] {
        for (;;) {
            auto c = listener.accept();
            c.send_bytes(c.recv_bytes());
        }
    });
    server.start();
    const std::string address = listener.address().to_string();
    crowd(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))), silent);
    std::vector<std::byte> message(64);
    return a_call(10,
                  [&] {
                      auto c = mp::Client(listener.address(), options<mp::ClientOptions>(insecure));
                      c.send_bytes(message);
                      c.recv_bytes_into(message);
                  }) /
           1e6;
}

double figure(const std::string& what, bool insecure) {
    if (what == "login" || what == "crowd") return log_in(insecure, what == "crowd" ? 1000 : 0);
    if (what == "pipe") {
        mp::Pipe<> pipe;
        return round_trip(pipe.first, std::move(pipe.second));
    }
    if (what == "unix") {
        mp::Listener at("", options<mp::ListenerOptions>(false));
        auto client = std::async(std::launch::async, [&] {
            return mp::Client(at.address(), options<mp::ClientOptions>(false));
        });
        auto c = at.accept();
        return round_trip(c, client.get());
    }
    if (what == "call") {
        auto server = Counters::serve("127.0.0.1:0", options<mp::ServeOptions>(insecure));
        auto remote = Counters::connect(server.address(), options<mp::ClientOptions>(insecure));
        auto counter = remote.get<Counter>("counter");
        return a_call(1000, [&] { counter.call<&Counter::add>(1); }) / 1e3;
    }
    mp::Listener listener("127.0.0.1:0", options<mp::ListenerOptions>(insecure));
    const bool stream = what == "stream";
    if (!stream && what != "round_trip")
        throw std::runtime_error("tls (round_trip|stream|call|login|crowd|unix|pipe) [insecure]");
    constexpr std::size_t size = std::size_t{256} << 10;
    mp::Process other([&] {
        auto c = mp::Client(listener.address(), options<mp::ClientOptions>(insecure));
        std::vector<std::byte> message(size);
        try {
            for (;;) {
                const std::size_t length = c.recv_bytes_into(message);
                if (!stream || length == 1) c.send_bytes(std::span(message).first(length));
            }
        } catch (const mp::EndOfFile&) {
        }
    });
    other.start();
    auto c = listener.accept();
    std::vector<std::byte> message(stream ? size : 64), answer(size);
    double result = 0;
    if (stream) {
        constexpr int messages = 400;
        const double time = a_call(1, [&] {
            for (int i = 0; i < messages; ++i) c.send_bytes(message);
            c.send_bytes(std::span(message).first(1));
            c.recv_bytes_into(answer);
        });
        result = static_cast<double>(size) * messages / time;
    } else {
        result = a_call(2000,
                        [&] {
                            c.send_bytes(message);
                            c.recv_bytes_into(answer);
                        }) /
                 1e3;
    }
    c.close();
    other.join();
    return result;
}

}  // namespace

int main(int argc, char** argv) {
    return bench::program([&] {
        if (argc != 2 && argc != 3) throw std::runtime_error("tls WHAT [insecure]");
        std::printf("%g\n", figure(argv[1], argc == 3));
    });
}
