// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Every operation of the synchronization objects, to be killed.

#include "sync_lab.hpp"

namespace test {

class collector {
public:
    void add(scenario one) { all_.push_back(std::move(one)); }
    scenarios& all() noexcept { return all_; }

private:
    scenarios all_;
};

/// What a process does once is not what is looked at: its names, and the unwinder's tables.
inline void warm_up() {
    mpd::this_thread_id();
    mpd::this_start_time();
    try {
        throw mp::AbandonedLock("");
    } catch (const mp::Error&) {
    }
}

/// Where an exception is thrown: thousands of instructions of the unwinder, which touch nothing
/// that is shared.
constexpr long with_exception = 31;

// ---- Lock, RLock, and a SharedLock's writer

/// Has the lock until `go` is 1: then it gives it back; or 2: then it ends with it.
template <class L>
int hold_until_go(const L& lock) {
    lock.lock();
    sh.pid = ::getpid();
    if (!comes(sh.go, 1, patience)) return helper_asleep;
    if (sh.go == 1) lock.unlock();
    return 0;
}
template <class L>
void somebody_has(bystanders& others, const L& lock) {
    others.spawn([&] { return hold_until_go(lock); });
    comes(sh.pid, 1);
}
/// All those that wait take and leave it, one of them perhaps told that it is abandoned.
template <class L>
int visitors_gone(const L& lock) {
    sh.inside = sh.done = 0;  // one of them may have recovered it
    if (const int r = heal(lock)) return r;
    return eventually([&] { return !lock.locked(); }, soon) ? 0 : still_locked;
}

template <class L>
void add_lock(collector& sweep, const std::string& name, std::optional<L>& lock) {
    const auto add =
        [&](const char* what, std::function<void(bystanders&)> reset, std::function<void()> prepare,
            std::function<void()> operation, std::function<void(bystanders&)> on_block = {},
            std::function<int()> check = {}, bool wakes_itself = false, long stride = 1) {
            sweep.add({.name = name + ": " + what,
                       .reset =
                           [&lock, reset](bystanders& others) {
                               fresh();
                               lock.emplace();
                               if (reset) reset(others);
                           },
                       .prepare =
                           [prepare] {
                               warm_up();
                               if (prepare) prepare();
                           },
                       .operation = std::move(operation),
                       .on_block = std::move(on_block),
                       .check =
                           [&lock, check] {
                               if (sh.go == 0) sh.go = 1;
                               return check ? check() : check_lock(*lock);
                           },
                       .wakes_itself = wakes_itself,
                       .stride = stride});
        };
    const auto acquire = [&lock] {
        lock->lock();
        sh.inside = 1;
    };
    const auto release = [&lock] {
        sh.inside = 0;
        lock->unlock();
        sh.done = 1;
    };
    const auto abandon = [&lock](bystanders& others) {
        die_after(others, [&lock] { lock->lock(); });
    };
    const auto go = [](bystanders&) { sh.go = 1; };
    const auto others_wait = [&lock](bystanders& others) {
        others.spawn_asleep([&lock] { return visitor(*lock); });
        others.spawn_asleep([&lock] { return visitor(*lock); });
    };
    const auto two_wait = [&lock, others_wait](bystanders& others) {
        somebody_has(others, *lock);
        others_wait(others);
    };
    const auto refused = [&lock] {
        try {
            lock->lock();
        } catch (const mp::AbandonedLock&) {
        }
    };
    const auto check_refused = [&lock] { return check_lock(*lock, true); };

    add("acquire, free", {}, {}, acquire);
    add(
        "acquire, it had an owner", [&lock](bystanders&) { lock->lock(), lock->unlock(); }, {},
        acquire);
    add(
        "acquire, must wait", [&lock](bystanders& others) { somebody_has(others, *lock); }, {},
        acquire, go);
    add("acquire, others wait before it", two_wait, {}, acquire, go,
        [&lock] { return visitors_gone(*lock); });
    add(
        "acquire, its holder dies", [&lock](bystanders& others) { somebody_has(others, *lock); },
        {},
        [&lock] {
            try {
                lock->lock();
                sh.inside = 1;
            } catch (const mp::AbandonedLock&) {
            }
        },
        [](bystanders&) { sh.go = 2; }, [&lock] { return heal(*lock); }, false, with_exception);
    add("acquire, abandoned", abandon, {}, refused, {}, check_refused, false, with_exception);
    add(
        "acquire, abandoned, as others have seen",
        [abandon, refused](bystanders& others) {
            abandon(others);
            refused();
        },
        {}, refused, {}, check_refused, false, with_exception);
    add(
        "try_lock, taken", [&lock](bystanders& others) { somebody_has(others, *lock); }, {},
        [&lock] { static_cast<void>(lock->try_lock()); }, {}, {});
    add(
        "acquire with a timeout that ends",
        [&lock](bystanders& others) { somebody_has(others, *lock); }, {},
        [&lock] { static_cast<void>(lock->acquire(5ms)); }, {}, {}, true);
    add(
        "locked", [&lock](bystanders& others) { somebody_has(others, *lock); }, {},
        [&lock] { static_cast<void>(lock->locked()); }, {}, {});
    add("release, nobody waits", {}, acquire, release);
    add(
        "release of another's", [&lock](bystanders& others) { somebody_has(others, *lock); }, {},
        [&lock] {
            try {
                lock->unlock();
            } catch (const mp::ProcessError&) {
            }
        },
        {}, {});
    // The victim's own waiters are spawned by a helper that waits until it has the lock.
    add(
        "release, two wait",
        [&lock](bystanders& others) {
            for (int i = 0; i < 2; ++i)
                others.spawn([&lock] {
                    return comes(sh.inside, 1, patience) ? visitor(*lock) : helper_asleep;
                });
        },
        [acquire] {
            acquire();
            comes(sh.began, 2);
            pause_briefly(2ms);  // they sleep by now; if not, the lock is as good as contended
        },
        release, {}, [&lock] { return visitors_gone(*lock); });
    add(
        "recover, abandoned", abandon, {},
        [&lock] {
            lock->recover();
            sh.inside = 1;
        },
        {}, [&lock] { return check_lock(*lock, true); });
    add("recover, free", {}, {}, [&lock] {
        lock->recover();
        sh.inside = 1;
    });
    add(
        "recover, must wait", [&lock](bystanders& others) { somebody_has(others, *lock); }, {},
        [&lock] {
            lock->recover();
            sh.inside = 1;
        },
        go);
    add(
        "recover and release, abandoned", abandon, {},
        [&lock] {
            lock->recover();
            sh.began = 1;
            lock->unlock();
            sh.done = 1;
        },
        {}, check_refused);
}

inline void add_rlock(collector& sweep, std::optional<mp::RLock>& lock) {
    const auto reset = [&lock](bystanders&) {
        fresh();
        lock.emplace();
    };
    const auto twice = [&lock] {
        warm_up();
        lock->lock();
        lock->lock();
        sh.inside = 1;
    };
    sweep.add({.name = "RLock: acquire again",
               .reset = reset,
               .prepare = twice,
               .operation = [&lock] { lock->lock(); },
               .check = [&lock] { return check_lock(*lock); }});
    sweep.add({.name = "RLock: release once of two",
               .reset = reset,
               .prepare = twice,
               .operation = [&lock] { lock->unlock(); },
               .check = [&lock] { return check_lock(*lock); }});
    sweep.add({.name = "RLock: release twice of two",
               .reset = reset,
               .prepare = twice,
               .operation =
                   [&lock] {
                       lock->unlock();
                       sh.inside = 0;
                       lock->unlock();
                       sh.done = 1;
                   },
               .check = [&lock] { return check_lock(*lock); }});
}

// ---- SharedLock's readers

inline void add_readers(collector& sweep, std::optional<mp::SharedLock>& lock) {
    const auto read_until_go = [&lock] {
        lock->lock_shared();
        sh.pid = ::getpid();
        if (!comes(sh.go, 1, patience)) return int{helper_asleep};
        if (sh.go == 1) lock->unlock_shared();
        return 0;
    };
    const auto reader = [read_until_go](bystanders& others) {
        others.spawn(read_until_go);
        comes(sh.pid, 1);
    };
    const auto writer_waits = [&lock](bystanders& others) {
        others.spawn_asleep([&lock] { return visitor(*lock); });
    };
    const auto read = [&lock] { lock->lock_shared(); };
    // Whatever it did, a dead reader is in nobody's way and abandons nothing.
    const auto check = [&lock] {
        bool abandoned = false;
        if (const int r = heal(*lock, &abandoned)) return r;
        if (abandoned) return int{abandoned_for_nothing};
        if (!lock->try_lock_shared()) return int{not_usable};
        lock->unlock_shared();
        return lock->locked() ? int{still_locked} : 0;
    };
    const auto add =
        [&](const char* what, std::function<void(bystanders&)> reset, std::function<void()> prepare,
            std::function<void()> operation, std::function<void(bystanders&)> on_block = {},
            std::function<int()> other_check = {}, bool wakes_itself = false, long stride = 1) {
            sweep.add({.name = std::string("SharedLock: ") + what,
                       .reset =
                           [&lock, reset](bystanders& others) {
                               fresh();
                               lock.emplace();
                               if (reset) reset(others);
                           },
                       .prepare =
                           [prepare] {
                               warm_up();
                               if (prepare) prepare();
                           },
                       .operation = std::move(operation),
                       .on_block = std::move(on_block),
                       .check =
                           [other_check, check] {
                               if (sh.go == 0) sh.go = 1;
                               return other_check ? other_check() : check();
                           },
                       .wakes_itself = wakes_itself,
                       .stride = stride});
        };
    const auto go = [](bystanders&) { sh.go = 1; };

    add("acquire_shared, free", {}, {}, read);
    add("acquire_shared, another reads", reader, {}, read);
    add(
        "acquire_shared, a dead one read",
        [&lock](bystanders& others) { die_after(others, [&lock] { lock->lock_shared(); }); }, {},
        read);
    add(
        "acquire_shared, a writer waits",
        [=](bystanders& others) {
            reader(others);
            writer_waits(others);
        },
        {}, read, go);
    add(
        "acquire_shared, somebody writes",
        [&lock](bystanders& others) { somebody_has(others, *lock); }, {}, read, go);
    add(
        "acquire_shared with a timeout that ends",
        [&lock](bystanders& others) { somebody_has(others, *lock); }, {},
        [&lock] { static_cast<void>(lock->acquire_shared(5ms)); }, {}, {}, true);
    add(
        "acquire_shared, abandoned",
        [&lock](bystanders& others) { die_after(others, [&lock] { lock->lock(); }); }, {},
        [&lock] {
            try {
                lock->lock_shared();
            } catch (const mp::AbandonedLock&) {
            }
        },
        {}, [&lock] { return check_lock(*lock, true); }, false, with_exception);
    add("release_shared, alone", {}, read, [&lock] { lock->unlock_shared(); });
    add("release_shared, another reads", reader, read, [&lock] { lock->unlock_shared(); });
    add(
        "release_shared, a writer waits",
        [&lock](bystanders& others) {
            others.spawn(
                [&lock] { return comes(sh.inside, 1, patience) ? visitor(*lock) : helper_asleep; });
        },
        [read] {
            read();
            sh.inside = 1;
            comes(sh.began, 1);
            pause_briefly(2ms);
        },
        [&lock] { lock->unlock_shared(); });
    add(
        "acquire, somebody reads", reader, {},
        [&lock] {
            lock->lock();
            sh.inside = 1;
        },
        go, [&lock] { return check_lock(*lock); });
    add(
        "acquire with a timeout that ends, somebody reads", reader, {},
        [&lock] { static_cast<void>(lock->acquire(5ms)); }, {}, {}, true);
    add(
        "acquire, a reader dies", reader, {},
        [&lock] {
            lock->lock();
            sh.inside = 1;
        },
        [](bystanders&) { sh.go = 2; }, [&lock] { return check_lock(*lock); });
    add(
        "release, a reader and a writer wait",
        [&lock](bystanders& others) {
            others.spawn(
                [&lock] { return comes(sh.inside, 1, patience) ? visitor(*lock) : helper_asleep; });
            others.spawn([&lock] {
                if (!comes(sh.inside, 1, patience)) return int{helper_asleep};
                ++sh.began;
                try {
                    lock->lock_shared();
                } catch (const mp::AbandonedLock&) {
                    return 0;
                }
                lock->unlock_shared();
                return 0;
            });
        },
        [&lock] {
            lock->lock();
            sh.inside = 1;
            comes(sh.began, 2);
            pause_briefly(2ms);
        },
        [&lock] {
            lock->unlock();
            sh.done = 1;
        },
        {}, [&lock] { return visitors_gone(*lock); });
    add(
        "locked, a dead one read",
        [&lock](bystanders& others) { die_after(others, [&lock] { lock->lock_shared(); }); }, {},
        [&lock] { static_cast<void>(lock->locked()); });
}

// ---- semaphores

/// \tparam State  with a bug planted, or without
template <class State = mpd::semaphore_state<>>
class semaphore_lab {
public:
    void fresh(std::size_t units, bool bounded, bool robust) {
        test::fresh();
        std::memset(static_cast<void*>(&all_), 0, sizeof all_);
        units_ = units;
        robust_ = robust;
        all_.state.init(units, bounded || robust);
    }
    mpd::semaphore_state<>::ledger holders() {
        return robust_ ? mpd::semaphore_state<>::ledger(all_.holders)
                       : mpd::semaphore_state<>::ledger();
    }
    bool acquire(deadline until = deadline::never()) {
        return all_.state.acquire(until, holders(), robust_ ? shortly : hour);
    }
    void release(std::size_t n = 1) { all_.state.release(n, holders()); }
    std::size_t value() { return all_.state.value(holders()); }

