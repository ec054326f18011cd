// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <chrono>

#include <multiprocessing/detail/platform/clock.hpp>

using multiprocessing::duration;
using multiprocessing::detail::deadline;
using namespace std::chrono_literals;

TEST_CASE("deadline: zero and less do not wait", "[platform][clock]") {
    for (const duration d : {duration(0), duration(-1), duration(-1h), duration::min()}) {
        const deadline at = deadline::after(d);
        CHECK(at.is_at_once());
        CHECK(at.passed());
        CHECK(at.remaining() == 0ns);
    }
}

TEST_CASE("deadline: the longest durations never end, and overflow nothing", "[platform][clock]") {
    for (const duration d : {duration::max(), duration::max() - 1ns, duration::max() - 1s}) {
        const deadline at = deadline::after(d);
        CHECK(at.is_never());
        CHECK(!at.passed());
        CHECK(at.remaining() == duration::max());
    }
    CHECK(deadline::after(24h * 365 * 100).remaining() > 24h * 365 * 99);
}

TEST_CASE("deadline: an hour is between a second and never", "[platform][clock]") {
    const deadline hour = deadline::after(1h), second = deadline::after(1s);
    CHECK(deadline::at_once() < second);
    CHECK(second < hour);
    CHECK(hour < deadline::never());
    CHECK(deadline::earlier(hour, second) == second);
    CHECK(deadline::earlier(deadline::never(), hour) == hour);
    CHECK(!hour.passed());
    CHECK(!hour.is_at_once());
    CHECK(hour.remaining() <= 1h);
    CHECK(hour.remaining() > 30min);
}

TEST_CASE("deadline: a nanosecond passes", "[platform][clock]") {
    const deadline at = deadline::after(1ns);
    while (!at.passed()) {
    }
    CHECK(at.remaining() == 0ns);
}

TEST_CASE("deadline: absolute() is the instant in seconds and nanoseconds", "[platform][clock]") {
    const timespec at = deadline::to_timespec(3'000'000'007);
    CHECK(at.tv_sec == 3);
    CHECK(at.tv_nsec == 7);
    const std::int64_t before = deadline::clock();
    const timespec later = deadline::after(10s).absolute();
    CHECK(later.tv_sec * 1'000'000'000 + later.tv_nsec >= before + 10'000'000'000);
    CHECK(later.tv_nsec < 1'000'000'000);
}
