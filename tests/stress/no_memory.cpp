// SPDX-License-Identifier: BSL-1.0

/// \file
/// Every use of a queue, and a pool's of its parent, with the n-th allocation failing, alone or
/// with all behind it, for every n: std::bad_alloc or success, never a hang, a crash or a lost
/// item. Prints how many allocations failed.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <multiprocessing/pool.hpp>
#include <multiprocessing/queues.hpp>

namespace mp = multiprocessing;

static thread_local long allocations_left = -1;  // negative: no bound
static bool alone = false, refused = false;

[[gnu::noinline]] void* operator new(std::size_t size) {
    if (allocations_left == 0) {
        refused = true;
        if (alone) allocations_left = -1;
        throw std::bad_alloc();
    }
    if (allocations_left > 0) --allocations_left;
    if (void* p = std::malloc(size)) return p;
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

struct job {
    int id;
    std::string name;
    std::vector<double> values;
    mp::Queue<int> reply;
};

static void use() {
    mp::Queue<job> q;
    mp::Queue<int> numbers(2);
    q.fileno();
    for (int i = 0; i < 3; ++i) {
        mp::Queue<int> reply;
        q.put({i, std::string(100, 'x'), std::vector<double>(10'000, 1.0), reply});
        job received = q.get();
        received.reply.put(received.id);
        if (reply.get() != i) std::_Exit(2);
    }
    q.put({1, "left", {}, mp::Queue<int>()});
    numbers.put(1);
    if (numbers.get() != 1) std::_Exit(3);
}

static void use_queues(long n) {
    allocations_left = n;
    try {
        use();
    } catch (const std::bad_alloc&) {
    }
    allocations_left = -1;
    use();  // and everything still works
}

/// The workers and their supervisor have all the memory that they want.
static void use_pool(long n) {
    mp::Pool pool(2);
    const auto twice = [](int x) { return 2 * x; };
    const auto text = [](int x) {
        if (x == 3) throw std::out_of_range("three");
        return std::string(1000, 'x');
    };
    const std::vector<int> numbers{1, 2, 3, 4, 5, 6, 7, 8}, many(70, 1);
    if (pool.apply(twice, 1) != 2) std::_Exit(4);
    const auto attempt = [&](auto what) {
        try {
            what();
        } catch (const std::bad_alloc&) {
        } catch (const mp::RemoteError&) {  // for the task's exception there was no memory
        }
    };
    allocations_left = n;
    attempt([&] {
        if (pool.apply(twice, 2) != 4) std::_Exit(5);
    });
    attempt([&] {
        static std::atomic<int> told = 0;
        auto one =
            pool.apply_async(mp::TaskOptions<int>{.callback = [](int) { ++told; }}, twice, 3);
        if (one.get() != 6 || told != 1) std::_Exit(6);
    });
    attempt([&] {
        if (pool.map(twice, numbers).back() != 16) std::_Exit(7);
    });
    attempt([&] {
        if (pool.map_async(twice, numbers, {.chunksize = 3}).get().back() != 16) std::_Exit(8);
    });
    attempt([&] {
        try {
            pool.map(text, numbers, {.chunksize = 2});
            std::_Exit(9);
        } catch (const std::out_of_range&) {
        }
    });
    attempt([&] {
        int sum = 0;
        for (const int one : pool.imap(twice, numbers)) sum += one;
        if (sum != 72) std::_Exit(10);
    });
    attempt([&] {
        int sum = 0;
        for (const int one : pool.imap_unordered(twice, many)) sum += one;
        if (sum != 140) std::_Exit(12);
    });
    attempt([&] {
        auto results = pool.imap(text, numbers, {.chunksize = 2});
        std::size_t size = 0;
        for (auto it = results.begin(); it != results.end(); ++it) try {
                const std::string one = *it;
                size += one.size();
            } catch (const std::out_of_range&) {
            } catch (const mp::RemoteError&) {
            }
        if (size != 7000) std::_Exit(13);
    });
    attempt([&] {
        const std::vector<std::pair<int, std::string>> pairs(5, {1, "x"});
        const auto got = pool.starmap([](int i, std::string s) { return s + std::to_string(i); },
                                      pairs, {.chunksize = 2});
        if (got.back() != "x1") std::_Exit(14);
    });
    allocations_left = -1;
    if (pool.map(twice, numbers).back() != 16) std::_Exit(11);
    pool.close();
    pool.join();
}

/// \return false if there were not so many
static bool fails_at(long n, void (*use)(long)) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(30);
        use(n);
        std::_Exit(refused ? 1 : 0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 1) {
        std::printf("allocation %ld failing: status %x\n", n, static_cast<unsigned>(status));
        std::exit(1);
    }
    return WEXITSTATUS(status) == 1;
}

int main() {
    for (const bool one : {false, true}) {
        alone = one;
        long queues = 0, pool = 0;
        while (fails_at(queues, use_queues)) ++queues;
        while (fails_at(pool, use_pool)) ++pool;
        std::printf("%ld allocations of queues, %ld of a pool failed, %s; 0 failures\n", queues,
                    pool, alone ? "each alone" : "each with all behind it");
        std::fflush(stdout);
        if (queues <= 10 || pool <= 10) return 1;
    }
    return 0;
}