    int waiter() {
        acquire();
        ++sh.awake;
        if (!comes(sh.go, 1, patience)) return helper_asleep;
        if (robust_) release();
        return 0;
    }

    /// So many helpers wait. Free units must reach them with no help; then they get the rest.
    int check(int waiting) {
        sh.inside = 1;
        if (sh.pid == 1 && !comes(sh.released, 1)) return helper_asleep;
        if (!eventually([&] { return sh.awake >= waiting || value() == 0; }, soon))
            return helper_asleep;
        std::size_t given = 0;
        while (sh.awake < waiting && !robust_) {
            const int before = sh.awake;
            release();
            ++given;
            if (!comes(sh.awake, before + 1)) return helper_asleep;
        }
        // Of a robust one those of the dead come by themselves.
        if (!comes(sh.awake, waiting)) return helper_asleep;
        sh.go = 1;
        if (robust_) return eventually([&] { return value() == units_; }, soon) ? 0 : unit_lost;
        const std::size_t all = units_ + given - static_cast<std::size_t>(waiting);
        const std::size_t free = value();
        if (free > all - victim_takes + (victim_gives != 0 ? victim_gives : victim_takes) ||
            free + victim_takes < all)
            return units_wrong;
        if (sh.done == 1 && free != all - victim_takes + victim_gives) return units_wrong;
        return all_usable();
    }
    int all_usable() {
        const std::size_t free = value();
        if (free != 0) {
            if (!acquire(deadline::at_once())) return not_usable;
            release();
        }
        return value() == free ? 0 : units_wrong;
    }

