// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/pool.hpp>
#include <multiprocessing/queues.hpp>
#include <multiprocessing/synchronize.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <ranges>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <unistd.h>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;

namespace {

int square(int x) { return x * x; }
std::string join_text(std::string a, const std::string& b, int n) {
    return a + b + std::to_string(n);
}

struct adder {
    int amount = 0;
    int operator()(int x) const { return x + amount; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(amount);
    }
};

struct point {
    int x = 0, y = 0;
    int sum() const { return x + y; }
};

struct shape {
    int sides = 0;
    virtual ~shape() = default;
    virtual int corners() const { return sides; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(sides);
    }
};

struct unsendable_result {
    int value = 0;
    template <class Archive>
    void save(Archive&) const {
        throw std::domain_error("won't go");
    }
    template <class Archive>
    void load(Archive&) {}
};

std::vector<int> numbers(int n) {
    std::vector<int> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

template <std::size_t Size>
struct flat_value {
    std::array<unsigned char, Size> bytes;
};

template <std::size_t Size>
bool flat_of(mp::Pool& pool) {
    const auto make = [](int i) {
        flat_value<Size> made;
        for (std::size_t k = 0; k < Size; ++k)
            made.bytes[k] = static_cast<unsigned char>(k * 7 + static_cast<std::size_t>(i));
        return made;
    };
    const auto all = pool.map(make, numbers(8), {.chunksize = 4});
    for (int i = 0; i < 8; ++i)
        if (all[static_cast<std::size_t>(i)].bytes != make(i).bytes) return false;
    return true;
}

}  // namespace

TEST_CASE("Pool: apply calls functions, lambdas, function objects, members and bound values",
          "[pool]") {
    const test::no_leaks leaks;
    mp::Pool pool(2);
    CHECK(pool.apply(square, 7) == 49);
    CHECK(pool.apply(&square, -2) == 4);
    CHECK(pool.apply([](double d) { return d / 2; }, 5.0) == 2.5);
    CHECK(pool.apply(adder{10}, 5) == 15);
    CHECK(pool.apply(join_text, std::string("a"), std::string("b"), 3) == "ab3");
    CHECK(pool.apply(&point::sum, point{3, 4}) == 7);
    shape s;
    s.sides = 5;
    CHECK(pool.apply(&shape::corners, s) == 5);
    CHECK(pool.apply(mp::bind([](int a, int b) { return a - b; }, 10), 3) == 7);
    CHECK(pool.apply(mp::bind(square, 9)) == 81);
    CHECK(pool.apply(mp::bind(adder{1}, 1)) == 2);
    CHECK(pool.apply([] { return true; }));
    pool.apply([] {});
    CHECK(*pool.apply([](std::unique_ptr<int> p) { return std::make_unique<int>(*p + 1); },
                      std::make_unique<int>(1)) == 2);
    CHECK(pool.apply([] { return ::getpid(); }) != ::getpid());
}

TEST_CASE("Pool: more callables than it has numbers for, and large ones", "[pool]") {
    mp::Pool pool(2);
    for (int i = 0; i < 500; ++i) {
        CHECK(pool.apply(adder{i}, 1) == i + 1);
        if (i % 100 == 0) CHECK(pool.map(adder{i}, numbers(3)) == std::vector{i, i + 1, i + 2});
    }
    const std::string text(10'000, 'x');
    CHECK(pool.apply(mp::bind(join_text, text), std::string("y"), 5) == text + "y5");
    CHECK(pool.apply_async(mp::TaskOptions<int>{.timeout = std::chrono::hours(1)}, square, 12)
              .get() == 144);
}

TEST_CASE("Pool: handles go into tasks", "[pool][handle]") {
    mp::Pool pool(2);
    mp::Queue<int> q;  // made after the workers
    pool.apply([](mp::Queue<int>& out, int n) { out.put(n); }, q, 5);
    CHECK(q.get() == 5);

    const mp::Lock lock;
    const mp::Semaphore units(2);
    const mp::Event event;
    const mp::Barrier barrier(2);
    const std::lock_guard held(lock);
    CHECK_FALSE(pool.apply([](mp::Lock given) { return given.try_lock(); }, lock));
    pool.apply([](mp::Semaphore& given) { given.acquire(); }, units);
    CHECK(units.value() == 1);
    pool.apply([](const mp::Event& given) { given.set(); }, event);
    CHECK(event.is_set());
    auto met = pool.apply_async([](mp::Barrier& given) { return given.wait(); }, barrier);
    CHECK(barrier.wait(test::patience) + met.get() == 1);

    mp::Condition condition;
    std::unique_lock guard(condition);
    auto notified = pool.apply_async(
        [](mp::Condition& given) {
            const std::lock_guard mine(given);
            given.notify();
        },
        condition);
    CHECK(condition.wait(guard, test::patience));
    guard.unlock();
    notified.get();
}

TEST_CASE("Pool: map gives all results in order, whatever the chunks and workers", "[pool]") {
    const std::vector<int> in = numbers(1000);
    std::vector<int> expected;
    for (const int i : in) expected.push_back(i * i);
    for (const std::size_t workers : {1u, 2u, 5u}) {
        mp::Pool pool(workers);
        for (const std::size_t chunksize : {0u, 1u, 7u, 1000u, 5000u})
            CHECK(pool.map(square, in, {.chunksize = chunksize}) == expected);
        CHECK(pool.map(square, std::vector<int>{}) == std::vector<int>{});
        CHECK(pool.map_async(square, in).get() == expected);
        CHECK(pool.map([](int x) { return x % 2 == 0; }, std::vector<int>{1, 2, 3}) ==
              std::vector<bool>{false, true, false});
        pool.map([](int) {}, in);
        const std::set<int> sorted(in.begin(), in.end());
        CHECK(pool.map(square, sorted) == expected);
        CHECK(pool.starmap([](int a, int b) { return a * b; },
                           std::vector<std::pair<int, int>>{{1, 2}, {3, 4}}) ==
              std::vector<int>{2, 12});
        CHECK(pool.starmap_async([](int a, const std::string& b) { return b + std::to_string(a); },
                                 std::vector<std::tuple<int, std::string>>{{1, "x"}})
                  .get() == std::vector<std::string>{"x1"});
    }
}

TEST_CASE("Pool: large arguments and results", "[pool]") {
    mp::Pool pool(2);
    const std::vector<double> big(1'000'000, 1.5);
    const auto twice = [](std::vector<double> v) {
        for (double& d : v) d *= 2;
        return v;
    };
    CHECK(pool.map(twice, std::vector<std::vector<double>>(4, big)) ==
          std::vector<std::vector<double>>(4, std::vector<double>(1'000'000, 3.0)));
}

TEST_CASE("Pool: flat results of any size come whole", "[pool]") {
    mp::Pool pool(2);
    CHECK(flat_of<15'000>(pool));
    CHECK(flat_of<16'384>(pool));
    CHECK(flat_of<65'535>(pool));
    CHECK(flat_of<65'536>(pool));  // the scratch memory of a worker
    CHECK(flat_of<500'000>(pool));
}

TEST_CASE("Pool: the items of a range may come as proxies", "[pool][imap]") {
    mp::Pool pool(2);
    const std::vector<bool> bits{true, false, true, true};
    const auto flip = [](bool b) { return b ? 0 : 1; };
    const std::vector<int> expected{0, 1, 0, 0};
    CHECK(pool.map(flip, bits) == expected);
    CHECK(pool.map_async(flip, std::vector<bool>(bits)).get() == expected);
    CHECK(pool.map([](bool b) { return !b; }, bits, {.chunksize = 3}) ==
          std::vector<bool>{false, true, false, false});
    std::vector<int> got;
    for (const int one : pool.imap(flip, bits)) got.push_back(one);
    CHECK(got == expected);
    int sum = 0;
    for (const int one : pool.imap_unordered(flip, bits)) sum += one;
    CHECK(sum == 1);
    CHECK(mp::map([&](bool b) { return flip(b); }, bits) == expected);

    struct stands_for {  // a text that is made when it is read
        operator std::string() const { return std::string(n, 'x'); }
        std::size_t n;
    };
    struct texts {
        using value_type = std::string;
        using difference_type = std::ptrdiff_t;
        std::size_t n = 0;
        stands_for operator*() const { return {n}; }
        texts& operator++() {
            ++n;
            return *this;
        }
        void operator++(int) { ++n; }
        bool operator==(std::default_sentinel_t) const { return n == 5; }
    };
    struct range {
        texts begin() const { return {}; }
        std::default_sentinel_t end() const { return {}; }
    };
    CHECK(pool.map([](const std::string& text) { return text.size(); }, range{}) ==
          std::vector<std::size_t>{0, 1, 2, 3, 4});
}

TEST_CASE("Pool: imap reads its input as results are consumed", "[pool][imap]") {
    mp::Pool pool(2);
    struct counting {  // endless, single pass
        int* read;
        using value_type = int;
        using difference_type = std::ptrdiff_t;
        int operator*() const { return *read; }
        counting& operator++() {
            ++*read;
            return *this;
        }
        void operator++(int) { ++*read; }
        bool operator==(std::default_sentinel_t) const { return false; }
    };
    int read = 0;
    struct endless {
        int* read;
        counting begin() { return {read}; }
        std::default_sentinel_t end() { return {}; }
    };
    int taken = 0;
    for (const int x : pool.imap(square, endless{&read}, {.buffersize = 10})) {
        CHECK(x == taken * taken);
        ++taken;
        CHECK(read <= taken + 10);
        if (taken == 50) break;  // abandoned: prompt
    }
    CHECK(taken == 50);
    std::multiset<int> unordered;
    for (const int x : pool.imap_unordered(square, numbers(100), {.chunksize = 3}))
        unordered.insert(x);
    CHECK(unordered.size() == 100);
    CHECK(*unordered.rbegin() == 99 * 99);
}

TEST_CASE("Pool: the results of imap are a view", "[pool][imap]") {
    mp::Pool pool(2);
    static_assert(std::ranges::view<mp::ImapResults<int>>);
    static_assert(std::ranges::input_range<mp::ImapResults<int>>);
#if !defined(__clang__) || __clang_major__ >= 16  // before, it knows no views of libstdc++
    std::vector<int> first;
    for (const int x : pool.imap(square, std::views::iota(0)) | std::views::take(3))
        first.push_back(x);
    CHECK(first == std::vector{0, 1, 4});
#endif
    const std::vector<int> from_7{7, 8, 9};
    auto results = pool.imap(square, numbers(100));
    CHECK(*results.begin() == 0);
    results = pool.imap(square, from_7);  // the others are abandoned
    CHECK(*results.begin() == 49);
}

TEST_CASE("Pool: imap delivers what precedes a failure, throws at its place and goes on",
          "[pool][imap]") {
    mp::Pool pool(2);
    for (const std::size_t chunksize : {1u, 4u}) {
        auto results = pool.imap(
            [](int x) {
                if (x == 5) throw std::out_of_range("five");
                return x;
            },
            numbers(10), {.chunksize = chunksize});
        int index = 0, errors = 0;
        for (auto it = results.begin(); it != results.end(); ++it, ++index) try {
                const int value = *it;
                CHECK(value == index);
            } catch (const std::out_of_range&) {
                CHECK(index == 5);
                ++errors;
            }
        CHECK(index == 10);
        CHECK(errors == 1);
    }
}

TEST_CASE("Pool: close lets what was submitted end; join comes after", "[pool]") {
    mp::Pool pool(2);
    auto results = pool.map_async(square, numbers(100));
    CHECK_THROWS_AS(pool.join(), mp::ProcessError);
    pool.close();
    CHECK_THROWS_AS(pool.apply(square, 1), mp::ClosedError);
    CHECK_THROWS_AS(pool.map(square, numbers(3)), mp::ClosedError);
    CHECK_THROWS_AS(pool.map_async(square, numbers(3)), mp::ClosedError);
    CHECK_THROWS_AS(pool.imap(square, numbers(3)), mp::ClosedError);
    pool.join();
    CHECK(results.ready());
    CHECK(results.get().size() == 100);
}

TEST_CASE("Pool: is used in destructors that run when the thread's buffers are gone", "[pool]") {
    struct applies_at_end {
        mp::Pool* pool = nullptr;
        int* result = nullptr;
        ~applies_at_end() {
            if (pool) *result = pool->apply([](int x) { return x + 1; }, 41);
        }
    };
    mp::Pool pool(1);
    int result = 0;
    std::thread([&] {
        static thread_local applies_at_end last;  // made first, so it goes last
        pool.apply([](int x) { return x; }, 1);
        last.pool = &pool;
        last.result = &result;
    }).join();
    CHECK(result == 42);
}

TEST_CASE("Pool: workers stay busy to the end, though nobody waits for the results", "[pool]") {
    static auto& done = test::shared_memory<std::atomic<int>>();  // before the workers are forked
    done = 0;
    mp::Pool pool(2);
    static constexpr int count = 20'000;
    for (int i = 0; i < count; ++i) pool.apply_async([] { ++done; });
    CHECK(test::eventually([&] { return done == count; }));  // nothing of the pool is called
}

TEST_CASE("Pool: callbacks run in this process, one at a time, and may use the pool",
          "[pool][callback]") {
    mp::Pool pool(2);
    std::atomic<int> sum{0}, inside{0};
    std::vector<mp::AsyncResult<int>> results;
    const pid_t here = ::getpid();
    for (int i = 0; i < 50; ++i)
        results.push_back(pool.apply_async(mp::TaskOptions<int>{.callback =
                                                                    [&](const int& v) {
                                                                        CHECK(++inside == 1);
                                                                        CHECK(::getpid() == here);
                                                                        sum += v;
                                                                        if (v == 4)
                                                                            sum += pool.apply(
                                                                                square, 100);
                                                                        --inside;
                                                                    }},
                                           square, i));
    for (auto& r : results) r.wait();
    CHECK(sum == 40425 + 10000);
    auto thrower = pool.apply_async(
        mp::TaskOptions<int>{.callback = [](const int&) { throw std::logic_error("mine"); }},
        square, 1);
    CHECK_THROWS_AS(thrower.get(), std::logic_error);
    std::atomic<bool> told{false};
    auto failing = pool.apply_async(
        mp::TaskOptions<int>{.error_callback = [&](std::exception_ptr) { told = true; }},
        []() -> int { throw std::runtime_error("x"); });
    CHECK_THROWS_AS(failing.get(), std::runtime_error);
    CHECK(told);
}

TEST_CASE("Pool: the initializer runs once in each worker, maxtasksperchild replaces them",
          "[pool]") {
    mp::Queue<pid_t> made;
    {
        mp::Pool pool(mp::PoolOptions{.processes = 2,
                                      .initializer = [made]() mutable { made.put(::getpid()); },
                                      .maxtasksperchild = 5});
        const auto pids = pool.map([](int) { return ::getpid(); }, numbers(50), {.chunksize = 25});
        std::map<pid_t, int> ran;
        for (const pid_t pid : pids) ++ran[pid];
        for (const auto& [pid, count] : ran) CHECK(count <= 5);
        CHECK(ran.size() >= 10);
    }
    CHECK(made.qsize() >= 10);
}

TEST_CASE("Pool: may be closed at any moment of its start", "[pool]") {
    const test::no_leaks leaks;
    for (int round = 0; round < 60; ++round) {  // no worker is there yet, some are, all are
        mp::Pool pool(3);
        std::this_thread::sleep_for(std::chrono::microseconds(round * 40));
        if (round % 3 == 2) CHECK(pool.apply(square, round) == round * round);
        if (round % 6 == 5) pool.terminate();
    }
    mp::Queue<pid_t> made;
    {
        mp::Pool pool(mp::PoolOptions{.processes = 3,
                                      .initializer = [made]() mutable { made.put(::getpid()); }});
    }
    CHECK(made.qsize() == 3);
}

TEST_CASE("Pool: worker_local is one object in each worker", "[pool]") {
    mp::Pool pool(2);
    struct counter {
        int calls = 0;
    };
    const auto count = [](int) {
        return std::pair(::getpid(), ++mp::worker_local<counter>().calls);
    };
    std::map<pid_t, int> most;
    for (const auto& [pid, calls] : pool.map(count, numbers(100), {.chunksize = 10}))
        most[pid] = std::max(most[pid], calls);
    int sum = 0;
    for (const auto& [pid, calls] : most) sum += calls;
    CHECK(sum == 100);
}

TEST_CASE("Pool: pools work inside workers, and a copy in a child has no effect", "[pool]") {
    const test::no_leaks leaks;
    mp::Pool pool(2);
    CHECK(pool.apply(
              [](int n) {
                  mp::Pool inner(2);
                  const auto squares = inner.map(square, numbers(n));
                  return std::accumulate(squares.begin(), squares.end(), 0);
              },
              10) == 285);
    mp::Process child([&] {
        try {
            pool.apply(square, 1);
            ::_exit(2);
        } catch (const mp::ProcessError&) {
        }
    });
    child.start();
    child.join();
    CHECK(child.exitcode() == 0);
    CHECK(pool.apply(square, 6) == 36);
}

TEST_CASE("Pool: many threads use one pool", "[pool]") {
    mp::Pool pool(2);
    std::vector<std::thread> threads;
    std::atomic<int> right{0};
    for (int t = 0; t < 6; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 50; ++i) {
                if (pool.apply(square, i) == i * i) ++right;
                if (pool.apply_async(square, t).get() == t * t) ++right;
                if (pool.map(square, numbers(20)).size() == 20) ++right;
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(right == 6 * 150);
}

TEST_CASE("Pool: workers ignore SIGINT and have the default for other signals", "[pool]") {
    std::signal(SIGUSR1, SIG_IGN);
    mp::Pool pool(1);
    CHECK(pool.apply([] {
        struct sigaction now {};
        ::sigaction(SIGINT, nullptr, &now);
        if (now.sa_handler != SIG_IGN) return 1;
        ::sigaction(SIGUSR1, nullptr, &now);
        return now.sa_handler == SIG_DFL ? 0 : 2;
    }) == 0);
    std::signal(SIGUSR1, SIG_DFL);
}
