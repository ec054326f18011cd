// SPDX-License-Identifier: BSL-1.0
//
// pipe (int|array) PLACEMENT SECONDS: the median time of an int there and back through a Pipe<int>,
// in microseconds; or the vectors of 8 MB a second through a Pipe<vector<double>>.

#include <multiprocessing/connection.hpp>

#include <cstdio>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

namespace mp = multiprocessing;

double round_trip(const bench::placement& place, double seconds) {
    mp::Pipe<int> pipe;
    auto& start = bench::shared<bench::start_line>();
    bench::children other;
    other.start([&] {
        place.settle(1);
        start.wait_for(2);
        for (int n = 0; n >= 0;) {
            n = pipe.second.recv();
            pipe.second.send(n);
        }
    });
    place.settle(0);
    std::vector<std::int64_t> times;
    times.reserve(1 << 22);
    start.wait_for(2);
    const std::int64_t end = bench::now() + static_cast<std::int64_t>(seconds * 1e9);
    for (std::int64_t before = bench::now(); before < end && times.size() < times.capacity();) {
        pipe.first.send(1);
        pipe.first.recv();
        const std::int64_t after = bench::now();
        times.push_back(after - before);
        before = after;
    }
    pipe.first.send(-1);
    other.join();
    return static_cast<double>(bench::median(times)) / 1e3;
}

double arrays(const bench::placement& place, double seconds) {
    mp::Pipe<std::vector<double>> pipe;
    auto& start = bench::shared<bench::start_line>();
    bench::children other;
    other.start([&] {
        place.settle(1);
        const std::vector<double> item(1 << 20, 1.5);
        start.wait_for(2);
        const std::int64_t end = bench::now() + static_cast<std::int64_t>(seconds * 1e9);
        while (bench::now() < end) pipe.second.send(item);
        pipe.second.send({1.0});
    });
    place.settle(0);
    start.wait_for(2);
    const std::int64_t begin = bench::now();
    std::size_t count = 0;
    while (pipe.first.recv().size() != 1) ++count;
    const double took = static_cast<double>(bench::now() - begin) / 1e9;
    other.join();
    return static_cast<double>(count) / took;
}

}  // namespace

int main(int, char** arguments) {
    return bench::program([&] {
        const bench::placement place(arguments[2]);
        const double seconds = std::stod(arguments[3]);
        std::printf("%.6g\n", std::string(arguments[1]) == "int" ? round_trip(place, seconds)
                                                                 : arrays(place, seconds));
    });
}
