// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <atomic>

#include <multiprocessing/detail/ring/gate.hpp>

#include "support/child.hpp"

using multiprocessing::detail::deadline;
using multiprocessing::detail::gate;
using multiprocessing::detail::wake_all;
using namespace test;

namespace {

constexpr auto never_early = [] { return false; };

bool is(gate& g, std::uint64_t bytes, std::uint64_t count) {
    const auto seen = g.read().at, mine = g.mine();
    return seen.bytes == bytes && seen.count == count && mine.bytes == bytes && mine.count == count;
}

}  // namespace

TEST_CASE("gate: memory that is all zero is position 0, nobody asleep", "[ring][gate]") {
    auto& g = shared_memory<gate>();
    CHECK(is(g, 0, 0));
    CHECK(g.read().word == 0);
}

TEST_CASE("gate: commits are seen, each with a sequence of its own", "[ring][gate]") {
    auto& g = shared_memory<gate>();
    std::uint32_t last = g.read().word;
    for (std::uint64_t i = 1; i < 100; ++i) {
        g.commit({i * 8, i}, 1, never_early);
        CHECK(is(g, i * 8, i));
        CHECK(g.read().word != last);
        last = g.read().word;
    }
}

TEST_CASE("gate: the sequence wraps around", "[ring][gate]") {
    auto& g = shared_memory<gate>();
    g.word = 0xfffffffc;
    for (std::uint64_t i = 1; i < 8; ++i) {
        g.commit({i * 8, i}, 1, never_early);
        CHECK(is(g, i * 8, i));
    }
    g.word |= gate::sleeper;
    g.word |= 0xfffffffe;
    g.commit({800, 100}, 1, never_early);  // by the system call
    CHECK(is(g, 800, 100));
    CHECK((g.word & gate::sleeper) == 0);
}

TEST_CASE("gate: a commit wakes who sleeps, and clears his bit (I1)", "[ring][gate]") {
    auto& g = shared_memory<gate>();
    child sleeper([&] {
        const auto now = g.read();
        return g.sleep(now.word, deadline::never()) && g.read().at.count == 1 ? 0 : 1;
    });
    CHECK(sleeper.wait_asleep());
    CHECK((g.word & gate::sleeper) != 0);
    g.commit({8, 1}, 1, never_early);
    CHECK(sleeper.exit_status() == 0);
    CHECK((g.word & gate::sleeper) == 0);
}

TEST_CASE("gate: a commit wakes as many as it is told", "[ring][gate]") {
    auto& g = shared_memory<gate>();
    const auto sleep = [&] {
        for (;;) {
            const auto now = g.read();
            if (now.at.count != 0) return 0;
            g.sleep(now.word, deadline::never());
        }
    };
    child first(sleep), second(sleep);
    CHECK(first.wait_asleep());
    CHECK(second.wait_asleep());
    g.commit({8, 1}, wake_all, never_early);
    CHECK(first.exit_status() == 0);
    CHECK(second.exit_status() == 0);
}

TEST_CASE("gate: who comes after a commit does not sleep", "[ring][gate]") {
    auto& g = shared_memory<gate>();
    const auto before = g.read();
    g.commit({8, 1}, 1, never_early);
    CHECK(g.sleep(before.word, deadline::never()));
    // the same for one who had found the bit there
    g.word |= gate::sleeper;
    const auto asleep = g.read();
    g.commit({16, 2}, 1, never_early);
    CHECK(g.sleep(asleep.word, deadline::never()));
}

TEST_CASE("gate: sleep() ends at its deadline", "[ring][gate]") {
    auto& g = shared_memory<gate>();
    const auto begin = clock::now();
    const auto now = g.read();
    bool woken = true;
    while (woken) woken = g.sleep(now.word, deadline::after(20ms));
    CHECK(clock::now() - begin >= 20ms);
    CHECK((g.word & gate::sleeper) != 0);  // K3: until the next commit
}

TEST_CASE("gate: a commit that is too early leaves the bit and the sleeper", "[ring][gate]") {
    auto& g = shared_memory<gate>();
    int asked = 0;
    const auto early = [&] { return ++asked, true; };
    g.commit({8, 1}, 1, early);
    CHECK(asked == 0);  // nobody sleeps
    child sleeper([&] {
        while (g.read().at.count < 3) g.sleep(g.read().word, deadline::never());
        return 0;
    });
    CHECK(sleeper.wait_asleep());
    g.commit({16, 2}, 1, early);
    CHECK(asked == 1);
    CHECK(is(g, 16, 2));
    CHECK((g.word & gate::sleeper) != 0);
    CHECK(sleeper.wait_asleep());
    g.commit({24, 3}, 1, never_early);
    CHECK(sleeper.exit_status() == 0);
}

TEST_CASE("gate: killed before the exchange, the old position counts (K1, I2)",
          "[ring][gate][kill]") {
    auto& g = shared_memory<gate>();
    g.commit({8, 1}, 1, never_early);
    child writer([&] {
        auto& to = g.slot[(g.word >> 1 & 1) ^ 1];
        to.bytes = 999;
        ::raise(SIGKILL);
        return 0;
    });
    CHECK(writer.exit_status() == -SIGKILL);
    CHECK(is(g, 8, 1));
    g.commit({16, 2}, 1, never_early);
    CHECK(is(g, 16, 2));
}

TEST_CASE("gate: killed behind the system call, the sleepers are awake (K2)",
          "[ring][gate][kill]") {
    auto& g = shared_memory<gate>();
    child sleeper([&] {
        g.sleep(g.read().word, deadline::never());
        return static_cast<int>(g.read().at.count);
    });
    CHECK(sleeper.wait_asleep());
    child writer([&] {
        g.commit({8, 1}, 1, never_early);
        ::raise(SIGKILL);
        return 0;
    });
    CHECK(writer.exit_status() == -SIGKILL);
    CHECK(sleeper.exit_status() == 1);
}

TEST_CASE("gate: a sleeper killed leaves its bit, and one needless wake (K3)",
          "[ring][gate][kill]") {
    auto& g = shared_memory<gate>();
    child sleeper([&] { return g.sleep(g.read().word, deadline::never()) ? 0 : 1; });
    CHECK(sleeper.wait_asleep());
    sleeper.kill();
    CHECK((g.word & gate::sleeper) != 0);
    g.commit({8, 1}, 1, never_early);
    CHECK(is(g, 8, 1));
    CHECK((g.word & gate::sleeper) == 0);
}
