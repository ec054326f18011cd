// SPDX-License-Identifier: BSL-1.0
//
// Condition, Barrier and SharedLock of synchronize.hpp.

#include <multiprocessing/synchronize.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

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
using test::eventually;

namespace {

template <class T>
T& shared() {
    return test::shared_memory<T>();
}
using counter = std::atomic<int>;

/// Processes that wait for a condition, in the order in which they began, and count when they are
/// awake. Status 0: notified; 1: not.
class waiters {
public:
    explicit waiters(const mp::Condition& condition) : condition_(condition) {}

    child& add() {
        all_.emplace_back([this, n = all_.size()] {
            const std::lock_guard guard(condition_);
            const bool notified = condition_.wait();
            ++awake;
            last = static_cast<int>(n);
            return notified ? 0 : 1;
        });
        CHECK(all_.back().wait_asleep());
        return all_.back();
    }
    child& operator[](std::size_t n) { return all_[n]; }
    bool all_awake(int n) const {
        return eventually([&] { return awake == n; });
    }

    counter& awake = shared<counter>();
    counter& last = shared<counter>();

private:
    mp::Condition condition_;
    std::vector<child> all_;
};

/// A process that waits at a barrier. Status: its index, 50 if it is broken.
child party(const mp::Barrier& barrier) {
    return child([=] {
        try {
            return static_cast<int>(barrier.wait());
        } catch (const mp::BrokenBarrier&) {
            return 50;
        }
    });
}
child waiting_party(const mp::Barrier& barrier, std::size_t waiting) {
    child one = party(barrier);
    CHECK(eventually([&] { return barrier.n_waiting() == waiting; }));
    CHECK(one.wait_asleep());
    return one;
}

}  // namespace

// ---- Condition

TEST_CASE("Condition: notify(n) wakes exactly n, the oldest", "[sync][condition]") {
    const test::no_leaks leaks;
    const mp::Condition condition;
    waiters all(condition);
    for (int i = 0; i < 6; ++i) all.add();
    condition.notify();
    CHECK(all[0].exit_status() == 0);
    {
        const std::lock_guard guard(condition);
        condition.notify(2);
    }
    CHECK(all[1].exit_status() == 0);
    CHECK(all[2].exit_status() == 0);
    for (std::size_t i = 3; i < 6; ++i) CHECK(all[i].wait_asleep());
    CHECK(all.awake == 3);
    condition.notify_all();
    for (std::size_t i = 3; i < 6; ++i) CHECK(all[i].exit_status() == 0);
    CHECK_FALSE(condition.locked());
}

TEST_CASE("Condition: a notify without waiters is lost", "[sync][condition]") {
    const mp::Condition condition;
    condition.notify();
    condition.notify_all();
    const std::lock_guard guard(condition);
    const auto begin = test::clock::now();
    CHECK_FALSE(condition.wait(20ms));
    CHECK(test::clock::now() - begin >= 20ms);
    CHECK_FALSE(condition.wait(-1s));
    CHECK_FALSE(condition.wait_until(std::chrono::system_clock::now() - 1s));
}

TEST_CASE("Condition: its lock, and misuse of it", "[sync][condition]") {
    const mp::Condition own;
    CHECK_THROWS_AS(own.wait(), mp::ProcessError);
    CHECK_THROWS_AS(own.wait(0s), mp::ProcessError);
    CHECK_THROWS_AS(own.release(), mp::ProcessError);
    CHECK(own.acquire());
    CHECK(own.try_lock());
    own.unlock();
    own.unlock();
    CHECK_FALSE(own.locked());

    const mp::Lock lock, other;
    const mp::Condition given(lock);
    std::unique_lock guard(lock);
    CHECK(given.locked());
    CHECK_THROWS_AS(given.lock(), mp::ProcessError);
    CHECK_FALSE(given.wait(guard, 1ms));
    CHECK(guard.owns_lock());
    CHECK_FALSE(given.wait(1ms));
    CHECK(lock.locked());
    guard.unlock();
    CHECK_THROWS_AS(given.wait(guard), mp::ProcessError);
    std::unique_lock wrong(other);
    CHECK_THROWS_AS(given.wait(wrong, 0s), mp::ProcessError);
    CHECK_FALSE(own.wait(wrong, 0s));
    std::mutex standard;
    std::unique_lock<std::mutex> local(standard);
    CHECK_FALSE(own.wait(local, 0s));
    CHECK_THROWS_AS(given.wait(local, 0s), mp::ProcessError);
}

