// SPDX-License-Identifier: BSL-1.0

/// \file
/// Kills a manager's client at every instruction of what it does (K1 to K4 of
/// detail/manager/server.hpp); then checks that the server works, that the call ran or did not,
/// that nobody hangs, and that the server has the objects and threads that it had.
/// kill.manager_kill [-v]
/// [-p POINT] [part of a name]. With MP_BUDGET_SECONDS it samples, from MP_KILL_START on.

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <multiprocessing/process.hpp>

#include "manager_lab.hpp"

namespace {

using namespace test;

/// A manager whose clients are killed.
class client_lab {
public:
    mp::Manager manager;
    mp::PoolProxy pool = manager.Pool(1);
    std::optional<shelf> has;
    std::optional<mp::Queue<mp::ListProxy<int>>> ring;

    client_lab() {
        pool.apply(plus_one{}, 1);
        const shelf once(manager);
        threads_ = entries(manager.pid(), "task").size();
        descriptors_ = entries(manager.pid(), "fd").size();
        children_ = descendants(manager.pid()).size();
    }

    void fresh() {
        std::fflush(
            stdout);  // the victim's children end as processes do, with what is in the buffer
        has.reset();
        ring.emplace();
        settled_ = eventually(
            [this] {
                return manager.number_of_objects() == 1 &&
                       entries(manager.pid(), "task").size() == threads_ &&
                       entries(manager.pid(), "fd").size() <= descriptors_ + 8;
            },
            soon);
        std::memset(static_cast<void*>(&sh), 0, sizeof sh);
        has.emplace(manager);
    }
    /// Around each check: the server works, and has the objects that it had.
    int verdict(const std::function<int()>& check) {
        if (!settled_) return not_settled;
        if (const int r = check()) return r;
        if (sh.wrong != 0) return wrong_value;
        for (const int n : {1, 2}) {
            has->probe.set(n);
            if (has->probe.get() != n) return wrong_value;
        }
        const auto counted = [this] { return manager.number_of_objects() == shelf::objects + 1; };
        return eventually(counted, soon) ? 0 : objects_left;
    }
    bool children_gone() {
        return eventually([this] { return descendants(manager.pid()).size() == children_; }, soon);
    }

    // --- checks

    /// The victim's change is there as a whole or not at all, and is there if its call returned.
    template <class T>
    static int one_of(const T& found, const T& before, const T& after) {
        if (found != before && found != after) return half_done;
        return sh.done == 1 && found != after ? not_done : 0;
    }

    /// Acquires, recovers if need be, and tells by the way whether it was abandoned.
    template <class L>
    static int heal(const L& lock, bool* abandoned = nullptr) {
        try {
            if (!lock.acquire(soon)) return still_held;
        } catch (const mp::AbandonedLock&) {
            if (abandoned) *abandoned = true;
            if (!lock.recover(soon)) return not_recovered;
        }
        lock.unlock();
        return 0;
    }
    /// `inside` says that the victim had the lock, so it must be abandoned; `done` that it had
    /// given it back, so it must not.
    template <class L>
    static int check_lock(const L& lock, bool was_abandoned = false) {
        bool abandoned = false;
        if (const int r = heal(lock, &abandoned)) return r;
        if (sh.inside == 1 && !abandoned) return not_abandoned;
        if (sh.done == 1 && abandoned) return abandoned_for_nothing;
        if (was_abandoned && !abandoned && sh.began == 0) return not_abandoned;
        if (!lock.try_lock()) return not_usable;
        lock.unlock();
        return 0;
    }
    /// Helpers that wait for it get it, one after the other.
    template <class L>
    static int check_visited(const L& lock, int visitors) {
        if (!comes(sh.awake, visitors)) return helper_asleep;
        return heal(lock);
    }

    /// The items n that are in `numbers`, and that it carries the next one.
    int arrives(int n, int least, int most) {
        int times = 0;
        for (std::optional<int> got; (got = has->numbers.try_get()); ++times)
            if (*got != n) return wrong_value;
        constexpr int next = 99;
        has->numbers.put(next, soon);
        for (int got; (got = has->numbers.get(soon)) != next; ++times)
            if (got != n) return wrong_value;
        if (times < least) return item_lost;
        return times > most ? item_twice : 0;
    }

private:
    std::size_t threads_ = 0, descriptors_ = 0, children_ = 0;
    bool settled_ = true;
};

/// Where an exception is thrown: tens of thousands of instructions of the unwinder, which touch
/// nothing that is shared.
constexpr long unwinding = 499;
inline void warm_unwinder() {
    try {
        throw std::out_of_range("");
    } catch (const std::exception&) {
    }
}

class client_scenarios {
public:
    client_scenarios(kill_sweep& to, client_lab& lab) : to_(to), lab_(lab) {}

