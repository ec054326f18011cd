// SPDX-License-Identifier: BSL-1.0

/// \file
/// Random SIGKILLs in full traffic: three processes put and two get, one of them by polling the
/// doorbell now and then; every few hundred microseconds one is killed and replaced. A ledger in
/// shared memory shows what was lost, came twice, torn or out of order.
/// stress.ring_soak [SECONDS [MOST_PAUSE_MICROSECONDS]]; MP_SOAK_SEED repeats the order of kills.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>

#include <multiprocessing/detail/ring/ring.hpp>

#include "support/child.hpp"
#include "support/kill_points.hpp"

namespace {

using namespace test;
namespace mpd = multiprocessing::detail;
using mpd::deadline;

constexpr std::uint32_t most_lives = 60'000, per_life = 2048, putters = 3, everybody = 5;
constexpr std::uint64_t maxsize = 2000;
constexpr std::uint64_t least_kills = 2000;  // takes up to three times as long as asked for them
constexpr auto stall = 20s;

struct ledger {
    std::atomic<std::uint32_t> put[most_lives];  // puts that returned, by the life of a putter
    std::atomic<std::uint64_t> got[most_lives][per_life / 64];
    std::atomic<std::uint64_t> torn, twice, disorder, progress;
    std::atomic<bool> stop;
};
ledger& sh = shared_memory<ledger>();
std::shared_ptr<mpd::message_ring> ring;

struct head {
    std::uint32_t life, number;
};
constexpr head end_mark{~0u, 0};

/// The bytes of a message depend on who it is; of large ones only each 512th word is random.
void fill(std::string& text, head h, std::size_t size) {
    text.assign(size, '\0');
    std::uint32_t x = h.life * 2654435761u + h.number * 40503u + 1;
    for (std::size_t i = sizeof h; i + 4 <= size; i += size > 4096 ? 512 : 4) {
        x = x * 1664525 + 1013904223;
        std::memcpy(&text[i], &x, 4);
    }
    std::memcpy(text.data(), &h, sizeof h);
}
bool put(const std::string& text, deadline until) {
    const std::array parts{std::as_bytes(std::span(text))};
    return ring->put(parts, text.size(), until);
}

int putter(std::uint32_t life) {
    std::string text;
    std::minstd_rand random(life + 1);
    for (std::uint32_t number = 0; number < per_life && !sh.stop; ++number) {
        std::size_t size = 16 + random() % 400;
        if (random() % 256 == 0) size = 16 + random() % 3'000'000;
        fill(text, {life, number}, size);
        while (!put(text, number % 5 ? deadline::never() : deadline::after(2ms)))
            if (sh.stop) return 0;
        sh.put[life] = number + 1;
    }
    while (!sh.stop) ::pause();
    return 0;
}

int getter(bool polls) {
    std::string text, wanted;
    // The last number of each of the putters that live: a life is seen by its place modulo this.
    std::array<head, 4096> last;
    last.fill(end_mark);
    std::uint64_t size = 0;
    const auto copy = [&](std::uint64_t length, std::span<const std::byte> bytes) {
        size = length;
        text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    };
    for (int i = 0;; ++i) {
        if (polls) {
            mpd::wait_readable(ring->fileno(), deadline::never());  // I7: never in vain for long
            if (!ring->get(deadline::at_once(), copy)) continue;
        } else if (!ring->get(i % 5 ? deadline::never() : deadline::after(5ms), copy)) {
            continue;
        }
        head h{};
        if (text.size() >= sizeof h) std::memcpy(&h, text.data(), sizeof h);
        if (h.life == end_mark.life && text.size() == 16) return 0;
        fill(wanted, h, text.size());
        if (size != text.size() || h.life >= most_lives || h.number >= per_life || wanted != text) {
            ++sh.torn;
            continue;
        }
        head& before = last[h.life % last.size()];
        if (before.life == h.life && before.number >= h.number) ++sh.disorder;
        before = h;
        const std::uint64_t bit = std::uint64_t{1} << h.number % 64;
        if (sh.got[h.life][h.number / 64].fetch_or(bit) & bit) ++sh.twice;
        sh.progress.fetch_add(1, std::memory_order_relaxed);
    }
}

}  // namespace

