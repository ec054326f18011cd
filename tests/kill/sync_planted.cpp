// SPDX-License-Identifier: BSL-1.0

/// \file
/// Is the harness able to fail? Each of these objects has one bug planted, in an order of steps
/// that a kill table relies on; killing it must show the bug. Ends with status 1 if one stays
/// hidden.

#include "sync_scenarios.hpp"

namespace {

using namespace test;

/// The word that is the first thing in each.
template <class State>
mpd::futex_word& word_of(State& state) {
    return reinterpret_cast<mpd::futex_word&>(state);
}

struct wakes_behind_set : mp::Event {
    void set() const {
        if (word_of(state()).fetch_or(1) % 2 == 0) mpd::futex_wake(word_of(state()), mpd::wake_all);
    }
};
struct clears_without_epoch : mp::Event {
    void clear() const { word_of(state()).fetch_and(~1u); }
};
struct holder_not_recorded : mp::Lock {
    void lock() const { state().take_mutex(deadline::never()); }
    void unlock() const { state().drop_mutex(); }
};
struct told_once : mp::Lock {
    void lock() const {
        try {
            mp::Lock::lock();
        } catch (const mp::AbandonedLock&) {
            recover();
            mp::Lock::unlock();
            throw;
        }
    }
};
struct wake_forgotten : mpd::semaphore_state<> {
    void release(std::size_t count, ledger) {
        word_of(*this).fetch_add(static_cast<std::uint32_t>(count) << 1);
    }
};
struct wakes_behind_release : mpd::semaphore_state<> {
    void release(std::size_t count, ledger) {
        word_of(*this).fetch_add(static_cast<std::uint32_t>(count) << 1);
        mpd::futex_wake(word_of(*this), mpd::wake_all);
    }
};
struct unit_not_noted : mpd::semaphore_state<> {
    bool acquire(deadline until, ledger, mp::duration patience) {
        return semaphore_state::acquire(until, {}, patience);
    }
    void release(std::size_t count, ledger) { semaphore_state::release(count, {}); }
};
/// I3: it leaves `notified` before it has the lock.
struct notify_taken_by_the_dead : mpd::condition_state<> {
    template <class Release, class Acquire>
    bool wait(deadline until, Release release, Acquire acquire, mp::duration patience) {
        const bool told = condition_state::wait(
            until, release, [] {}, patience);
        acquire();
        return told;
    }
};
struct nobody_looks_again : mpd::barrier_state<> {
    std::size_t wait(places all, deadline until, const std::function<void()>& action,
                     mp::duration) {
        return barrier_state::wait(all, until, action, hour);
    }
};

int hidden = 0;

/// \param add  puts the scenarios of an object with the bug into a collector
template <class Add>
void plant(const char* bug, Add add, const std::string& name) {
    collector all;
    add(all);
    kill_runner runner;
    for (const scenario& s : all.all()) {
        if (s.name != name) continue;
        const kill_result r = runner.run(s, {}, moving_seed("MP_KILL_START"), true);
        hidden += r.failures == 0;
        std::printf("%-26s %-44s %s after %ld kills", bug, s.name.c_str(),
                    r.failures ? "found" : "NOT FOUND", r.points);
        for (const auto& [how, n] : r.how) std::printf(" (%s)", how.c_str());
        std::puts("");
        std::fflush(stdout);
        return;
    }
    std::printf("%s: no scenario '%s'\n", bug, name.c_str());
    ++hidden;
}

template <class E>
void plant_event(const char* bug, const char* name) {
    std::optional<E> event;
    plant(
        bug, [&](collector& all) { add_event(all, event); }, name);
}
template <class L>
void plant_lock(const char* bug, const char* name) {
    std::optional<L> lock;
    plant(
        bug, [&](collector& all) { add_lock(all, "Lock", lock); }, name);
}
template <class State>
void plant_semaphore(const char* bug, bool robust, const char* name) {
    semaphore_lab<State> lab;
    plant(
        bug, [&](collector& all) { add_semaphore(all, lab, "Semaphore", false, robust); }, name);
}
template <class State>
void plant_condition(const char* bug, const char* name) {
    condition_lab<State> lab;
    plant(
        bug, [&](collector& all) { add_condition(all, lab); }, name);
}
template <class State>
void plant_barrier(const char* bug, const char* name) {
    barrier_lab<State> lab;
    plant(
        bug, [&](collector& all) { add_barrier(all, lab); }, name);
}

}  // namespace

int main(int, char** argv) {
    bind_now(argv);
    if (!kill_points_work) {
        std::puts("skipped: kill points need x86-64");
        return 0;
    }
    std::printf("MP_KILL_START=%llu\n",
                static_cast<unsigned long long>(moving_seed("MP_KILL_START")));
    plant_event<wakes_behind_set>("wakes_behind_set", "Event: set, two wait");
    plant_event<clears_without_epoch>("clears_without_epoch", "Event: set and clear, two wait");
    plant_lock<holder_not_recorded>("holder_not_recorded", "Lock: acquire, free");
    plant_lock<told_once>("told_once", "Lock: acquire, abandoned");
    plant_semaphore<wake_forgotten>("wake_forgotten", false, "Semaphore: release(1), 1 wait");
    plant_semaphore<wakes_behind_release>("wakes_behind_release", false,
                                          "Semaphore: release(1), 1 wait");
    plant_semaphore<unit_not_noted>("unit_not_noted", true, "Semaphore: acquire, the last unit");
    plant_condition<notify_taken_by_the_dead>("notify_taken_by_the_dead",
                                              "Condition: wait, it is the oldest of two");
    plant_barrier<nobody_looks_again>("nobody_looks_again",
                                      "Barrier: wait, the last, nobody helps");
    std::printf("planted bugs not found: %d\n", hidden);
    return hidden != 0;
}
