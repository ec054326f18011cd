// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/pool.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"

namespace mp = multiprocessing;

namespace {

int square(int x) { return x * x; }

std::vector<int> numbers(int n) {
    std::vector<int> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

std::atomic<int> made_here{0};

}  // namespace

TEST_CASE("ThreadPool: the calls of Pool, in this process", "[threads][thread_pool]") {
    mp::ThreadPool pool(3);
    CHECK(pool.processes() == 3);
    CHECK(pool.apply(square, 7) == 49);
    made_here = 0;
    pool.apply([] { ++made_here; });
    CHECK(made_here == 1);
    std::vector<int> expected = numbers(2000);
    for (int& x : expected) x *= x;
    for (const std::size_t chunksize : {0u, 1u, 64u}) {
        CHECK(pool.map(square, numbers(2000), {.chunksize = chunksize}) == expected);
        CHECK(pool.map_async(square, numbers(2000), {.chunksize = chunksize}).get() == expected);
        int index = 0;
        for (const int x : pool.imap(square, numbers(300), {.chunksize = chunksize}))
            CHECK(x == expected[static_cast<std::size_t>(index++)]);
        CHECK(index == 300);
    }
    CHECK_THROWS_AS(pool.apply([]() -> int { throw std::out_of_range("x"); }), std::out_of_range);
}

TEST_CASE("ThreadPool: everything that the front does", "[threads][thread_pool]") {
    mp::ThreadPool pool(2);
    CHECK(pool.apply(mp::bind([](int a, int b) { return a - b; }, 10), 3) == 7);
    CHECK(*pool.apply([](std::unique_ptr<int> p) { return std::make_unique<int>(*p + 1); },
                      std::make_unique<int>(1)) == 2);
    CHECK(pool.starmap([](int a, int b) { return a * b; },
                       std::vector<std::pair<int, int>>{{1, 2}, {3, 4}}) ==
          std::vector<int>{2, 12});
    CHECK(pool.starmap_async([](int a, int b) { return a + b; },
                             std::vector<std::pair<int, int>>{{1, 2}})
              .get() == std::vector<int>{3});
    int sum = 0;
    for (const int x : pool.imap_unordered(square, numbers(10), {.chunksize = 3})) sum += x;
    CHECK(sum == 285);
    std::atomic<int> told{0}, failed{0};
    pool.apply_async(mp::TaskOptions<int>{.callback = [&](const int& x) { told = x; }}, square, 5)
        .wait();
    pool.apply_async(mp::TaskOptions<int>{.error_callback = [&](std::exception_ptr) { ++failed; }},
                     []() -> int { throw std::runtime_error("x"); })
        .wait();
    CHECK(told == 25);
    CHECK(failed == 1);
    try {
        pool.map(
            [](int i) {
                if (i % 10 == 3) throw std::runtime_error(std::to_string(i));
                return i;
            },
            numbers(50));
        FAIL("no exception");
    } catch (const std::runtime_error& e) {
        CHECK(std::string(e.what()) == "3");
    }
    std::vector<mp::AsyncResult<int>> results;
    for (int i = 0; i < 4; ++i) results.push_back(pool.apply_async(square, i));
    sum = 0;
    for (auto& result : mp::as_completed(std::move(results))) sum += result.get();
    CHECK(sum == 14);
    std::uint64_t done = 0;
    pool.map(square, numbers(10), {.progress = [&](const mp::Progress& p) { done = p.done; }});
    CHECK(done == 10);
    CHECK(pool.stats().tasks >= 30);
    pool.close();
    CHECK_THROWS_AS(pool.apply(square, 1), mp::ClosedError);
    pool.join();
}

TEST_CASE("ThreadPool: many threads use one", "[threads][thread_pool]") {
    mp::ThreadPool pool(2);
    std::vector<std::thread> threads;
    std::atomic<int> right{0};
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 30; ++i) {
                if (pool.apply(square, i) == i * i) ++right;
                if (pool.apply_async(square, t).get() == t * t) ++right;
                if (pool.map(square, numbers(20)).size() == 20) ++right;
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(right == 4 * 90);
}

TEST_CASE("ThreadPool: cancel ends what is queued, never what runs",
          "[threads][thread_pool][cancel]") {
    static std::atomic<int> begun, gate;
    begun = gate = 0;
    mp::ThreadPool pool(1);
    auto running = pool.apply_async([] {
        ++begun;
        begun.notify_all();
        gate.wait(0);
        return 5;
    });
    auto queued = pool.apply_async(square, 3);
    begun.wait(0);
    CHECK(queued.cancel());
    CHECK_THROWS_AS(queued.get(), mp::Cancelled);
    CHECK_FALSE(running.cancel());
    gate = 1;
    gate.notify_all();
    CHECK(running.get() == 5);
}

TEST_CASE("ThreadPool: terminate ends what is queued with Cancelled and lets what runs end",
          "[threads][thread_pool]") {
    static std::atomic<int> begun, gate, ended;
    begun = gate = ended = 0;
    mp::ThreadPool pool(1);
    std::vector<mp::AsyncResult<void>> results;
    for (int i = 0; i < 100; ++i)
        results.push_back(pool.apply_async([] {
            ++begun;
            begun.notify_all();
            gate.wait(0);
            ++ended;
        }));
    begun.wait(0);
    pool.terminate();
    for (auto& r : results) CHECK_THROWS_AS(r.get(), mp::Cancelled);
    gate = 1;
    gate.notify_all();
    pool.join();
    CHECK(ended == 1);
}

TEST_CASE("ThreadPool: the initializer runs once in each thread; one that throws breaks the pool",
          "[threads][thread_pool]") {
    std::atomic<int> runs{0};
    {
        mp::ThreadPool pool(3, [&] { ++runs; });
        pool.map(square, numbers(100));
    }
    CHECK(runs == 3);
    mp::ThreadPool broken(2, [] { throw std::runtime_error("no licence"); });
    try {
        broken.apply(square, 1);
        FAIL("not broken");
    } catch (const mp::PoolBroken& e) {
        CHECK(std::string(e.what()).find("no licence") != std::string::npos);
    }
}
