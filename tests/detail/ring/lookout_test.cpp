// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <chrono>
#include <cstdint>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/ring/lookout.hpp>

#include "small_ring.hpp"

using namespace test;
using multiprocessing::detail::lookout;

namespace {

constexpr std::int64_t for_long = INT64_MAX, over = 2;

}  // namespace

TEST_CASE("lookout: is manned until its time is over or the spinner leaves", "[ring][lookout]") {
    lookout place{};
    CHECK(!place.manned());
    CHECK(place.enter(for_long));
    CHECK(place.manned());
    place.leave(for_long);
    CHECK(!place.manned());
    CHECK(place.enter(over));
    CHECK(!place.manned());
}

TEST_CASE("lookout: who leaves does not drive out who came later", "[ring][lookout]") {
    lookout place{};
    CHECK(place.enter(for_long - 1));
    CHECK(place.enter(for_long));
    place.leave(for_long - 1);
    CHECK(place.manned());
}

TEST_CASE("lookout: a sleeper bars it only if nobody came meanwhile (I1)", "[ring][lookout]") {
    lookout place{};
    place.lie_down();
    CHECK(place.enter(over));
    CHECK(!place.bar());
    place.lie_down();
    CHECK(place.bar());
    CHECK(!place.enter(for_long));
    place.lie_down();
    CHECK(place.enter(for_long));
    place.lie_down();  // beside one that spins
    CHECK(place.manned());
    CHECK(!place.bar());
}

TEST_CASE("ring: a spinner that died in its lookout holds a message up for look_again at most (K1)",
          "[ring][lookout]") {
    const auto ring = make_ring();
    ring->patience = std::chrono::milliseconds(20);
    child sleeper([&] { return get(*ring) == "a" ? 0 : 1; });
    CHECK(sleeper.wait_asleep());
    // The sleeper may have barred it and sleep for good: then it is woken, as without a spinner.
    ring->shared().get.spinners.enter(for_long);
    put(*ring, "a");
    CHECK(sleeper.exit_status() == 0);
}

TEST_CASE("ring: a put to a lookout whose time is over wakes the sleeper", "[ring][lookout]") {
    const auto ring = make_ring();
    ring->patience = std::chrono::hours(1);
    child sleeper([&] { return get(*ring) == "a" ? 0 : 1; });
    CHECK(sleeper.wait_asleep());
    CHECK(ring->shared().get.spinners.enter(over));
    put(*ring, "a");
    CHECK(sleeper.exit_status() == 0);
}

TEST_CASE("ring: a put to a manned lookout wakes nobody", "[ring][lookout]") {
    const auto ring = make_ring();
    ring->patience = std::chrono::hours(1);
    child sleeper([&] { return get(*ring) == "b" ? 0 : 1; });
    CHECK(sleeper.wait_asleep());
    CHECK(ring->shared().get.spinners.enter(for_long));
    put(*ring, "a");
    CHECK(sleeper_at(ring->shared().put.committed));
    CHECK(get(*ring) == "a");  // as the spinner would
    ring->shared().get.spinners.leave(for_long);
    put(*ring, "b");
    CHECK(sleeper.exit_status() == 0);
}
