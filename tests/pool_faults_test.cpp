// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/detail/platform/cgroup.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/process/limits.hpp>
#include <multiprocessing/pool.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

namespace {

int square(int x) { return x * x; }

struct unsendable_result {
    int value = 0;
    template <class Archive>
    void save(Archive&) const {
        throw std::domain_error("won't go");
    }
    template <class Archive>
    void load(Archive&) {}
};

/// One with the value 13 can't be rebuilt.
struct unlucky {
    int value = 0;
    template <class Archive>
    void save(Archive& archive) const {
        archive(value);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(value);
        if (value == 13) throw std::domain_error("thirteen");
    }
};

int overflow(volatile int* from) {
    volatile int here[1024] = {*from};
    return *from == 0 ? 0 : overflow(here) + here[1];
}

std::vector<int> numbers(int n) {
    std::vector<int> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

[[noreturn]] void for_ever() {
    sigset_t all;
    sigfillset(&all);
    ::sigprocmask(SIG_BLOCK, &all, nullptr);
    for (;;) ::pause();
}

/// Dies at the given number, in the given way.
int dies_at_37(int x) {
    if (x == 37) ::raise(SIGSEGV);
    return x;
}

}  // namespace

TEST_CASE("Pool: a task's exception keeps its type; one of an unknown type says what it was",
          "[pool][error]") {
    mp::Pool pool(2);
    CHECK_THROWS_AS(pool.apply([]() -> int { throw std::out_of_range("x"); }), std::out_of_range);
    try {
        pool.apply([] { throw std::system_error(ENOENT, std::generic_category(), "open"); });
        FAIL("no exception");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::no_such_file_or_directory);
    }
    try {
        pool.apply([] { throw 42; });
        FAIL("no exception");
    } catch (const mp::RemoteError& e) {
        CHECK(e.type() == "int");
    }
    CHECK_THROWS_AS(pool.apply([] { return unsendable_result{}; }), std::domain_error);
    CHECK(pool.apply(square, 2) == 4);
}

TEST_CASE("Pool: map throws the failure of the lowest index", "[pool][error]") {
    mp::Pool pool(3);
    const auto fails = [](int x) {
        if (x % 10 == 3) throw std::runtime_error(std::to_string(x));
        return x;
    };
    for (const std::size_t chunksize : {0u, 1u, 5u}) try {
            pool.map(fails, numbers(200), {.chunksize = chunksize});
            FAIL("no exception");
        } catch (const std::runtime_error& e) {
            CHECK(std::string(e.what()) == "3");
        }
    CHECK(pool.apply(square, 3) == 9);
}

TEST_CASE("Pool: a crash ends its own task alone, and says who and how", "[pool][crash]") {
    const test::no_leaks leaks;
    mp::Pool pool(2);
    const auto crash = [&](auto f, int signal, int exitcode) {
        try {
            pool.apply(f);
            FAIL("no crash");
        } catch (const mp::WorkerCrashed& e) {
            CHECK(e.signal() == signal);
            CHECK(e.exitcode() == exitcode);
            CHECK(e.worker_pid() > 0);
        }
        CHECK(pool.apply(square, 3) == 9);
    };
    crash([] { ::raise(SIGSEGV); }, SIGSEGV, -SIGSEGV);
    crash([] { std::abort(); }, SIGABRT, -SIGABRT);
    crash([] { ::kill(::getpid(), SIGKILL); }, SIGKILL, -SIGKILL);
    crash([] { std::exit(3); }, 0, 3);
    crash([] { ::_exit(0); }, 0, 0);
    crash([] { ::pthread_exit(nullptr); }, 0, 0);
}

TEST_CASE("Pool: of a chunk in which an item crashes the others keep or get their results",
          "[pool][crash]") {
    mp::Pool pool(2);
    auto results = pool.imap(dies_at_37, numbers(100), {.chunksize = 100});
    int index = 0, crashed = 0;
    for (auto it = results.begin(); it != results.end(); ++it, ++index) try {
            const int value = *it;
            CHECK(value == index);
        } catch (const mp::WorkerCrashed& e) {
            CHECK(index == 37);
            CHECK(std::string(e.what()).find("number 37") != std::string::npos);
            ++crashed;
        }
    CHECK(index == 100);
    CHECK(crashed == 1);
}

