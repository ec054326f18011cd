// SPDX-License-Identifier: BSL-1.0

/// \file
/// Kills every operation of the synchronization objects at every instruction: kill.sync_kill [-v]
/// [-p POINT] [part of a name]. With MP_BUDGET_SECONDS it samples, from MP_KILL_START on.

#include "sync_scenarios.hpp"

int main(int argc, char** argv) {
    using namespace test;
    kill_sweep sweep(argc, argv);
    collector all;
    std::optional<mp::Lock> lock;
    std::optional<mp::RLock> rlock;
    std::optional<mp::SharedLock> shared;
    std::optional<mp::Event> event;
    std::optional<mp::Condition> whole;
    semaphore_lab<> semaphore;
    condition_lab<> condition;
    barrier_lab<> barrier;
    add_lock(all, "Lock", lock);
    add_lock(all, "RLock", rlock);
    add_rlock(all, rlock);
    add_lock(all, "SharedLock", shared);
    add_readers(all, shared);
    add_semaphore(all, semaphore, "Semaphore", false, false);
    add_semaphore(all, semaphore, "BoundedSemaphore", true, false);
    add_semaphore(all, semaphore, "robust Semaphore", false, true);
    add_event(all, event);
    add_condition(all, condition);
    add_whole_condition(all, whole);
    add_barrier(all, barrier);
    for (auto& s : all.all()) sweep.add(std::move(s));
    return sweep.run();
}