TEMPLATE_TEST_CASE("Condition: a queue with a lock of either kind", "[sync][condition]", mp::Lock,
                   mp::RLock) {
    const TestType lock;
    const mp::Condition not_empty(lock), not_full(lock);
    auto& items = shared<int>();
    constexpr int number = 500;
    mp::Process producer([&] {
        for (int i = 0; i < number; ++i) {
            std::unique_lock guard(lock);
            not_full.wait(guard, [&] { return items < 3; });
            ++items;
            not_empty.notify();
        }
    });
    mp::Process consumer([&] {
        for (int i = 0; i < number; ++i) {
            std::unique_lock guard(lock);
            if (!not_empty.wait_for(guard, 1h, [&] { return items > 0; })) ::_exit(9);
            --items;
            not_full.notify();
        }
    });
    producer.start();
    consumer.start();
    CHECK(producer.join(30s));
    CHECK(consumer.join(30s));
    CHECK(consumer.exitcode() == 0);
    CHECK(items == 0);
}

TEST_CASE("Condition: gives back all of an RLock, and takes all of it again", "[sync][condition]") {
    for (const int kind : {0, 1, 2}) {
        const mp::RLock lock;
        const mp::Condition condition = kind == 0 ? mp::Condition() : mp::Condition(lock);
        auto& ready = shared<counter>();
        child waiting([&] {
            condition.acquire();
            condition.acquire();
            ready = 1;
            bool notified;
            if (kind == 2) {
                std::unique_lock guard(lock);
                notified = condition.wait(guard);
                if (!guard.owns_lock()) return 7;
            } else {
                condition.acquire();
                notified = condition.wait();
                condition.release();
            }
            ready = 2;
            if (!notified) return 8;
            if (!eventually([&] { return ready == 3; })) return 9;
            condition.release();
            condition.release();
            return condition.locked() ? 10 : 0;
        });
        CHECK(eventually([&] { return ready == 1; }));
        {
            const std::lock_guard guard(condition);  // so it is free
            condition.notify();
        }
        CHECK(eventually([&] { return ready == 2; }));
        CHECK_FALSE(condition.try_lock());
        ready = 3;
        CHECK(waiting.exit_status() == 0);
    }
}

TEST_CASE("Condition: wait_for gives the predicate's last value", "[sync][condition]") {
    const mp::Condition condition;
    std::unique_lock guard(condition);
    int asked = 0;
    CHECK_FALSE(condition.wait_for(guard, 5ms, [&] { return ++asked > 100; }));
    CHECK(asked == 2);
    CHECK(condition.wait_for([] { return true; }));
    CHECK_FALSE(condition.wait_for([] { return false; }, 1ms));
    CHECK(condition.wait_for(guard, 0s, [&, n = 0]() mutable { return ++n == 2; }));
    CHECK_FALSE(condition.wait_for(guard, 1ms));
    CHECK_FALSE(condition.wait_until(guard, test::clock::now() + 1ms));
    CHECK_FALSE(condition.wait_until(guard, test::clock::now() + 1ms, [] { return false; }));
}

TEST_CASE("Condition: goes by message with its lock", "[sync][condition]") {
    const mp::Lock lock;
    const mp::RLock rlock;
    for (mp::Condition condition : {mp::Condition(), mp::Condition(lock), mp::Condition(rlock)}) {
        mp::Queue<mp::Condition> queue;
        mp::Process p([queue]() mutable {
            const mp::Condition mine = queue.get();
            const std::lock_guard guard(mine);
            mine.notify();
        });
        const std::lock_guard guard(condition);
        p.start();
        queue.put(condition);
        CHECK(condition.wait(30s));
        p.join();
        CHECK(p.exitcode() == 0);
    }
}

TEST_CASE("Condition, Barrier: go to a process that was forked before they were made",
          "[sync][condition][barrier]") {
    const test::no_leaks leaks;
    struct parcel {
        mp::Condition condition;
        mp::Barrier barrier{1};
    };
    const bool by_queue = GENERATE(false, true);
    auto [here, there] = mp::Pipe<parcel>();
    mp::Queue<parcel> queue;
    auto& turn = shared<int>();
    mp::Process p(
        [=, &turn](mp::Connection<parcel> c) mutable {
            const parcel got = by_queue ? queue.get() : c.recv();
            {
                std::unique_lock guard(got.condition);
                turn = 1;
                got.condition.notify();
                got.condition.wait(guard, [&] { return turn == 2; });
            }
            got.barrier.wait();
        },
        std::move(there));
    p.start();
    const parcel made{{}, mp::Barrier(2)};
    {
        std::unique_lock guard(made.condition);
        by_queue ? queue.put(made) : here.send(made);
        CHECK(made.condition.wait_for(guard, test::patience, [&] { return turn == 1; }));
        turn = 2;
        made.condition.notify();
    }
    CHECK(made.barrier.wait(test::patience) < 2);
    CHECK_FALSE(made.barrier.broken());
    p.join();
    CHECK(p.exitcode() == 0);
}