TEST_CASE("Pool: retries run a crashed task again", "[pool][crash]") {
    mp::Queue<int> tries;
    mp::Pool pool(mp::PoolOptions{.processes = 2, .retries = 2});
    const auto third_time = [](mp::Queue<int>& q) {
        q.put(1);
        if (q.qsize() < 3) std::abort();
        return 7;
    };
    CHECK(pool.apply(third_time, tries) == 7);
    CHECK(tries.qsize() == 3);
    CHECK_THROWS_AS(pool.apply([] { std::abort(); }), mp::WorkerCrashed);
}

TEST_CASE("Pool: a task that runs too long is ended, signals blocked or not", "[pool][timeout]") {
    mp::Pool pool(mp::PoolOptions{.processes = 2, .task_timeout = 100ms});
    CHECK_THROWS_AS(pool.apply([] { for_ever(); }), mp::TaskTimeout);
    CHECK(pool.apply(square, 5) == 25);
    auto results = pool.imap(
        [](int x) {
            if (x == 2) for_ever();
            return x;
        },
        numbers(6), {.chunksize = 6});
    int index = 0;
    for (auto it = results.begin(); it != results.end(); ++it, ++index) try {
            const int value = *it;
            CHECK(value == index);
        } catch (const mp::TaskTimeout&) {
            CHECK(index == 2);
        }
    CHECK(index == 6);
    auto single = pool.apply_async(mp::TaskOptions<int>{.timeout = 20ms}, [] {
        for_ever();
        return 1;
    });
    CHECK_THROWS_AS(single.get(), mp::TaskTimeout);
}

TEST_CASE("Pool: cancel ends queued and running tasks", "[pool][cancel]") {
    mp::Pool pool(1);
    mp::Queue<int> started;
    auto running = pool.apply_async(
        [](mp::Queue<int>& q) {
            q.put(1);
            for_ever();
        },
        started);
    auto queued = pool.apply_async(square, 3);
    started.get();
    CHECK(queued.cancel());
    CHECK_THROWS_AS(queued.get(), mp::Cancelled);
    CHECK_FALSE(running.ready());
    CHECK(running.cancel());
    CHECK_THROWS_AS(running.get(), mp::Cancelled);
    auto done = pool.apply_async(square, 3);
    CHECK(done.get() == 9);
    CHECK_FALSE(done.cancel());
}

TEST_CASE("Pool: terminate ends everything with Cancelled", "[pool]") {
    const test::no_leaks leaks;
    mp::Pool pool(2);
    std::vector<mp::AsyncResult<void>> results;
    for (int i = 0; i < 1000; ++i) results.push_back(pool.apply_async([] { for_ever(); }));
    pool.terminate();
    for (auto& r : results) CHECK_THROWS_AS(r.get(), mp::Cancelled);
    CHECK_THROWS_AS(pool.apply(square, 1), mp::ClosedError);
    pool.join();
}

TEST_CASE("Pool: an initializer that throws, crashes or hangs breaks the pool, with its reason",
          "[pool]") {
    const test::no_leaks leaks;
    mp::Pool thrower(mp::PoolOptions{
        .processes = 2, .initializer = [] { throw std::runtime_error("no licence"); }});
    try {
        thrower.apply(square, 1);
        FAIL("not broken");
    } catch (const mp::PoolBroken& e) {
        CHECK(std::string(e.what()).find("no licence") != std::string::npos);
    }
    mp::Pool crasher(mp::PoolOptions{.processes = 2, .initializer = [] { std::abort(); }});
    CHECK_THROWS_AS(crasher.apply(square, 1), mp::PoolBroken);
    CHECK_THROWS_AS(crasher.apply(square, 1), mp::PoolBroken);
    mp::Pool hangs(mp::PoolOptions{
        .processes = 2, .initializer = [] { for_ever(); }, .initializer_timeout = 50ms});
    try {
        hangs.apply(square, 1);
        FAIL("not broken");
    } catch (const mp::PoolBroken& e) {
        CHECK(std::string(e.what()).find("initializer_timeout") != std::string::npos);
    }
}

