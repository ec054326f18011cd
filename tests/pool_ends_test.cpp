// SPDX-License-Identifier: BSL-1.0

/// \file
/// How a pool's tasks, workers and the pool itself end: what errors say, what is run again, what
/// Ctrl-C and an initializer that hangs leave behind.

#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/pool.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>
#include <multiprocessing/synchronize.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sched.h>
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

struct counts {
    std::atomic<int> ran[100];
    std::atomic<int> begun;
    std::atomic<pid_t> pids[16];
};
counts& seen = test::shared_memory<counts>();

void forget_counts() {
    for (auto& each : seen.ran) each = 0;
    for (auto& each : seen.pids) each = 0;
    seen.begun = 0;
}
/// In an initializer.
void note_pid() { seen.pids[seen.begun++ % 16] = ::getpid(); }
/// Those that noted theirs.
std::vector<mp::detail::unique_fd> noted() {
    std::vector<mp::detail::unique_fd> all;
    for (const auto& pid : seen.pids)
        if (pid != 0) all.push_back(mp::detail::open_pidfd(pid));
    return all;
}
bool all_end(const std::vector<mp::detail::unique_fd>& ends) {
    for (const auto& end : ends)
        if (!mp::detail::wait_readable(end.get(), mp::detail::deadline::after(10s))) return false;
    return true;
}
[[noreturn]] void for_ever() {
    for (;;) ::pause();
}

struct bill {
    int amount = 0;
    std::string to;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(amount, to);
    }
};
struct unpaid : std::exception {
    bill open;
    const char* what() const noexcept override { return "unpaid"; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(open);
    }
};
struct unheard_of : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace

MP_REGISTER_EXCEPTION(unpaid);

TEST_CASE("Pool: a registered exception comes home with what it carries, another says its type",
          "[pool][error]") {
    mp::Pool pool(2);
    try {
        pool.apply([]() -> int {
            unpaid e;
            e.open = {12, "the baker"};
            throw e;
        });
        FAIL("no exception");
    } catch (const unpaid& e) {
        CHECK(e.open.amount == 12);
        CHECK(e.open.to == "the baker");
    }
    const pid_t worker = mp::Pool(1).apply([] { return ::getpid(); });
    CHECK(worker > 0);
    mp::Pool one(1);
    const pid_t its_pid = one.apply([] { return ::getpid(); });
    try {
        one.apply([]() -> int { throw unheard_of("of what"); });
        FAIL("no exception");
    } catch (const mp::RemoteError& e) {
        CHECK(e.type().find("unheard_of") != std::string::npos);
        CHECK(std::string(e.what()).find("of what") != std::string::npos);
        CHECK(e.worker_pid() == its_pid);
    }
}

TEST_CASE("Pool: of a chunk with a crash each item runs once; the error says where and how",
          "[pool][crash]") {
    const test::no_leaks leaks;
    forget_counts();
    mp::Pool pool(2);
    const auto crashes = [](int i) {
        ++seen.ran[i];
        if (i == 37) ::raise(SIGSEGV);
        return i;
    };
    auto results = pool.imap(crashes, numbers(100), {.chunksize = 100});
    int right = 0;
    for (auto it = results.begin(); it != results.end(); ++it) try {
            right += *it >= 0;
        } catch (const mp::WorkerCrashed& e) {
            const std::string what = e.what();
            for (const std::string& part : {std::string("number 37 of "), std::string("lambda"),
                                            std::string("signal 11 (Segmentation fault)"),
                                            "pid " + std::to_string(e.worker_pid())})
                CHECK(what.find(part) != std::string::npos);
        }
    CHECK(right == 99);
    for (const auto& each : seen.ran) CHECK(each == 1);
}

TEST_CASE("Pool: join with a timeout tells whether all was answered", "[pool]") {
    mp::Event may_end;
    mp::Pool pool(1);
    const auto result = pool.apply_async([](mp::Event& e) { e.wait(); }, may_end);
    CHECK_THROWS_AS(pool.join(0s), mp::ProcessError);
    pool.close();
    const auto begin = test::clock::now();
    CHECK_FALSE(pool.join(20ms));
    CHECK(test::clock::now() - begin >= 20ms);
    CHECK_FALSE(pool.join(0s));
    may_end.set();
    CHECK(pool.join(test::patience));
    CHECK(pool.join(0s));
}

TEST_CASE("Pool: retries run only the item of a chunk again that crashed", "[pool][crash]") {
    forget_counts();
    mp::Pool pool(mp::PoolOptions{.processes = 2, .retries = 1});
    const auto crashes_once = [](int i) {
        if (++seen.ran[i] == 1 && i % 10 == 4) std::abort();
        return i;
    };
    CHECK(pool.map(crashes_once, numbers(40), {.chunksize = 20}) == numbers(40));
    for (int i = 0; i < 40; ++i) CHECK(seen.ran[i] == (i % 10 == 4 ? 2 : 1));
}

