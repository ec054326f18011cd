// SPDX-License-Identifier: BSL-1.0
//
// pipe (int|any|client|array) PLACEMENT SECONDS: the median time of an int there and back through a
// Pipe<int>, a Pipe<>, or between a Listener and its Client, in microseconds; or the vectors of 8
// MB a second through a Pipe<vector<double>>.

#include <multiprocessing/connection.hpp>

#include <cstdio>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

namespace mp = multiprocessing;

int receive(mp::Connection<int>& from) { return from.recv(); }
int receive(mp::Connection<>& from) { return from.recv<int>(); }

/// \param mine, theirs  give the end of this process, and that of the child
template <class Mine, class Theirs>
double round_trip(const bench::placement& place, double seconds, Mine mine, Theirs theirs) {
    auto& start = bench::shared<bench::start_line>();
    bench::children other;
    other.start([&] {
        place.settle(1);
        auto&& end = theirs();
        start.wait_for(2);
        for (int n = 0; n >= 0;) {
            n = receive(end);
            end.send(n);
        }
    });
    place.settle(0);
    auto&& end = mine();
    std::vector<std::int64_t> times;
    times.reserve(1 << 22);
    start.wait_for(2);
    const std::int64_t last = bench::now() + static_cast<std::int64_t>(seconds * 1e9);
    for (std::int64_t before = bench::now(); before < last && times.size() < times.capacity();) {
        end.send(1);
        receive(end);
        const std::int64_t after = bench::now();
        times.push_back(after - before);
        before = after;
    }
    end.send(-1);
    other.join();
    return static_cast<double>(bench::median(times)) / 1e3;
}

template <class T>
double pipe(const bench::placement& place, double seconds) {
    mp::Pipe<T> ends;
    return round_trip(
        place,
        seconds, [&]() -> auto& { return ends.first; }, [&]() -> auto& { return ends.second; });
}

double client(const bench::placement& place, double seconds) {
    mp::Listener listener;
    return round_trip(
        place, seconds, [&] { return listener.accept(); },
        [&] { return mp::Client(listener.address()); });
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
        const std::string what = arguments[1];
        std::printf("%.6g\n", what == "int"      ? pipe<int>(place, seconds)
                              : what == "any"    ? pipe<void>(place, seconds)
                              : what == "client" ? client(place, seconds)
                                                 : arrays(place, seconds));
    });
}
