// SPDX-License-Identifier: BSL-1.0
//
// throughput TRANSPORT BYTES PUTTERS GETTERS PLACEMENT SECONDS: messages per second, from the start
// until the last one was got.

#include "transports.hpp"

namespace {

struct tally {
    bench::start_line start;
    alignas(128) std::atomic<std::uint64_t> got;
    std::atomic<std::int64_t> end;
};

template <class Transport>
double measure(std::size_t size, std::size_t putters, std::size_t getters,
               const bench::placement& place, double seconds) {
    if (!Transport::many && putters + getters > 2)
        throw std::runtime_error("this transport has one putter and one getter");
    Transport transport(size);
    auto& all = bench::shared<tally>();
    const std::size_t everybody = putters + getters + 1;
    bench::children put, get;
    for (std::size_t i = 0; i < getters; ++i)
        get.start([&, i] {
            place.settle(i + 1);
            std::vector<std::byte> message(size, std::byte{0});
            all.start.wait_for(everybody);
            std::uint64_t got = 0;
            for (;; ++got) {
                transport.get(message);
                if (message[0] != std::byte{0}) break;  // the last one for this getter
            }
            const std::int64_t end = bench::now();
            for (std::int64_t old = all.end;
                 old < end && !all.end.compare_exchange_weak(old, end);) {
            }
            all.got += got;
        });
    for (std::size_t i = 0; i < putters; ++i)
        put.start([&, i] {
            place.settle(i);
            std::vector<std::byte> message(size, std::byte{0});
            const int between_looks = size > 4096 ? 1 : 32;
            all.start.wait_for(everybody);
            const std::int64_t end = bench::now() + static_cast<std::int64_t>(seconds * 1e9);
            while (bench::now() < end)
                for (int k = 0; k < between_looks; ++k) transport.put(message);
            if (putters > 1) return;
            message[0] = std::byte{1};
            for (std::size_t k = 0; k < getters; ++k) transport.put(message);
            if constexpr (!Transport::many) std::destroy_at(&transport);  // ZeroMQ sends the rest
        });
    all.start.wait_for(everybody);
    const std::int64_t begin = bench::now();
    put.join();
    if (putters > 1) {
        std::vector<std::byte> message(size, std::byte{1});
        for (std::size_t k = 0; k < getters; ++k) transport.put(message);
    }
    get.join();
    return static_cast<double>(all.got) * 1e9 / static_cast<double>(all.end - begin);
}

}  // namespace

int main(int, char** arguments) {
    return bench::program([&] {
        const std::size_t size = std::stoul(arguments[2]);
        const bench::placement place(arguments[5]);
        bench::with_transport(arguments[1], [&]<class Transport>() {
            std::printf("%.6g\n",
                        measure<Transport>(size, std::stoul(arguments[3]), std::stoul(arguments[4]),
                                           place, std::stod(arguments[6])));
        });
    });
}
