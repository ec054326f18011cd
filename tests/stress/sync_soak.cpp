// SPDX-License-Identifier: BSL-1.0

/// \file
/// Random SIGKILLs among processes that share synchronization objects: every few hundred
/// microseconds one of four is killed and replaced. Parts: locks around a counter of two halves, a
/// section bounded by semaphores, a queue of conditions, barriers, events. Nobody may stall, no
/// dead holder may go unnoticed, no more may be inside than have units, and nobody may pass a
/// barrier to which another one has not come.
/// stress.sync_soak [SECONDS [MOST_PAUSE_MICROSECONDS]]; MP_SOAK_SEED repeats the order of kills.

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <string>

#include <multiprocessing/synchronize.hpp>

#include "support/child.hpp"
#include "support/kill_points.hpp"

namespace {

using namespace test;
namespace mp = multiprocessing;

constexpr std::size_t everybody = 4;
constexpr auto stall = 20s;

struct ledger {
    std::atomic<std::uint64_t> progress, abandoned, broken, wrong, checked;
    std::atomic<bool> stop;
    std::uint64_t left, right;  // two halves, under a lock
    int items;
    std::atomic<std::uint64_t> kills;   // odd: one dies now, and its traces are wiped
    std::atomic<std::uint32_t> inside;  // bit i: worker i has a unit
    std::array<std::atomic<std::uint64_t>, everybody> came, went;  // to and from the barrier
};
ledger& sh = shared_memory<ledger>();

struct part {
    std::string name;
    std::function<void(std::size_t)> once;  // what a worker does until `stop`
    std::function<void()> after_kill = [] {};
    std::function<void()> at_end = [] {};  // again and again until all have ended
    std::function<bool()> good = [] { return true; };
};

bool run(const part& p, double seconds, std::uint64_t most_pause, std::mt19937_64& random) {
    std::memset(static_cast<void*>(&sh), 0, sizeof sh);
    std::array<pid_t, everybody> who{};
    const auto start = [&](std::size_t i) {
        who[i] = fork_child([&p, i] {
            while (!sh.stop) p.once(i);
            return 0;
        });
    };
    for (std::size_t i = 0; i < everybody; ++i) start(i);
    std::uint64_t kills = 0, last = 0;
    const auto begin = clock::now();
    auto moved = begin;
    clock::duration longest{};
    bool stalled = false;
    while (clock::now() - begin < std::chrono::duration<double>(seconds) && !stalled) {
        pause_briefly(std::chrono::microseconds(1 + static_cast<long>(random() % most_pause)));
        const std::size_t i = random() % everybody;
        ++sh.kills;
        ::kill(who[i], SIGKILL);
        wait_status(who[i]);
        sh.inside &= ~(1u << i);
        sh.went[i] = sh.came[i].load();
        ++sh.kills;
        ++kills;
        p.after_kill();
        start(i);
        if (const std::uint64_t now = sh.progress; now != last) {
            longest = std::max(longest, clock::now() - moved);
            last = now;
            moved = clock::now();
        }
        stalled = clock::now() - moved > stall;
    }
    sh.stop = true;
    bool clean = !stalled;
    const auto end = clock::now() + stall;
    for (const pid_t pid : who) {
        std::optional<int> status;
        while (!status && clock::now() < end) {
            p.at_end();
            status = wait_for_exit(pid, 1ms);
        }
        if (!status) {
            ::kill(pid, SIGKILL);
            wait_status(pid);
        }
        clean = clean && status == 0;
    }
    const bool good = clean && sh.wrong == 0 && sh.progress > 0 && p.good();
    std::printf(
        "%-28s kills %6llu, done %9llu, abandoned %5llu, broken %5llu, checked %9llu, wrong %llu, "
        "longest pause %.0f ms, clean end: %s%s\n",
        p.name.c_str(), (unsigned long long)kills, (unsigned long long)sh.progress,
        (unsigned long long)sh.abandoned, (unsigned long long)sh.broken,
        (unsigned long long)sh.checked, (unsigned long long)sh.wrong,
        std::chrono::duration<double, std::milli>(longest).count(), clean ? "yes" : "NO",
        good ? "" : "  FAILED");
    std::fflush(stdout);
    return good;
}

/// Takes the lock; if its holder died, puts the counter right.
template <class L>
void take(const L& lock) {
    try {
        lock.lock();
        sh.wrong += sh.left != sh.right;  // a death was not told
    } catch (const mp::AbandonedLock&) {
        lock.recover();
        ++sh.abandoned;
        sh.left = sh.right = std::max(sh.left, sh.right);
    }
}

template <class L>
part counter(const std::string& name, const L& lock) {
    const auto at_end = [lock] {
        take(lock);
        lock.unlock();
    };
    return {name,
            [lock](std::size_t) {
                take(lock);
                sh.left = sh.left + 1;
                for (int i = 0; i < 50; ++i) asm volatile("");
                sh.right = sh.right + 1;
                ++sh.progress;
                lock.unlock();
            },
            [] {}, at_end,
            [lock, at_end] {
                at_end();
                return !lock.locked();
            }};
}

part readers(const mp::SharedLock& lock) {
    part p = counter("SharedLock, readers", lock);
    p.once = [lock, write = p.once](std::size_t i) {
        if (i == 0) return write(i);
        try {
            lock.lock_shared();
        } catch (const mp::AbandonedLock&) {
            take(lock);
            return lock.unlock();
        }
        sh.wrong += sh.left != sh.right;
        ++sh.progress;
        lock.unlock_shared();
    };
    return p;
}

part bounded(const mp::Semaphore& units, std::size_t number) {
    return {"robust Semaphore",
            [units, number](std::size_t i) {
                units.acquire();
                const std::uint64_t before = sh.kills;
                const std::uint32_t all = sh.inside |= 1u << i;  // of one instant
                for (int n = 0; n < 50; ++n) asm volatile("");
                // While nobody dies each bit is one who lives, and has a unit.
                if (before % 2 == 0 && sh.kills == before) {
                    ++sh.checked;
                    sh.wrong += static_cast<std::size_t>(std::popcount(all)) > number;
                }
                ++sh.progress;
                sh.inside &= ~(1u << i);
                units.release();
            },
            [] {}, [] {},
            [units, number] {
                return sh.checked > 0 && eventually([&] { return units.value() == number; }, stall);
            }};
}

/// The dead's units are lost: after each kill a unit is put back if none is free, so there may be
/// more of them by and by, but never fewer.
part refilled(const mp::Semaphore& units) {
    const auto refill = [units] {
        if (units.value() == 0) units.release();
    };
    return {"Semaphore, refilled",
            [units](std::size_t) {
                units.acquire();
                ++sh.progress;
                units.release();
            },
            refill, refill};
}

part queue(const mp::Condition& not_empty, const mp::Condition& not_full, const mp::Lock& lock) {
    constexpr int most = 3;
    const auto whole = [=](const std::function<void()>& f) {
        try {
            f();
        } catch (const mp::AbandonedLock&) {
            lock.recover();
            ++sh.abandoned;
            sh.items = std::clamp(sh.items, 0, most);
            not_empty.notify_all();
            not_full.notify_all();
            lock.unlock();
        }
    };
    return {"Condition, a queue",
            [=](std::size_t i) {
                whole([&] {
                    std::unique_lock guard(lock);
                    const mp::Condition& mine = i % 2 ? not_empty : not_full;
                    mine.wait(guard,
                              [&] { return sh.stop || (i % 2 ? sh.items > 0 : sh.items < most); });
                    if (sh.stop) return;
                    sh.items += i % 2 ? -1 : 1;
                    sh.wrong += sh.items < 0 || sh.items > most;
                    (i % 2 ? not_full : not_empty).notify();
                    ++sh.progress;
                });
            },
            [] {},
            [=] {
                whole([&] {
                    const std::lock_guard guard(lock);
                    not_empty.notify_all();
                    not_full.notify_all();
                });
            }};
}

part barrier(const mp::Barrier& meet) {
    return {"Barrier",
            [meet](std::size_t i) {
                // Every other time one after the other: else most of them find the rest inside.
                if (sh.came[i] % 2 == 0) pause_briefly(std::chrono::microseconds(20 * i));
                // Who is outside now, before this one comes, must come before this one passes.
                std::array<std::uint64_t, everybody> seen{};
                std::array<bool, everybody> outside{};
                for (std::size_t k = 0; k < everybody; ++k) {
                    const std::uint64_t back = sh.went[k];  // before `came`, which is never less
                    seen[k] = sh.came[k];
                    outside[k] = k != i && seen[k] == back;
                }
                ++sh.came[i];
                try {
                    meet.wait();
                    for (std::size_t k = 0; k < everybody; ++k) {
                        sh.checked += outside[k];
                        sh.wrong += outside[k] && sh.came[k] == seen[k];
                    }
                    ++sh.progress;
                } catch (const mp::BrokenBarrier&) {
                    ++sh.broken;
                    if (!sh.stop) pause_briefly();
                }
                sh.went[i] = sh.came[i].load();
            },
            [meet] {
                if (meet.broken()) meet.reset();
            },
            [meet] { meet.abort(); },
            [meet] {
                meet.reset();
                return sh.checked > 0 && !meet.broken() && meet.n_waiting() == 0;
            }};
}

part event(const mp::Event& flag) {
    return {"Event",
            [flag](std::size_t i) {
                if (i < 2) {
                    flag.set();
                    flag.clear();
                } else {
                    flag.wait();
                    ++sh.progress;
                }
            },
            [] {}, [flag] { flag.set(); }};
}

}  // namespace

