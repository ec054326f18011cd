// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <csignal>

#include <multiprocessing/detail/platform/futex.hpp>

#include "support/child.hpp"

using namespace multiprocessing::detail;
using namespace test;

TEST_CASE("futex: a word that has changed is not waited for", "[platform][futex]") {
    auto& word = shared_memory<futex_word>();
    word = 5;
    CHECK(futex_wait(word, 4, deadline::never()));
}

TEST_CASE("futex: the wait ends at its deadline", "[platform][futex]") {
    auto& word = shared_memory<futex_word>();
    const auto begin = clock::now();
    bool woken = true;
    const deadline until = deadline::after(20ms);
    while (woken) woken = futex_wait(word, 0, until);
    CHECK(clock::now() - begin >= 20ms);
}

TEST_CASE("futex: wakes sleepers of other processes, as many as asked", "[platform][futex]") {
    auto& word = shared_memory<futex_word>();
    const auto sleep = [&] {
        while (word == 0) futex_wait(word, 0, deadline::never());
        return 0;
    };
    child first(sleep), second(sleep);
    CHECK(first.wait_asleep());
    CHECK(second.wait_asleep());
    word = 1;
    futex_wake(word, 1);
    CHECK(eventually([&] { return first.ended() || second.ended(); }));
    CHECK(first.ended() != second.ended());
    futex_wake(word, wake_all);
    CHECK(first.exit_status() == 0);
    CHECK(second.exit_status() == 0);
}

TEST_CASE("futex: adds and wakes in one call", "[platform][futex]") {
    auto& word = shared_memory<futex_word>();
    word = 0xffffffff;
    child sleeper([&] {
        while (word == 0xffffffff) futex_wait(word, 0xffffffff, deadline::never());
        return 0;
    });
    CHECK(sleeper.wait_asleep());
    futex_add_and_wake(word, 1, 1);
    CHECK(word == 0);
    CHECK(sleeper.exit_status() == 0);
    futex_add_and_wake(word, 4095 / 2, 1);
    CHECK(word == 2047);
}

TEST_CASE("futex: a signal handler ends the wait as if it were woken", "[platform][futex]") {
    auto& word = shared_memory<futex_word>();
    child sleeper([&] {
        struct sigaction act {};  // without SA_RESTART
        act.sa_handler = [](int) {};
        ::sigaction(SIGUSR1, &act, nullptr);
        return futex_wait(word, 0, deadline::never()) ? 0 : 1;
    });
    CHECK(sleeper.wait_asleep());
    ::kill(sleeper.pid(), SIGUSR1);
    CHECK(sleeper.exit_status() == 0);
}
