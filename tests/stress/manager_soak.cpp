// SPDX-License-Identifier: BSL-1.0
//
// Clients of a manager that are killed at any moment: 1,000 of them, or 100 with a budget of time.
// They lock, wait, put, get, make objects, and put proxies of these into other objects and into
// messages. No lock may stay taken, the server must go on, and at the end it has the objects, the
// descriptors, the threads and the memory that it had.
// Environment: MP_BUDGET_SECONDS, MP_SEED.

#include <multiprocessing/managers.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <list>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include <unistd.h>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

namespace {

unsigned long from_environment(const char* name, unsigned long otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoul(text, nullptr, 10) : otherwise;
}

std::size_t entries(pid_t pid, const char* what) {
    std::size_t n = 0;
    const auto path = "/proc/" + std::to_string(pid) + "/" + what;
    for (const auto& entry : std::filesystem::directory_iterator(path)) n += entry.exists();
    return n;
}
/// Private memory in KiB.
std::size_t memory(pid_t pid) {
    std::ifstream status("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with("RssAnon:")) return std::strtoul(line.c_str() + 8, nullptr, 10);
    return 0;
}

struct shop {
    mp::Manager& manager;
    mp::LockProxy lock = manager.Lock();
    mp::RLockProxy again = manager.RLock();
    mp::ConditionProxy condition = manager.Condition();
    mp::SemaphoreProxy units = manager.Semaphore(1'000'000);
    mp::EventProxy event = manager.Event();
    mp::BarrierProxy barrier = manager.Barrier(2);
    mp::QueueProxy<int> numbers = manager.Queue<int>(8);
    mp::QueueProxy<mp::ListProxy<int>> lists = manager.Queue<mp::ListProxy<int>>();
    mp::DictProxy<int, mp::ListProxy<int>> shelf = manager.dict<int, mp::ListProxy<int>>();
    mp::ValueProxy<int> count = manager.Value<int>(0);
    static constexpr std::size_t objects = 10;
};

/// Whoever finds a lock abandoned puts that right.
template <class Lock, class F>
void with(const Lock& lock, F f) {
    try {
        lock.lock();
    } catch (const mp::AbandonedLock&) {
        if (!lock.recover(1s)) return;
    }
    const std::lock_guard guard(lock, std::adopt_lock);
    f();
}

void one_step(shop& of, unsigned what, int n) {
    switch (what % 11) {
        case 0:
            return with(of.lock, [&] { of.count.set(of.count.get() + 1); });
        case 1:
            return with(of.again, [&] { with(of.again, [] {}); });
        case 2:
            if (!of.numbers.try_put(n)) of.numbers.try_get();
            return;
        case 3:
            of.numbers.try_get_for(1ms);
            return;
        case 4:
            of.shelf[n % 8] = of.manager.list<int>({n});
            return;
        case 5:
            if (auto found = of.shelf.get(n % 8)) found->append(n);
            if (n % 3 == 0) of.shelf.erase(n % 8);
            return;
        case 6:
            of.lists.put(of.manager.list<int>({n}));
            return;
        case 7:
            if (auto found = of.lists.try_get()) found->append(n);
            return;
        case 8:
            try {
                with(of.condition, [&] {
                    n % 2 ? static_cast<void>(of.condition.wait(1ms)) : of.condition.notify();
                });
            } catch (const mp::AbandonedLock&) {  // with the lock, which the guard gave back
            }
            return;
        case 9:
            of.units.try_acquire();
            n % 2 ? of.event.set() : of.event.clear();
            of.event.wait(1ms);
            return;
        default:
            try {
                of.barrier.wait(1ms);
            } catch (const mp::BrokenBarrier&) {
                of.barrier.reset();
            }
    }
}

int client(shop& of, unsigned seed) {
    std::mt19937 random(seed);
    const auto work = [&](unsigned of_thread) {
        std::mt19937 own(seed + of_thread);
        for (int i = 0; i < 20; ++i)
            one_step(of, static_cast<unsigned>(own()), static_cast<int>(own() % 1000));
    };
    for (;;) {
        work(static_cast<unsigned>(random()));
        std::thread other(work, static_cast<unsigned>(random()));
        work(static_cast<unsigned>(random()));
        other.join();
    }
}

}  // namespace

TEST_CASE("soak: clients of a manager are killed at random", "[soak][managers]") {
    const unsigned long seed = from_environment("MP_SEED", std::random_device()());
    const unsigned long target = std::getenv("MP_BUDGET_SECONDS") ? 100 : 1000;
    std::printf("MP_SEED=%lu\n", seed);
    std::mt19937 random(static_cast<unsigned>(seed));

    const test::no_leaks guard;
    mp::Manager manager;
    shop of{manager};
    const pid_t server = manager.pid();
    const std::size_t fds = entries(server, "fd"), threads = entries(server, "task");
    std::size_t memory_before = 0;
    std::list<test::child> clients;
    const auto more = [&] {
        const auto own = static_cast<unsigned>(random());
        clients.emplace_back([&of, own] { return client(of, own); });
    };
    for (int i = 0; i < 3; ++i) more();
    for (unsigned long killed = 1; killed <= target; ++killed) {
        test::pause_briefly(std::chrono::microseconds(random() % 30'000));
        clients.front().kill();
        CHECK(manager.pid() == server);
        clients.pop_front();
        more();
        if (killed % 10 == 0) {
            bool has = false;  // it can be had, and soon
            try {
                has = of.lock.acquire(test::patience);
            } catch (const mp::AbandonedLock&) {
                has = of.lock.recover(test::patience);
            }
            REQUIRE(has);
            of.lock.release();
        }
        if (killed == target / 2) memory_before = memory(server);
    }
    clients.clear();
    const auto had = [&](const auto& lock) {
        try {
            if (!lock.acquire(test::patience)) return false;
        } catch (const mp::AbandonedLock&) {
            lock.recover();
        }
        lock.release();
        return !lock.locked();
    };
    CHECK(had(of.lock));
    CHECK(had(of.again));
    CHECK(had(of.condition));
    while (of.lists.try_get()) {
    }
    of.shelf.clear();
    CHECK(test::eventually([&] { return manager.number_of_objects() == shop::objects; }));
    CHECK(test::eventually([&] { return entries(server, "fd") <= fds + 4; }));
    CHECK(test::eventually([&] { return entries(server, "task") == threads; }));
    const std::size_t memory_after = memory(server);
    std::printf("%lu killed; the server's memory: %zu KiB halfway, %zu KiB at the end\n", target,
                memory_before, memory_after);
    if (!test::address_sanitizer) CHECK(memory_after < memory_before + 16 * 1024);
}
