// SPDX-License-Identifier: BSL-1.0
//
// Ten thousand children, or as many as the budget of time allows, from a program whose other
// threads allocate, print, register exit handlers, use the loader and start children too. None may
// hang, none may lose its exit code, and nothing may be left.
// Environment: MP_BUDGET_SECONDS, MP_SEED.

#include <multiprocessing/process.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <link.h>
#include <unistd.h>

#include "support/catch.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;
using steady = std::chrono::steady_clock;

extern "C" int __cxa_atexit(void (*)(void*), void*, void*) noexcept;
extern "C" void __cxa_finalize(void*);

namespace {

unsigned long from_environment(const char* name, unsigned long otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoul(text, nullptr, 10) : otherwise;
}

/// One child in one of the ways to end. \return whether its exit code is right
bool one_child(unsigned kind) {
    mp::Process p(mp::ProcessOptions{.daemon = kind % 3 == 0}, [=] {
        std::vector<std::string> some(20, std::string(kind % 200, 'x'));
        std::atexit([] {});
        thread_local const std::string registers = "a destructor";
        if (kind % 5 == 0) std::exit(static_cast<int>(kind % 256));
        if (kind % 5 == 1) ::raise(SIGKILL);
        if (kind % 5 == 2) {
            mp::Process below([&] { std::exit(registers.empty() ? 1 : 0); });
            below.start();
        }
    });
    p.start();
    if (kind % 7 == 0) p.is_alive();
    p.join();
    const int expected = kind % 5 == 0   ? static_cast<int>(kind % 256)
                         : kind % 5 == 1 ? -SIGKILL
                                         : 0;
    return p.exitcode() == expected;
}

}  // namespace

TEST_CASE("soak: children from a busy program with threads", "[soak][process]") {
    const unsigned long seed = from_environment("MP_SEED", std::random_device()());
    const unsigned long seconds = from_environment("MP_BUDGET_SECONDS", 0);
    const unsigned long target = 10'000;
    std::printf("MP_SEED=%lu\n", seed);

    const test::no_leaks guard;
    std::atomic<bool> stop{false};
    std::atomic<unsigned long> made{0}, wrong{0};
    const auto end = steady::now() + std::chrono::seconds(seconds);
    std::FILE* file = std::tmpfile();
    REQUIRE(file != nullptr);
    static char key;
    std::vector<std::thread> noise;
    const auto beside = [&](auto work) {
        noise.emplace_back([&stop, work] {
            while (!stop) {
                work();
                // Not all the time: a fork itself stops threads that hold the lock of exit handlers
                // (they wait for malloc's, or for that of fork handlers), and is made anew then.
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
        });
    };
    beside([] { std::vector<std::string>(50, std::string(3'000, 'x')).clear(); });
    beside([&] { std::fprintf(file, "some text\n"); });
    beside([] {
        ::__cxa_atexit([](void*) {}, nullptr, &key);
        ::__cxa_finalize(&key);
    });
    beside([] { ::dl_iterate_phdr([](dl_phdr_info*, std::size_t, void*) { return 0; }, nullptr); });

    std::vector<std::thread> starters;
    for (unsigned t = 0; t < 3; ++t)
        starters.emplace_back([&, t] {
            std::mt19937 random(static_cast<unsigned>(seed) + t);
            while (seconds ? steady::now() < end : made < target) {
                wrong += !one_child(static_cast<unsigned>(random() >> 1));
                ++made;
            }
        });
    for (auto& t : starters) t.join();
    stop = true;
    for (auto& t : noise) t.join();
    std::fclose(file);
    std::printf("children: %lu\n", made.load());
    CHECK(wrong == 0);
    CHECK(mp::active_children().empty());
}

TEST_CASE("soak: a thousand children at once, ten times", "[soak][process]") {
    const unsigned long seconds = from_environment("MP_BUDGET_SECONDS", 0);
    const test::no_leaks guard;
    const auto end = steady::now() + std::chrono::seconds(seconds);
    unsigned long made = 0, wrong = 0;
    for (int batch = 0; batch < 10 && (seconds == 0 || steady::now() < end); ++batch) {
        std::vector<mp::Process> children;
        for (int i = 0; i < 1000; ++i) {
            children.emplace_back(mp::ProcessOptions{.daemon = batch % 2 == 1},
                                  [i] { std::exit(i % 250); });
            children.back().start();
        }
        for (int i = 0; i < 1000; ++i) {
            auto& child = children[static_cast<std::size_t>(i)];
            child.join();
            wrong += child.exitcode() != i % 250;
            ++made;
        }
    }
    std::printf("children: %lu\n", made);
    CHECK(wrong == 0);
}