    /// What the victim does in all.
    std::size_t victim_gives = 0, victim_takes = 0;

private:
    struct memory {
        State state;
        mpd::unit_holder holders[mpd::semaphore_state<>::most_holders];
    };
    memory& all_ = shared_memory<memory>();
    std::size_t units_ = 0;
    bool robust_ = false;
};

template <class State>
void add_semaphore(collector& sweep, semaphore_lab<State>& lab, const std::string& name,
                   bool bounded, bool robust) {
    // units: at first. taken: of them, by the tester's helpers. waiting: helpers. gives: the
    // victim.
    const auto add = [&, bounded, robust](
                         const char* what, std::size_t units, int waiting, std::size_t takes,
                         std::size_t gives, std::function<void(bystanders&)> reset,
                         std::function<void()> prepare, std::function<void()> operation,
                         std::function<void(bystanders&)> on_block = {},
                         bool wakes_itself = false) {
        sweep.add({.name = name + ": " + what,
                   .reset =
                       [=, &lab](bystanders& others) {
                           lab.fresh(units, bounded, robust);
                           lab.victim_gives = gives;
                           lab.victim_takes = takes;
                           if (reset) reset(others);
                       },
                   .prepare =
                       [prepare] {
                           warm_up();
                           if (prepare) prepare();
                       },
                   .operation = std::move(operation),
                   .on_block = std::move(on_block),
                   .check = [=, &lab] { return lab.check(waiting); },
                   .wakes_itself = wakes_itself,
                   .stride = std::strstr(what, "too many") ? with_exception : 1});
    };
    const auto acquire = [&lab] {
        lab.acquire();
        sh.done = 1;
    };
    const auto spawn_waiters = [&lab](bystanders& others, int n) {
        for (int i = 0; i < n; ++i) others.spawn_asleep([&lab] { return lab.waiter(); });
    };
    const auto holder = [&lab](bystanders& others) {  // has all of them until `inside`
        others.spawn([&lab] {
            while (lab.acquire(deadline::at_once())) ++sh.began;
            sh.pid = 1;
            if (!comes(sh.inside, 1, patience)) return int{helper_asleep};
            for (int n = sh.began; n > 0; --n) lab.release();
            sh.released = 1;
            return 0;
        });
        comes(sh.pid, 1);
    };
    add("acquire, there are units", 3, 0, 1, 0, {}, {}, acquire);
    add("acquire, the last unit", 1, 0, 1, 0, {}, {}, acquire);
    add("acquire, must wait", 1, 0, 1, 0, holder, {}, acquire, [](bystanders&) { sh.inside = 1; });
    add(
        "acquire, must wait behind another", 1, 1, 1, 0,
        [=](bystanders& others) {
            holder(others);
            spawn_waiters(others, 1);
        },
        {}, acquire, [](bystanders&) { sh.inside = 1; });
    add(
        "acquire with a timeout that ends", 1, 0, 0, 0, holder, {},
        [&lab] {
            lab.acquire(deadline::after(5ms));
            sh.inside = 1;
        },
        {}, true);
    add("try_acquire, none", 0, 0, 0, 0, {}, {}, [&lab] { lab.acquire(deadline::at_once()); });
    add("value", 2, 0, 0, 0, {}, {}, [&lab] { lab.value(); });
    // The victim takes all units first; the waiters come when it has.
    for (const int waiting : {0, 1, 2})
        for (const std::size_t n : {std::size_t{1}, std::size_t{2}}) {
            const auto units = static_cast<std::size_t>(2);
            sweep.add({.name = name + ": release(" + std::to_string(n) + "), " +
                               std::to_string(waiting) + " wait",
                       .reset =
                           [=, &lab](bystanders& others) {
                               lab.fresh(units, bounded, robust);
                               lab.victim_gives = n;
                               lab.victim_takes = units;
                               for (int i = 0; i < waiting; ++i)
                                   others.spawn([&lab] {
                                       if (!comes(sh.inside, 1, patience))
                                           return int{helper_asleep};
                                       ++sh.began;
                                       return lab.waiter();
                                   });
                           },
                       .prepare =
                           [=, &lab] {
                               warm_up();
                               for (std::size_t i = 0; i < units; ++i) lab.acquire();
                               sh.inside = 1;
                               comes(sh.began, waiting);
                               pause_briefly(2ms);
                           },
                       .operation =
                           [=, &lab] {
                               lab.release(n);
                               sh.done = 1;
                           },
                       .check = [=, &lab] { return lab.check(waiting); }});
        }
    if (robust || bounded)
        add("release of too many", 1, 0, 0, 0, {}, {}, [&lab] {
            try {
                lab.release();
            } catch (const mp::Error&) {
            }
        });
}

// ---- Event

template <class E>
void add_event(collector& sweep, std::optional<E>& event) {
    const auto waiter = [&event] {
        event->wait();
        ++sh.awake;
        return 0;
    };
    const auto add =
        [&](const char* what, int waiting, bool raised, std::function<void()> operation,
            std::function<void(bystanders&)> on_block = {}, bool wakes_itself = false) {
            sweep.add({.name = std::string("Event: ") + what,
                       .reset =
                           [=, &event](bystanders& others) {
                               fresh();
                               event.emplace();
                               for (int i = 0; i < waiting; ++i) others.spawn_asleep(waiter);
                               if (raised) event->set();
                           },
                       .operation = std::move(operation),
                       .on_block = std::move(on_block),
                       .check =
                           [=, &event] {
                               // Up, or up and down again: all are awake. Down: none.
                               if (event->is_set() && !comes(sh.awake, waiting))
                                   return int{helper_asleep};
                               if (sh.done == 1 && !comes(sh.awake, waiting))
                                   return int{helper_asleep};
                               event->set();
                               if (!comes(sh.awake, waiting)) return int{helper_asleep};
                               event->clear();
                               return event->is_set() || event->wait(0s) ? int{wrong_result} : 0;
                           },
                       .wakes_itself = wakes_itself});
        };
    const auto set = [&event] {
        event->set();
        sh.done = 1;
    };
    add("set, nobody waits", 0, false, set);
    add("set, two wait", 2, false, set);
    add("set, it is up", 0, true, set);
    add("set and clear, two wait", 2, false, [&event] {
        event->set();
        event->clear();
        sh.done = 1;
    });
    add("clear, it is up", 0, true, [&event] { event->clear(); });
    add("clear, it is down, one waits", 1, false, [&event] { event->clear(); });
    add("wait, it is up", 0, true, [&event] { event->wait(); });
    add(
        "wait", 0, false, [&event] { event->wait(); }, [&event](bystanders&) { event->set(); });
    add(
        "wait, others wait", 2, false, [&event] { event->wait(); },
        [&event](bystanders&) { event->set(); });
    add(
        "wait with a timeout that ends", 1, false, [&event] { event->wait(5ms); }, {}, true);
}

// ---- Condition

template <class State = mpd::condition_state<>>
class condition_lab {
public:
    void fresh() {
        test::fresh();
        std::memset(static_cast<void*>(&state), 0, sizeof state);
        state.init();
    }
    bool wait(deadline until = deadline::never(), mp::duration look = shortly) {
        return state.wait(
            until, [] {}, [] {}, look);
    }
    int waiter(mp::duration look) {
        const bool notified = wait(deadline::never(), look);
        ++sh.awake;
        return notified ? 0 : wrong_result;
    }
    void spawn(bystanders& others, int n, mp::duration look) {
        for (int i = 0; i < n; ++i) others.spawn_asleep([this, look] { return waiter(look); });
    }
    /// One that is dead: it waits, or was notified and could not return.
    void dead_one(bystanders& others, bool was_notified) {
        const pid_t pid = fork_child([this] { return waiter(hour); });
        wait_asleep(pid);
        if (was_notified) {
            ::kill(pid, SIGSTOP);
            wait_status(pid, WUNTRACED);
            state.notify(1);
        }
        ::kill(pid, SIGKILL);
        wait_status(pid);
        static_cast<void>(others);
    }

