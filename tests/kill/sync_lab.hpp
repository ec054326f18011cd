// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Synchronization objects whose operations are killed, and the checks after each kill.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <multiprocessing/synchronize.hpp>

#include "support/child.hpp"
#include "support/kill_points.hpp"

namespace test {

namespace mp = multiprocessing;
namespace mpd = multiprocessing::detail;
using mpd::deadline;
using scenarios = std::vector<scenario>;

/// Statuses of a checker or helper; 0 is good.
enum complaint : int {
    not_abandoned = 10,
    abandoned_for_nothing,
    not_usable,
    still_locked,
    not_refused,
    helper_asleep = 20,
    too_many_awake,
    too_few_awake,
    units_wrong = 30,
    unit_lost,
    not_released = 40,
    of_two_minds,
    wrong_result = 50,
};

struct ledger {
    std::atomic<int> began, inside, done, go, awake, released, broken, pid;
};
inline ledger& sh = shared_memory<ledger>();

constexpr auto soon = std::chrono::seconds(5);
/// Nobody may depend on looking again by himself (1 h), but where the kill table says so (20 ms).
constexpr mp::duration hour = std::chrono::hours(1), shortly = std::chrono::milliseconds(20);

inline void fresh() { std::memset(static_cast<void*>(&sh), 0, sizeof sh); }

/// Until somebody adds to `what`. Helpers are patient: their trial may step for long.
inline bool comes(const std::atomic<int>& what, int value, clock::duration limit = soon) {
    return eventually([&] { return what >= value; }, limit);
}

/// Dies with what `f` took.
inline void die_after(bystanders&, const std::function<void()>& f) {
    wait_status(fork_child([&] {
        f();
        return 0;
    }));
}

// ---- locks

/// Acquires, recovers if need be, and tells by the way whether it was abandoned.
template <class L>
int heal(const L& lock, bool* abandoned = nullptr) {
    try {
        lock.lock();
    } catch (const mp::AbandonedLock&) {
        if (abandoned) *abandoned = true;
        lock.recover();
    }
    lock.unlock();
    return 0;
}

/// After a kill: `inside` says that the victim had the lock, so it must be abandoned; `done` that
/// it had released it, so it must not.
template <class L>
int check_lock(const L& lock, bool was_abandoned = false) {
    bool abandoned = false;
    const bool inside = sh.inside == 1, done = sh.done == 1;
    if (const int r = heal(lock, &abandoned)) return r;
    if (inside && !abandoned) return not_abandoned;
    if (done && abandoned) return abandoned_for_nothing;
    if (was_abandoned && !abandoned && sh.began == 0) return not_abandoned;
    if (!lock.try_lock()) return not_usable;
    lock.unlock();
    return 0;
}

/// Takes the lock, by the way it can, and gives it back.
template <class L>
int visitor(const L& lock) {
    ++sh.began;
    try {
        lock.lock();
    } catch (const mp::AbandonedLock&) {
        lock.recover();
    }
    lock.unlock();
    return 0;
}

}  // namespace test
