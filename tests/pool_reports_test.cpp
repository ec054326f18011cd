// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/pool.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <list>
#include <memory>
#include <numeric>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

namespace {

int square(int x) { return x * x; }

std::vector<int> numbers(int n) {
    std::vector<int> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

std::size_t count(const std::string& text, const std::string& what) {
    std::size_t n = 0;
    for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
    return n;
}

}  // namespace

TEST_CASE("as_completed: results in the order in which tasks end", "[pool][as_completed]") {
    mp::Pool pool(2);
    const auto slow = [](int ms) {
        std::this_thread::sleep_for(std::chrono::milliseconds(ms));
        return ms;
    };
    std::vector<mp::AsyncResult<int>> results;
    results.push_back(pool.apply_async(slow, 200));
    results.push_back(pool.apply_async(slow, 1));
    results.push_back(pool.apply_async([](int) -> int { throw std::out_of_range("x"); }, 1));
    std::vector<int> order;
    int errors = 0;
    for (auto& result : mp::as_completed(std::move(results))) try {
            order.push_back(result.get());
        } catch (const std::out_of_range&) {
            ++errors;
        }
    CHECK(order == std::vector<int>{1, 200});
    CHECK(errors == 1);
    for (auto& result : mp::as_completed(std::vector<mp::AsyncResult<int>>{})) CHECK(result.get());
}

TEST_CASE("as_completed: of async calls, and of these and pools together", "[as_completed]") {
    mp::Pool pool(1), other(1);
    std::multiset<int> values;
    std::vector<mp::AsyncResult<int>> results;
    for (int i = 0; i < 3; ++i) {
        results.push_back(mp::async([i] { return i; }));
        results.push_back(pool.apply_async(square, 10 * i));
        results.push_back(other.apply_async(square, 100 * i));
    }
    for (auto& result : mp::as_completed(std::move(results))) {
        CHECK(result.ready());
        values.insert(result.get());
    }
    CHECK(values == std::multiset<int>{0, 0, 0, 1, 2, 100, 400, 10000, 40000});
}

TEST_CASE("mp::map: any callable, items that can't be sent, crashes at their place",
          "[pool][map]") {
    const test::no_leaks leaks;
    const int factor = 3;
    std::vector<std::unique_ptr<int>> in;
    for (int i = 0; i < 50; ++i) in.push_back(std::make_unique<int>(i));
    const auto out = mp::map([&](const std::unique_ptr<int>& p) { return *p * factor; }, in);
    REQUIRE(out.size() == 50);
    for (int i = 0; i < 50; ++i) CHECK(out[static_cast<std::size_t>(i)] == 3 * i);
    CHECK(mp::map([&](int x) { return x + factor; }, std::list<int>{1, 2}) ==
          std::vector<int>{4, 5});
    std::list<std::unique_ptr<int>> owned;
    owned.push_back(std::make_unique<int>(5));
    CHECK(mp::map([&](const std::unique_ptr<int>& p) { return *p * factor; }, owned) ==
          std::vector<int>{15});
    CHECK(mp::map([&](int x) { return x; }, std::vector<int>{}).empty());
    mp::map([&](int) {}, numbers(3));
    CHECK_THROWS_AS(mp::map(
                        [&](int x) {
                            if (x == factor) std::abort();
                            return x;
                        },
                        numbers(10)),
                    mp::WorkerCrashed);
    CHECK_THROWS_AS(mp::map([&](int) -> int { throw std::domain_error("x"); }, numbers(10)),
                    std::domain_error);
}

TEST_CASE("Pool: stats counts tasks, failures, restarts and names the slowest", "[pool][stats]") {
    mp::Pool pool(2);
    pool.map(square, numbers(100));
    const auto slow_at_7 = [](int x) {
        if (x == 7) std::this_thread::sleep_for(30ms);
        return x;
    };
    pool.map(slow_at_7, numbers(20), {.chunksize = 1});
    CHECK_THROWS(pool.apply([] { throw 1; }));
    CHECK_THROWS_AS(pool.apply([] { std::abort(); }), mp::WorkerCrashed);
    pool.apply(square, 1);
    const mp::PoolStats stats = pool.stats();
    CHECK(stats.tasks == 123);
    CHECK(stats.failed == 2);
    CHECK(stats.uptime > 30ms);
    REQUIRE(stats.workers.size() == 2);
    std::uint64_t restarts = 0;
    double busy = 0;
    for (const auto& worker : stats.workers) {
        restarts += worker.restarts;
        busy = std::max(busy, worker.busy);
    }
    CHECK(restarts == 1);
    CHECK(busy > 0);
    CHECK(busy <= 1);
    REQUIRE_FALSE(stats.slowest.empty());
    CHECK(stats.slowest.size() <= 10);
    const bool found = std::any_of(stats.slowest.begin(), stats.slowest.end(), [](const auto& s) {
        return s.index == 7 && s.run >= 30ms && s.callable.find("lambda") != std::string::npos;
    });
    CHECK(found);
}

TEST_CASE("Pool: write_trace writes a track for each worker and a slice for each task",
          "[pool][trace]") {
    mp::Pool pool(mp::PoolOptions{.processes = 2, .name = "Tracer \"x\""});
    for (int i = 0; i < 5; ++i) pool.apply(square, i);
    CHECK_THROWS_AS(pool.apply([] { std::abort(); }), mp::WorkerCrashed);
    char path[] = "/tmp/multiprocessing-trace-XXXXXX";
    const int fd = ::mkstemp(path);
    REQUIRE(fd >= 0);
    ::close(fd);
    pool.write_trace(path);
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    ::unlink(path);
    const std::string json = text.str();
    CHECK(json.find("{\"traceEvents\":[") == 0);
    CHECK(json.find("Tracer \\\"x\\\"") != std::string::npos);
    CHECK(count(json, "\"thread_name\"") == 2);
    CHECK(count(json, "\"ph\":\"X\"") == 6);
    CHECK(count(json, "\"outcome\":\"crashed\"") == 1);
    CHECK(count(json, "{") == count(json, "}"));
    CHECK(count(json, "\"ts\":") == 6);
    CHECK(count(json, "\"dur\":") == 6);
    CHECK(count(json, "\"queued_us\":") == 6);
    CHECK(count(json, "\"index\":0,") == 6);
    try {
        pool.write_trace("/nonexistent/trace.json");
        FAIL("no error");
    } catch (const mp::OsError& e) {
        CHECK(std::string(e.what()).find("/nonexistent/trace.json") != std::string::npos);
    }
}

TEST_CASE("Pool: a trace and the slowest tasks say which item of its map it was",
          "[pool][trace][stats]") {
    mp::Pool pool(2);
    pool.map(square, numbers(30), {.chunksize = 10});
    char path[] = "/tmp/multiprocessing-trace-XXXXXX";
    ::close(::mkstemp(path));
    pool.write_trace(path);
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    ::unlink(path);
    for (const char* first : {"\"index\":0,", "\"index\":10,", "\"index\":20,"})
        CHECK(count(text.str(), first) == 1);
    std::set<std::uint64_t> slowest;
    for (const auto& one : pool.stats().slowest) slowest.insert(one.index);
    for (const std::uint64_t index : slowest) CHECK(index < 30);
    CHECK_FALSE(slowest.empty());
}

TEST_CASE("Pool: progress is a bar on a terminal, lines elsewhere", "[pool][progress]") {
    const auto shown_on = [](int to, int from) {
        test::child program([&] {
            ::dup2(to, STDERR_FILENO);
            mp::Pool pool(1);
            auto failing = pool.imap(
                [](int i) {
                    if (i == 2) throw std::runtime_error("two");
                    return i;
                },
                numbers(4), {.progress = true});
            for (auto it = failing.begin(); it != failing.end(); ++it) try {
                    *it;
                } catch (const std::runtime_error&) {
                }
            return 0;
        });
        CHECK(program.exit_status() == 0);
        char all[4096];
        const ssize_t size = ::read(from, all, sizeof all);
        return std::string(all, static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
    };
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const std::string lines = shown_on(ends[1], ends[0]);
    CHECK(lines.find("4/4, ") == 0);
    CHECK(lines.find("1 failed\n") != std::string::npos);
    CHECK(count(lines, "\r") + count(lines, "\x1b") + count(lines, "[") == 0);
    ::close(ends[0]);
    ::close(ends[1]);

    const int master = ::posix_openpt(O_RDWR | O_NOCTTY);
    REQUIRE(master >= 0);
    REQUIRE(::grantpt(master) == 0);
    REQUIRE(::unlockpt(master) == 0);
    const int terminal = ::open(::ptsname(master), O_RDWR | O_NOCTTY);
    REQUIRE(terminal >= 0);
    const std::string bar = shown_on(terminal, master);
    CHECK(bar.find("\r[##############################] 4/4, ") != std::string::npos);
    CHECK(bar.find("1 failed\x1b[K") != std::string::npos);
    ::close(terminal);
    ::close(master);
}

TEST_CASE("Pool: progress is told until all is done", "[pool][progress]") {
    mp::Pool pool(2);
    std::vector<mp::Progress> told;
    pool.map(square, numbers(1000),
             {.chunksize = 100, .progress = [&](const mp::Progress& p) { told.push_back(p); }});
    REQUIRE(told.size() == 10);
    for (std::size_t i = 0; i < told.size(); ++i) CHECK(told[i].done == 100 * (i + 1));
    CHECK(told.back().over());
    CHECK(told.back().total == 1000u);
    CHECK(told.back().failed == 0);

    std::uint64_t done = 0, total = 0;
    pool.map_async(square, numbers(10),
                   {.progress =
                        [&](std::uint64_t d, std::uint64_t t) {
                            done = d;
                            total = t;
                        }})
        .wait();
    CHECK(done == 10);
    CHECK(total == 10);

    told.clear();
    for (const int x : pool.imap(square, numbers(4),
                                 {.progress = [&](const mp::Progress& p) { told.push_back(p); }}))
        CHECK(x >= 0);
    CHECK(told.size() == 4);

    CHECK_THROWS_AS(
        pool.map(square, numbers(10),
                 {.progress = [](const mp::Progress&) { throw std::logic_error("x"); }}),
        std::logic_error);
}
