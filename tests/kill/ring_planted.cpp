// SPDX-License-Identifier: BSL-1.0

/// \file
/// Is the harness able to fail? Each of these rings has one bug planted, in an order of steps that
/// the kill table relies on; killing it must show the bug. Ends with status 1 if one stays hidden.

#include "ring_scenarios.hpp"

namespace {

using namespace test;
using mpd::gate;
using mpd::position;
using mpd::ring_steps;

struct commit_before_copy : ring_steps {
    static constexpr bool copies_before_commit = false;
};
struct bell_after_commit : ring_steps {
    static constexpr bool rings_before_commit = false;
};
struct no_skip_mark : ring_steps {
    static constexpr bool marks_skipped = false;
};
struct no_growth_mark : ring_steps {
    static constexpr bool marks_growth = false;
};

/// As gate::commit() up to the exchange.
void fill_slot(gate& g, position p) {
    auto& to = g.slot[(g.word.load() >> 1 & 1) ^ 1];
    to.bytes.store(p.bytes);
    to.count.store(p.count);
}
struct no_wake : ring_steps {
    template <class TooEarly>
    static bool commit(gate& g, position p, int, TooEarly) noexcept {
        fill_slot(g, p);
        g.word.fetch_add(2);
        return false;
    }
};
struct wake_behind_commit : ring_steps {
    template <class TooEarly>
    static bool commit(gate& g, position p, int wake, TooEarly) noexcept {
        fill_slot(g, p);
        const std::uint32_t before = g.word.load();
        g.word.fetch_add(before & gate::sleeper ? 1 : 2);
        if (before & gate::sleeper) mpd::futex_wake(g.word, wake);
        return false;
    }
};
struct wake_before_commit : ring_steps {
    template <class TooEarly>
    static bool commit(gate& g, position p, int wake, TooEarly) noexcept {
        fill_slot(g, p);
        if (g.word.load() & gate::sleeper) mpd::futex_wake(g.word, wake);
        g.word.fetch_add(2);
        return false;
    }
};
struct commit_in_place : ring_steps {
    template <class TooEarly>
    static bool commit(gate& g, position p, int wake, TooEarly early) noexcept {
        auto& at = g.slot[g.word.load() >> 1 & 1];
        at.bytes.store(p.bytes);
        at.count.store(p.count);
        return g.commit(p, wake, early);
    }
};
struct commit_before_slot : ring_steps {
    template <class TooEarly>
    static bool commit(gate& g, position p, int wake, TooEarly early) noexcept {
        const std::uint32_t before = g.word.load();
        const position old = g.mine();
        auto& to = g.slot[(before >> 1 & 1) ^ 1];
        const bool was_early = g.commit({p.bytes, old.count}, wake, early);
        to.count.store(p.count);
        return was_early;
    }
};

struct nothing_passed_on : ring_steps {
    static constexpr bool passes_on = false;
};

int hidden = 0;

template <class Steps, class Group>
void plant(const char* bug, Group group, const std::string& name) {
    ring_lab<Steps> lab;
    kill_runner runner;
    for (const scenario& s : group(lab)) {
        if (s.name != name) continue;
        const kill_result r = runner.run(s, {}, moving_seed("MP_KILL_START"), true);
        hidden += r.failures == 0;
        std::printf("%-20s %-44s %s after %ld kills", bug, s.name.c_str(),
                    r.failures ? "found" : "NOT FOUND", r.points);
        for (const auto& [how, n] : r.how) std::printf(" (%s)", how.c_str());
        std::puts("");
        std::fflush(stdout);
        return;
    }
    std::printf("%s: no scenario '%s'\n", bug, name.c_str());
    ++hidden;
}

}  // namespace

#define PLANT(bug, group, name) \
    plant<bug>(                 \
        #bug, [](auto& lab) { return group(lab); }, name)

int main(int, char** argv) {
    bind_now(argv);
    if (!kill_points_work) {
        std::puts("skipped: kill points need x86-64");
        return 0;
    }
    std::printf("MP_KILL_START=%llu\n",
                static_cast<unsigned long long>(moving_seed("MP_KILL_START")));
    const auto put = [](auto& lab) { return put_scenarios(lab); };
    const auto get = [](auto& lab) { return get_scenarios(lab); };
    const auto join = [](auto& lab) { return join_scenarios(lab); };
    const auto bell = [](auto& lab) { return bell_scenarios(lab); };
    plant<commit_before_copy>("commit_before_copy", put, "put: half full");
    plant<commit_in_place>("commit_in_place", put, "put: half full");
    plant<commit_before_slot>("commit_before_slot", put, "put: half full");
    plant<no_skip_mark>("no_skip_mark", put, "put: segment change, SKIP, growth");
    plant<no_growth_mark>("no_growth_mark", put, "put: segment change, SKIP, growth");
    plant<no_wake>("no_wake", put, "put: a getter asleep, one outside");
    plant<wake_behind_commit>("wake_behind_commit", put, "put: a getter asleep, one outside");
    plant<wake_before_commit>("wake_before_commit", put, "put: a getter asleep, one outside");
    plant<no_wake>("no_wake", get, "get: full, a putter asleep, one outside");
    plant<wake_behind_commit>("wake_behind_commit", get, "get: full, a putter asleep, one outside");
    plant<wake_behind_commit>("wake_behind_commit", join, "task_done: the last, two in join");
    plant<bell_after_commit>("bell_after_commit", bell, "put: rings a known bell");
    plant<meddled_steps<nothing_passed_on>>(
        "nothing_passed_on", [](auto& lab) { return lookout_scenarios(lab); },
        "get: spins beside a sleeper, two come");
    std::printf("planted bugs not found: %d\n", hidden);
    return hidden != 0;
}