    /// So many helpers wait; from `least` to `most` of them are awake by now or by themselves, and
    /// no others.
    int check(int waiting, int least, int most) {
        if (!comes(sh.awake, least)) return too_few_awake;
        pause_briefly(std::chrono::milliseconds(most < waiting ? 3 : 0));
        if (sh.awake > most) return too_many_awake;
        for (int n = sh.awake; n < waiting; n = sh.awake) {  // each notify wakes one more
            const int before = sh.awake;
            state.notify(1);
            if (!comes(sh.awake, before + 1)) return helper_asleep;
            if (sh.awake > before + 1 && before >= most) return too_many_awake;
        }
        // It is whole: one comes and is woken.
        const pid_t one = fork_child([this] { return waiter(hour); });
        const bool asleep = wait_asleep(one, soon);
        state.notify(1);
        const auto status = bystanders::end_of(one, soon);
        return asleep && status == 0 ? 0 : not_usable;
    }

    State& state = shared_memory<State>();
};

template <class State>
void add_condition(collector& sweep, condition_lab<State>& lab) {
    const auto notify = [&](const char* what, int waiting, int dead, int dead_notified,
                            std::size_t n) {
        sweep.add({.name = std::string("Condition: notify") + what,
                   .reset =
                       [=, &lab](bystanders& others) {
                           lab.fresh();
                           for (int i = 0; i < dead; ++i) lab.dead_one(others, false);
                           // Whoever was notified and died before others came has no heir.
                           if (dead_notified == 1) {
                               lab.spawn(others, 0, hour);
                               const pid_t pid = fork_child([&lab] { return lab.waiter(hour); });
                               wait_asleep(pid);
                               lab.spawn(others, waiting, hour);
                               ::kill(pid, SIGSTOP);
                               wait_status(pid, WUNTRACED);
                               lab.state.notify(1);
                               ::kill(pid, SIGKILL);
                               wait_status(pid);
                           } else {
                               lab.spawn(others, waiting, hour);
                           }
                       },
                   .operation =
                       [=, &lab] {
                           lab.state.notify(n);
                           sh.done = 1;
                       },
                   .check =
                       [=, &lab] {
                           const int all = std::min(waiting, static_cast<int>(n) + dead_notified);
                           return lab.check(waiting, sh.done == 1 ? all : 0, all);
                       }});
    };
    notify("(1), nobody waits", 0, 0, 0, 1);
    notify("(1), one waits", 1, 0, 0, 1);
    notify("(1), two wait", 2, 0, 0, 1);
    notify("(2), three wait", 3, 0, 0, 2);
    notify("_all, two wait", 2, 0, 0, 1024);
    notify("(1), a dead one and one that waits", 1, 1, 0, 1);
    notify("(1), a dead one that was notified, and two that wait", 2, 0, 1, 1);

    // As one that has the lock: told first, woken later, or by themselves.
    for (const int n : {1, 2})
        sweep.add({.name = "Condition: notify(" + std::to_string(n) + ") with the lock, two wait",
                   .reset =
                       [&lab](bystanders& others) {
                           lab.fresh();
                           lab.spawn(others, 2, shortly);
                       },
                   .operation =
                       [n, &lab] {
                           lab.state.notify(static_cast<std::size_t>(n), true);
                           sh.inside = 1;
                           lab.state.wake_chosen();
                           sh.done = 1;
                       },
                   .check = [n, &lab] { return lab.check(2, sh.inside == 1 ? n : 0, n); }});

    const auto wait = [&](const char* what, int waiting, bool first, std::size_t n, bool timeout,
                          bool dead_notified) {
        sweep.add(
            {.name = std::string("Condition: wait") + what,
             .reset =
                 [=, &lab](bystanders& others) {
                     lab.fresh();
                     if (dead_notified) lab.dead_one(others, true);
                     if (!first) lab.spawn(others, waiting, shortly);
                     if (first)  // they come when the victim has its place
                         for (int i = 0; i < waiting; ++i)
                             others.spawn([&lab] {
                                 while (sh.inside == 0) pause_briefly();
                                 ++sh.began;
                                 return lab.waiter(shortly);
                             });
                 },
             .operation =
                 [=, &lab] {
                     const bool woken = lab.state.wait(
                         timeout ? deadline::after(5ms) : deadline::never(), [] { sh.inside = 1; },
                         [] { sh.inside = 2; }, timeout ? hour : shortly);
                     if (woken) sh.done = 1;
                 },
             .on_block =
                 [=, &lab](bystanders&) {
                     comes(sh.began, first ? waiting : 0);
                     if (first) pause_briefly(3ms);
                     if (timeout) return;
                     sh.go = 1;
                     lab.state.notify(n);
                 },
             .check =
                 [=, &lab] {
                     const int how_far = sh.inside;
                     if (how_far == 0) sh.inside = 1;
                     comes(sh.began, first ? waiting : 0);
                     pause_briefly(first ? 3ms : 0ms);
                     // The oldest gets the first notify. If that is the victim, it is handed on,
                     // unless wait() was over: `how_far` 2 is just before that.
                     const int all = sh.go == 1 ? std::min<int>(waiting, static_cast<int>(n)) : 0;
                     const int most = first && sh.done == 1 ? 0 : all;
                     return lab.check(waiting, first && how_far == 2 ? 0 : most, most);
                 },
             .wakes_itself = timeout});
    };
    wait(", alone", 0, false, 1, false, false);
    wait(", it is the oldest of two", 1, true, 1, false, false);
    wait(", it is the youngest of two, notify(2)", 1, false, 2, false, false);
    wait(" with a timeout that ends, another waits", 1, false, 0, true, false);
    wait(", a dead one was notified before", 0, false, 1, false, true);
    wait(" with a timeout that ends, alone", 0, false, 0, true, false);
}

/// With its own lock: what was notified and what holds the lock die together.
inline void add_whole_condition(collector& sweep, std::optional<mp::Condition>& condition) {
    const auto waiter = [&condition] {
        const auto wait = [&] {
            try {
                condition->wait();
            } catch (const mp::AbandonedLock&) {
                condition->recover();
            }
        };
        try {
            condition->lock();
        } catch (const mp::AbandonedLock&) {
            condition->recover();
        }
        wait();
        ++sh.awake;
        condition->unlock();
        return 0;
    };
    const auto check = [&condition](int waiting) {
        const auto end = clock::now() + soon;
        while (sh.awake < waiting && clock::now() < end) {
            condition->notify_all();
            pause_briefly(1ms);
        }
        if (sh.awake < waiting) return int{helper_asleep};
        return heal(*condition);
    };
    sweep.add({.name = "Condition: lock, wait, unlock; another waits",
               .reset =
                   [&condition, waiter](bystanders& others) {
                       fresh();
                       condition.emplace();
                       others.spawn_asleep(waiter);
                   },
               .prepare = warm_up,
               .operation =
                   [&condition] {
                       const std::lock_guard guard(*condition);
                       condition->wait();
                   },
               .on_block = [&condition](bystanders&) { condition->notify_all(); },
               .check = [check] { return check(1); }});
    sweep.add({.name = "Condition: lock, notify, unlock; two wait",
               .reset =
                   [&condition, waiter](bystanders& others) {
                       fresh();
                       condition.emplace();
                       others.spawn_asleep(waiter);
                       others.spawn_asleep(waiter);
                   },
               .prepare = warm_up,
               .operation =
                   [&condition] {
                       const std::lock_guard guard(*condition);
                       condition->notify();
                   },
               .check = [check] { return check(2); }});
}

// ---- Barrier

template <class State = mpd::barrier_state<>>
class barrier_lab {
public:
    static constexpr std::size_t parties = 3;

