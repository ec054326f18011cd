// SPDX-License-Identifier: BSL-1.0
//
// tls WHAT [insecure]: one figure of connections through TCP on 127.0.0.1, by TLS or in clear.
//   WHAT  round_trip  64 bytes there and back: us
//         stream      messages of 256 KiB one way: GB/s
//         call        a method of an object that another program serves: us

#include <multiprocessing/managers.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/tls.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

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

double figure(const std::string& what, bool insecure) {
    if (what == "call") {
        auto server = Counters::serve("127.0.0.1:0", options<mp::ServeOptions>(insecure));
        auto remote = Counters::connect(server.address(), options<mp::ClientOptions>(insecure));
        auto counter = remote.get<Counter>("counter");
        return a_call(1000, [&] { counter.call<&Counter::add>(1); }) / 1e3;
    }
    mp::Listener listener("127.0.0.1:0", options<mp::ListenerOptions>(insecure));
    const bool stream = what == "stream";
    if (!stream && what != "round_trip")
        throw std::runtime_error("tls (round_trip|stream|call) [insecure]");
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