int main(int argc, char** argv) {
    double seconds = argc > 1 ? std::atof(argv[1]) : 120;
    if (const auto budget = time_budget(); argc < 2 && budget)
        seconds = std::chrono::duration<double>(*budget).count();
    const std::uint64_t most_pause = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1000;
    const std::uint64_t seed = moving_seed("MP_SOAK_SEED");
    std::printf("MP_SOAK_SEED=%llu, %.0f s\n", (unsigned long long)seed, seconds);
    std::fflush(stdout);
    ::prctl(PR_SET_TIMERSLACK, 1000);
    std::mt19937_64 random(seed);

    const mp::Lock lock, of_queue;
    const part parts[] = {
        counter("Lock", lock),
        counter("RLock", mp::RLock()),
        counter("SharedLock, writers", mp::SharedLock()),
        readers(mp::SharedLock()),
        bounded(mp::Semaphore(2, mp::robust), 2),
        refilled(mp::Semaphore(1)),
        queue(mp::Condition(of_queue), mp::Condition(of_queue), of_queue),
        barrier(mp::Barrier(everybody)),
        event(mp::Event()),
    };
    bool good = true;
    for (const part& p : parts)
        good = run(p, seconds / static_cast<double>(std::size(parts)), most_pause, random) && good;
    std::puts(good ? "good" : "FAILED");
    return !good;
}