    void fresh() {
        test::fresh();
        std::memset(static_cast<void*>(&all_), 0, sizeof all_);
        all_.state.init(parties, -1);
        mpd::barrier_state<>::init(places());
    }
    State& state() { return all_.state; }
    mpd::barrier_state<>::places places() { return all_.places; }
    std::size_t wait(deadline until = deadline::never(), std::function<void()> action = {}) {
        return all_.state.wait(places(), until, action, shortly);
    }
    int party() {
        try {
            wait();
            ++sh.released;
        } catch (const mp::BrokenBarrier&) {
            ++sh.broken;
        }
        return 0;
    }
    void spawn(bystanders& others, int n) {
        for (int i = 0; i < n; ++i) others.spawn_asleep([this] { return party(); });
    }

    /// So many helpers wait or have waited: all of a generation end alike, and the next one works.
    int check(int waiting) {
        state().abort(places());
        if (!eventually([&] { return sh.released + sh.broken == waiting; }, soon))
            return helper_asleep;
        if (sh.released != 0 && sh.broken != 0) return of_two_minds;
        if (sh.done == 1 && sh.broken != 0) return not_released;
        state().reset(places());
        if (state().broken(places()) || state().waiting(places()) != 0) return not_usable;
        std::vector<pid_t> others;
        for (std::size_t i = 0; i + 1 < parties; ++i)
            others.push_back(
                fork_child([this] { return wait(deadline::after(soon)) < parties ? 0 : 1; }));
        int bad = 0;
        try {
            wait(deadline::after(soon));
        } catch (const mp::BrokenBarrier&) {
            bad = not_usable;
        }
        for (const pid_t pid : others)
            if (bystanders::end_of(pid, soon) != 0) bad = not_usable;
        return bad;
    }

private:
    struct memory {
        State state;
        mpd::barrier_party places[2 * parties + 64];
    };
    memory& all_ = shared_memory<memory>();
};

template <class State>
void add_barrier(collector& sweep, barrier_lab<State>& lab) {
    const auto add = [&](const char* what, int waiting, std::function<void()> operation,
                         std::function<void(bystanders&)> on_block = {}, bool wakes_itself = false,
                         std::function<void(bystanders&)> more = {}) {
        sweep.add(
            {.name = std::string("Barrier: ") + what,
             .reset =
                 [=, &lab](bystanders& others) {
                     lab.fresh();
                     if (more) more(others);
                     lab.spawn(others, waiting);
                 },
             .prepare = warm_up,
             .operation = std::move(operation),
             .on_block = std::move(on_block),
             .check = [=, &lab] { return lab.check(waiting); },
             .wakes_itself = wakes_itself,
             .stride = std::strstr(what, "wait") == what && std::strstr(what, "the last") == nullptr
                           ? with_exception
                           : 1});
    };
    const auto guarded = [&lab](deadline until) {
        try {
            lab.wait(until);
            sh.done = 1;
        } catch (const mp::BrokenBarrier&) {
        }
    };
    add(
        "wait, alone", 0, [=] { guarded(deadline::never()); },
        [&lab](bystanders&) { lab.state().abort(lab.places()); });
    add(
        "wait, the second", 1, [=] { guarded(deadline::never()); },
        [&lab](bystanders&) { lab.state().reset(lab.places()); });
    add("wait, the last", 2, [=] { guarded(deadline::never()); });
    add("wait, the last, with an action", 2, [&lab] {
        lab.wait(deadline::never(), [] { sh.began = 1; });
        sh.done = 1;
    });
    add("wait, the last, with an action that throws", 2, [&lab] {
        try {
            lab.wait(deadline::never(), [] { throw 1; });
        } catch (int) {
        }
    });
    add(
        "wait, the first of three, until all came", 1, [=] { guarded(deadline::never()); },
        [&lab](bystanders& others) {
            others.spawn([&lab] {
                try {
                    lab.wait();
                } catch (const mp::BrokenBarrier&) {
                }
                return 0;
            });
        });
    add(
        "wait with a timeout that ends", 1, [=] { guarded(deadline::after(5ms)); }, {}, true);
    add(
        "wait, a dead party", 1, [=] { guarded(deadline::never()); }, {}, false,
        [&lab](bystanders&) {
            const pid_t pid = fork_child([&lab] { return lab.party(); });
            wait_asleep(pid);
            ::kill(pid, SIGKILL);
            wait_status(pid);
            lab.state().reset(lab.places());
        });
    add(
        "wait, broken", 0, [=] { guarded(deadline::never()); }, {}, false,
        [&lab](bystanders&) { lab.state().abort(lab.places()); });
    add("abort, two wait", 2, [&lab] { lab.state().abort(lab.places()); });
    add("abort, nobody waits", 0, [&lab] { lab.state().abort(lab.places()); });
    add(
        "abort, broken", 0, [&lab] { lab.state().abort(lab.places()); }, {}, false,
        [&lab](bystanders&) { lab.state().abort(lab.places()); });
    add("reset, two wait", 2, [&lab] { lab.state().reset(lab.places()); });
    add("reset, nobody waits", 0, [&lab] { lab.state().reset(lab.places()); });
    add(
        "reset, broken", 0, [&lab] { lab.state().reset(lab.places()); }, {}, false,
        [&lab](bystanders&) { lab.state().abort(lab.places()); });
    add("n_waiting and broken, two wait", 2, [&lab] {
        lab.state().waiting(lab.places());
        lab.state().broken(lab.places());
    });
    // Without any help but the others' own looks.
    sweep.add({.name = "Barrier: wait, the last, nobody helps",
               .reset =
                   [&lab](bystanders& others) {
                       lab.fresh();
                       lab.spawn(others, 2);
                   },
               .prepare = warm_up,
               .operation =
                   [guarded] {
                       sh.began = 1;
                       guarded(deadline::never());
                   },
               .check =
                   [&lab] {
                       // Killed before it had a place: two parties still wait, as they should.
                       if (!eventually([&] { return sh.released + sh.broken == 2; }, 300ms) &&
                           lab.state().waiting(lab.places()) != 2)
                           return int{helper_asleep};
                       return lab.check(2);
                   },
               .stride = 3});
}

}  // namespace test
