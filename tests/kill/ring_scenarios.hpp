// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What is killed: every operation of the ring in every state that it treats differently, with
/// others asleep where it wakes them. In groups, so that a planted bug instantiates what finds it.

#include <cstdint>
#include <functional>
#include <thread>

#include "ring_lab.hpp"
#include "support/own_clock.hpp"

namespace test {

using scenarios = std::vector<scenario>;

template <class Lab>
scenarios put_scenarios(Lab& lab) {
    constexpr auto S = Lab::S;
    const auto op = [&lab] { lab.put_ready(); };
    scenarios all;
    const auto add = [&](const char* name, int k, std::size_t size, auto reset, auto check) {
        all.push_back({.name = name,
                       .reset =
                           [&lab, k, size, reset](bystanders& others) {
                               lab.ready(k, size);
                               lab.fresh();
                               reset(others);
                           },
                       .operation = op,
                       .check = check});
    };

    add(
        "put: new ring", 5, 64, [](bystanders&) {}, [&] { return lab.finish({}); });
    add(
        "put: empty", 5, 64, [&](bystanders&) { lab.put(1), lab.get_now(); },
        [&] { return lab.finish({}); });
    add(
        "put: half full", 5, 64, [&](bystanders&) { lab.put(1), lab.put(2, 200), lab.put(3, 900); },
        [&] {
            return lab.finish({1, 2, 3});
        });
    add(
        "put: backlog", 19, 64,
        [&](bystanders&) {
            for (int k = 1; k < 10; ++k) lab.put_segment(k);
            lab.put(10, 500);
        },
        [&] {
            return lab.finish({1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
        });
    add(
        "put: a getter asleep, one outside", 5, 64,
        [&](bystanders& others) {
            lab.put(1), lab.get_now();
            others.spawn_asleep([&] { return lab.getter(); });
            others.spawn_asleep([&] { return lab.getter(); });
        },
        [&] { return lab.feed(2, {}); });
    add(
        "put: segment change, SKIP, growth", 5, 600,
        [&](bystanders&) { lab.put(1, 1900), lab.put(2, 1900); },
        [&] {
            return lab.finish({1, 2});
        });
    add(
        "put: segment change, SKIP of 8 bytes", 5, 64,
        [&](bystanders&) { lab.put(1, 2024), lab.put(2, S - 8 - 2040 - 16); },
        [&] {
            return lab.finish({1, 2});
        });
    add(
        "put: segment change, a getter asleep", 5, 600,
        [&](bystanders& others) {
            lab.put(1, 3800), lab.get_now();
            others.spawn_asleep([&] { return lab.getter(); });
        },
        [&] { return lab.feed(1, {}); });
    add(
        "put: segment change into a used one", 9, 64,
        [&](bystanders&) {
            for (int k = 1; k < 6; ++k) lab.put_segment(k), lab.get_now();
            lab.put(6, S - 16 - 40);
        },
        [&] { return lab.finish({6}); });
    add(
        "put: 2 segments, with growth", 5, 5000, [&](bystanders&) { lab.put(1, 1000); },
        [&] { return lab.finish({1}); });
    add(
        "put: 3 segments, partly below top", 9, 9000,
        [&](bystanders&) {
            for (int k = 1; k < 9; ++k) {
                lab.put_segment(k);
                if (k < 7) lab.get_now();
            }
        },
        [&] {
            return lab.finish({7, 8});
        });
    add(
        "put: grows beyond the kept segments", 9, 64,
        [&](bystanders&) {
            for (int k = 1; k < 7; ++k) lab.put_segment(k);
        },
        [&] {
            return lab.finish({1, 2, 3, 4, 5, 6});
        });
    add(
        "put: with a deadline that is not needed", 5, 64, [&](bystanders&) { lab.put(1); },
        [&] { return lab.finish({1}); });
    all.back().operation = [&] { lab.put_ready(deadline::after(10s)); };
    add(
        "put: no segments left, throws", 50, 9000,
        [&](bystanders&) {
            for (int k = 1; k < 11; ++k) lab.put_segment(k);
        },
        [&] {
            return lab.q().qsize() == 10 ? lab.finish({1, 10}) : wrong_qsize;
        });
    all.back().operation = [&] {
        try {
            lab.put_ready();
        } catch (const multiprocessing::OsError&) {
        }
    };
    all.back().stride = 199;
    return all;
}

template <class Lab>
scenarios get_scenarios(Lab& lab) {
    constexpr auto S = Lab::S;
    scenarios all;
    const auto add = [&](const char* name, auto reset, auto check) {
        all.push_back({.name = name,
                       .reset =
                           [&lab, reset](bystanders& others) {
                               lab.fresh();
                               reset(others);
                           },
                       .operation = [&lab] { lab.get_box(); },
                       .check = check});
    };

    add(
        "get: half full", [&](bystanders&) { lab.put(1), lab.put(2, 200), lab.put(3, 900); },
        [&] {
            return lab.finish({2, 3});
        });
    add(
        "get: the last one", [&](bystanders&) { lab.put(1); }, [&] { return lab.finish({}); });
    add(
        "get: SKIP, segment change",
        [&](bystanders&) { lab.put(1, 3500), lab.get_now(), lab.put(2, 1000), lab.put(3); },
        [&] { return lab.finish({3}); });
    add(
        "get: SKIP of 8 bytes",
        [&](bystanders&) {
            lab.put(1, 2024), lab.put(2, S - 8 - 2040 - 16), lab.put(3), lab.put(4);
            lab.get_now(), lab.get_now();
        },
        [&] { return lab.finish({4}); });
    add(
        "get: 2 segments",
        [&](bystanders&) { lab.put(1, 1000), lab.get_now(), lab.put(2, 5000), lab.put(3); },
        [&] { return lab.finish({3}); });
    add(
        "get: backlog",
        [&](bystanders&) {
            for (int k = 1; k < 11; ++k) lab.put_segment(k);
        },
        [&] {
            return lab.finish({2, 3, 4, 5, 6, 7, 8, 9, 10});
        });
    add(
        "get: at once, of one", [&](bystanders&) { lab.put(1); }, [&] { return lab.finish({}); });
    all.back().operation = [&] { lab.get_box(deadline::at_once()); };
    add(
        "get: at once, of none", [&](bystanders&) { lab.put(1), lab.get_now(); },
        [&] { return lab.finish({}); });
    all.back().operation = [&] { lab.get_box(deadline::at_once()); };

    add(
        "get: full, a putter asleep, one outside",
        [&](bystanders& others) {
            lab.fresh(2);
            lab.put(1), lab.put(2);
            for (const int k : {3, 4}) others.spawn_asleep([&lab, k] { return lab.putter(k); });
        },
        [&] {
            return lab.make_room(2, {2, 3, 4});
        });
    add(
        "get: window full, a putter asleep",
        [&](bystanders& others) {
            lab.fresh(0, 1000);
            lab.put(1, 400), lab.put(2, 400);
            others.spawn_asleep([&] { return lab.putter(3, 300); });
        },
        [&]() -> int {
            if (lab.q().qsize() == 2 && lab.sh().sent == 0 && lab.head().count == 0)
                if (const int r = lab.get_now()) return r;
            if (!eventually([&] { return lab.sh().sent == 1; }, lab.soon)) return putter_asleep;
            return lab.finish({2, 3});
        });
    add(
        "get: window full, more than it asleep",
        [&](bystanders& others) {
            lab.fresh(0, 1000);
            lab.put(1, 400), lab.put(2, 400);
            others.spawn_asleep([&] { return lab.putter(3, 5000); });
        },
        [&]() -> int {
            if (lab.q().qsize() == 2 && lab.sh().sent == 0 && lab.head().count == 0)
                if (const int r = lab.get_now()) return r;
            if (!eventually([&] { return lab.sh().sent == 1; }, lab.soon)) return putter_asleep;
            return lab.finish({2, 3});
        });
    add(
        "get: window full, too early to wake",
        [&](bystanders& others) {
            lab.fresh(0, 2000);
            for (int k = 1; k <= 10; ++k) lab.put(k, 176);
            others.spawn_asleep([&] { return lab.putter(11, 176); });
        },
        [&]() -> int {  // only when a quarter is free
            if (lab.sh().sent != 0) return too_early_failed;
            while (lab.head().count < 3)
                if (const int r = lab.get_now()) return r;
            if (!eventually([&] { return lab.sh().sent == 1; }, lab.soon)) return putter_asleep;
            return lab.finish({4, 5, 6, 7, 8, 9, 10, 11});
        });
    return all;
}

/// Operations that sleep, and are woken or not.
template <class Lab>
scenarios wait_scenarios(Lab& lab) {
    scenarios all;
    all.push_back({.name = "get: asleep, woken by put, one outside",
                   .reset = [&](bystanders&) { lab.fresh(); },
                   .operation = [&] { lab.get_box(); },
                   .on_block =
                       [&](bystanders& others) {
                           others.spawn_asleep([&] { return lab.getter(); });
                           others.run([&] { return lab.put(1) ? 0 : 1; });
                           lab.sh().go = 1;
                       },
                   .check = [&] { return lab.sh().go ? lab.feed(1, {}) : lab.finish({}); }});
    all.push_back({.name = "get: outside, woken by the one before",
                   .reset =
                       [&](bystanders& others) {
                           lab.fresh();
                           others.spawn_asleep([&] { return lab.getter(); });
                       },
                   .operation = [&] { lab.get_box(); },
                   .on_block =
                       [&](bystanders& others) {
                           others.spawn_asleep([&] { return lab.getter(); });
                           others.run([&] { return lab.put(1) && lab.put(2) ? 0 : 1; });
                           lab.sh().go = 1;
                       },
                   .check = [&] { return lab.feed(lab.sh().go ? 2 : 1, {}); }});
    all.push_back({.name = "put: asleep when full, woken, one outside",
                   .reset =
                       [&](bystanders&) {
                           lab.ready(3, 64);
                           lab.fresh(1);
                           lab.put(1);
                       },
                   .operation = [&] { lab.put_ready(); },
                   .on_block =
                       [&](bystanders& others) {
                           others.spawn_asleep([&] { return lab.putter(4); });
                           others.run([&] { return lab.get_now(); });
                           lab.sh().go = 1;
                       },
                   .check =
                       [&] {
                           return lab.sh().go ? lab.make_room(1, {1, 4}) : lab.finish({1});
                       }});
    all.push_back({.name = "put: outside, woken by the one before",
                   .reset =
                       [&](bystanders& others) {
                           lab.ready(13, 64);
                           lab.fresh(1);
                           lab.put(1);
                           others.spawn_asleep([&] { return lab.putter(4); });
                       },
                   .operation = [&] { lab.put_ready(); },
                   .on_block =
                       [&](bystanders& others) {
                           others.run([&] { return lab.get_now(); });
                           eventually([&] { return lab.sh().sent == 1; }, 1s);
                           others.run([&] { return lab.get_now(); });
                       },
                   .check =
                       [&] {
                           return lab.make_room(1, {1, 4});
                       }});
    all.push_back(
        {.name = "put: more than the window, waits",
         .reset =
             [&](bystanders&) {
                 lab.ready(3, 5000);
                 lab.fresh(0, 1000);
                 lab.put(1, 400), lab.put(2, 400);
             },
         .operation = [&] { lab.put_ready(); },
         .on_block = [&](bystanders& others) { others.run([&] { return lab.get_now(); }); },
         .check =
             [&] {
                 return lab.finish({1, 2});
             }});
    all.push_back({.name = "put: more than the window, at once",
                   .reset =
                       [&](bystanders&) {
                           lab.ready(3, 5000);
                           lab.fresh(0, 1000);
                           lab.put(1, 400);
                       },
                   .operation = [&] { lab.put_ready(deadline::at_once()); },
                   .check = [&] { return lab.finish({1}); }});
    return all;
}

template <class Lab>
scenarios timeout_scenarios(Lab& lab) {
    static constexpr auto a_while = 40ms;  // longer than the steps up to the sleep take
    scenarios all;
    const auto add = [&](const char* name, auto reset, auto operation, auto check) {
        all.push_back({.name = name,
                       .reset =
                           [&lab, reset](bystanders& others) {
                               lab.ready(3, 64);
                               lab.fresh();
                               reset(others);
                           },
                       .operation = operation,
                       .check = check,
                       .wakes_itself = true});
    };
    const auto hold = [&lab](bystanders& others, mpd::robust_mutex& lock) {
        others.spawn([&lab, &lock] {
            const mpd::held it(lock, deadline::never());
            lab.sh().sent = 1;
            return eventually([&] { return lab.sh().go != 0; }) ? 0 : 1;
        });
        eventually([&] { return lab.sh().sent == 1; });
    };

    add(
        "get: times out", [](bystanders&) {}, [&] { lab.get_box(deadline::after(a_while)); },
        [&] { return lab.finish({}); });
    add(
        "get: times out outside the room",
        [&](bystanders& others) { others.spawn_asleep([&] { return lab.getter(); }); },
        [&] { lab.get_box(deadline::after(a_while)); }, [&] { return lab.feed(1, {}); });
    add(
        "get: times out at the lock",
        [&, hold](bystanders& others) { hold(others, lab.q().shared().get.lock); },
        [&] { lab.get_box(deadline::after(a_while)); },
        [&]() -> int {
            lab.sh().go = 1;
            return lab.get(deadline::after(2ms)) == nothing_there ? lab.finish({}) : got_from_empty;
        });
    add(
        "put: times out", [&](bystanders&) { lab.fresh(1), lab.put(1); },
        [&] { lab.put_ready(deadline::after(a_while)); }, [&] { return lab.finish({1}); });
    add(
        "put: full, at once", [&](bystanders&) { lab.fresh(1), lab.put(1); },
        [&] { lab.put_ready(deadline::at_once()); }, [&] { return lab.finish({1}); });
    add(
        "put: times out at the lock",
        [&, hold](bystanders& others) { hold(others, lab.q().shared().put.lock); },
        [&] { lab.put_ready(deadline::after(a_while)); },
        [&] {
            lab.sh().go = 1;
            return lab.finish({});
        });
    add(
        "put: at once, at the lock",
        [&, hold](bystanders& others) {
            lab.q().patience = 20ms;
            hold(others, lab.q().shared().put.lock);
        },
        [&] { lab.put_ready(deadline::at_once()); },
        [&] {
            lab.sh().go = 1;
            lab.q().patience = 10s;
            return lab.finish({});
        });
    add(
        "join: times out", [&](bystanders&) { lab.put(1); },
        [&] { lab.q().join(deadline::after(a_while)); }, [&] { return lab.finish({1}); });
    return all;
}

template <class Lab>
scenarios shrink_scenarios(Lab& lab) {
    scenarios all;
    // Six segments laid, the upper two free; then `rounds` segments pass by.
    const auto old_top = [&lab](int rounds) {
        lab.ready(50, 9000);
        lab.fresh();
        for (int k = 1; k < 7; ++k) lab.put_segment(k);
        lab.drain();
        for (int i = 0; i < rounds; ++i) lab.put_segment(50), lab.get_box();
    };
    int rounds = 0;
    while (rounds < 50 && (old_top(rounds), lab.q().shared().top >= 6)) ++rounds;
    all.push_back({.name = "put: gives a segment back",
                   .reset = [=](bystanders&) { old_top(rounds - 1); },
                   .operation = [&] { lab.put_ready(); },
                   .check = [&] { return lab.finish({}); }});
    all.push_back({.name = "put: finishes a shrink",
                   .reset =
                       [&lab, old_top](bystanders&) {
                           old_top(2);
                           lab.die_holding(lab.q().shared().put.lock,
                                           [&] { lab.q().shared().top -= 1; });
                       },
                   .operation = [&] { lab.put_ready(); },
                   .check = [&] { return lab.finish({}); }});
    const auto backlog = [&lab] {
        lab.fresh();
        for (int k = 1; k < 8; ++k) lab.put_segment(k);
        lab.drain();
    };
    const auto look_soon = [&lab] { lab.q().patience = 15ms; };
    all.push_back({.name = "get: gives back three segments, asleep",
                   .reset = [=](bystanders&) { backlog(); },
                   .prepare = look_soon,
                   .operation = [&] { lab.get_box(); },
                   .check = [&] { return lab.finish({}); },
                   .wakes_itself = true});
    all.push_back({.name = "get: finishes a shrink and a growth, asleep",
                   .reset =
                       [&lab, backlog](bystanders&) {
                           backlog();
                           lab.die_holding(lab.q().shared().put.lock, [&] {
                               mpd::ring_shared& shared = lab.q().shared();
                               lab.q().memory().allocate(lab.q().data_begin() + 7 * lab.S, lab.S);
                               shared.limit = 8;
                               shared.top = 6;
                           });
                       },
                   .prepare = look_soon,
                   .operation = [&] { lab.get_box(); },
                   .check = [&] { return lab.finish({}); },
                   .wakes_itself = true});
    all.push_back({.name = "get: gives back, another getter outside",
                   .reset = [=](bystanders&) { backlog(); },
                   .prepare = look_soon,
                   .operation = [&] { lab.get_box(); },
                   .on_block =
                       [&](bystanders& others) {
                           others.spawn_asleep([&] { return lab.getter(); });
                           lab.sh().go = 1;
                       },
                   .check = [&] { return lab.sh().go ? lab.feed(1, {}) : lab.finish({}); },
                   .wakes_itself = true,
                   .stride = 3});
    return all;
}

/// The one who repairs is killed too.
template <class Lab>
scenarios recovery_scenarios(Lab& lab) {
    scenarios all;
    all.push_back({.name = "recovery of the put lock by put",
                   .reset =
                       [&](bystanders&) {
                           lab.ready(5, 600);
                           lab.fresh();
                           lab.put(1, 1900), lab.put(2, 1900);
                           // It had laid and grown, one without the other.
                           lab.die_holding(lab.q().shared().put.lock, [&] {
                               lab.q().laid()[1] = 2;
                               lab.q().laid()[2] = 3;
                               const_cast<std::uint32_t*>(lab.q().map())[1] = 2;
                               lab.q().shared().limit = 3;
                               lab.q().memory().allocate(lab.q().data_begin() + lab.S, lab.S);
                           });
                       },
                   .operation = [&] { lab.put_ready(); },
                   .check =
                       [&] {
                           return lab.finish({1, 2});
                       }});
    all.push_back({.name = "recovery of the get lock by get",
                   .reset =
                       [&](bystanders&) {
                           lab.fresh();
                           lab.put(1), lab.put(2), lab.put(3);
                           lab.die_holding(lab.q().shared().get.lock);
                       },
                   .operation = [&] { lab.get_box(); },
                   .check =
                       [&] {
                           return lab.finish({2, 3});
                       }});
    all.push_back({.name = "recovery of the getters' room",
                   .reset =
                       [&](bystanders&) {
                           lab.fresh();
                           lab.die_waiting([&] { return lab.getter(); });
                       },
                   .operation = [&] { lab.get_box(); },
                   .on_block =
                       [&](bystanders& others) {
                           others.spawn_asleep([&] { return lab.getter(); });
                           others.run([&] { return lab.put(1) ? 0 : 1; });
                           lab.sh().go = 1;
                       },
                   .check = [&] { return lab.sh().go ? lab.feed(1, {}) : lab.finish({}); }});
    all.push_back({.name = "recovery of the putters' room",
                   .reset =
                       [&](bystanders&) {
                           lab.ready(5, 64);
                           lab.fresh(1);
                           lab.put(1);
                           lab.die_waiting([&] { return lab.putter(2); });
                       },
                   .operation = [&] { lab.put_ready(); },
                   .on_block =
                       [&](bystanders& others) {
                           others.spawn_asleep([&] { return lab.putter(6); });
                           others.run([&] { return lab.get_now(); });
                           lab.sh().go = 1;
                       },
                   .check =
                       [&] {
                           return lab.sh().go ? lab.make_room(1, {1, 6}) : lab.finish({1});
                       }});
    // The victim waits for the put lock, another behind it. The holder unlocks (the victim is
    // woken) and locks again at once; the victim is killed; the lock is then free for good, and
    // nobody is woken: K2 of robust_mutex. So the other must look again.
    all.push_back({.name = "lock waiter killed when woken, a barger",
                   .reset =
                       [&](bystanders& others) {
                           lab.ready(5, 64);
                           lab.fresh();
                           lab.q().patience = 20ms;
                           others.spawn([&] {
                               mpd::robust_mutex& lock = lab.q().shared().put.lock;
                               lock.lock(deadline::never());
                               lab.sh().sent = 1;
                               eventually([&] { return lab.sh().go >= 1; });
                               lock.unlock();
                               lock.lock(deadline::never());
                               lab.sh().sent = 2;
                               eventually([&] { return lab.sh().go >= 2; });
                               lock.unlock();
                               return 0;
                           });
                           eventually([&] { return lab.sh().sent == 1; });
                       },
                   .operation = [&] { lab.put_ready(); },
                   .on_block =
                       [&](bystanders& others) {
                           others.spawn_asleep([&] {
                               const bool done = lab.put(6);
                               lab.sh().got = 1;
                               return done ? 0 : 1;
                           });
                           lab.sh().go = 1;
                           eventually([&] { return lab.sh().sent == 2; }, 1s);
                       },
                   .check = [&]() -> int {
                       const bool another = lab.sh().go >= 1;
                       lab.sh().go = 2;
                       if (another && !eventually([&] { return lab.sh().got == 1; }, lab.soon))
                           return putter_asleep;
                       lab.q().patience = 10s;
                       return lab.finish({});
                   }});
    return all;
}

template <class Lab>
scenarios join_scenarios(Lab& lab) {
    scenarios all;
    const auto two_in_join = [&lab](bystanders& others) {
        for (int i = 0; i < 2; ++i)
            others.spawn_asleep([&lab] {
                lab.q().join(deadline::never());
                ++lab.sh().got;
                return 0;
            });
    };
    const auto all_done = [&lab](std::uint64_t of) -> int {
        while (lab.q().shared().done.read().at.count < of)
            if (!lab.q().task_done()) return done_wrong;
        if (lab.q().task_done()) return done_wrong;
        if (!eventually([&] { return lab.sh().got == 2; }, lab.soon)) return join_asleep;
        return lab.finish({});
    };
    all.push_back({.name = "task_done: the last, two in join",
                   .reset =
                       [&lab, two_in_join](bystanders& others) {
                           lab.fresh();
                           lab.put(1), lab.put(2), lab.get_now(), lab.get_now();
                           lab.q().task_done();
                           two_in_join(others);
                       },
                   .operation = [&] { lab.q().task_done(); },
                   .check = [=] { return all_done(2); }});
    all.push_back({.name = "task_done: not the last, two in join",
                   .reset =
                       [&lab, two_in_join](bystanders& others) {
                           lab.fresh();
                           lab.put(1), lab.put(2), lab.get_now(), lab.get_now();
                           two_in_join(others);
                       },
                   .operation = [&] { lab.q().task_done(); },
                   .check = [&lab, all_done]() -> int {
                       return lab.sh().got == 0 ? all_done(2) : int{done_wrong};
                   }});
    all.push_back({.name = "recovery of the done lock by task_done",
                   .reset =
                       [&lab, two_in_join](bystanders& others) {
                           lab.fresh();
                           lab.put(1), lab.get_now();
                           two_in_join(others);
                           lab.die_holding(lab.q().shared().done_lock);
                       },
                   .operation = [&] { lab.q().task_done(); },
                   .check = [=] { return all_done(1); }});
    all.push_back(
        {.name = "join: asleep, woken, another in join",
         .reset =
             [&lab](bystanders&) {
                 lab.fresh();
                 lab.put(1), lab.get_now();
             },
         .operation = [&] { lab.q().join(deadline::never()); },
         .on_block =
             [&lab, two_in_join](bystanders& others) {
                 two_in_join(others);
                 others.run([&] { return lab.q().task_done() ? 0 : 1; });
                 lab.sh().go = 1;
             },
         .check = [&lab, all_done] { return lab.sh().go ? all_done(1) : lab.finish({}); }});
    return all;
}

template <class Lab>
scenarios bell_scenarios(Lab& lab) {
    scenarios all;
    const auto add = [&](const char* name, auto reset, auto operation, auto check) {
        all.push_back({.name = name,
                       .reset =
                           [&lab, reset](bystanders& others) {
                               lab.ready(5, 64);
                               lab.fresh();
                               reset(others);
                           },
                       .operation = operation,
                       .check = check});
    };
    const auto arms_here = [&lab](std::initializer_list<int> must) {
        lab.sh().bell_fd = lab.q().fileno();
        lab.sh().bell_pid = ::getpid();
        return lab.finish(must);
    };
    const auto fileno = [&lab] { lab.q().fileno(); };
    const auto put = [&lab] { lab.put_ready(); };
    const auto get = [&lab] { lab.get_box(); };
    // As one leaves it that was killed in ring() or hush().
    const auto leave_bell = [&lab](std::uint32_t state, bool byte) {
        mpd::ring_bell& bell = lab.q().shared().bells[0];
        bell.rung = state;
        const mpd::unique_fd fd(
            ::open(("/proc/" + std::to_string(bell.pid) + "/fd/" + std::to_string(bell.fd)).c_str(),
                   O_RDWR | O_NONBLOCK | O_CLOEXEC));
        if (byte && ::write(fd.get(), "", 1) != 1) give_up("a bell's pipe");
    };

    add(
        "fileno: empty", [](bystanders&) {}, fileno, [=] { return arms_here({}); });
    add(
        "fileno: half full", [&](bystanders&) { lab.put(1), lab.put(2); }, fileno,
        [=] {
            return arms_here({1, 2});
        });
    add(
        "fileno: another polls", [&](bystanders& others) { lab.spawn_poller(others); }, fileno,
        [&] { return lab.finish({}); });
    add(
        "fileno: the table full of dead ones",
        [&](bystanders&) {
            mpd::ring_shared& shared = lab.q().shared();
            const pid_t gone = lab.ended_process();
            for (mpd::ring_bell& bell : shared.bells) {
                bell.pid = gone;
                bell.id = ++shared.last_bell;
            }
            shared.bells_in_use = mpd::ring_shared::most_bells;
        },
        fileno, [=] { return arms_here({}); });
    all.back().stride = 7;

    add(
        "put: rings, has yet to open the bell",
        [&](bystanders& others) { lab.put(1), lab.get_now(), lab.spawn_poller(others); }, put,
        [&] { return lab.finish({}); });
    add(
        "put: rings a known bell", [&](bystanders& others) { lab.spawn_poller(others); }, put,
        [&] { return lab.finish({}); });
    all.back().prepare = [&lab] { lab.put(50), lab.get_box(); };
    add(
        "put: the bell is rung already",
        [&](bystanders& others) { lab.spawn_poller(others), lab.put(1); }, put,
        [&] { return lab.finish({1}); });
    add(
        "put: rings after a half-done ring",
        [=, &lab](bystanders& others) { lab.spawn_poller(others), leave_bell(2, true); }, put,
        [&] { return lab.finish({}); });
    add(
        "put: one poller gone, one there",
        [&](bystanders& others) {
            lab.die_waiting([&] {
                lab.q().fileno();
                return lab.getter();
            });
            lab.spawn_poller(others);
        },
        put, [&] { return lab.finish({}); });
    add(
        "put: rings, a getter asleep, one outside",
        [&](bystanders& others) {
            lab.spawn_poller(others);
            others.spawn_asleep([&] { return lab.getter(); });
            others.spawn_asleep([&] { return lab.getter(); });
        },
        put, [&] { return lab.feed(2, {}); });

    add(
        "get: the last one, hushes",
        [&](bystanders& others) { lab.spawn_poller(others), lab.put(1); }, get,
        [&] { return lab.finish({}); });
    add(
        "get: not the last one, a bell",
        [&](bystanders& others) { lab.spawn_poller(others), lab.put(1), lab.put(2); }, get,
        [&] { return lab.finish({2}); });
    add(
        "get: at once, of none, a needless byte",
        [=, &lab](bystanders& others) { lab.spawn_poller(others), leave_bell(1, true); },
        [&] { lab.get_box(deadline::at_once()); }, [&] { return lab.finish({}); });
    add(
        "get: at once, of none, a half-done hush",
        [=, &lab](bystanders& others) { lab.spawn_poller(others), leave_bell(2, false); },
        [&] { lab.get_box(deadline::at_once()); }, [&] { return lab.finish({}); });
    add(
        "get: hushes, asleep, woken",
        [=, &lab](bystanders& others) { lab.spawn_poller(others), leave_bell(1, true); }, get,
        [&] { return lab.finish({}); });
    all.back().on_block = [&lab](bystanders& others) {
        others.run([&] { return lab.put(1) ? 0 : 1; });
    };

    add(
        "close: of a poller, others wait",
        [&](bystanders& others) {
            others.spawn_asleep([&] { return lab.getter(); });
            others.spawn_asleep([&] { return lab.getter(); });
        },
        [&] { lab.q().close(); }, [&] { return lab.feed(2, {}); });
    all.back().prepare = fileno;
    add(
        "close: a thread of its own asleep", [](bystanders&) {}, [&] { lab.q().close(); },
        [&] { return lab.finish({}); });
    all.back().prepare = [&lab] {
        std::thread([&lab] {
            try {
                lab.get_box();
            } catch (const multiprocessing::ClosedError&) {
            }
        }).detach();
        eventually([&] { return (lab.q().shared().put.committed.word & mpd::gate::sleeper) != 0; });
    };
    return all;
}

/// What happens in the middle of a spin, or right behind a commit: in the process that is killed,
/// so that it happens at the same instruction each time.
template <class Base = mpd::ring_steps>
struct meddled_steps : Base {
    static inline std::function<void()> at_second_look, behind_commit;
    static inline int looks = 0;

    static void meddle() {
        at_second_look = behind_commit = nullptr;
        looks = 0;
    }
    static constexpr multiprocessing::duration longest_spin =
        1min;  // a step takes longer than a real one
    static void spins() {
        if (++looks == 2 && at_second_look) at_second_look();
    }
    template <class TooEarly>
    static bool commit(mpd::gate& g, mpd::position p, int wake, TooEarly early) noexcept {
        const bool was_early = Base::commit(g, p, wake, early);
        if (behind_commit) behind_commit();
        return was_early;
    }
};

/// lookout.hpp: one spins while another one sleeps.
template <class Steps>
scenarios lookout_scenarios(ring_lab<Steps>& lab) {
    scenarios all;
    const auto add = [&](const char* name, auto prepare, auto operation, int survivor) {
        all.push_back({.name = name,
                       .reset =
                           [&lab](bystanders& others) {
                               lab.ready(5, 64);
                               lab.fresh();
                               Steps::meddle();
                               others.spawn_asleep([&lab] { return lab.getter(); });
                           },
                       .prepare =
                           [prepare] {
                               own_clock(100);  // a step takes longer than a real spin
                               prepare();
                           },
                       .operation =
                           [&lab, operation] {
                               operation();
                               lab.sh().go = 1;
                           },
                       .check = [&lab, survivor]() -> int {
                           // Without a kill nobody depends on a further put.
                           if (lab.sh().go == 1 && survivor != 0 &&
                               !eventually([&] { return lab.sh().got == 1; }, lab.soon))
                               return getter_asleep;
                           lab.q().shared().get.spinners.leave(INT64_MAX);
                           lab.put(40);
                           if (!eventually([&] { return lab.sh().got == 1; }, lab.soon))
                               return getter_asleep;
                           if (survivor != 0 && lab.sh().go == 1 && lab.sh().seen[survivor] != 1)
                               return lost_another;
                           return lab.finish({40});
                       }});
    };
    const auto get = [&lab] { lab.get_box(); };
    const auto put = [&lab] { lab.put_ready(); };
    add(
        "get: spins beside a sleeper, one comes", [put] { Steps::at_second_look = put; }, get, 0);
    add(
        "get: spins beside a sleeper, two come",
        [&lab, put] { Steps::at_second_look = [&lab, put] { put(), lab.put(6); }; }, get, 6);
    add(
        "put: one spins beside a sleeper",
        [&lab] { lab.q().shared().get.spinners.enter(INT64_MAX); }, put, 0);
    add(
        "put: one spins beside a sleeper, and leaves",
        [&lab] {
            lab.q().shared().get.spinners.enter(INT64_MAX);
            Steps::behind_commit = [&lab] { lab.q().shared().get.spinners.leave(INT64_MAX); };
        },
        put, 5);
    return all;
}

template <class Lab>
scenarios all_scenarios(Lab& lab) {
    scenarios all;
    for (scenarios group :
         {put_scenarios(lab), get_scenarios(lab), wait_scenarios(lab), timeout_scenarios(lab),
          shrink_scenarios(lab), recovery_scenarios(lab), join_scenarios(lab), bell_scenarios(lab)})
        for (scenario& s : group) all.push_back(std::move(s));
    return all;
}

}  // namespace test
