// SPDX-License-Identifier: BSL-1.0
//
// objects (record|array|round_trip) PLACEMENT SECONDS: objects per second through a Queue, one
// putter and one getter: struct{int, int, string}, or vector<double> of 8 MB; or the median time of
// a record there and back in microseconds.

#include <multiprocessing/queues.hpp>

#include "records.hpp"

namespace {

namespace mp = multiprocessing;

template <class T>
struct item;
template <>
struct item<bench::record> {
    static constexpr std::size_t bound = 0;  // as a Queue has it by default
    static constexpr int between_looks = 32;
    static bench::record make(bool last) { return {last ? -1 : 1, 2, "three"}; }
    static bool is_last(const bench::record& r) { return r.id < 0; }
};
template <>
struct item<std::vector<double>> {
    static constexpr std::size_t bound =
        2;  // else the putter, which may be faster, takes all memory
    static constexpr int between_looks = 1;
    static std::vector<double> make(bool last) {
        return std::vector<double>(last ? 1 : 1 << 20, 1.5);
    }
    static bool is_last(const std::vector<double>& v) { return v.size() == 1; }
};

template <class T>
double throughput(const bench::placement& place, double seconds) {
    mp::Queue<T> queue(item<T>::bound);
    auto& start = bench::shared<bench::start_line>();
    bench::children putter;
    putter.start([&] {
        place.settle(0);
        const T ordinary = item<T>::make(false);
        start.wait_for(2);
        const std::int64_t end = bench::now() + static_cast<std::int64_t>(seconds * 1e9);
        while (bench::now() < end)
            for (int i = 0; i < item<T>::between_looks; ++i) queue.put(ordinary);
        queue.put(item<T>::make(true));
    });
    place.settle(1);
    start.wait_for(2);
    const std::int64_t begin = bench::now();
    double got = 0;
    while (!item<T>::is_last(queue.get())) ++got;
    const std::int64_t end = bench::now();
    putter.join();
    return got * 1e9 / static_cast<double>(end - begin);
}

double round_trip(const bench::placement& place, double seconds) {
    mp::Queue<bench::record> there, back;
    bench::children other;
    other.start([&] {
        place.settle(1);
        for (bool last = false; !last;) {
            const bench::record r = there.get();
            last = r.id < 0;
            back.put(r);
        }
    });
    place.settle(0);
    std::vector<std::int64_t> times;
    const std::int64_t begin = bench::now();
    bool last = false;
    for (std::int64_t before = begin; !last;) {
        last = static_cast<double>(before - begin) > seconds * 1e9;
        there.put(item<bench::record>::make(last));
        back.get();
        const std::int64_t after = bench::now();
        times.push_back(after - before);
        before = after;
    }
    other.join();
    return static_cast<double>(bench::median(times)) / 1e3;
}

}  // namespace

int main(int, char** arguments) {
    return bench::program([&] {
        const std::string kind = arguments[1];
        const bench::placement place(arguments[2]);
        const double seconds = std::stod(arguments[3]);
        std::printf("%.6g\n", kind == "record"  ? throughput<bench::record>(place, seconds)
                              : kind == "array" ? throughput<std::vector<double>>(place, seconds)
                                                : round_trip(place, seconds));
    });
}