TEST_CASE("Condition: a damaged message is refused", "[sync][condition]") {
    const mp::Condition condition;
    const auto message = mp::detail::encode(condition);
    std::vector<std::byte> flat;
    for (const auto piece : message.pieces()) flat.insert(flat.end(), piece.begin(), piece.end());
    REQUIRE(flat.back() == std::byte{0});  // a lock of its own
    CHECK(mp::detail::decode<mp::Condition>(flat) == condition);
    for (const int which : {3, 255}) {
        flat.back() = static_cast<std::byte>(which);
        CHECK_THROWS_AS(mp::detail::decode<mp::Condition>(flat), mp::SerializationError);
    }
}

TEST_CASE("Condition: one killed while it waits takes no notify along (K1)",
          "[sync][condition][kill]") {
    const test::no_leaks leaks;
    const mp::Condition condition;
    waiters all(condition);
    for (int i = 0; i < 4; ++i) all.add();
    all[0].kill();
    all[2].kill();
    condition.notify();
    CHECK(all[1].exit_status() == 0);
    condition.notify(2);
    CHECK(all[3].exit_status() == 0);
    CHECK(all.awake == 2);
}

TEST_CASE("Condition: notify(n) wakes n of those that live (K1)", "[sync][condition][kill]") {
    const test::no_leaks leaks;
    const bool locked = GENERATE(false, true);
    const mp::Condition condition;
    waiters all(condition);
    for (int i = 0; i < 7; ++i) all.add();
    for (const std::size_t dead : {0u, 3u, 6u}) all[dead].kill();
    const auto notify = [&](std::size_t n) {
        std::unique_lock guard(condition, std::defer_lock);
        if (locked) guard.lock();
        condition.notify(n);
    };
    notify(2);
    CHECK(all[1].exit_status() == 0);
    CHECK(all[2].exit_status() == 0);
    for (const std::size_t next : {4u, 5u}) CHECK(all[next].wait_asleep());
    CHECK(all.awake == 2);
    notify(1);
    CHECK(all[4].exit_status() == 0);
    CHECK(all[5].wait_asleep());
    CHECK(all.awake == 3);
    notify(1);
    CHECK(all[5].exit_status() == 0);
}

TEST_CASE("Condition: one killed after it was chosen hands its notify on (K2)",
          "[sync][condition][kill]") {
    const mp::Condition condition;
    waiters all(condition);
    for (int i = 0; i < 3; ++i) all.add();
    all[0].stop();
    condition.notify();  // to the first one, which can't return
    all[0].kill();
    CHECK(all[1].exit_status() == 0);  // by itself, since nobody else acts
    CHECK(all[2].wait_asleep());
    all[2].stop();
    condition.notify();
    all[2].kill();
    all.add();
    {
        const std::lock_guard guard(condition);
        CHECK_FALSE(condition.wait(1s));  // what came before it is not for it
    }
    CHECK(all[3].wait_asleep());
    CHECK(all.awake == 1);
    condition.notify();
    CHECK(all[3].exit_status() == 0);
}

TEST_CASE("Condition: one who is interrupted all the time gets a dead one's notify (K2)",
          "[sync][condition][kill]") {
    const mp::Condition condition;
    waiters all(condition);
    all.add();
    child second([&] {
        test::interrupt_often();
        const std::lock_guard guard(condition);
        return condition.wait() ? 0 : 1;
    });
    CHECK(second.wait_asleep());
    all[0].stop();
    condition.notify();
    all[0].kill();
    CHECK(second.exit_status() == 0);
}

TEST_CASE("Condition: a deadline takes what a dead one was notified of (K2)",
          "[sync][condition][kill]") {
    auto& state = shared<mp::detail::condition_state<>>();
    state.init();
    using mp::detail::deadline;
    const auto wait = [&](deadline until) {
        return [&state, until] {
            return state.wait(
                       until, [] {}, [] {}, 1h)
                       ? 0
                       : 1;
        };
    };
    child first(wait(deadline::never()));
    CHECK(first.wait_asleep());
    child second(wait(deadline::after(2s)));
    CHECK(second.wait_asleep());
    first.stop();
    state.notify(1);
    first.kill();
    CHECK(second.exit_status() == 0);
}

