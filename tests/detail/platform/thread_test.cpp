// SPDX-License-Identifier: BSL-1.0
#include <atomic>
#include <chrono>
#include <mutex>
#include <vector>

#include <multiprocessing/detail/platform/thread.hpp>

#include "support/catch.hpp"

using multiprocessing::detail::condition;
using multiprocessing::detail::deadline;
using multiprocessing::detail::thread;

TEST_CASE("thread: runs what it was given and knows itself", "[thread]") {
    thread::id inside;
    thread one([&] { inside = thread::this_id(); });
    const thread::id outside = one.get_id();
    one.join();
    CHECK(inside == outside);
    CHECK(inside != thread::this_id());
    CHECK(inside != thread::id());
}

TEST_CASE("thread: a condition wakes every thread that waits for it", "[thread]") {
    std::mutex mutex;
    condition changed;
    int turn = 0, seen = 0;
    std::vector<thread> all;
    for (int i = 0; i < 4; ++i)
        all.emplace_back([&] {
            std::unique_lock lock(mutex);
            for (int next = 1; next <= 1000; ++next) {
                changed.wait(lock, [&] { return turn >= next; });
                if (++seen == 4 * next) changed.notify_all();
            }
        });
    {
        std::unique_lock lock(mutex);
        for (int next = 1; next <= 1000; ++next) {
            turn = next;
            changed.notify_all();
            changed.wait(lock, [&] { return seen == 4 * next; });
        }
    }
    for (thread& each : all) each.join();
    CHECK(seen == 4000);
}

TEST_CASE("thread: a wait for a condition ends at its deadline", "[thread]") {
    std::mutex mutex;
    condition changed;
    std::unique_lock lock(mutex);
    const auto until = deadline::after(std::chrono::milliseconds(20));
    while (!until.passed()) changed.wait(lock, until);
    CHECK(lock.owns_lock());
}