TEST_CASE("Pool: memory limits hold in workers", "[pool][limits]") {
    if (test::address_sanitizer) return;  // it ends the program instead
    mp::Pool pool(mp::PoolOptions{.processes = 1, .limits = {.memory = 64u << 20}});
    const auto hog = [] { ::operator delete(::operator new(256u << 20)); };  // can't be elided
    CHECK_THROWS_AS(pool.apply(hog), std::bad_alloc);
    CHECK(pool.apply(square, 4) == 16);
}

namespace {

/// A memory cgroup with a limit, for this process and those that it starts. Gone with them.
class small_cgroup {
public:
    /// `entered()` is false if the machine has none, or lets nobody make one here.
    explicit small_cgroup(std::size_t limit) {
        mp::detail::for_each_cgroup("memory", [&](const std::string& parent, bool is_v2) {
            if (!path_.empty()) return;
            const std::string path = parent + "/mp-test-" + std::to_string(::getpid());
            if (::mkdir(path.c_str(), 0755) != 0) return;
            const std::string bytes = std::to_string(limit);
            write(path + "/memory.swappiness", "0");
            write(path + "/memory.swap.max", "0");
            if (write(path + (is_v2 ? "/memory.max" : "/memory.limit_in_bytes"), bytes) &&
                write(path + "/cgroup.procs", std::to_string(::getpid())))
                path_ = path, procs_ = parent + "/cgroup.procs";
            else
                ::rmdir(path.c_str());
        });
    }
    ~small_cgroup() {
        if (path_.empty()) return;
        write(procs_, std::to_string(::getpid()));
        test::eventually([&] { return ::rmdir(path_.c_str()) == 0; });
    }
    bool entered() const { return !path_.empty(); }

private:
    static bool write(const std::string& path, const std::string& text) {
        const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
        if (fd < 0) return false;
        const bool all = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
        ::close(fd);
        return all;
    }
    std::string path_, procs_;
};

/// Writes to so many bytes.
std::size_t use_memory(std::size_t bytes) {
    std::vector<char> all(bytes, 'x');
    std::size_t sum = 0;
    for (std::size_t i = 0; i < bytes; i += 4096) sum += static_cast<std::size_t>(all[i] == 'x');
    return sum;
}

}  // namespace

TEST_CASE("Pool: the kernel's end of a worker for want of memory costs its task, and is named",
          "[pool][crash][limits]") {
    if (test::address_sanitizer) return;  // its own memory is beyond any limit
    constexpr int no_group = 77;
    test::child host([] {
        const small_cgroup group(96u << 20);
        if (!group.entered()) return no_group;
        mp::Pool pool(2);
        std::vector<std::size_t> sizes(20, 4096);
        sizes[7] = 512u << 20;
        auto results = pool.imap(use_memory, sizes, {.chunksize = 5});
        int right = 0, named = 0;
        for (auto it = results.begin(); it != results.end(); ++it) try {
                right += *it == 1;
            } catch (const mp::WorkerCrashed& e) {
                const std::string what = e.what();
                named += e.signal() == SIGKILL && what.find("out of memory") != what.npos &&
                         what.find("number 7") != what.npos;
            }
        if (right != 19) return 1;
        if (named != 1) return 2;
        try {  // a SIGKILL that is another's
            pool.apply([] { ::kill(::getpid(), SIGKILL); });
            return 3;
        } catch (const mp::WorkerCrashed& e) {
            if (std::string(e.what()).find("out of memory") != std::string::npos) return 4;
        }
        return pool.apply(square, 3) == 9 ? 0 : 5;
    });
    const auto status = host.exit_status();
    if (status == no_group)
        WARN("skipped: no memory cgroup can be made here");
    else
        CHECK(status == 0);
}

