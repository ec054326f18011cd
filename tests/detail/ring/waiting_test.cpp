// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <atomic>
#include <chrono>

#include <multiprocessing/detail/ring/waiting.hpp>

#include "support/child.hpp"

using namespace multiprocessing::detail;
using namespace test;

TEST_CASE("spinner: what is ready is seen, what is not is given up", "[ring][waiting]") {
    spinner spin(std::chrono::microseconds(20));
    CHECK(spin(0, [] { return true; }));
    for (int i = 0; i < 200; ++i) CHECK(!spin(0, [] { return false; }));
    // tries again now and then, however often it was in vain
    bool tried = false;
    for (int i = 0; i < 1000; ++i) spin(0, [&] { return tried = true; });
    CHECK(tried);
    CHECK(spin(1 << 20, [] { return true; }));
}

TEST_CASE("spinner: after many misses most waits look not even once", "[ring][waiting]") {
    spinner spin(std::chrono::microseconds(20));
    for (int i = 0; i < 100; ++i) spin(0, [] { return false; });
    int looks = 0;
    for (int i = 0; i < 320; ++i) {
        bool looked = false;
        spin(0, [&] {
            looked = true;
            return false;
        });
        looks += looked;
    }
    CHECK(looks <= 11);
}

TEST_CASE("spinner: of no time never looks", "[ring][waiting]") {
    spinner spin(std::chrono::microseconds(0));
    CHECK(!spin(0, [] { return true; }));
}

TEST_CASE("sleeper_count: counts this process's threads, not those of its parent",
          "[ring][waiting]") {
    sleeper_count count;
    CHECK(!count.any());
    count.enter();
    count.enter();
    CHECK(count.any());
    CHECK(child([&] {
              if (count.any()) return 1;  // the parent's
              count.enter();
              if (!count.any()) return 2;
              count.leave();
              return count.any() ? 3 : 0;
          }).exit_status() == 0);
    count.leave();
    CHECK(count.any());
    count.leave();
    CHECK(!count.any());
}