TEST_CASE("Condition: the lock's holder dies while others wait", "[sync][condition][kill]") {
    const mp::Condition condition;
    child waiting([&] {
        try {
            const std::lock_guard guard(condition);
            condition.wait();
        } catch (const mp::AbandonedLock&) {  // the guard has released it, it stays abandoned
            try {
                condition.acquire();
            } catch (const mp::AbandonedLock&) {
                condition.recover();
                condition.release();
                return 0;
            }
        }
        return 1;
    });
    CHECK(waiting.wait_asleep());
    CHECK(child([&] {
              condition.acquire();
              condition.notify();
              ::raise(SIGKILL);
              return 0;
          }).exit_status() == -SIGKILL);
    CHECK(waiting.exit_status() == 0);
    CHECK(condition.try_lock());
    condition.unlock();

    const mp::RLock lock;
    const mp::Condition given(lock);
    for (const bool guarded : {false, true}) {
        child second([&] {
            std::unique_lock guard(lock);
            lock.acquire();
            try {
                static_cast<void>(guarded ? given.wait(guard) : given.wait());
            } catch (const mp::AbandonedLock&) {
                if (!guard.owns_lock()) return 2;
                given.recover();  // while it has it
                lock.release();
                guard.unlock();
                return lock.locked() ? 3 : 0;
            }
            return 1;
        });
        CHECK(second.wait_asleep());
        CHECK(child([&] {
                  given.acquire();
                  given.notify();
                  ::raise(SIGKILL);
                  return 0;
              }).exit_status() == -SIGKILL);
        CHECK(second.exit_status() == 0);
    }

    const mp::SharedLock foreign;
    child third([&] {
        std::unique_lock guard(foreign);
        try {
            condition.wait(guard);
        } catch (const mp::AbandonedLock&) {
            return guard.owns_lock() ? 1 : 0;
        }
        return 2;
    });
    CHECK(third.wait_asleep());
    CHECK(child([&] {
              foreign.acquire();
              condition.notify();
              ::raise(SIGKILL);
              return 0;
          }).exit_status() == -SIGKILL);
    CHECK(third.exit_status() == 0);
}

TEST_CASE("Condition: with the lock, who is notified wakes when it is given back",
          "[sync][condition]") {
    const mp::Lock lock;
    std::vector<mp::Condition> conditions;  // more than a thread remembers
    std::vector<child> waiting;
    for (int i = 0; i < 6; ++i) {
        conditions.emplace_back(lock);
        waiting.emplace_back([&lock, mine = conditions.back()] {
            std::unique_lock guard(lock);
            return mine.wait(guard) ? 0 : 1;
        });
        CHECK(waiting.back().wait_asleep());
    }
    lock.acquire();
    for (const mp::Condition& one : conditions) one.notify();
    conditions.clear();  // the handles go before the lock is given back
    for (const child& one : waiting) CHECK(one.wait_asleep());
    lock.release();
    for (child& one : waiting) CHECK(one.exit_status() == 0);
}

TEST_CASE("Condition: its last handle goes while the thread owes a wake-up", "[sync][condition]") {
    mp::Condition here;
    child waiting([here] {
        const std::lock_guard guard(here);
        try {
            here.wait();
        } catch (const mp::AbandonedLock&) {
            return 0;
        }
        return 1;
    });
    CHECK(waiting.wait_asleep());
    here.acquire();
    here.notify();
    here = mp::Condition();
    CHECK(waiting.exit_status() == 0);
}

TEST_CASE("Condition: a forked child owes nothing of its parent's", "[sync][condition]") {
    std::optional<mp::Condition> here(std::in_place);
    child waiting([&] {
        const std::lock_guard guard(*here);
        return here->wait() ? 0 : 1;
    });
    CHECK(waiting.wait_asleep());
    here->acquire();
    here->notify();
    CHECK(child([&] {
              here.reset();
              std::ifstream maps("/proc/self/maps");
              for (std::string line; std::getline(maps, line);)
                  if (line.find("mp:Condition") != line.npos) return 1;
              return 0;
          }).exit_status() == 0);
    here->release();
    CHECK(waiting.exit_status() == 0);
}

TEST_CASE("Condition: a wait with a timeout ends though one is stopped in its table (K6)",
          "[sync][condition]") {
    const mp::Condition condition;
    child notifies([&] {
        for (;;) condition.notify();
        return 0;
    });
    const auto timed = [&](mp::duration timeout) {
        return [&, timeout] {
            const std::lock_guard guard(condition);
            condition.wait(timeout);
            return condition.locked() ? 0 : 1;
        };
    };
    for (int i = 0; i < 30; ++i) {
        child in_time(timed(i % 2 == 0 ? 0ms : 1ms)), waits(timed(20ms));
        if (i % 3 == 0) test::pause_briefly(1ms);
        notifies.stop();
        CHECK(in_time.exit_status() == 0);
        CHECK(waits.exit_status() == 0);
        notifies.go_on();
    }
    notifies.kill();
    waiters all(condition);  // what they left is in nobody's way
    all.add();
    condition.notify();
    CHECK(eventually([&] { return all.awake == 1; }));
}

TEST_CASE("Condition: its notifier dies with the lock: who was notified is awake (K3)",
          "[sync][condition][kill]") {
    const mp::Condition condition;
    waiters all(condition);
    for (int i = 0; i < 3; ++i) all.add();
    auto& ready = shared<counter>();
    child notifier([&] {
        condition.acquire();
        condition.notify(2);
        ready = 1;
        for (;;) ::pause();
        return 0;
    });
    CHECK(eventually([&] { return ready == 1; }));
    notifier.kill();
    CHECK(all[0].exit_status() == 99);  // AbandonedLock
    CHECK(all[1].exit_status() == 99);
    CHECK(all[2].wait_asleep());
    condition.recover();
    condition.notify();
    condition.release();
    CHECK(all[2].exit_status() == 0);
}

