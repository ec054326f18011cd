// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <atomic>

#include <multiprocessing/detail/platform/robust_mutex.hpp>

#include "support/child.hpp"

using namespace multiprocessing::detail;
using namespace test;

namespace {

struct shared {
    robust_mutex lock;
    std::atomic<int> state;
};

shared& make() {
    auto& its = shared_memory<shared>();
    its.lock.init();
    return its;
}

}  // namespace

TEST_CASE("robust_mutex: one process at a time has it", "[platform][lock]") {
    auto& its = make();
    REQUIRE(its.lock.try_lock());
    CHECK(child([&] { return its.lock.try_lock(); }).exit_status() == 0);
    child waiter([&] { return its.lock.lock(deadline::never()) ? 0 : 1; });
    CHECK(waiter.wait_asleep());
    its.lock.unlock();
    CHECK(waiter.exit_status() == 0);
}

TEST_CASE("robust_mutex: the next owner hears of the death of the last one (K1)",
          "[platform][lock][kill]") {
    auto& its = make();
    child holder([&] {
        its.lock.lock(deadline::never());
        its.state = 1;
        for (;;) ::pause();
        return 0;
    });
    REQUIRE(eventually([&] { return its.state == 1; }));
    child waiter([&] {
        bool abandoned = false;
        return its.lock.lock(deadline::never(), std::chrono::hours(1), &abandoned) && abandoned;
    });
    CHECK(waiter.wait_asleep());
    bool abandoned = false;
    CHECK(!its.lock.try_lock(&abandoned));
    CHECK(!abandoned);
    holder.kill();
    CHECK(waiter.exit_status() == 1);  // which also ended with the lock held
    CHECK(its.lock.try_lock(&abandoned));
    CHECK(abandoned);
    its.lock.unlock();
    abandoned = false;
    CHECK(its.lock.try_lock(&abandoned));
    CHECK(!abandoned);  // told once
    its.lock.unlock();
}

TEST_CASE("robust_mutex: a dead owner's lock goes to those who did not ask",
          "[platform][lock][kill]") {
    auto& its = make();
    for (int i = 0; i < 3; ++i) {
        CHECK(child([&] { return its.lock.try_lock() ? 0 : 1; }).exit_status() == 0);
        CHECK(its.lock.try_lock());
        its.lock.unlock();
    }
}

TEST_CASE("robust_mutex: lock() ends at its deadline, at_once() after its patience",
          "[platform][lock]") {
    auto& its = make();
    REQUIRE(its.lock.try_lock());
    CHECK(child([&] {
              auto begin = clock::now();
              if (its.lock.lock(deadline::after(20ms))) return 1;
              if (clock::now() - begin < 20ms) return 2;
              begin = clock::now();
              if (its.lock.lock(deadline::at_once(), 10ms)) return 3;
              return clock::now() - begin < 10ms ? 4 : 0;
          }).exit_status() == 0);
    its.lock.unlock();
}

TEST_CASE("robust_mutex: a waiter looks again by himself (K2)", "[platform][lock]") {
    auto& its = make();
    child waiter([&] { return its.lock.lock(deadline::never(), 10ms) ? 0 : 1; });
    CHECK(waiter.exit_status() == 0);
    REQUIRE(its.lock.try_lock());
    child second([&] { return its.lock.lock(deadline::never(), 1ms) ? 0 : 1; });
    CHECK(second.wait_asleep());
    its.lock.unlock();
    CHECK(second.exit_status() == 0);
}

TEST_CASE("held: unlocks at the end of its scope, once", "[platform][lock]") {
    auto& its = make();
    {
        held it(its.lock, deadline::never());
        CHECK(it);
        CHECK(child([&] { return its.lock.try_lock(); }).exit_status() == 0);
        it.unlock();
        CHECK(!it);
        CHECK(its.lock.try_lock());  // it.~held() must not unlock this
    }
    CHECK(child([&] { return its.lock.try_lock(); }).exit_status() == 0);
    its.lock.unlock();
    held later;
    CHECK(!later);
    CHECK(later.try_lock(its.lock));
}