TEST_CASE("Pool: workers have the pool's name, a processor of their own, and nothing to read",
          "[pool]") {
    mp::Pool pool(mp::PoolOptions{.processes = 2, .pin_workers = true, .name = "Baker"});
    const auto look = [](int) {
        cpu_set_t usable;
        CPU_ZERO(&usable);
        ::sched_getaffinity(0, sizeof usable, &usable);
        return std::tuple(mp::current_process().name(), CPU_COUNT(&usable), std::getchar());
    };
    for (const auto& [name, processors, read] : pool.map(look, numbers(10), {.chunksize = 1})) {
        CHECK((name == "Baker-Worker-1" || name == "Baker-Worker-2"));
        CHECK(processors == 1);
        CHECK(read == EOF);
    }
}

TEST_CASE("Pool: an initializer that always crashes is not tried for ever", "[pool]") {
    const test::no_leaks leaks;
    forget_counts();
    mp::Pool pool(mp::PoolOptions{.processes = 3, .initializer = [] {
                                      ++seen.begun;
                                      std::abort();
                                  }});
    CHECK_THROWS_AS(pool.apply(square, 1), mp::PoolBroken);
    const int begun = seen.begun;
    CHECK(begun >= 8);
    CHECK(begun <= 8 + 2);  // others had begun when it was the eighth
    for (int i = 0; i < 20; ++i) CHECK_THROWS_AS(pool.apply(square, 1), mp::PoolBroken);
    CHECK(seen.begun == begun);
}

TEST_CASE("Pool: of an initializer that hangs for ever nobody who is to come back depends",
          "[pool]") {
    const test::no_leaks leaks;
    forget_counts();
    mp::Pool pool(mp::PoolOptions{.processes = 2, .initializer = [] {
                                      note_pid();
                                      for_ever();
                                  }});
    auto queued = pool.apply_async(square, 1);
    CHECK_THROWS_AS(queued.get(50ms), mp::TimeoutError);
    CHECK_FALSE(queued.wait(1ms));
    auto other = pool.map_async(square, numbers(100));
    CHECK_THROWS_AS(other.get(1ms), mp::TimeoutError);
    auto dropped = pool.apply_async(square, 2);
    CHECK(dropped.cancel());
    REQUIRE(test::eventually([] { return seen.begun == 2; }));
    const auto workers = noted();
    pool.terminate();
    pool.join();
    CHECK(all_end(workers));
    CHECK_THROWS_AS(queued.get(), mp::Cancelled);
    CHECK_THROWS_AS(other.get(), mp::Cancelled);
}

TEST_CASE("Pool: workers that hang in their initializer end with a killed parent",
          "[pool][crash]") {
    forget_counts();
    mp::Process parent([] {
        mp::Pool pool(mp::PoolOptions{.processes = 2, .initializer = [] {
                                          note_pid();
                                          for_ever();
                                      }});
        pool.apply(square, 1);
    });
    parent.start();
    REQUIRE(test::eventually([] { return seen.begun == 2; }));
    const auto workers = noted();
    parent.kill();
    parent.join();
    CHECK(all_end(workers));
}

TEST_CASE("Pool: Ctrl-C ends a program and its pool, and nobody prints", "[pool][signal]") {
    for (const bool closing : {false, true}) {
        forget_counts();
        int ends[2];
        REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
        std::fflush(stdout);  // of what the test runner said
        test::child program([&] {
            ::setpgid(0, 0);
            std::signal(SIGINT, SIG_DFL);
            ::dup2(ends[1], STDOUT_FILENO);
            ::dup2(ends[1], STDERR_FILENO);
            mp::Pool pool(4);
            auto all = pool.map_async(
                [](int) {
                    note_pid();
                    for_ever();
                },
                numbers(4), {.chunksize = 1});
            if (!closing) all.get();
            return 0;  // ~Pool waits
        });
        ::close(ends[1]);
        REQUIRE(test::eventually([] { return seen.begun == 4; }));
        const auto workers = noted();
        CHECK(workers.size() == 4);
        ::kill(-program.pid(), SIGINT);  // as a terminal does: the whole group
        CHECK(program.exit_status() == -SIGINT);
        CHECK(all_end(workers));
        char text[256];
        const ssize_t printed = ::read(ends[0], text, sizeof text);  // to the last copy's end
        CHECK(printed == 0);
        if (printed > 0) WARN(std::string(text, static_cast<std::size_t>(printed)));
        ::close(ends[0]);
    }
}

TEST_CASE("Pool: a task that makes its worker handle SIGTERM and hang is no hindrance to the end",
          "[pool]") {
    const test::no_leaks leaks;
    forget_counts();
    {
        mp::Pool pool(2);
        for (int i = 0; i < 2; ++i)
            pool.apply_async([] {
                std::signal(SIGTERM, [](int) {});
                std::atexit([] { for_ever(); });
                note_pid();
                for_ever();
            });
        REQUIRE(test::eventually([] { return seen.begun == 2; }));
        pool.terminate();
        pool.join();
    }
    for (const auto& pid : seen.pids)
        if (pid != 0) CHECK(test::eventually([&] { return ::kill(pid, 0) != 0; }));
}
