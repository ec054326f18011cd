// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/process.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <unistd.h>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"
#include "support/reports.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;
using test::report;

namespace {

void sleep_for_ever() {
    for (;;) ::pause();
}

struct point {
    int x = 0;
    std::string name;
    bool operator==(const point&) const = default;
};

struct node {  // a type that is part of itself
    int value = 0;
    std::vector<node> below;
};

struct unsendable_today {
    int x = 0;
    template <class Archive>
    void save(Archive&) const {
        throw std::out_of_range("not today");
    }
    template <class Archive>
    void load(Archive&) {}
};

struct unreadable {
    int x = 0;
    template <class Archive>
    void save(Archive& archive) const {
        archive(x);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(x);
        throw std::length_error("can't be rebuilt");
    }
};

struct own_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct handle {
    using mp_handle_tag = void;
    int number = 0;
};

/// A test may have used shared memory of queues for the first time: that opens what stays open.
void warm_up() {
    mp::async([] { return 1; }).get();
}

}  // namespace

TEST_CASE("async: the result of a call in another process", "[process][async]") {
    warm_up();
    const test::no_leaks guard;
    CHECK(mp::async([] { return ::getppid(); }).get() == ::getpid());
    CHECK(mp::async([](int a, int b) { return a + b; }, 2, 3).get() == 5);
    CHECK(mp::async([](const std::string& s) { return point{1, s}; }, "p").get() == point{1, "p"});
    int local = 4;
    CHECK(mp::async([&] { return ++local; }).get() == 5);
    CHECK(local == 4);
    mp::async([] {}).get();
    static_assert(std::is_void_v<decltype(mp::async([] {}).get())>);
    static_assert(std::is_same_v<decltype(mp::async([&]() -> const int& { return local; })),
                                 mp::AsyncResult<int>>);
    CHECK(mp::async([&]() -> const int& { return local; }).get() == 4);
    CHECK(mp::async([](handle& h) { return h.number; }, handle{8}).get() == 8);
    CHECK(mp::async({.name = "one"}, [] { return mp::current_process().name(); }).get() == "one");
}

TEST_CASE("async: large and move-only results", "[process][async]") {
    warm_up();
    const test::no_leaks guard;
    std::vector<int> numbers(5'000'000);
    std::iota(numbers.begin(), numbers.end(), 0);
    CHECK(mp::async([&] { return numbers; }).get() == numbers);
    auto unique = mp::async([] { return std::make_unique<std::string>("moved"); });
    CHECK(*unique.get() == "moved");
    CHECK(unique.ready());
    CHECK(unique.successful());
    CHECK_THROWS_AS(unique.get(), mp::Error);  // taken
    auto inside = mp::async([] {
        std::vector<std::unique_ptr<int>> many;
        many.push_back(std::make_unique<int>(3));
        return many;
    });
    CHECK(*inside.get().at(0) == 3);
    CHECK_THROWS_AS(inside.get(), mp::Error);
    auto tree = mp::async([] { return node{1, {node{2, {}}}}; });
    CHECK(tree.get().below.at(0).value == 2);
    CHECK(tree.get().below.at(0).value == 2);
}

TEST_CASE("async: get() may be repeated, and ready() and successful() hold", "[process][async]") {
    auto result = mp::async([] { return std::string("again"); });
    CHECK(result.get() == "again");
    CHECK(result.get(0s) == "again");
    CHECK(result.ready());
    CHECK(result.successful());
    CHECK_FALSE(result.cancel());
    CHECK(result.get() == "again");
    auto failed = mp::async([]() -> int { throw std::invalid_argument("no"); });
    failed.wait();
    CHECK(failed.ready());
    CHECK_FALSE(failed.successful());
    CHECK_THROWS_AS(failed.get(), std::invalid_argument);
    CHECK_THROWS_WITH(failed.get(), "no");
    mp::AsyncResult<std::string> moved(std::move(result));
    CHECK_FALSE(result.valid());  // NOLINT: moved from
    CHECK_THROWS_AS(result.get(), mp::Error);
    CHECK(moved.get() == "again");
}

