// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/synchronize.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;
using test::child;

namespace {

template <class T>
T& shared() {
    return test::shared_memory<T>();
}

/// A process that does `f` and then waits to be killed.
template <class F>
child stays_after(F f, std::atomic<int>& done) {
    return child([f, &done] {
        f();
        done = 1;
        for (;;) ::pause();
        return 0;
    });
}

/// Killed while it has `lock`.
template <class L>
void die_with(const L& lock) {
    auto& done = shared<std::atomic<int>>();
    child holder = stays_after([&] { lock.acquire(); }, done);
    REQUIRE(test::eventually([&] { return done == 1; }));
    holder.kill();
}

}  // namespace

TEMPLATE_TEST_CASE("locks: only one at a time, in threads and processes", "[sync]", mp::Lock,
                   mp::RLock) {
    const test::no_leaks leaks;
    const TestType lock;
    auto& counter = shared<int>();
    const auto work = [&, lock] {
        for (int i = 0; i < 2000; ++i) {
            const std::lock_guard guard(lock);
            counter = counter + 1;
        }
    };
    mp::Process first(work), second(work);
    first.start();
    second.start();
    std::thread third(work);
    third.join();
    first.join();
    second.join();
    CHECK(counter == 6000);
    CHECK_FALSE(lock.locked());
}

TEMPLATE_TEST_CASE("locks: the standard's guards, durations and time points", "[sync]", mp::Lock,
                   mp::RLock) {
    const TestType a, b;
    {
        const std::scoped_lock both(a, b);
        CHECK(a.locked());
        CHECK(b.locked());
    }
    {
        std::unique_lock one(a, std::defer_lock);
        CHECK(one.try_lock_for(1h));
        one.unlock();
        CHECK(one.try_lock_until(std::chrono::system_clock::now() + 1h));
        one.unlock();
        CHECK(one.try_lock_until(std::chrono::steady_clock::now() - 1h));
    }
    CHECK(a.acquire());
    std::thread([&] {
        CHECK_FALSE(a.try_lock());
        const auto begin = test::clock::now();
        CHECK_FALSE(a.acquire(20ms));
        CHECK_FALSE(a.acquire(std::chrono::duration<float>(0.02f)));
        CHECK(test::clock::now() - begin >= 40ms);
        CHECK_FALSE(a.acquire(0s));
        CHECK_FALSE(a.acquire(-1h));
        CHECK_FALSE(a.acquire(std::chrono::hours::min()));
        CHECK_FALSE(a.try_lock_until(test::clock::time_point::min()));
    }).join();
    a.release();
    CHECK(a.acquire(mp::duration::max()));
    a.release();
    CHECK(a.acquire(std::chrono::hours::max()));
    a.release();
    CHECK(a.try_lock_until(test::clock::time_point::max()));
    a.release();
    {
        auto& waits = shared<std::atomic<int>>();
        a.acquire();
        child other([&] { return waits = 1, a.acquire(std::chrono::hours::max()) ? 0 : 1; });
        CHECK(test::eventually([&] { return waits == 1; }));
        CHECK(other.wait_asleep());
        a.release();
        CHECK(other.exit_status() == 0);
    }
}

TEMPLATE_TEST_CASE("locks: only the thread that took it may release it", "[sync]", mp::Lock,
                   mp::RLock) {
    const TestType lock;
    CHECK_THROWS_AS(lock.release(), mp::ProcessError);
    lock.acquire();
    std::thread([&] {
        CHECK(lock.locked());
        CHECK_THROWS_AS(lock.release(), mp::ProcessError);
        CHECK_THROWS_AS(lock.unlock(), mp::ProcessError);
    }).join();
    CHECK(child([&] {
              try {
                  lock.release();
              } catch (const mp::ProcessError&) {
                  return lock.try_lock() ? 2 : 0;  // a fork inherits no lock
              }
              return 1;
          }).exit_status() == 0);
    CHECK(lock.locked());
    lock.release();
    CHECK_FALSE(lock.locked());
}

TEST_CASE("Lock: to take it twice is an error, or times out", "[sync]") {
    const mp::Lock lock;
    lock.acquire();
    CHECK_FALSE(lock.try_lock());
    CHECK_FALSE(lock.acquire(1ms));
    CHECK_THROWS_AS(lock.acquire(), mp::ProcessError);
    CHECK_THROWS_AS(lock.recover(), mp::ProcessError);
    lock.release();
    CHECK(lock.try_lock());
    lock.release();
}

TEST_CASE("RLock: as often as it was taken", "[sync]") {
    const mp::RLock lock;
    const auto free_for_others = [&] {
        bool got = false;
        std::thread([&] {
            got = lock.try_lock();
            if (got) lock.unlock();
        }).join();
        return got;
    };
    lock.acquire();
    CHECK(lock.acquire(0s));
    CHECK(lock.try_lock());
    lock.release();
    lock.release();
    CHECK_FALSE(free_for_others());
    lock.release();
    CHECK(free_for_others());
    CHECK_THROWS_AS(lock.release(), mp::ProcessError);
}

TEMPLATE_TEST_CASE("locks: a dead holder's lock is abandoned until recover() (K2)", "[sync][kill]",
                   mp::Lock, mp::RLock) {
    const test::no_leaks leaks;
    const TestType lock;
    die_with(lock);
    CHECK(lock.locked());
    CHECK_THROWS_AS(lock.acquire(), mp::AbandonedLock);
    CHECK_THROWS_AS(lock.acquire(1s), mp::AbandonedLock);
    CHECK_THROWS_AS(lock.try_lock(), mp::AbandonedLock);
    CHECK(child([&] {
              try {
                  const std::lock_guard guard(lock);
              } catch (const mp::AbandonedLock&) {
                  return 0;
              }
              return 1;
          }).exit_status() == 0);
    CHECK(lock.locked());
    lock.recover();
    CHECK(lock.locked());
    CHECK(child([&] { return lock.try_lock() ? 1 : 0; }).exit_status() == 0);
    lock.release();
    CHECK_FALSE(lock.locked());
    CHECK(lock.try_lock());
    lock.release();
}