TEST_CASE("Pool: when the supervisor is killed nobody hangs", "[pool][crash]") {
    mp::Pool pool(2);
    const auto supervisor = mp::active_children();
    REQUIRE(supervisor.size() == 1);
    auto result = pool.apply_async([] { for_ever(); });
    ::kill(supervisor.front().pid(), SIGKILL);
    CHECK_THROWS_AS(result.get(), mp::PoolBroken);
    CHECK_THROWS_AS(pool.apply(square, 1), mp::PoolBroken);
}

TEST_CASE("Pool: a stack overflow and a stopped worker end their own task", "[pool][crash]") {
    mp::Pool pool(mp::PoolOptions{.processes = 2, .task_timeout = 300ms});
    CHECK_THROWS_AS(pool.apply([] {
        volatile int start = 1;
        return overflow(&start);
    }),
                    mp::WorkerCrashed);
    CHECK_THROWS_AS(pool.apply([] { ::raise(SIGSTOP); }), mp::TaskTimeout);
    CHECK(pool.apply(square, 3) == 9);
}

TEST_CASE("Pool: what can't be rebuilt fails its own task", "[pool][error]") {
    mp::Pool pool(2);
    const auto value_of = [](unlucky u) { return u.value; };
    CHECK(pool.apply(value_of, unlucky{4}) == 4);
    CHECK_THROWS_AS(pool.apply(value_of, unlucky{13}), std::domain_error);
    const auto make = [](int n) { return unlucky{n}; };
    CHECK(pool.apply(make, 5).value == 5);
    CHECK_THROWS_AS(pool.apply(make, 13), std::domain_error);
    int good = 0, bad = 0;
    auto results = pool.imap(make, numbers(20), {.chunksize = 20});
    for (auto it = results.begin(); it != results.end(); ++it) try {
            const int value = (*it).value;
            CHECK(value == good + bad);
            ++good;
        } catch (const std::domain_error&) {
            CHECK(good == 13);
            ++bad;
        }
    CHECK(good == 19);
    CHECK(bad == 1);
}

TEST_CASE("Pool: a worker killed while it sends a large result ends its own task",
          "[pool][crash]") {
    mp::Pool pool(2);
    for (const int after_us : {0, 500, 2000, 5000, 20000}) {
        auto large = pool.apply_async(
            [](int delay) {
                const pid_t me = ::getpid();
                std::thread([me, delay] {
                    std::this_thread::sleep_for(std::chrono::microseconds(delay));
                    ::kill(me, SIGKILL);
                }).detach();
                return std::vector<char>(50'000'000, 'x');
            },
            after_us);
        try {
            const std::vector<char> whole = std::move(large).get();
            CHECK(whole.size() == 50'000'000);
        } catch (const mp::WorkerCrashed& e) {
            CHECK(e.signal() == SIGKILL);
        }
        CHECK(pool.apply(square, 3) == 9);
    }
}

TEST_CASE("Pool: a task too large for its workers' memory is answered, and no other suffers",
          "[pool][error]") {
    if (test::address_sanitizer) return;  // its own memory is beyond any limit
    mp::Pool pool(mp::PoolOptions{.processes = 2, .limits = {.memory = 64u << 20}});
    auto large = pool.apply_async([](const std::string& s) { return s.size(); },
                                  std::string(150'000'000, 'x'));
    auto small = pool.apply_async(square, 3);
    REQUIRE(large.wait(30s));
    CHECK_THROWS_AS(large.get(), std::bad_alloc);
    REQUIRE(small.wait(30s));
    CHECK(small.get() == 9);
    std::vector<std::string> texts(10, "short");
    texts[4] = std::string(150'000'000, 'x');
    auto sizes = pool.imap([](const std::string& s) { return s.size(); }, texts, {.chunksize = 1});
    int right = 0, refused = 0;
    for (auto it = sizes.begin(); it != sizes.end(); ++it) try {
            right += *it == 5;
        } catch (const std::bad_alloc&) {
            ++refused;
        }
    CHECK(right == 9);
    CHECK(refused == 1);
    for (const auto& worker : pool.stats().workers) CHECK(worker.restarts == 0);
}