TEST_CASE("Condition: at most 1,024 wait", "[sync][condition]") {
    auto& state = shared<mp::detail::condition_state<>>();
    state.init();
    using mp::detail::deadline;
    const std::function<int(int)> deeper = [&](int n) {  // all in one thread, one within another
        try {
            return state.wait(
                       deadline::at_once(), [&] { n = deeper(n + 1); }, [] {})
                       ? -1
                       : n;
        } catch (const mp::Error&) {
            return n;
        }
    };
    CHECK(deeper(0) == 1024);
    CHECK(deeper(0) == 1024);
}

TEST_CASE("Condition: threads", "[sync][condition][threads]") {
    const mp::Condition condition;
    int turn = 0;
    const auto play = [&](int me) {
        std::unique_lock guard(condition);
        for (int i = 0; i < 1000; ++i) {
            condition.wait(guard, [&] { return turn == me; });
            turn = 1 - me;
            condition.notify_all();
        }
    };
    std::thread other(play, 1);
    play(0);
    other.join();
    CHECK(turn == 0);
}

// ---- Barrier

TEST_CASE("Barrier: releases all at once, each with an index of its own, again and again",
          "[sync][barrier]") {
    const test::no_leaks leaks;
    const mp::Barrier barrier(3);
    CHECK(barrier.parties() == 3);
    auto& rounds = shared<counter[3]>();
    auto& wrong = shared<counter>();
    const auto work = [&] {
        for (int i = 0; i < 300; ++i) {
            const std::size_t index = barrier.wait();
            ++rounds[index];
            barrier.wait();
            for (const auto& n : rounds) wrong += n != i + 1;
            barrier.wait();
        }
    };
    mp::Process first(work), second(work);
    first.start();
    second.start();
    work();
    CHECK(first.join(30s));
    CHECK(second.join(30s));
    CHECK(wrong == 0);
    CHECK(barrier.n_waiting() == 0);
    CHECK_FALSE(barrier.broken());
}

TEST_CASE("Barrier: more processes than parties share it", "[sync][barrier]") {
    const mp::Barrier barrier(2);
    auto& passed = shared<counter[2]>();
    std::vector<mp::Process> all;
    for (int i = 0; i < 4; ++i) {
        all.emplace_back([&] {
            try {
                while (++passed[barrier.wait()] < 1000) {
                }
                barrier.abort();
            } catch (const mp::BrokenBarrier&) {
            }
        });
        all.back().start();
    }
    for (auto& p : all) {
        CHECK(p.join(30s));
        CHECK(p.exitcode() == 0);
        if (p.is_alive()) p.kill();
    }
    CHECK(barrier.broken());
    CHECK(std::abs(passed[0] - passed[1]) <= 4);
}

TEST_CASE("Barrier: the action runs in one, before the others go on", "[sync][barrier]") {
    auto& ran = shared<counter>();
    const mp::Barrier barrier(3, [&ran] { ++ran; });
    auto& wrong = shared<counter>();
    const auto simple = [&] {
        for (int i = 1; i <= 300; ++i) {
            barrier.wait();
            wrong += ran < i || ran > i + 1;
        }
    };
    mp::Process first(simple), second(simple);
    first.start();
    second.start();
    simple();
    CHECK(first.join(30s));
    CHECK(second.join(30s));
    CHECK(ran == 300);
    CHECK(wrong == 0);
}

TEST_CASE("Barrier: an action that throws breaks it", "[sync][barrier]") {
    const mp::Barrier barrier(2, [] { throw std::domain_error("no"); });
    child other = waiting_party(barrier, 1);
    CHECK_THROWS_AS(barrier.wait(), std::domain_error);
    CHECK(other.exit_status() == 50);
    CHECK(barrier.broken());
    CHECK_THROWS_AS(barrier.wait(), mp::BrokenBarrier);
}

TEST_CASE("Barrier: a timeout breaks it for all", "[sync][barrier]") {
    const mp::Barrier barrier(3);
    child other = waiting_party(barrier, 1);
    const auto begin = test::clock::now();
    CHECK_THROWS_AS(barrier.wait(20ms), mp::BrokenBarrier);
    CHECK(test::clock::now() - begin >= 20ms);
    CHECK(other.exit_status() == 50);
    CHECK(barrier.broken());
    CHECK(barrier.n_waiting() == 0);
    CHECK(party(barrier).exit_status() == 50);
    barrier.reset();
    CHECK_FALSE(barrier.broken());
    child a = waiting_party(barrier, 1), b = waiting_party(barrier, 2);
    CHECK(barrier.wait(0s) == 2);  // nobody to wait for
    CHECK(a.exit_status() == 0);
    CHECK(b.exit_status() == 1);

    const mp::Barrier impatient(2, {}, 1ms);
    CHECK_THROWS_AS(impatient.wait(), mp::BrokenBarrier);
    const mp::Barrier polls(2, {}, -1s);
    CHECK_THROWS_AS(polls.wait(), mp::BrokenBarrier);
    const mp::Barrier until(2);
    CHECK_THROWS_AS(until.wait_until(test::clock::now() + 1ms), mp::BrokenBarrier);
}

