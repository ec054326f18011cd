// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <chrono>
#include <limits>

#include <multiprocessing/detail/sync/timeouts.hpp>

using namespace multiprocessing;
using namespace multiprocessing::detail;
using namespace std::chrono_literals;

TEST_CASE("timeouts: any duration, rounded up, and never past what nanoseconds hold",
          "[sync][timeouts]") {
    using seconds = std::chrono::duration<double>;
    using picoseconds = std::chrono::duration<long, std::pico>;
    CHECK(to_nanoseconds(2s) == 2s);
    CHECK(to_nanoseconds(seconds(0.25)) == 250ms);
    CHECK(to_nanoseconds(picoseconds(1001)) == 2ns);
    CHECK(to_nanoseconds(picoseconds(-1001)) == -1ns);
    CHECK(to_nanoseconds(std::chrono::duration<float, std::nano>(1.5f)) == 2ns);
    CHECK(to_nanoseconds(duration::max()) == duration::max());
    CHECK(to_nanoseconds(std::chrono::hours::max()) == duration::max());
    CHECK(to_nanoseconds(std::chrono::hours::min()) == duration::min());
    CHECK(to_nanoseconds(std::chrono::duration<unsigned long long>::max()) == duration::max());
    CHECK(to_nanoseconds(seconds(1e300)) == duration::max());
    CHECK(to_nanoseconds(seconds(-1e300)) == duration::min());
    CHECK(to_nanoseconds(seconds(std::numeric_limits<double>::infinity())) == duration::max());
    CHECK(to_nanoseconds(seconds(std::numeric_limits<double>::quiet_NaN())) == 0ns);
}

TEST_CASE("timeouts: negative is zero, too long is never", "[sync][timeouts]") {
    CHECK(deadline_after(-1ns).is_at_once());
    CHECK(deadline_after(std::chrono::hours::min()).is_at_once());
    CHECK(deadline_after(std::chrono::hours::max()).is_never());
    CHECK_FALSE(deadline_after(1h).passed());
}

TEST_CASE("timeouts: time points of any clock", "[sync][timeouts]") {
    using steady = std::chrono::steady_clock;
    using system = std::chrono::system_clock;
    using days = std::chrono::duration<int, std::ratio<86400>>;
    CHECK(deadline_at(steady::now() - 1s).is_at_once());
    CHECK(deadline_at(system::now()).is_at_once());
    CHECK(deadline_at(steady::time_point::min()).is_at_once());
    CHECK(deadline_at(system::time_point::min()).is_at_once());
    CHECK(deadline_at(steady::time_point::max()).is_never());
    CHECK(deadline_at(std::chrono::time_point<system, days>::max()).is_never());
    const duration left = deadline_at(system::now() + 1h).remaining();
    CHECK(left > 59min);
    CHECK(left <= 1h);
}