TEST_CASE("Pool: a result for which the parent has no memory is its own task's std::bad_alloc",
          "[pool][error]") {
    if (test::address_sanitizer) return;  // its own memory is beyond any limit
    test::child host([] {
        const auto large = [] { return std::vector<char>(100'000'000); };
        const auto refused = [](auto ask) {
            try {
                ask();
                return false;
            } catch (const std::bad_alloc&) {
                return true;
            }
        };
        mp::Pool pool(2);
        if (pool.apply_async(square, 2).get() != 4) return 1;  // all threads are there
        ::malloc_trim(0);  // what other tests freed would be there
        rlimit memory{};
        ::getrlimit(RLIMIT_DATA, &memory);
        const rlimit all = memory;
        memory.rlim_cur = *mp::detail::private_bytes() + 48'000'000;
        ::setrlimit(RLIMIT_DATA, &memory);
        for (int round = 0; round < 3; ++round) {
            auto unwatched = pool.apply_async(large);  // the background collects it
            std::vector<mp::AsyncResult<int>> others;
            for (int i = 0; i < 20; ++i) others.push_back(pool.apply_async(square, i));
            if (!test::eventually([&] { return unwatched.ready(); })) return 2;
            if (!refused([&] { unwatched.get(); })) return 3;
            for (int i = 0; i < 20; ++i)
                if (others[static_cast<std::size_t>(i)].get() != i * i) return 4;
            if (!refused([&] { pool.apply(large); })) return 5;
            int answer = 0;
            std::thread([&] { answer = pool.apply(square, 3); }).join();
            if (answer != 9) return 6;
            const auto one_large = [](int i) {
                return std::vector<char>(i == 3 ? 100'000'000 : 1);
            };
            if (!refused([&] { pool.map(one_large, numbers(8), {.chunksize = 4}); })) return 7;
            // Each has its place, but not all together.
            const auto eighth = [](int) { return std::vector<std::array<char, 8>>(1'000'000); };
            const auto flat = [](int) { return std::array<char, 4096>{}; };
            if (!refused([&] { pool.map(eighth, numbers(8)); })) return 8;
            if (!refused([&] { pool.map(flat, numbers(20'000)); })) return 9;
            if (pool.map(square, numbers(9)).back() != 64) return 10;
        }
        ::setrlimit(RLIMIT_DATA, &all);
        return pool.apply(large).size() == 100'000'000 ? 0 : 11;
    });
    CHECK(host.exit_status() == 0);
}

TEST_CASE("Pool: all workers may die at once, again and again", "[pool][crash]") {
    const test::no_leaks leaks;
    mp::Pool pool(3);
    for (int round = 0; round < 5; ++round) {
        auto results = pool.map_async(square, numbers(100));
        for (const pid_t pid : pool.worker_pids())
            if (pid > 0) ::kill(pid, SIGKILL);
        try {
            const std::vector<int> all = results.get();
            CHECK(all.size() == 100);
        } catch (const mp::WorkerCrashed&) {
        }
        CHECK(pool.apply(square, round) == round * round);
    }
}

TEST_CASE("Pool: worker_pids and stats name all workers of a pool that was just made", "[pool]") {
    for (int round = 0; round < 10; ++round) {
        mp::Pool pool(3);
        std::vector<pid_t> pids = pool.worker_pids();
        CHECK(std::set<pid_t>(pids.begin(), pids.end()).size() == 3);
        for (const pid_t pid : pids) CHECK(::kill(pid, 0) == 0);
        for (const auto& worker : pool.stats().workers) std::erase(pids, worker.pid);
        CHECK(pids.empty());
    }
    mp::Pool ended(2);
    for (const auto& worker : ended.stats().workers) CHECK(worker.pid > 0);
    ended.close();
    CHECK(ended.worker_pids().size() == 2);
    ended.join();
    CHECK(ended.worker_pids().empty());
    mp::Pool killed(2);
    killed.terminate();
    CHECK(killed.worker_pids().empty());
    CHECK(killed.stats().workers.size() == 2);
    mp::Pool broken(mp::PoolOptions{.processes = 2, .initializer = [] { std::abort(); }});
    CHECK_THROWS_AS(broken.apply(square, 1), mp::PoolBroken);
    broken.worker_pids();  // comes back
}

TEST_CASE("Pool: worker_pids never names a worker that was replaced", "[pool][crash]") {
    mp::Pool pool(1);
    std::set<pid_t> before;
    pid_t last = 0;
    const auto next_worker = [&] {
        return test::eventually([&] {
            const std::vector<pid_t> pids = pool.worker_pids();
            if (pids.empty() || pids.front() == last) return false;
            const pid_t pid = pids.front();
            CHECK(before.insert(pid).second);
            last = pid;
            return true;
        });
    };
    for (int round = 0; round < 20; ++round) {
        REQUIRE(next_worker());
        try {
            pool.apply([] { ::kill(::getpid(), SIGKILL); });
            FAIL("no crash");
        } catch (const mp::WorkerCrashed&) {
        }
    }
}

TEST_CASE("Pool: workers are looked after while others are still being started", "[pool][crash]") {
    // In the supervisor each fork waits until a worker has ended, if there is one.
    static std::atomic<bool>& slow = test::shared_memory<std::atomic<bool>>();
    static std::atomic<int>& begun = test::shared_memory<std::atomic<int>>();
    static const pid_t parent = ::getpid();
    ::pthread_atfork(
        [] {
            siginfo_t ended;
            if (slow && ::getpid() != parent) ::waitid(P_ALL, 0, &ended, WEXITED | WNOWAIT);
        },
        nullptr, nullptr);
    slow = true;
    mp::Pool pool(mp::PoolOptions{.processes = 8, .initializer = [] {
                                      ++begun;
                                      throw std::runtime_error("no licence");
                                  }});
    CHECK_THROWS_AS(pool.apply(square, 1), mp::PoolBroken);
    pool.terminate();
    pool.join();
    CHECK(begun <= 2);
    slow = false;
}

TEST_CASE("Pool: workers are replaced while threads of the parent hold locks", "[pool][crash]") {
    // A child forked here would find the mutexes locked, and perhaps the heap: the supervisor
    // forks.
    static std::array<std::mutex, 8> needed;
    const auto use_them = [] {
        for (std::mutex& each : needed) const std::lock_guard lock(each);
        return std::make_unique<std::string>(1000, 'x')->size();
    };
    mp::Pool pool(mp::PoolOptions{.processes = 2, .initializer = [=] { use_them(); }});
    std::atomic<bool> stop{false};
    std::atomic<int> held{0};
    std::vector<std::thread> threads;
    for (std::mutex& mine : needed)
        threads.emplace_back([&] {
            const std::lock_guard lock(mine);
            ++held;
            while (!stop) {
                std::vector<std::unique_ptr<std::string>> some;
                for (std::size_t i = 1; i < 50; ++i)
                    some.push_back(std::make_unique<std::string>(i * 37, 'y'));
            }
        });
    CHECK(test::eventually([&] { return held == 8; }));
    int crashed = 0, right = 0;
    for (int round = 0; round < 30; ++round) {
        try {
            pool.apply([] { ::kill(::getpid(), SIGKILL); });
        } catch (const mp::WorkerCrashed&) {
            ++crashed;
        }
        right += pool.apply(use_them) == 1000;
    }
    stop = true;
    for (auto& thread : threads) thread.join();
    CHECK(crashed == 30);
    CHECK(right == 30);
}

TEST_CASE("Pool: join lets the workers end as processes do, killed in it or not", "[pool]") {
    struct counts {
        std::atomic<int> begun, ended;
        std::atomic<bool> dies;
    };
    static counts& seen = test::shared_memory<counts>();
    for (int round = 0; round < 30; ++round) {
        seen.begun = seen.ended = 0;
        seen.dies = round % 3 == 2;
        {
            mp::Pool pool(mp::PoolOptions{.processes = 2, .initializer = [] {
                                              ++seen.begun;
                                              std::atexit([] {
                                                  test::pause_briefly(1ms);  // in no hurry
                                                  ++seen.ended;
                                                  if (seen.dies) ::raise(SIGKILL);
                                              });
                                          }});
            CHECK(pool.map(square, numbers(10)).size() == 10);
        }
        CHECK(seen.begun == seen.ended);
    }
}

TEST_CASE("Pool: terminate ends 10,000 queued tasks and one that blocks every signal", "[pool]") {
    const test::no_leaks leaks;
    mp::Queue<int> begun;
    mp::Pool pool(1);
    auto running = pool.apply_async(
        [](mp::Queue<int>& q) {
            q.put(1);
            for_ever();
        },
        begun);
    std::vector<mp::AsyncResult<int>> queued;
    for (int i = 0; i < 10'000; ++i) queued.push_back(pool.apply_async(square, i));
    begun.get();
    pool.terminate();
    pool.join();
    CHECK_THROWS_AS(running.get(), mp::Cancelled);
    CHECK_THROWS_AS(queued.back().get(), mp::Cancelled);
}

TEST_CASE("Pool: its workers end with a killed parent", "[pool][crash]") {
    constexpr std::size_t workers = 64;
    mp::Queue<pid_t> pids;
    mp::Process parent([&] {
        mp::Pool pool(workers);
        pids.put(::getpid());
        pool.map(
            [](mp::Queue<pid_t> q) {
                q.put(::getpid());
                for_ever();
            },
            std::vector<mp::Queue<pid_t>>(workers, pids), {.chunksize = 1});
    });
    parent.start();
    std::vector<mp::detail::unique_fd> ends;
    for (std::size_t i = 0; i <= workers; ++i) ends.push_back(mp::detail::open_pidfd(pids.get()));
    parent.kill();
    parent.join();
    for (const auto& end : ends)
        CHECK(mp::detail::wait_readable(end.get(), mp::detail::deadline::after(10s)));
}

TEST_CASE("Pool: workers that don't end in join do with a killed parent", "[pool][crash]") {
    mp::Queue<pid_t> pids;
    mp::Process parent([&] {
        pids.put(::getpid());
        mp::Pool pool(mp::PoolOptions{.processes = 2, .initializer = [pids]() mutable {
                                          static mp::Queue<pid_t> told;
                                          told = pids;
                                          std::atexit([] {
                                              told.put(::getpid());
                                              for_ever();
                                          });
                                      }});
        pool.map(square, numbers(2));
    });
    parent.start();
    std::vector<mp::detail::unique_fd> ends;
    for (int i = 0; i < 3; ++i) ends.push_back(mp::detail::open_pidfd(pids.get()));
    parent.kill();
    parent.join();
    for (const auto& end : ends)
        CHECK(mp::detail::wait_readable(end.get(), mp::detail::deadline::after(10s)));
}

TEST_CASE("Pool: one in a static, and one left by an exception", "[pool]") {
    const test::no_leaks leaks;
    mp::Process program([] {
        static mp::Pool pool(2);
        if (pool.apply(square, 4) != 16) ::_exit(9);
        std::exit(7);
    });
    program.start();
    program.join();
    CHECK(program.exitcode() == 7);
    try {
        mp::Pool pool(2);
        auto never = pool.apply_async([] { for_ever(); });
        throw std::runtime_error("leaves");
    } catch (const std::runtime_error& e) {
        CHECK(std::string(e.what()) == "leaves");
    }
}