TEST_CASE("Barrier: abort() and reset() end the wait of all", "[sync][barrier]") {
    const mp::Barrier barrier(3);
    for (const bool aborts : {true, false}) {
        child a = waiting_party(barrier, 1), b = waiting_party(barrier, 2);
        aborts ? barrier.abort() : barrier.reset();
        CHECK(a.exit_status() == 50);
        CHECK(b.exit_status() == 50);
        CHECK(barrier.broken() == aborts);
        if (aborts) {
            barrier.abort();
            barrier.reset();
        }
    }
    barrier.reset();
    CHECK(barrier.n_waiting() == 0);
}

TEST_CASE("Barrier: a waiting party's death breaks it (K1)", "[sync][barrier][kill]") {
    const test::no_leaks leaks;
    const mp::Barrier barrier(3);
    {
        child a = waiting_party(barrier, 1), b = waiting_party(barrier, 2);
        a.kill();
        CHECK(b.exit_status() == 50);  // by itself
        CHECK(barrier.broken());
    }
    barrier.reset();
    {
        child a = waiting_party(barrier, 1);
        a.kill();
        CHECK_THROWS_AS(barrier.wait(), mp::BrokenBarrier);
    }
    barrier.reset();
    {
        child a = waiting_party(barrier, 1);
        a.kill();
        CHECK(barrier.broken());
    }
    barrier.reset();
    auto& acts = shared<counter>();
    const mp::Barrier with_action(2, [&] {
        acts = 1;
        for (;;) ::pause();
    });
    child a = waiting_party(with_action, 1);
    child b = party(with_action);
    CHECK(eventually([&] { return acts == 1; }));
    b.kill();
    CHECK(a.exit_status() == 50);
}

TEST_CASE("Barrier: one who is interrupted all the time sees a death (K1)",
          "[sync][barrier][kill]") {
    const mp::Barrier barrier(3);
    child a = waiting_party(barrier, 1);
    child b([&] {
        test::interrupt_often();
        try {
            barrier.wait();
        } catch (const mp::BrokenBarrier&) {
            return 50;
        }
        return 0;
    });
    CHECK(eventually([&] { return barrier.n_waiting() == 2; }));
    CHECK(b.wait_asleep());
    a.kill();
    CHECK(b.exit_status() == 50);
}

TEST_CASE("Barrier: a wait with a timeout ends though one is stopped in its table (K4)",
          "[sync][barrier]") {
    const mp::Barrier barrier(3);
    child looks([&] {
        for (;;) static_cast<void>(barrier.n_waiting());
        return 0;
    });
    const auto timed = [&](mp::duration timeout) {
        return [&, timeout] {
            try {
                barrier.wait(timeout);
            } catch (const mp::BrokenBarrier&) {
                return 0;
            }
            return 1;
        };
    };
    for (int i = 0; i < 30; ++i) {
        child long_one([&] { return timed(1h)(); });
        CHECK(long_one.wait_asleep());
        child comes(timed(i % 2 == 0 ? 0ms : 1ms));
        if (i % 3 == 0) test::pause_briefly(1ms);
        looks.stop();
        CHECK(comes.exit_status() == 0);
        looks.go_on();
        CHECK(long_one.exit_status() == 0);  // told that it is broken
        barrier.reset();
    }
}

TEST_CASE("Barrier: once all are there no timeout breaks it", "[sync][barrier]") {
    auto& acts = shared<counter>();
    const auto end = test::clock::now() + 2s;  // while the action runs
    const mp::Barrier barrier(2, [&acts, end] {
        acts = 1;
        eventually([&] { return acts == 2 && test::clock::now() > end + 100ms; });
    });
    const auto wait = [&](auto until) {
        return child([&barrier, until] {
            try {
                return static_cast<int>(barrier.wait_until(until));
            } catch (const mp::BrokenBarrier&) {
                return 50;
            }
        });
    };
    child a = wait(end);
    CHECK(eventually([&] { return barrier.n_waiting() == 1; }));
    child b = wait(end);
    CHECK(eventually([&] { return acts == 1; }));
    child next = wait(test::clock::now());  // of the next generation
    CHECK(next.wait_asleep());
    acts = 2;
    CHECK(a.exit_status() == 0);
    CHECK(b.exit_status() == 1);
    CHECK(next.exit_status() == 50);
    CHECK(barrier.broken());

    barrier.reset();
    acts = 0;
    child c = waiting_party(barrier, 1), d = party(barrier);
    CHECK(eventually([&] { return acts == 1; }));
    barrier.abort();
    acts = 2;
    CHECK(c.exit_status() == 50);
    CHECK(d.exit_status() == 50);
}