TEMPLATE_TEST_CASE("locks: those who wait when the holder dies are told, all of them",
                   "[sync][kill]", mp::Lock, mp::RLock) {
    const TestType lock;
    auto& done = shared<std::atomic<int>>();
    child holder = stays_after([&] { lock.acquire(); }, done);
    REQUIRE(test::eventually([&] { return done == 1; }));
    std::vector<child> waiting;
    for (int i = 0; i < 5; ++i) {
        waiting.emplace_back([&, i] {
            try {
                static_cast<void>(i % 2 ? lock.acquire() : lock.acquire(1h));
            } catch (const mp::AbandonedLock&) {
                return 0;
            }
            return 1;
        });
        CHECK(waiting.back().wait_asleep());
    }
    holder.kill();
    for (child& one : waiting) CHECK(one.exit_status() == 0);
}

TEMPLATE_TEST_CASE("locks: a thread that ends with it abandons it", "[sync]", mp::Lock, mp::RLock) {
    const TestType lock;
    std::thread([&] { lock.acquire(); }).join();
    CHECK_THROWS_AS(lock.acquire(), mp::AbandonedLock);
    lock.recover();
    lock.release();
    CHECK(lock.try_lock());
    lock.release();
}

TEMPLATE_TEST_CASE("locks: recover() waits for a living holder", "[sync]", mp::Lock, mp::RLock) {
    const TestType lock;
    auto& held = shared<std::atomic<int>>();
    auto& go = shared<std::atomic<int>>();
    child holder([&] {
        lock.acquire();
        held = 1;
        if (!test::eventually([&] { return go == 1; })) return 1;
        lock.release();
        return 0;
    });
    REQUIRE(test::eventually([&] { return held == 1; }));
    CHECK_FALSE(lock.recover(0s));
    CHECK_FALSE(lock.recover(1ms));
    go = 1;
    lock.recover();
    CHECK(holder.exit_status() == 0);
    lock.release();
}

TEMPLATE_TEST_CASE("locks: a recoverer that dies leaves it abandoned (K4)", "[sync][kill]",
                   mp::Lock, mp::RLock) {
    const TestType lock;
    die_with(lock);
    CHECK(child([&] {
              lock.recover();
              ::raise(SIGKILL);
              return 0;
          }).exit_status() == -SIGKILL);
    CHECK_THROWS_AS(lock.acquire(), mp::AbandonedLock);
    lock.recover();
    lock.release();
}

TEMPLATE_TEST_CASE("locks: the last handle may go while a thread has the lock", "[sync]", mp::Lock,
                   mp::RLock) {
    auto& gone = shared<std::atomic<int>>();
    {
        const TestType here;
        here.acquire();
        child other([here, &gone] {
            if (!test::eventually([&] { return gone == 1; })) return 1;
            try {
                here.acquire();
            } catch (const mp::AbandonedLock&) {
                return 0;
            }
            return 2;
        });
        const_cast<TestType&>(here) = TestType();
        gone = 1;
        CHECK(other.exit_status() == 0);
    }
    std::mutex step;  // by another thread
    step.lock();
    std::atomic<bool> has{false};
    TestType elsewhere;
    std::thread holder([&] {
        elsewhere.acquire();
        has = true;
        step.lock();
        const TestType next;  // glibc chains the locks that a thread has by their addresses
        next.acquire();
        next.release();
    });
    CHECK(test::eventually([&] { return has.load(); }));
    elsewhere = TestType();
    step.unlock();
    holder.join();
}

TEMPLATE_TEST_CASE("synchronization objects go to processes by every way", "[sync]", mp::Lock,
                   mp::RLock) {
    const test::no_leaks leaks;
    TestType object;
    mp::Queue<TestType> queue;
    mp::Queue<bool> same;
    mp::Process by_argument(
        [](TestType given, mp::Queue<bool>& answer) { answer.put(given.locked()); }, object, same);
    mp::Process by_capture([object, same]() mutable { same.put(object.locked()); });
    mp::Process by_message([queue, same]() mutable { same.put(queue.get().locked()); });
    object.acquire();
    by_argument.start();
    by_capture.start();
    by_message.start();
    queue.put(object);
    for (int i = 0; i < 3; ++i) CHECK(same.get());
    for (auto* p : {&by_argument, &by_capture, &by_message}) p->join();
    object.release();
    queue.put(object);
    CHECK(queue.get() == object);
    CHECK_FALSE(TestType() == object);
}

TEST_CASE("synchronization objects: a handle of another class is refused", "[sync]") {
    mp::Queue<std::vector<std::byte>> bytes;
    const mp::Lock lock;
    const auto message = mp::detail::encode(lock);
    std::vector<std::byte> flat;
    for (const auto piece : message.pieces()) flat.insert(flat.end(), piece.begin(), piece.end());
    CHECK(mp::detail::decode<mp::Lock>(flat) == lock);
    CHECK_THROWS_AS(mp::detail::decode<mp::RLock>(flat), mp::Error);
    CHECK_THROWS_AS(mp::detail::decode<mp::Queue<int>>(flat), mp::Error);
}