int main(int argc, char** argv) {
    double seconds = argc > 1 ? std::atof(argv[1]) : 120;
    if (const auto budget = time_budget(); argc < 2 && budget)
        seconds = std::chrono::duration<double>(*budget).count();
    const std::uint64_t most_pause = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1000;
    const std::uint64_t seed = moving_seed("MP_SOAK_SEED");
    std::printf("MP_SOAK_SEED=%llu, %.0f s\n", static_cast<unsigned long long>(seed), seconds);
    std::fflush(stdout);
    ::prctl(PR_SET_TIMERSLACK, 1000);

    ring = mpd::message_ring::create("mp:soak", {maxsize, 0});
    std::mt19937_64 random(seed);
    std::array<pid_t, everybody> who{};
    std::uint32_t lives = 0;
    const auto start = [&](std::uint32_t i) {
        const std::uint32_t life = i < putters ? lives++ : 0;
        const bool polls = i >= putters && random() % 4 == 0;
        who[i] = fork_child([=] { return i < putters ? putter(life) : getter(polls); });
    };
    for (std::uint32_t i = 0; i < everybody; ++i) start(i);

    std::uint64_t killed_putters = 0, killed_getters = 0, wrong_qsize = 0, last = 0, most_top = 0;
    std::uint64_t kills_at_last = 0, kills_in_longest = 0;
    bool stalled = false;
    const auto begin = clock::now();
    auto moved = begin;
    clock::duration longest{};
    const auto ends = [&] {
        const double past = std::chrono::duration<double>(clock::now() - begin).count();
        const bool enough = killed_putters + killed_getters >= least_kills;
        return past >= (enough ? seconds : 3 * seconds) || lives == most_lives - 1 || stalled;
    };
    while (!ends()) {
        pause_briefly(std::chrono::microseconds(1 + static_cast<long>(random() % most_pause)));
        const auto i = static_cast<std::uint32_t>(random() % everybody);
        ::kill(who[i], SIGKILL);
        wait_status(who[i]);
        ++(i < putters ? killed_putters : killed_getters);
        start(i);
        wrong_qsize += ring->qsize() > maxsize;
        most_top = std::max<std::uint64_t>(most_top, ring->shared().top);
        const std::uint64_t now = sh.progress;
        if (now != last) {
            if (clock::now() - moved > longest) {
                longest = clock::now() - moved;
                kills_in_longest = killed_putters + killed_getters - kills_at_last;
            }
            last = now;
            moved = clock::now();
            kills_at_last = killed_putters + killed_getters;
        }
        stalled = clock::now() - moved > stall;
    }

    // The putters go, the getters take what is left and then end marks.
    sh.stop = true;
    for (std::uint32_t i = 0; i < putters; ++i) {
        ::kill(who[i], SIGKILL);
        wait_status(who[i]);
        ++killed_putters;
    }
    std::string bye;
    fill(bye, end_mark, 16);
    bool clean = !stalled;
    for (int i = 0; i < 2; ++i) clean = clean && put(bye, deadline::after(stall));
    for (std::uint32_t i = putters; i < everybody; ++i) {
        const auto status = wait_for_exit(who[i], stall);
        if (!status) ::kill(who[i], SIGKILL), wait_status(who[i]);
        clean = clean && status == 0;
    }
    clean = clean && ring->qsize() == 0;

    std::uint64_t put_in = 0, got = 0, lost = 0;
    for (std::uint32_t life = 0; life < lives; ++life) {
        const std::uint32_t n = sh.put[life];
        put_in += n;
        for (std::uint32_t k = 0; k < per_life; ++k) {
            const bool there = (sh.got[life][k / 64] >> k % 64 & 1) != 0;
            got += there;
            lost += k < n && !there;
        }
    }
    const double longest_ms = std::chrono::duration<double, std::milli>(longest).count();
    std::printf(
        "kills %llu (putters %llu, getters %llu); puts that returned %llu, got %llu\n"
        "lost %llu (at most the getters killed), twice %llu, torn %llu, out of order %llu, "
        "qsize beyond maxsize %llu\n"
        "longest pause %.0f ms (%llu kills), at most %llu segments; clean end: %s\n",
        (unsigned long long)(killed_putters + killed_getters), (unsigned long long)killed_putters,
        (unsigned long long)killed_getters, (unsigned long long)put_in, (unsigned long long)got,
        (unsigned long long)lost, (unsigned long long)sh.twice, (unsigned long long)sh.torn,
        (unsigned long long)sh.disorder, (unsigned long long)wrong_qsize, longest_ms,
        (unsigned long long)kills_in_longest, (unsigned long long)most_top,
        clean     ? "yes"
        : stalled ? "NO: a stall"
                  : "NO");
    const bool good = clean && lost <= killed_getters && sh.twice == 0 && sh.torn == 0 &&
                      sh.disorder == 0 && wrong_qsize == 0;
    std::puts(good ? "good" : "FAILED");
    return !good;
}