TEST_CASE("Barrier: of one, of none, and in messages", "[sync][barrier]") {
    const mp::Barrier one(1);
    CHECK(one.wait() == 0);
    CHECK(one.wait(0s) == 0);
    CHECK_THROWS_AS(mp::Barrier(0), mp::Error);
    CHECK_THROWS_AS(mp::Barrier(1'000'001), mp::Error);

    const mp::Barrier two(2, {}, 30s);
    mp::Queue<mp::Barrier> queue;
    mp::Process p([queue]() mutable { queue.get().wait(); });
    p.start();
    queue.put(two);
    two.wait();
    p.join();
    CHECK(p.exitcode() == 0);
    CHECK_THROWS_AS(queue.put(mp::Barrier(2, [] {})), mp::Error);
}

TEST_CASE("Barrier: threads", "[sync][barrier][threads]") {
    const mp::Barrier barrier(2);
    int data = 0;
    bool right = true;
    const auto play = [&](int me) {
        for (int i = 0; i < 500; ++i) {
            if (i % 2 == me) data = i;
            barrier.wait();
            if (me == 0) right = right && data == i;
            barrier.wait();
        }
    };
    std::thread other(play, 1);
    play(0);
    other.join();
    CHECK(right);
}

// ---- SharedLock

TEST_CASE("SharedLock: many readers or one writer", "[sync][shared]") {
    const test::no_leaks leaks;
    const mp::SharedLock lock;
    std::shared_lock first(lock);
    {
        const std::shared_lock second(lock);
        CHECK(child([&] {
                  if (!lock.acquire_shared(0s) || !lock.locked()) return 1;
                  lock.release_shared();
                  if (lock.try_lock() || lock.acquire(1ms)) return 2;
                  return lock.acquire_shared() ? 0 : 3;  // ends with it
              }).exit_status() == 0);
        CHECK(lock.locked());
    }
    first.unlock();
    CHECK_FALSE(lock.locked());
    {
        const std::unique_lock writer(lock);
        CHECK(child([&] {
                  const bool got = lock.try_lock_shared() || lock.acquire_shared(1ms) ||
                                   lock.try_lock() || lock.try_lock_shared_for(1ms) ||
                                   lock.try_lock_shared_until(test::clock::now() - 1s);
                  return got || !lock.locked() ? 1 : 0;
              }).exit_status() == 0);
    }
    CHECK(first.try_lock_for(1h));
    CHECK_FALSE(lock.try_lock());
    first.unlock();
    CHECK(lock.try_lock());
    lock.unlock();
}

TEST_CASE("SharedLock: misuse", "[sync][shared]") {
    const mp::SharedLock lock;
    CHECK_THROWS_AS(lock.release(), mp::ProcessError);
    CHECK_THROWS_AS(lock.release_shared(), mp::ProcessError);
    lock.acquire();
    CHECK_THROWS_AS(lock.acquire_shared(), mp::ProcessError);
    CHECK_FALSE(lock.acquire_shared(1ms));
    CHECK_THROWS_AS(lock.acquire(), mp::ProcessError);
    CHECK_FALSE(lock.acquire(1ms));
    CHECK_THROWS_AS(lock.release_shared(), mp::ProcessError);
    lock.release();
    lock.acquire_shared();
    CHECK_THROWS_AS(lock.acquire(), mp::ProcessError);
    CHECK_FALSE(lock.acquire(1ms));
    CHECK_THROWS_AS(lock.recover(), mp::ProcessError);
    std::thread([&] { CHECK_THROWS_AS(lock.release_shared(), mp::ProcessError); }).join();
    lock.release_shared();
    CHECK_FALSE(lock.locked());
}

TEST_CASE("SharedLock: a writer's writes are whole for readers", "[sync][shared]") {
    const mp::SharedLock lock;
    auto& data = shared<int[16]>();
    auto& wrong = shared<counter>();
    const auto work = [&](unsigned seed) {
        for (unsigned i = 0; i < 1500; ++i) {
            if ((seed + i) % 4 == 0) {
                const std::lock_guard writer(lock);
                for (int& n : data) n = n + 1;
            } else {
                const std::shared_lock reader(lock);
                for (const int n : data) wrong += n != data[0];
            }
        }
    };
    mp::Process first(work, 1u), second(work, 2u);
    first.start();
    second.start();
    work(3);
    CHECK(first.join(30s));
    CHECK(second.join(30s));
    CHECK(wrong == 0);
    CHECK(data[15] == 1125);
}