TEST_CASE("async: exceptions keep their type if it is known, else they are RemoteError",
          "[process][async]") {
    CHECK_THROWS_AS(mp::async([] { throw std::out_of_range("x"); }).get(), std::out_of_range);
    CHECK_THROWS_AS(mp::async([] { throw mp::QueueEmpty("x"); }).get(), mp::QueueEmpty);
    try {
        mp::async([] { throw own_error("mine"); }).get();
        FAIL("nothing thrown");
    } catch (const mp::RemoteError& e) {
        CHECK_THAT(e.what(), Catch::Contains("mine"));
        CHECK_THAT(e.type(), Catch::Contains("own_error"));
        CHECK(e.worker_pid() > 0);
    }
    CHECK_THROWS_AS(mp::async([] { throw 5; }).get(), mp::RemoteError);
}

TEST_CASE("async: nothing is printed of an exception that arrives", "[process][async]") {
    const std::string text = test::output_of(STDERR_FILENO, [] {
        CHECK_THROWS(mp::async([] { throw std::runtime_error("x"); }).get());
    });
    CHECK(text.empty());
}

TEST_CASE("async: a result that can't be sent or rebuilt is that exception", "[process][async]") {
    CHECK_THROWS_WITH(mp::async([] { return unsendable_today{}; }).get(), "not today");
    auto result = mp::async([] { return unreadable{}; });
    CHECK_THROWS_WITH(result.get(), "can't be rebuilt");
    CHECK_THROWS_WITH(result.get(), "can't be rebuilt");
    CHECK(result.ready());
}

TEST_CASE("async: a child that ends early is WorkerCrashed with what ended it",
          "[process][async]") {
    warm_up();
    const test::no_leaks guard;
    const auto crash = [](auto f) {
        try {
            mp::async(f).get();
        } catch (const mp::WorkerCrashed& e) {
            CHECK(e.worker_pid() > 0);
            CHECK_THAT(e.what(), Catch::Contains(std::to_string(e.worker_pid())));
            CHECK_THAT(e.what(), Catch::Contains("before") && Catch::Contains(" returned"));
            CHECK(e.signal() == (e.exitcode() < 0 ? -e.exitcode() : 0));
            return e.exitcode();
        }
        return 1000;
    };
    CHECK(crash([] { ::raise(SIGKILL); }) == -SIGKILL);
    CHECK(crash([] { std::exit(3); }) == 3);
    CHECK(crash([] { ::_exit(0); }) == 0);
    CHECK(crash([] { ::pthread_exit(nullptr); }) == 0);
}

TEST_CASE("async: timeouts leave the call running", "[process][async]") {
    warm_up();
    const test::no_leaks guard;
    int go[2];
    REQUIRE(::pipe2(go, O_CLOEXEC) == 0);
    auto result = mp::async([&] {
        char byte = 0;
        return ::read(go[0], &byte, 1) == 1 ? byte : '?';
    });
    CHECK_FALSE(result.ready());
    CHECK_THROWS_AS(result.successful(), mp::Error);
    CHECK_THROWS_AS(result.get(0s), mp::TimeoutError);
    CHECK_THROWS_AS(result.get(-1s), mp::TimeoutError);
    const auto start = std::chrono::steady_clock::now();
    CHECK_FALSE(result.wait(20ms));
    CHECK(std::chrono::steady_clock::now() - start >= 20ms);
    REQUIRE(::write(go[1], "y", 1) == 1);
    CHECK(result.wait(mp::duration::max()));
    CHECK(result.get() == 'y');
    ::close(go[0]);
    ::close(go[1]);
}

