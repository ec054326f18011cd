// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/synchronize.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>
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
                   mp::RLock, mp::SharedLock, mp::Semaphore, mp::BoundedSemaphore, mp::Condition) {
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

TEMPLATE_TEST_CASE("synchronization objects go to a process that was forked before they were made",
                   "[sync]", mp::Lock, mp::RLock, mp::SharedLock, mp::Semaphore,
                   mp::BoundedSemaphore, mp::Condition) {
    const test::no_leaks leaks;
    const bool by_queue = GENERATE(false, true);
    auto [here, there] = mp::Pipe<>();
    mp::Queue<TestType> queue;
    mp::Process p(
        [=](mp::Connection<> c) mutable {
            const TestType got = by_queue ? queue.get() : c.recv<TestType>();
            c.send(got.acquire());
            c.recv<int>();
            got.release();
            c.send(0);
            c.recv<int>();
            c.send(got.acquire(0s));
        },
        std::move(there));
    p.start();
    const TestType object;
    by_queue ? queue.put(object) : here.send(object);
    CHECK(here.template recv<bool>());
    CHECK(object.locked());
    CHECK_FALSE(object.acquire(0s));
    here.send(0);
    here.template recv<int>();
    CHECK_FALSE(object.locked());
    CHECK(object.acquire());
    here.send(0);
    CHECK_FALSE(here.template recv<bool>());
    object.release();
    p.join();
    CHECK(p.exitcode() == 0);
}

TEST_CASE("semaphores, Event: go to a process that was forked before they were made", "[sync]") {
    const test::no_leaks leaks;
    struct parcel {
        mp::Semaphore units;
        mp::BoundedSemaphore bounded;
        mp::Event asks, answers;
    };
    const bool by_queue = GENERATE(false, true);
    auto [here, there] = mp::Pipe<parcel>();
    mp::Queue<parcel> queue;
    mp::Process p(
        [=](mp::Connection<parcel> c) mutable {
            const parcel got = by_queue ? queue.get() : c.recv();
            got.asks.wait();
            for (int i = 0; i < 2; ++i) got.units.acquire();
            got.bounded.acquire();
            got.asks.clear();
            got.answers.set();
        },
        std::move(there));
    p.start();
    const parcel made{mp::Semaphore(3), mp::BoundedSemaphore(2), {}, {}};
    by_queue ? queue.put(made) : here.send(made);
    made.asks.set();
    CHECK(made.answers.wait(test::patience));
    CHECK_FALSE(made.asks.is_set());
    CHECK(made.units.value() == 1);
    CHECK(made.bounded.value() == 1);
    made.bounded.release();
    CHECK_THROWS_AS(made.bounded.release(), mp::Error);
    p.join();
    CHECK(p.exitcode() == 0);
}

TEST_CASE("Event: goes to processes by every way", "[sync]") {
    const mp::Event first, second, third;
    mp::Queue<mp::Event> queue;
    mp::Process by_argument([](mp::Event given) { given.set(); }, first);
    mp::Process by_capture([=] { second.set(); });
    mp::Process by_message([queue]() mutable { queue.get().set(); });
    for (auto* p : {&by_argument, &by_capture, &by_message}) p->start();
    queue.put(third);
    CHECK(first.wait());
    CHECK(second.wait(1h));
    CHECK(third.wait_until(std::chrono::system_clock::now() + 1h));
    for (auto* p : {&by_argument, &by_capture, &by_message}) p->join();
}

TEST_CASE("Event: a level that stays up until it is cleared", "[sync]") {
    const mp::Event event;
    CHECK_FALSE(event.is_set());
    const auto begin = test::clock::now();
    CHECK_FALSE(event.wait(20ms));
    CHECK_FALSE(event.wait(-1s));
    CHECK_FALSE(event.wait_until(test::clock::now() + 20ms));
    CHECK(test::clock::now() - begin >= 40ms);
    event.set();
    event.set();
    CHECK(event.is_set());
    CHECK(event.wait());
    CHECK(event.wait(0s));
    event.clear();
    event.clear();
    CHECK_FALSE(event.is_set());
    CHECK_FALSE(event.wait(0s));
}

TEST_CASE("Event: who waited returns though it is cleared at once (I2)", "[sync]") {
    const mp::Event event;
    std::vector<child> waiting;
    for (int i = 0; i < 4; ++i) {
        waiting.emplace_back([&] { return event.wait(std::chrono::hours::max()) ? 0 : 1; });
        CHECK(waiting.back().wait_asleep());
    }
    event.set();
    event.clear();
    for (child& one : waiting) CHECK(one.exit_status() == 0);
}

TEST_CASE("Event: what was written before set() is seen after wait()", "[sync][threads]") {
    for (int round = 0; round < 300; ++round) {
        const mp::Event event, back;
        int data = 0;
        std::thread other([&] {
            event.wait();
            data = data + 1;
            back.set();
        });
        data = 1;
        event.set();
        back.wait();
        const bool right = data == 2;
        other.join();
        REQUIRE(right);
    }
}

TEMPLATE_TEST_CASE("semaphores: units are taken and given back", "[sync]", mp::Semaphore,
                   mp::BoundedSemaphore) {
    const TestType one;
    CHECK(one.value() == 1);
    CHECK(one.acquire());
    CHECK(one.locked());
    const auto begin = test::clock::now();
    CHECK_FALSE(one.acquire(20ms));
    CHECK_FALSE(one.try_acquire_for(20ms));
    CHECK_FALSE(one.try_acquire_until(test::clock::now() + 20ms));
    CHECK(test::clock::now() - begin >= 60ms);
    CHECK_FALSE(one.acquire(0s));
    CHECK_FALSE(one.acquire(-5s));
    CHECK_FALSE(one.try_acquire());
    CHECK_FALSE(one.try_lock());
    one.release();
    {
        const std::lock_guard guard(one);
        CHECK(one.value() == 0);
    }
    CHECK(one.value() == 1);
    {
        const std::unique_lock guard(one, 1h);
        CHECK(guard.owns_lock());
    }

    const TestType many(5);
    for (int i = 0; i < 5; ++i) CHECK(many.try_acquire());
    CHECK_FALSE(many.try_acquire());
    many.release(5);
    CHECK(many.value() == 5);
    many.release(0);
    CHECK(TestType(0).locked());
    CHECK_THROWS_AS(TestType(static_cast<std::size_t>(-1)), mp::Error);
    CHECK(TestType(0x7fffffff).value() == 0x7fffffff);
}

TEST_CASE("Semaphore: one takes, another gives back", "[sync]") {
    const mp::Semaphore hand_over(0);
    CHECK(child([&] { return hand_over.release(), 0; }).exit_status() == 0);
    CHECK(hand_over.acquire());
    hand_over.release(3);
    hand_over.release(5000);
    CHECK(hand_over.value() == 5003);
    CHECK_THROWS_AS(hand_over.release(0x7fffffff), mp::Error);
    hand_over.release(0x7fffffff - 5003);
    CHECK(hand_over.value() == 0x7fffffff);
    CHECK_THROWS_AS(hand_over.release(), mp::Error);
    CHECK(hand_over.value() == 0x7fffffff);
    CHECK(hand_over.acquire());
}

TEST_CASE("BoundedSemaphore: an Error past its units", "[sync]") {
    const mp::BoundedSemaphore two(2);
    CHECK_THROWS_AS(two.release(), mp::Error);
    two.acquire();
    CHECK_THROWS_AS(two.release(2), mp::Error);
    CHECK_THROWS_AS(two.release(static_cast<std::size_t>(-1)), mp::Error);
    two.release();
    CHECK(two.value() == 2);
}

TEMPLATE_TEST_CASE("semaphores: release(n) wakes n", "[sync]", mp::Semaphore,
                   mp::BoundedSemaphore) {
    const TestType units(6);
    for (int i = 0; i < 6; ++i) units.acquire();
    auto& awake = shared<std::atomic<int>>();
    std::vector<child> waiting;
    for (int i = 0; i < 6; ++i) {
        waiting.emplace_back([&] { return units.acquire(), ++awake, 0; });
        CHECK(waiting.back().wait_asleep());
    }
    units.release(2);
    CHECK(test::eventually([&] { return awake == 2; }));
    CHECK(units.value() == 0);
    units.release();
    CHECK(test::eventually([&] { return awake == 3; }));
    units.release(3);
    for (child& one : waiting) CHECK(one.exit_status() == 0);
    CHECK(units.value() == 0);
}

TEST_CASE("semaphores: a bounded section, in threads and processes", "[sync]") {
    const mp::BoundedSemaphore units(2);
    auto& inside = shared<std::atomic<int>>();
    auto& most = shared<std::atomic<int>>();
    const auto work = [&, units] {
        for (int i = 0; i < 1000; ++i) {
            units.acquire();
            for (int now = ++inside, seen = most; now > seen;)
                if (most.compare_exchange_weak(seen, now)) break;
            --inside;
            units.release();
        }
    };
    mp::Process first(work), second(work);
    first.start();
    second.start();
    std::thread third(work);
    third.join();
    first.join();
    second.join();
    CHECK(units.value() == 2);
    CHECK(most <= 2);
}

TEST_CASE("semaphores: data goes with a unit", "[sync][threads]") {
    const mp::Semaphore there(0), back(0);
    int data = 0;
    std::thread other([&] {
        for (int i = 0; i < 3000; ++i) {
            there.acquire();
            data = data + 1;
            back.release();
        }
    });
    bool right = true;
    for (int i = 0; i < 3000; ++i) {
        data = 2 * i;
        there.release();
        back.acquire();
        right = right && data == 2 * i + 1;
    }
    other.join();
    CHECK(right);
}

TEST_CASE("semaphores: a dead process's units stay taken, a robust one's come back (K5)",
          "[sync][kill]") {
    const auto die_with_two = [](const auto& units) {
        auto& done = shared<std::atomic<int>>();
        child holder = stays_after([&] { units.acquire(), units.acquire(); }, done);
        REQUIRE(test::eventually([&] { return done == 1; }));
        return holder;
    };
    const mp::Semaphore plain(2);
    die_with_two(plain).kill();
    CHECK_FALSE(plain.acquire(1ms));
    CHECK(plain.value() == 0);

    const mp::Semaphore robust(2, mp::robust);
    {
        child holder = die_with_two(robust);
        CHECK_FALSE(robust.try_acquire());
        CHECK(robust.value() == 0);
        child waiting([&] { return robust.acquire() ? 0 : 1; });
        CHECK(waiting.wait_asleep());
        holder.kill();
        CHECK(waiting.exit_status() == 0);
    }
    CHECK(robust.value() == 2);
    die_with_two(robust).kill();
    CHECK(robust.try_acquire());
    CHECK(robust.acquire());
    CHECK_FALSE(robust.try_acquire());
    robust.release(2);
    CHECK(robust.value() == 2);
}

TEST_CASE("semaphores: a timeout of a robust one ends though one is stopped with its ledger (K6)",
          "[sync]") {
    const mp::Semaphore units(2, mp::robust);
    child uses([&] {
        for (;;) {
            units.acquire();
            units.release();
        }
        return 0;
    });
    for (int i = 0; i < 30; ++i) {
        test::pause_briefly(1ms);  // so that it is anywhere in there
        uses.stop();
        child in_time([&] {
            static_cast<void>(units.acquire(i % 2 == 0 ? 0ms : 1ms));
            return units.value() <= 2 ? 0 : 1;
        });
        CHECK(in_time.exit_status() == 0);
        uses.go_on();
    }
    uses.kill();
    CHECK(test::eventually([&] { return units.value() == 2; }));
}

TEST_CASE("semaphores: one who is interrupted all the time sees a death (K5)", "[sync][kill]") {
    const mp::Semaphore units(1, mp::robust);
    auto& done = shared<std::atomic<int>>();
    child holder = stays_after([&] { units.acquire(); }, done);
    REQUIRE(test::eventually([&] { return done == 1; }));
    child waiting([&] {
        test::interrupt_often();
        return units.acquire() ? 0 : 1;
    });
    CHECK(waiting.wait_asleep());
    holder.kill();
    CHECK(waiting.exit_status() == 0);
}

TEMPLATE_TEST_CASE("semaphores: of a robust one only the holder releases", "[sync]", mp::Semaphore,
                   mp::BoundedSemaphore) {
    const TestType units(3, mp::robust);
    CHECK_THROWS_AS(units.release(), mp::ProcessError);
    units.acquire();
    CHECK(child([&] {
              try {
                  units.release();
              } catch (const mp::ProcessError&) {
                  units.acquire();
                  units.release();
                  return 0;
              }
              return 1;
          }).exit_status() == 0);
    CHECK_THROWS_AS(units.release(2), mp::ProcessError);
    std::thread([&] { units.release(); }).join();  // units are the process's
    CHECK(units.value() == 3);
    CHECK_THROWS_AS(units.release(), mp::ProcessError);
}

TEST_CASE("semaphores: a killed waiter takes no unit along (K2)", "[sync][kill]") {
    const mp::Semaphore units(0);
    child first([&] { return units.acquire(), 0; });
    CHECK(first.wait_asleep());
    child second([&] { return units.acquire() ? 0 : 1; });
    CHECK(second.wait_asleep());
    first.stop();
    units.release();  // wakes the first one, which can't take it
    first.kill();
    CHECK(second.exit_status() == 0);
    CHECK(units.value() == 0);
    units.release();
    CHECK(units.try_acquire());
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

namespace {

/// Makes one of each and uses it.
void all_of_them() {
    const mp::Lock lock;
    const mp::RLock rlock;
    const mp::SharedLock shared_lock;
    const mp::Semaphore units;
    const mp::BoundedSemaphore bounded(2, mp::robust);
    const mp::Condition condition;
    const std::scoped_lock guards(lock, rlock, shared_lock, units, bounded, condition);
    condition.notify();
    mp::Event().set();
    mp::Barrier(1).wait();
}

std::size_t mappings() {
    std::size_t lines = 0;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) lines += line.find("mp:") != line.npos;
    return lines;
}

}  // namespace

TEST_CASE("synchronization objects: a thousand of each leave nothing", "[sync]") {
    const test::no_leaks leaks;
    all_of_them();
    const std::size_t before = mappings();
    for (int i = 0; i < 1000; ++i) all_of_them();
    CHECK(mappings() == before);
}

TEST_CASE("synchronization objects: without descriptors OsError, and nothing leaks", "[sync]") {
    if (test::address_sanitizer) return;  // UBSan reads memory through a pipe, and says it can't
    CHECK(child([] {
              all_of_them();
              const rlimit few{64, 64};
              ::setrlimit(RLIMIT_NOFILE, &few);
              const std::size_t mapped = mappings();
              std::vector<int> taken;
              for (int fd; (fd = ::dup(0)) >= 0;) taken.push_back(fd);
              int refused = 0;
              const auto make = [&](auto f) {
                  try {
                      f();
                  } catch (const mp::OsError& e) {
                      refused += e.code() == std::errc::too_many_files_open;
                  }
              };
              make([] { mp::Lock(); });
              make([] { mp::RLock(); });
              make([] { mp::SharedLock(); });
              make([] { mp::Semaphore(); });
              make([] { mp::BoundedSemaphore(1, mp::robust); });
              make([] { mp::Condition(); });
              make([] { mp::Event(); });
              make([] { mp::Barrier(3); });
              for (const int fd : taken) ::close(fd);
              const int next = ::dup(0);
              const bool same = !taken.empty() && next == taken.front();
              ::close(next);
              all_of_them();
              return refused == 8 && same && mappings() == mapped ? 0 : 1;
          }).exit_status() == 0);
}

TEST_CASE("locks: threads", "[sync][threads]") {
    const mp::Lock lock;
    const mp::RLock rlock;
    const mp::BoundedSemaphore one(1, mp::robust);
    int a = 0, b = 0, c = 0;
    const auto work = [&] {
        for (int i = 0; i < 500; ++i) {
            {
                const std::lock_guard guard(lock);
                ++a;
            }
            {
                const std::scoped_lock twice(rlock);
                const std::lock_guard again(rlock);
                ++b;
            }
            const std::lock_guard guard(one);
            ++c;
        }
    };
    std::thread other(work);
    work();
    other.join();
    CHECK(a == 1000);
    CHECK(b == 1000);
    CHECK(c == 1000);
}