TEST_CASE("SharedLock: a dead reader's share is given back, at once (K1)", "[sync][shared][kill]") {
    const mp::SharedLock lock;
    auto& reads = shared<counter>();
    std::vector<child> readers;
    for (int i = 0; i < 3; ++i)
        readers.emplace_back([&] {
            lock.acquire_shared();
            ++reads;
            for (;;) ::pause();
            return 0;
        });
    CHECK(eventually([&] { return reads == 3; }));
    child writer([&] { return lock.acquire(), lock.release(), 0; });
    CHECK(writer.wait_asleep());
    for (child& one : readers) one.kill();
    CHECK(writer.exit_status() == 0);
    CHECK_FALSE(lock.locked());
    std::thread([&] { lock.acquire_shared(); }).join();
    CHECK_FALSE(lock.locked());
    CHECK(lock.try_lock());
    lock.release();
}

TEST_CASE("SharedLock: a dead writer abandons it for readers and writers (K3)",
          "[sync][shared][kill]") {
    const mp::SharedLock lock;
    child writer([&] {
        lock.acquire();
        for (;;) ::pause();
        return 0;
    });
    CHECK(eventually([&] { return lock.locked(); }));
    child reader([&] {
        try {
            lock.acquire_shared();
        } catch (const mp::AbandonedLock&) {
            return 0;
        }
        return 1;
    });
    CHECK(reader.wait_asleep());
    writer.kill();
    CHECK(reader.exit_status() == 0);
    CHECK_THROWS_AS(lock.try_lock_shared(), mp::AbandonedLock);
    CHECK_THROWS_AS(lock.try_lock(), mp::AbandonedLock);
    CHECK_THROWS_AS(lock.acquire_shared(1h), mp::AbandonedLock);
    CHECK(lock.locked());
    lock.recover();
    CHECK_THROWS_AS(lock.acquire_shared(), mp::ProcessError);
    lock.release();
    CHECK(lock.acquire_shared());
    lock.release_shared();
    CHECK_FALSE(lock.locked());
}

TEST_CASE("SharedLock: readers and writers that wait for a writer are all told of its death (K3)",
          "[sync][shared][kill]") {
    const mp::SharedLock lock;
    child holder([&] {
        lock.acquire();
        for (;;) ::pause();
        return 0;
    });
    CHECK(eventually([&] { return lock.locked(); }));
    auto& told = shared<counter>();
    auto& recovers = shared<counter>();
    auto& recovered = shared<counter>();
    auto& n = shared<int>();
    const auto waits = [&](bool writes) {
        return [&, writes] {
            try {
                writes ? lock.acquire() : lock.acquire_shared();
                return 1;
            } catch (const mp::AbandonedLock&) {
            }
            ++told;
            if (!eventually([&] { return told == 4; })) return 2;
            if (recovers++ == 0) {
                lock.recover();
                n = 10;
                lock.release();
                recovered = 1;
            }
            if (!eventually([&] { return recovered == 1; })) return 3;
            for (int i = 0; i < 50; ++i) {
                if (writes) {
                    const std::lock_guard guard(lock);
                    ++n;
                } else {
                    const std::shared_lock guard(lock);
                    if (n < 10) return 4;
                }
            }
            return 0;
        };
    };
    std::vector<child> all;
    for (const bool writes : {false, true, true, false}) {
        all.emplace_back(waits(writes));
        CHECK(all.back().wait_asleep());
    }
    holder.kill();
    for (child& one : all) CHECK(one.exit_status() == 0);
    CHECK(told == 4);
    CHECK(n == 110);
    CHECK_FALSE(lock.locked());
}

TEST_CASE("SharedLock: the last handle may go while a thread reads", "[sync][shared]") {
    mp::SharedLock lock;
    const auto message = mp::detail::encode(lock);
    lock.acquire_shared();
    lock = mp::SharedLock();
    const mp::Lock next;
    next.acquire();
    next.release();
}

TEST_CASE("SharedLock: at most 1,024 readers", "[sync][shared]") {
    const mp::SharedLock lock;
    for (int i = 0; i < 1024; ++i) REQUIRE(lock.acquire_shared());
    CHECK_THROWS_AS(lock.try_lock_shared(), mp::Error);
    CHECK(child([&] { return lock.try_lock() ? 1 : 0; }).exit_status() == 0);
    for (int i = 0; i < 1024; ++i) lock.release_shared();
    CHECK(lock.try_lock());
    lock.release();
}

TEST_CASE("SharedLock: threads", "[sync][shared][threads]") {
    const mp::SharedLock lock;
    int a = 0, b = 0;
    std::atomic<bool> right{true};
    const auto work = [&](bool writes) {
        for (int i = 0; i < 1000; ++i) {
            if (writes) {
                const std::lock_guard guard(lock);
                ++a, ++b;
            } else {
                const std::shared_lock guard(lock);
                if (a != b) right = false;
            }
        }
    };
    std::thread one(work, false), two(work, false);
    work(true);
    one.join();
    two.join();
    CHECK(right);
    CHECK(a == 1000);
}