TEST_CASE("async: cancel() ends the call with Cancelled", "[process][async]") {
    warm_up();
    const test::no_leaks guard;
    auto result = mp::async([] {
        sleep_for_ever();
        return 1;
    });
    CHECK(result.cancel());
    CHECK(result.ready());
    CHECK_FALSE(result.successful());
    CHECK_THROWS_AS(result.get(), mp::Cancelled);
    CHECK_FALSE(result.cancel());
    // At any moment: the result or Cancelled, as cancel() said.
    for (int i = 0; i < 40; ++i) {
        auto raced = mp::async([] { return 2; });
        for (volatile int spin = 0; spin < i * 3'000;) spin = spin + 1;
        if (raced.cancel())
            CHECK_THROWS_AS(raced.get(), mp::Cancelled);
        else
            CHECK(raced.get() == 2);
    }
}

TEST_CASE("async: a dropped result's call goes on, and is reaped", "[process][async]") {
    warm_up();
    const test::no_leaks guard;
    report said;
    static_cast<void>(mp::async([&] { said.line("done"); }));
    CHECK(said.wait_line() == "done");
    CHECK(test::eventually([] { return mp::active_children().empty(); }));
    // Without asking: the next start reaps.
    for (int i = 0; i < 50; ++i) static_cast<void>(mp::async([] {}));
    CHECK(test::eventually([] {
        mp::async([] {}).get();
        return test::children().empty();
    }));
}

TEST_CASE("async: a program that exits waits for dropped results", "[process][async]") {
    report said;
    int go[2];
    REQUIRE(::pipe2(go, O_CLOEXEC) == 0);
    test::child host([&] {
        static_cast<void>(mp::async([&] {
            char byte;
            if (::read(go[0], &byte, 1) == 1) said.line("task");
        }));
        std::atexit([] {});
        if (::write(go[1], "x", 1) != 1) return 90;
        std::exit(0);
        return 0;
    });
    CHECK(host.exit_status() == 0);
    said.line("end");
    CHECK(said.text() == "task\nend\n");
    ::close(go[0]);
    ::close(go[1]);
}

TEST_CASE("async: many at once, waited for by many threads", "[process][async]") {
    warm_up();
    const test::no_leaks guard;
    std::atomic<int> sum{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            std::vector<mp::AsyncResult<int>> results;
            for (int i = 0; i < 10; ++i) results.push_back(mp::async([=] { return t * 10 + i; }));
            for (auto& r : results) sum += r.get();
        });
    for (auto& t : threads) t.join();
    CHECK(sum == 39 * 40 / 2);
    auto one = mp::async([] { return std::string(1'000'000, 'x'); });
    std::atomic<int> right{0};
    threads.clear();
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] { right += one.get().size() == 1'000'000; });
    for (auto& t : threads) t.join();
    CHECK(right == 4);
}

TEST_CASE("async: only the process that started the call may wait for it", "[process][async]") {
    auto result = mp::async([] {
        sleep_for_ever();
        return 1;
    });
    CHECK(mp::async([&] {
              try {
                  result.get();
              } catch (const mp::ProcessError&) {
                  return true;
              }
              return false;
          }).get());
    result.cancel();
}

TEST_CASE("async: calls may start calls", "[process][async]") {
    struct fibonacci {
        int operator()(int n) const {
            if (n < 2) return n;
            auto left = mp::async(*this, n - 1);
            auto right = mp::async(*this, n - 2);
            return left.get() + right.get();
        }
    };
    CHECK(mp::async(fibonacci{}, 6).get() == 8);
}

TEST_CASE("async: limits", "[process][async]") {
    CHECK(mp::async({.limits = {.open_files = 64}}, [] { return ::dup(2); }).get() > 2);
    CHECK_THROWS_AS(mp::async({.limits = {.cpu_time = 1s}},
                              [] {
                                  for (volatile unsigned n = 0;;) n = n + 1;
                              })
                        .get(),
                    mp::WorkerCrashed);
}
