// SPDX-License-Identifier: BSL-1.0
//
// manager WHAT: one figure of managers.
//   WHAT  call    a method of a hosted object called by one client: us
//         four    the same by four client processes at once: calls a second
//         set     an item of a dict of 1,000 set: us
//         get     the same got: us
//         update  10,000 items put into a dict by one update: ms
//         copy    a dict of 10,000 items copied out: ms

#include <multiprocessing/managers.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
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

/// The median of rounds, each of so many calls, in nanoseconds a call.
template <class F>
double a_call(int calls, F f) {
    std::vector<std::int64_t> rounds;
    for (int round = 0; round < 15; ++round) {
        const std::int64_t begin = bench::now();
        for (int i = 0; i < calls; ++i) f(i);
        rounds.push_back(bench::now() - begin);
    }
    return static_cast<double>(bench::median(rounds)) / calls;
}

double four(const mp::Proxy<Counter>& counter) {
    constexpr int calls = 20'000;
    auto& line = bench::shared<bench::start_line>();
    bench::children clients;
    for (int i = 0; i < 4; ++i)
        clients.start([&] {
            counter.call<&Counter::add>(0);
            line.wait_for(5);
            for (int n = 0; n < calls; ++n) counter.call<&Counter::add>(1);
        });
    while (line.there.load() < 4) ::sched_yield();
    const std::int64_t begin = bench::now();
    line.wait_for(5);
    clients.join();
    return 4.0 * calls / (static_cast<double>(bench::now() - begin) / 1e9);
}

double figure(const std::string& what) {
    mp::Manager manager;
    const auto counter = manager.create<Counter>();
    if (what == "call") return a_call(5000, [&](int) { counter.call<&Counter::add>(1); }) / 1e3;
    if (what == "four") return four(counter);
    std::map<int, int> items;
    const auto dict = manager.dict<int, int>();
    for (int i = 0; i < (what == "set" || what == "get" ? 1000 : 10'000); ++i) items[i] = i;
    if (what == "update") return a_call(1, [&](int) { dict.update(items); }) / 1e6;
    dict.update(items);
    if (what == "copy") return a_call(1, [&](int) { bench::keep(dict.copy()); }) / 1e6;
    if (what == "set") return a_call(5000, [&](int i) { dict[i % 1000] = i; }) / 1e3;
    if (what == "get") return a_call(5000, [&](int i) { bench::keep(dict.at(i % 1000)); }) / 1e3;
    throw std::runtime_error("manager (call|four|set|get|update|copy)");
}

}  // namespace

int main(int argc, char** argv) {
    return bench::program([&] {
        if (argc != 2) throw std::runtime_error("manager WHAT");
        std::printf("%g\n", figure(argv[1]));
    });
}
