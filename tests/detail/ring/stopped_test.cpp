// SPDX-License-Identifier: BSL-1.0

/// \file
/// Processes that SIGSTOP stopped: they may hold up others for look_again, not for ever.

#include "support/catch.hpp"

#include <atomic>
#include <vector>

#include "small_ring.hpp"

using namespace test;

namespace {

constexpr auto tick = std::chrono::milliseconds(20);

struct counts {
    std::atomic<int> done;
};

}  // namespace

TEST_CASE("ring: a getter stopped in its sleep keeps no message from the others",
          "[ring][stopped]") {
    const auto ring = make_ring();
    child stopped([&] { return get(*ring) ? 0 : 1; });
    CHECK(stopped.wait_asleep());
    child other([&] { return get(*ring) == "a" ? 0 : 1; });
    CHECK(other.wait_asleep());
    stopped.stop();
    put(*ring, "a");
    CHECK(other.exit_status() == 0);  // while the first is stopped
    CHECK(process_state(stopped.pid()) == 'T');
    stopped.go_on();
    put(*ring, "b");
    CHECK(stopped.exit_status() == 0);
}

TEST_CASE("ring: a getter stopped in its sleep keeps no message from later ones",
          "[ring][stopped]") {
    const auto ring = make_ring();
    child stopped([&] { return get(*ring) ? 0 : 1; });
    CHECK(stopped.wait_asleep());
    stopped.stop();
    for (int i = 0; i < 3; ++i) {
        put(*ring, "a");
        CHECK(get(*ring, soon()) == "a");
    }
    child later([&] { return get(*ring) == "b" ? 0 : 1; });
    CHECK(later.wait_asleep());
    put(*ring, "b");
    CHECK(later.exit_status() == 0);
}

TEST_CASE("ring: a getter stopped outside the room holds up nobody", "[ring][stopped]") {
    const auto ring = make_ring();
    ring->patience = std::chrono::hours(1);
    child asleep([&] { return get(*ring) == "a" ? 0 : 1; });
    CHECK(asleep.wait_asleep());
    child stopped([&] { return get(*ring) == "b" ? 0 : 1; });
    CHECK(stopped.wait_asleep());
    stopped.stop();
    put(*ring, "a");
    CHECK(asleep.exit_status() == 0);
    put(*ring, "b");
    stopped.go_on();
    CHECK(stopped.exit_status() == 0);
}

TEST_CASE("ring: a putter stopped in its sleep keeps no room from the others", "[ring][stopped]") {
    const auto ring = make_ring({.maxsize = 1});
    put(*ring, "a");
    child stopped([&] { return put(*ring, "s") ? 0 : 1; });
    CHECK(stopped.wait_asleep());
    child other([&] { return put(*ring, "b") ? 0 : 1; });
    CHECK(other.wait_asleep());
    stopped.stop();
    CHECK(try_get(*ring) == "a");
    CHECK(other.exit_status() == 0);
    CHECK(process_state(stopped.pid()) == 'T');
    CHECK(get(*ring, soon()) == "b");
    stopped.go_on();
    CHECK(get(*ring, soon()) == "s");
    CHECK(stopped.exit_status() == 0);
}

TEST_CASE("ring: messages get through while half of the getters are stopped", "[ring][stopped]") {
    const auto ring = make_ring({.maxsize = 2});
    auto& its = shared_memory<counts>();
    std::vector<child> getters;
    for (int i = 0; i < 4; ++i)
        getters.emplace_back([&] {
            for (;;)
                if (get(*ring)) ++its.done;
            return 0;
        });
    for (const child& one : getters) CHECK(one.wait_asleep());
    getters[0].stop(), getters[2].stop();
    for (int i = 0; i < 5; ++i) put(*ring, "x", soon());
    CHECK(eventually([&] { return its.done >= 5; }));
}

TEST_CASE("ring: a process stopped while it copies holds its side, and timed calls end in time",
          "[ring][stopped]") {
    const auto ring = make_ring();
    put(*ring, "a");
    for (const bool putters : {true, false}) {
        auto& lock = putters ? ring->shared().put.lock : ring->shared().get.lock;
        auto& its = shared_memory<counts>();
        child copying([&] {
            const detail::held it(lock, deadline::never());
            its.done = 1;
            for (;;) ::pause();
            return 0;
        });
        REQUIRE(eventually([&] { return its.done == 1; }));
        copying.stop();
        const auto begin = clock::now();
        CHECK(!(putters ? put(*ring, "b", deadline::after(tick))
                        : get(*ring, deadline::after(tick)).has_value()));
        CHECK(clock::now() - begin >= tick);
        CHECK(ring->qsize() == (putters ? 1 : 2));
        copying.kill();
        CHECK((putters ? put(*ring, "b", soon()) : get(*ring, soon()) == "a"));
    }
    CHECK(try_get(*ring) == "b");
}
