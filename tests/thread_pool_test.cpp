// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/pool.hpp>

#include <atomic>
#include <cstddef>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
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