    void add_all() {
        calls();
        containers();
        references();
        messages();
        processes();
        locks();
        waits();
        queues();
        pools();
    }

private:
    shelf& has() { return *lab_.has; }

    void add(scenario s) {
        s.reset = [this, more = std::move(s.reset)](bystanders& others) {
            lab_.fresh();
            if (more) more(others);
        };
        s.prepare = [this, prepare = std::move(s.prepare)] {
            warm_unwinder();
            prepare();
            wait_quiet(lab_.manager.pid());
        };
        s.check = [this, check = std::move(s.check)] { return lab_.verdict(check); };
        s.wakes_itself = true;  // when the server has answered
        to_.add(std::move(s));
    }
    void wait_in(bystanders& others, const std::function<int()>& f) {
        spawn_waiting(others, lab_.manager.pid(), f);
    }
    static std::function<void(bystanders&)> go_after(std::function<void()> f) {
        return [f = std::move(f)](bystanders&) {
            f();
            sh.go = 1;
        };
    }

    void calls() {
        const auto warm = [this] { has().tally.call<&Tally::value>(); };
        const auto tally_is = [this](int before, int after) {
            return [this, before, after] {
                return lab_.one_of(has().tally.call<&Tally::value>(), before, after);
            };
        };
        const auto add_ten = [this] {
            if (has().tally.call<&Tally::add>(10) != 15) sh.wrong = 1;
            sh.done = 1;
        };
        // Opens a session and a channel, and counts the proxy.
        add({.name = "the first use of a proxy after a fork",
             .reset = {},
             .prepare = [] {},
             .operation = add_ten,
             .check = tally_is(5, 15),
             .stride = 13,
             .runtime_stride = 199});
        add({.name = "the second proxy of a process",
             .reset = {},
             .prepare = [this] { has().list.size(); },
             .operation = add_ten,
             .check = tally_is(5, 15)});
        add({.name = "a call with a result",
             .reset = {},
             .prepare = warm,
             .operation = add_ten,
             .check = tally_is(5, 15)});
        add({.name = "a call without a result",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     has().tally.call<&Tally::reset>();
                     sh.done = 1;
                 },
             .check = tally_is(5, 0)});
        add({.name = "a copy of an object",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     if (has().tally.get().value() != 5) sh.wrong = 1;
                 },
             .check = tally_is(5, 5)});
    }

    void containers() {
        const auto warm = [this] {
            has().dict.size();
            has().list.size();
            has().array.size();
        };
        using map = std::map<int, int>;
        const auto dict_is = [this](map after) {
            return [this, after = std::move(after)] {
                return lab_.one_of(has().dict.copy(), map{{1, 1}, {2, 2}}, after);
            };
        };
        add({.name = "dict: get",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     if (has().dict.get(2) != 2 || int(has().dict[1]) != 1) sh.wrong = 1;
                 },
             .check = dict_is({{1, 1}, {2, 2}})});
        add({.name = "dict: set an item",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     has().dict[3] = 3;
                     sh.done = 1;
                 },
             .check = dict_is({{1, 1}, {2, 2}, {3, 3}})});
        add({.name = "dict: update",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     has().dict.update({{1, 10}, {3, 30}});
                     sh.done = 1;
                 },
             .check = dict_is({{1, 10}, {2, 2}, {3, 30}})});
        add({.name = "list: extend",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     has().list.extend({4, 5, 6});
                     sh.done = 1;
                 },
             .check =
                 [this] {
                     return lab_.one_of(has().list.copy(), {1, 2, 3}, {1, 2, 3, 4, 5, 6});
                 }});
        add({.name = "Array: assign and copy",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     has().array.assign(std::vector{4, 5, 6});
                     sh.done = 1;
                     if (has().array.copy() != std::vector{4, 5, 6}) sh.wrong = 1;
                 },
             .check =
                 [this] {
                     return lab_.one_of(has().array.copy(), {1, 2, 3}, {4, 5, 6});
                 }});
    }

    // What is counted: verdict() looks.
    void references() {
        const auto warm = [this] { has().list.size(); };
        const auto fine = [] { return 0; };
        add({.name = "make an object",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     mine_ = lab_.manager.list<int>({1, 2});
                 },
             .check = fine});
        add({.name = "make an object and drop it",
             .reset = {},
             .prepare = warm,
             .operation = [this] { lab_.manager.create<Tally>(1); },
             .check = fine});
        add({.name = "drop the last proxy",
             .reset = {},
             .prepare =
                 [this] {
                     mine_ = lab_.manager.list<int>({1, 2});
                 },
             .operation = [this] { mine_ = {}; },
             .check = fine});
        add({.name = "drop one of two proxies",
             .reset = {},
             .prepare =
                 [this, warm] {
                     warm();
                     mine_ = has().list;
                     has().lists.put(mine_);
                     mine_ = has().lists.get();  // counted once more
                 },
             .operation = [this] { mine_ = {}; },
             .check =
                 [this] {
                     return lab_.one_of(has().list.copy(), {1, 2, 3}, {1, 2, 3});
                 }});
        add({.name = "keep a proxy in another object",
             .reset = {},
             .prepare =
                 [this] {
                     mine_ = lab_.manager.list<int>({1, 2, 3});
                     has().lists.qsize();
                 },
             .operation =
                 [this] {
                     has().lists.put(mine_);
                     sh.done = 1;
                 },
             .check = [this] { return drain_lists(sh.done, 1); }});
        add({.name = "take a proxy out of another object",
             .reset =
                 [this](bystanders&) {
                     has().lists.put(lab_.manager.list<int>({1, 2, 3}));
                 },
             .prepare = [this] { has().lists.qsize(); },
             .operation =
                 [this] {
                     if (has().lists.get().size() != 3) sh.wrong = 1;
                     sh.done = 1;
                 },
             .check = [this] { return drain_lists(0, 1 - sh.done); }});
    }
    int drain_lists(int least, int most) {
        int n = 0;
        for (; auto got = has().lists.try_get(); ++n)
            if (got->copy() != std::vector{1, 2, 3}) return wrong_value;
        return n < least ? item_lost : n > most ? item_twice : 0;
    }

    /// The messages that are in the queue, each with a proxy of {1, 2, 3}.
    int drain_ring(int least, int most) {
        int n = 0;
        for (; auto got = lab_.ring->try_get(); ++n)
            if (got->copy() != std::vector{1, 2, 3}) return wrong_value;
        return n < least ? item_lost : n > most ? item_twice : 0;
    }
    void messages() {
        const auto warm = [this] {
            has().list.size();
            lab_.ring->try_get();
        };
        add({.name = "send a proxy that others have",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     lab_.ring->put(has().list);
                     sh.done = 1;
                 },
             .check = [this] { return drain_ring(sh.done, 1); }});
        add({.name = "send a proxy that nobody else has",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     lab_.ring->put(lab_.manager.list<int>({1, 2, 3}));
                     sh.done = 1;
                 },
             .check =
                 [this] {
                     try {
                         return drain_ring(sh.done, 1);
                     } catch (const mp::Error& e) {  // it went with its sender, and that is said
                         return std::strstr(e.what(), "is gone") ? 0 : int{wrong_value};
                     }
                 }});
        // Its sender lives on, without a proxy of its own.
        add({.name = "receive a proxy",
             .reset =
                 [this](bystanders& others) {
                     others.spawn([this] {
                         lab_.ring->put(lab_.manager.list<int>({1, 2, 3}));
                         sh.began = 1;
                         return comes(sh.go, 1, patience) ? 0 : helper_asleep;
                     });
                     comes(sh.began, 1);
                 },
             .prepare = [this] { has().list.size(); },
             .operation =
                 [this] {
                     if (lab_.ring->get().size() != 3) sh.wrong = 1;
                     sh.done = 1;
                 },
             .check =
                 [this] {
                     const int r = drain_ring(0, 1 - sh.done);
                     sh.go = 1;
                     return r;
                 }});
        add({.name = "receive a proxy whose sender has ended",
             .reset =
                 [this](bystanders& others) {
                     others.run([this] {
                         lab_.ring->put(has().list);
                         return 0;
                     });
                 },
             .prepare = [this] { has().list.size(); },
             .operation =
                 [this] {
                     if (lab_.ring->get().size() != 3) sh.wrong = 1;
                     sh.done = 1;
                 },
             .check = [this] { return drain_ring(0, 1 - sh.done); }});
    }

    /// K3, K4: the child may live on, or never begin.
    void processes() {
        const auto prepare = [this] {
            has().list.size();
            family::join();
            // A tracer would be told of the child's end, as of a step.
            sigset_t ends;
            sigemptyset(&ends);
            sigaddset(&ends, SIGCHLD);
            ::sigprocmask(SIG_BLOCK, &ends, nullptr);
        };
        const auto append = [](mp::ListProxy<int>& to) {
            try {
                to.append(4);
                if (to.size() != 4) sh.wrong = 1;
                sh.awake = 1;
            } catch (const mp::Error&) {  // its parent was killed before it could give it
            }
        };
        const auto run = [](mp::Process child) {
            child.start();
            sh.inside = 1;
            child.join();
            sh.done = 1;
        };
        const auto child_used_it = [] { return sh.inside == 1 && sh.awake == 0 ? not_done : 0; };
        add({.name = "start a Process with a proxy that others have",
             .reset = {},
             .prepare = prepare,
             .operation = [this, append, run] { run(mp::Process(append, has().list)); },
             .check =
                 [this, child_used_it] {
                     family::wait_for_end();
                     if (const int r = child_used_it()) return r;
                     return lab_.one_of(has().list.copy(), {1, 2, 3}, {1, 2, 3, 4});
                 },
             .stride = 17});
        add({.name = "start a Process with a proxy that nobody else has",
             .reset = {},
             .prepare = prepare,
             .operation =
                 [this, append, run] {
                     run(mp::Process(append, lab_.manager.list<int>({1, 2, 3})));
                 },
             .check =
                 [child_used_it] {
                     family::wait_for_end();
                     return int{child_used_it()};
                 },
             .stride = 17});
    }

    // --- locks

    /// Takes the lock, by the way it can, and gives it back.
    template <class L>
    static int visitor(const L& lock) {
        try {
            lock.lock();
        } catch (const mp::AbandonedLock&) {
            lock.recover();
        }
        lock.unlock();
        ++sh.awake;
        return 0;
    }
    /// Another client has it until `go` is 1: then it gives it back; or 2: then it ends with it.
    template <class L>
    static void somebody_has(bystanders& others, const L& lock) {
        others.spawn([&lock] {
            lock.lock();
            sh.began = 1;
            if (!comes(sh.go, 1, patience)) return int{helper_asleep};
            if (sh.go == 1) lock.unlock();
            return 0;
        });
        comes(sh.began, 1);
    }
    static void let_go() {
        if (sh.go == 0) sh.go = 1;
    }

    void locks() {
        const auto warm = [this] { has().lock.locked(); };
        const auto acquire = [this] {
            has().lock.lock();
            sh.inside = 1;
        };
        const auto release = [this] {
            sh.inside = 0;
            has().lock.unlock();
            sh.done = 1;
        };
        const auto taken = [this](bystanders& others) { somebody_has(others, has().lock); };
        const auto abandoned = [this](bystanders& others) {
            others.run([this] {
                has().lock.lock();
                return 0;
            });
            eventually([this] { return has().lock.locked(); }, soon);
        };
        const auto check = [this] {
            let_go();
            return lab_.check_lock(has().lock);
        };
        add({.name = "Lock: acquire, free",
             .reset = {},
             .prepare = warm,
             .operation = acquire,
             .check = check});
        add({.name = "Lock: release, nobody waits",
             .reset = {},
             .prepare = acquire,
             .operation = release,
             .check = check});
        add({.name = "Lock: acquire, must wait",
             .reset = taken,
             .prepare = warm,
             .operation = acquire,
             .on_block = go_after([] {}),
             .check = check});
        add({.name = "Lock: acquire, must wait, and others before it",
             .reset =
                 [this, taken](bystanders& others) {
                     taken(others);
                     wait_in(others, [this] { return visitor(has().lock); });
                 },
             .prepare = warm,
             .operation = acquire,
             .on_block = go_after([] {}),
             .check =
                 [this] {
                     let_go();
                     return lab_.check_visited(has().lock, 1);
                 }});
        add({.name = "Lock: acquire, its holder dies",
             .reset = taken,
             .prepare = warm,
             .operation =
                 [acquire] {
                     try {
                         acquire();
                     } catch (const mp::AbandonedLock&) {
                     }
                 },
             .on_block = [](bystanders&) { sh.go = 2; },
             .check =
                 [this] {
                     let_go();
                     return lab_.heal(has().lock);
                 },
             .stride = 3,
             .runtime_stride = unwinding});
        add({.name = "Lock: release, another waits",
             .reset =
                 [this](bystanders& others) {
                     others.spawn([this] {
                         if (!comes(sh.inside, 1, patience)) return int{helper_asleep};
                         ++sh.began;
                         return visitor(has().lock);
                     });
                 },
             .prepare =
                 [acquire] {
                     acquire();
                     comes(sh.began, 1);
                 },
             .operation = release,
             .check = [this] { return lab_.check_visited(has().lock, 1); }});
        add({.name = "Lock: recover and release",
             .reset = abandoned,
             .prepare = warm,
             .operation =
                 [this] {
                     has().lock.recover();
                     sh.began = sh.inside = 1;
                     sh.inside = 0;
                     has().lock.unlock();
                     sh.done = 1;
                 },
             .check = [this] {  // began says that the next owner need not find it abandoned
                 return lab_.check_lock(has().lock, true);
             }});
        add({.name = "Value: lock, change, unlock",
             .reset = {},
             .prepare = [this] { has().value.get(); },
             .operation =
                 [this] {
                     has().value.lock();
                     sh.inside = 1;
                     has().value.set(has().value.get() + 1);
                     sh.inside = 0;
                     has().value.unlock();
                     sh.done = 1;
                 },
             .check =
                 [this] {
                     if (const int r = lab_.check_lock(has().value)) return r;
                     return lab_.one_of(has().value.get(), 1, 2);
                 }});
        add({.name = "Value: the same, another waits",
             .reset =
                 [this](bystanders& others) {
                     somebody_has(others, has().value);
                     wait_in(others, [this] { return visitor(has().value); });
                 },
             .prepare = [this] { has().value.get(); },
             .operation =
                 [this] {
                     has().value.lock();
                     has().value.set(has().value.get() + 1);
                     has().value.unlock();
                     sh.done = 1;
                 },
             .on_block = go_after([] {}),
             .check =
                 [this] {
                     let_go();
                     if (const int r = lab_.check_visited(has().value, 1)) return r;
                     return lab_.one_of(has().value.get(), 1, 2);
                 }});
    }

    // --- Semaphore, Condition, Event, Barrier

    void waits() {
        semaphores();
        conditions();
        const auto has_event = [this] { has().event.is_set(); };
        const auto event_works = [this] {
            has().event.set();
            if (!has().event.wait(soon)) return int{not_usable};
            has().event.clear();
            return has().event.is_set() ? int{not_usable} : 0;
        };
        add({.name = "Event: wait",
             .reset = {},
             .prepare = has_event,
             .operation = [this] { has().event.wait(); },
             .on_block = go_after([this] { has().event.set(); }),
             .check = event_works});
        add({.name = "Event: set, two wait",
             .reset =
                 [this](bystanders& others) {
                     for (int i = 0; i < 2; ++i)
                         wait_in(others, [this] {
                             has().event.wait();
                             ++sh.awake;
                             return 0;
                         });
                 },
             .prepare = has_event,
             .operation =
                 [this] {
                     has().event.set();
                     sh.done = 1;
                 },
             .check =
                 [event_works] {
                     if (sh.done == 1 && !comes(sh.awake, 2)) return int{helper_asleep};
                     const int r = event_works();
                     return comes(sh.awake, 2) ? r : int{helper_asleep};
                 }});
        barriers();
    }

    void semaphores() {
        const auto warm = [this] { has().units.value(); };
        const auto taker = [this] {
            has().units.acquire();
            ++sh.awake;
            return 0;
        };
        const auto works = [this] {
            const std::size_t before = has().units.value();
            has().units.release();
            if (!has().units.try_acquire_for(soon)) return int{not_usable};
            return has().units.value() == before ? 0 : int{not_usable};
        };
        add({.name = "Semaphore: acquire, a unit is there",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     has().units.acquire();
                     sh.done = 1;
                 },
             .check =
                 [this, works] {
                     const int r = lab_.one_of<std::size_t>(has().units.value(), 1, 0);
                     return r != 0 ? r : works();
                 }});
        add({.name = "Semaphore: acquire, must wait",
             .reset = [this](bystanders&) { has().units.acquire(); },
             .prepare = warm,
             .operation =
                 [this] {
                     has().units.acquire();
                     sh.done = 1;
                 },
             .on_block = go_after([this] { has().units.release(); }),
             .check =
                 [this, works] {
                     if (sh.go == 0) has().units.release();  // passes over the dead
                     if (sh.go == 0 && !has().units.try_acquire_for(soon)) return int{item_lost};
                     if (has().units.value() > (sh.go == 1 && sh.done == 0 ? 1u : 0u))
                         return int{item_twice};
                     return works();
                 }});
        add({.name = "Semaphore: release, another waits",
             .reset =
                 [this, taker](bystanders& others) {
                     has().units.acquire();
                     wait_in(others, taker);
                 },
             .prepare = warm,
             .operation =
                 [this] {
                     has().units.release();
                     sh.done = 1;
                 },
             .check =
                 [this, works] {
                     if (sh.done == 1 && !comes(sh.awake, 1)) return int{helper_asleep};
                     has().units.release();
                     if (!comes(sh.awake, 1)) return int{helper_asleep};
                     if (has().units.value() > 1) return int{item_twice};
                     return works();
                 }});
    }

    /// Waits for a notify, with whatever it takes to have the lock.
    int wait_for_notify() {
        const auto& condition = has().condition;
        try {
            condition.lock();
        } catch (const mp::AbandonedLock&) {
            condition.recover();
        }
        ++sh.began;
        try {
            condition.wait();
        } catch (const mp::AbandonedLock&) {  // notified, and the last holder died
            condition.recover();
        }
        ++sh.awake;
        condition.unlock();
        return 0;
    }
    /// Whoever has begun to wait has given the lock.
    int notify(std::size_t n) {
        const auto& condition = has().condition;
        try {
            if (!condition.acquire(soon)) return still_held;
        } catch (const mp::AbandonedLock&) {
            if (!condition.recover(soon)) return not_recovered;
        }
        condition.notify(n);
        condition.unlock();
        return 0;
    }
    void conditions() {
        const auto take = [this] {
            has().condition.lock();
            sh.inside = 1;
        };
        const auto wait = [this] {
            has().condition.wait();
            has().condition.unlock();
        };
        const auto one_waits = [this](bystanders& others) {
            others.spawn([this] { return wait_for_notify(); });
            comes(sh.began, 1);
        };
        // One notify will do, also if the victim is the oldest one: it passes over the dead.
        const auto notify_one = [this] {
            if (!comes(sh.began, 1)) return int{helper_asleep};
            if (const int r = notify(1)) return r;
            if (!comes(sh.awake, 1)) return int{helper_asleep};
            return lab_.heal(has().condition);
        };
        add({.name = "Condition: wait, another one behind it",
             .reset =
                 [this](bystanders& others) {
                     others.spawn([this] {
                         if (!comes(sh.inside, 1, patience)) return int{helper_asleep};
                         return wait_for_notify();
                     });
                 },
             .prepare = take,
             .operation = wait,
             .on_block = go_after([this] {
                 comes(sh.began, 1);
                 notify(1);
             }),
             .check = notify_one});
        add({.name = "Condition: wait, another one before it",
             .reset = one_waits,
             .prepare =
                 [this] {
                     has().condition.lock();  // the helper is in wait() then
                 },
             .operation = wait,
             .on_block = go_after([this] { notify(2); }),
             .check = notify_one});
        add({.name = "Condition: notify, two wait",
             .reset =
                 [this](bystanders& others) {
                     for (int i = 1; i <= 2; ++i) {
                         others.spawn([this] { return wait_for_notify(); });
                         comes(sh.began, i);
                     }
                 },
             .prepare = take,
             .operation =
                 [this] {
                     has().condition.notify();
                     has().condition.unlock();
                     sh.done = 1;
                 },
             .check =
                 [this] {
                     if (sh.done == 1 && !comes(sh.awake, 1)) return int{helper_asleep};
                     if (const int r = lab_.heal(has().condition)) return r;
                     // Who is told that the lock is abandoned hands its notify on.
                     if (sh.done == 1 && sh.awake > 1) return int{too_many_awake};
                     for (int n = sh.awake; n < 2; ++n)
                         if (const int r = notify(1)) return r;
                     return comes(sh.awake, 2) ? 0 : int{helper_asleep};
                 }});
    }

    int party() {
        try {
            has().barrier.wait();
            ++sh.awake;
        } catch (const mp::BrokenBarrier&) {
            ++sh.broken;
        }
        return 0;
    }
    /// All of a round end alike, and the next one works.
    int barrier_works(int parties) {
        has().barrier.abort();
        if (!eventually([&] { return sh.awake + sh.broken == parties; }, soon))
            return helper_asleep;
        if (sh.awake != 0 && sh.broken != 0) return of_two_minds;
        if (sh.done == 1 && sh.broken != 0) return of_two_minds;
        has().barrier.reset();
        if (has().barrier.broken() || has().barrier.n_waiting() != 0) return not_usable;
        const pid_t other =
            fork_child([this] { return has().barrier.wait(soon) < 2 ? 0 : int{not_usable}; });
        const bool went = has().barrier.wait(soon) < 2;
        return bystanders::end_of(other, soon) == 0 && went ? 0 : not_usable;
    }
    void barriers() {
        const auto warm = [this] { has().barrier.parties(); };
        const auto wait = [this] {
            has().barrier.wait();
            sh.done = 1;
        };
        add({.name = "Barrier: wait, the last",
             .reset =
                 [this](bystanders& others) {
                     others.spawn([this] { return party(); });
                     eventually([this] { return has().barrier.n_waiting() == 1; }, soon);
                 },
             .prepare = warm,
             .operation = wait,
             .check = [this] { return barrier_works(1); }});
        add({.name = "Barrier: wait, the first",
             .reset = {},
             .prepare = warm,
             .operation = wait,
             .on_block =
                 [this](bystanders& others) {
                     others.spawn([this] { return party(); });
                     sh.go = eventually([] { return sh.awake + sh.broken == 1; }, soon);
                 },
             .check = [this] { return barrier_works(sh.go); }});
        add({.name = "Barrier: wait, the first, and the other one comes after its death",
             .reset =
                 [this](bystanders& others) {
                     others.spawn([this] {
                         return comes(sh.dead, 1, patience) ? party() : int{helper_asleep};
                     });
                 },
             .prepare = warm,
             .operation = wait,
             .check =
                 [this] {
                     sh.dead = 1;
                     eventually(
                         [this] {
                             return sh.awake + sh.broken == 1 || has().barrier.n_waiting() == 1;
                         },
                         soon);
                     return barrier_works(1);
                 }});
    }

    // --- Queue, JoinableQueue

    void queues() {
        const auto warm = [this] { has().numbers.qsize(); };
        const auto full = [this](bystanders&) { has().numbers.put(7); };
        const auto put = [this](int n) {
            return [this, n] {
                has().numbers.put(n);
                sh.done = 1;
            };
        };
        const auto get = [this] {
            sh.got = has().numbers.get();
            sh.done = 1;
        };
        add({.name = "Queue: put",
             .reset = {},
             .prepare = warm,
             .operation = put(7),
             .check = [this] { return lab_.arrives(7, sh.done, 1); }});
        add({.name = "Queue: put, another waits",
             .reset =
                 [this](bystanders& others) {
                     wait_in(others, [this] {
                         sh.got = has().numbers.get();
                         ++sh.awake;
                         return 0;
                     });
                 },
             .prepare = warm,
             .operation = put(7),
             .check =
                 [this] {
                     if (sh.done == 1 && !comes(sh.awake, 1)) return int{helper_asleep};
                     if (sh.awake == 0) has().numbers.put(7, soon);
                     if (!comes(sh.awake, 1)) return int{helper_asleep};
                     if (sh.got != 7) return int{wrong_value};
                     return lab_.arrives(7, 0, 1 - sh.done);
                 }});
        add({.name = "Queue: put, must wait",
             .reset = full,
             .prepare = warm,
             .operation = put(9),
             .on_block = go_after([this] { sh.got = has().numbers.get(); }),
             .check = [this] {
                 if (sh.go == 0) sh.got = has().numbers.get(soon);
                 return sh.got != 7 ? int{wrong_value} : lab_.arrives(9, sh.done, 1);
             }});
        add({.name = "Queue: get",
             .reset = full,
             .prepare = warm,
             .operation = get,
             .check = [this] {
                 if (sh.done == 1 && sh.got != 7) return int{wrong_value};
                 return lab_.arrives(7, 0, 1 - sh.done);
             }});
        add({.name = "Queue: get, must wait",
             .reset = {},
             .prepare = warm,
             .operation = get,
             .on_block = go_after([this] { has().numbers.put(7); }),
             .check = [this] { return lab_.arrives(7, 0, sh.go - sh.done); }});
        add({.name = "Queue: get, must wait, and another one before it",
             .reset =
                 [this](bystanders& others) {
                     wait_in(others, [this] {
                         sh.broken = has().numbers.get();
                         ++sh.awake;
                         return 0;
                     });
                 },
             .prepare = warm,
             .operation = get,
             .on_block = go_after([this] {
                 has().numbers.put(7);
                 has().numbers.put(7);
             }),
             .check =
                 [this] {
                     if (sh.go == 0) has().numbers.put(7, soon);
                     if (!comes(sh.awake, 1)) return int{helper_asleep};
                     return sh.broken != 7 ? int{wrong_value} : lab_.arrives(7, 0, sh.go - sh.done);
                 }});
        // What it does not take, though it was woken for it, the next one gets.
        add({.name = "Queue: get, must wait, and another one behind it",
             .reset = {},
             .prepare = warm,
             .operation = get,
             .on_block =
                 [this](bystanders& others) {
                     wait_in(others, [this] {
                         sh.broken = has().numbers.get();
                         ++sh.awake;
                         return 0;
                     });
                     has().numbers.put(7);
                     sh.go = 1;
                 },
             .check =
                 [this] {
                     if (sh.go == 0) return lab_.arrives(7, 0, 0);
                     has().numbers.put(7, soon);
                     if (!comes(sh.awake, 1)) return int{helper_asleep};
                     return sh.broken != 7 ? int{wrong_value} : lab_.arrives(7, 0, 1 - sh.done);
                 }});
        add({.name = "Queue: get, another waits for room",
             .reset =
                 [this, full](bystanders& others) {
                     full(others);
                     wait_in(others, [this] {
                         has().numbers.put(9);
                         ++sh.awake;
                         return 0;
                     });
                 },
             .prepare = warm,
             .operation = get,
             .check =
                 [this] {
                     if (sh.done == 1 && !comes(sh.awake, 1)) return int{helper_asleep};
                     int first = has().numbers.get(soon);
                     if (first == 7 && sh.done == 0) first = has().numbers.get(soon);
                     if (first != 9) return int{item_lost};
                     return comes(sh.awake, 1) ? lab_.arrives(9, 0, 0) : int{helper_asleep};
                 }});

        const auto one_unfinished = [this](bystanders&) {
            has().jobs.put(1);
            has().jobs.get();
        };
        const auto warm_jobs = [this] { has().jobs.qsize(); };
        add({.name = "JoinableQueue: task_done, another joins",
             .reset =
                 [this, one_unfinished](bystanders& others) {
                     one_unfinished(others);
                     wait_in(others, [this] {
                         has().jobs.join();
                         ++sh.awake;
                         return 0;
                     });
                 },
             .prepare = warm_jobs,
             .operation =
                 [this] {
                     has().jobs.task_done();
                     sh.done = 1;
                 },
             .check =
                 [this] {
                     if (sh.done == 1 && !comes(sh.awake, 1)) return int{helper_asleep};
                     try {
                         if (!has().jobs.join(0s)) has().jobs.task_done();
                     } catch (const mp::Error&) {  // the victim's was later than our look
                     }
                     if (!has().jobs.join(soon)) return int{not_usable};
                     return comes(sh.awake, 1) ? 0 : int{helper_asleep};
                 }});
        add({.name = "JoinableQueue: join",
             .reset = one_unfinished,
             .prepare = warm_jobs,
             .operation = [this] { has().jobs.join(); },
             .on_block = go_after([this] { has().jobs.task_done(); }),
             .check =
                 [this] {
                     if (sh.go == 0) has().jobs.task_done();
                     return has().jobs.join(soon) ? 0 : int{not_usable};
                 }});
    }

    void pools() {
        const auto warm = [this] { lab_.pool.processes(); };
        const auto works = [this] {
            return lab_.pool.apply(plus_one{}, 5) == 6 ? 0 : int{not_usable};
        };
        add({.name = "Pool: apply",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     if (lab_.pool.apply(plus_one{}, 3) != 4) sh.wrong = 1;
                 },
             .check = works});
        add({.name = "Pool: apply_async, get",
             .reset = {},
             .prepare = warm,
             .operation =
                 [this] {
                     if (lab_.pool.apply_async(plus_one{}, 3).get() != 4) sh.wrong = 1;
                 },
             .check = works});
        add({.name = "Pool: make one, and drop it",
             .reset = {},
             .prepare = warm,
             .operation = [this] { lab_.manager.Pool(1); },
             .check =
                 [this, works] {
                     const int r = works();
                     return lab_.children_gone() ? r : int{child_left};
                 },
             .stride = 31});
    }

    kill_sweep& to_;
    client_lab& lab_;
    mp::ListProxy<int> mine_;
};

}  // namespace

int main(int argc, char** argv) {
    // A `rep movsb` is a step a byte. The sweep starts the program again.
    ::setenv("GLIBC_TUNABLES",
             "glibc.cpu.x86_rep_movsb_threshold=0x1000000:"
             "glibc.cpu.x86_rep_stosb_threshold=0x1000000",
             0);
    test::kill_sweep sweep(argc, argv);
    client_lab lab;
    client_scenarios all(sweep, lab);
    all.add_all();
    return sweep.run();
}
