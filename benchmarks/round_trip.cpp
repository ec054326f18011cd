// SPDX-License-Identifier: BSL-1.0
//
// round_trip TRANSPORT BYTES MODE SECONDS: the median time there and back, in microseconds.
//   hot     two cores, the answer at once
//   one     the same, both processes on one core
//   asleep  two cores; each side computes for 150 us before it sends, longer than anybody spins, so
//           the other one sleeps: the sum of the two medians from send to receipt

#include "transports.hpp"

namespace {

struct stamped {
    std::int64_t sent;
    bool last;
};

template <class Transport>
double hot(std::size_t size, const bench::placement& place, double seconds) {
    Transport there(size), back(size);
    auto& start = bench::shared<bench::start_line>();
    bench::children other;
    other.start([&] {
        place.settle(1);
        std::vector<std::byte> message(size);
        start.wait_for(2);
        do {
            there.get(message);
            back.put(message);
        } while (message[0] == std::byte{0});
        if constexpr (!Transport::many) std::destroy_at(&back);
    });
    place.settle(0);
    std::vector<std::byte> message(size);
    std::vector<std::int64_t> times;
    times.reserve(1 << 22);
    start.wait_for(2);
    there.put(message);  // ZeroMQ connects
    back.get(message);
    const std::int64_t begin = bench::now();
    const std::int64_t end = begin + static_cast<std::int64_t>(seconds * 1e9);
    for (std::int64_t before = begin; message[0] == std::byte{0};) {
        message[0] = std::byte{before > end || times.size() + 2 > times.capacity()};
        there.put(message);
        back.get(message);
        const std::int64_t after = bench::now();
        times.push_back(after - before);
        before = after;
    }
    other.join();
    return static_cast<double>(bench::median(times)) / 1e3;
}

template <class Transport>
double asleep(std::size_t size, const bench::placement& place, double seconds) {
    constexpr std::int64_t pause = 150'000;
    struct result {
        bench::start_line start;
        std::int64_t median;
    };
    Transport there(size), back(size);
    auto& shared = bench::shared<result>();
    const auto half = [&](Transport& in, Transport& out, bool first) {
        std::vector<std::byte> message(size);
        std::vector<std::int64_t> times;
        std::int64_t end = INT64_MAX;
        for (stamped stamp{}; !stamp.last;) {
            const auto send = [&] {
                bench::stay_busy(pause);
                stamp.last = stamp.last || bench::now() > end;
                stamp.sent = bench::now();
                std::memcpy(message.data(), &stamp, sizeof stamp);
                out.put(message);
            };
            const auto receive = [&] {
                in.get(message);
                const std::int64_t got = bench::now();
                std::memcpy(&stamp, message.data(), sizeof stamp);
                if (end != INT64_MAX) times.push_back(got - stamp.sent);
                if (end == INT64_MAX) end = got + static_cast<std::int64_t>(seconds * 1e9);  // warm
            };
            first ? (send(), receive()) : (receive(), send());
        }
        return times.empty() ? 0 : bench::median(times);
    };
    bench::children other;
    other.start([&] {
        place.settle(1);
        shared.start.wait_for(2);
        shared.median = half(there, back, false);
        if constexpr (!Transport::many) std::destroy_at(&back);
    });
    place.settle(0);
    shared.start.wait_for(2);
    const std::int64_t mine = half(back, there, true);
    other.join();
    return static_cast<double>(mine + shared.median) / 1e3;
}

}  // namespace

int main(int, char** arguments) {
    return bench::program([&] {
        const std::size_t size = std::stoul(arguments[2]);
        const std::string mode = arguments[3];
        const bench::placement place(mode == "one" ? "one" : "two");
        const double seconds = std::stod(arguments[4]);
        bench::with_transport(arguments[1], [&]<class Transport>() {
            std::printf("%.6g\n", mode == "asleep" ? asleep<Transport>(size, place, seconds)
                                                   : hot<Transport>(size, place, seconds));
        });
    });
}
