// SPDX-License-Identifier: BSL-1.0

/// \file
/// Kills every operation of the message ring at every instruction: kill.ring_kill [-v] [-p POINT]
/// [part of a name]. With MP_BUDGET_SECONDS it samples, from MP_KILL_START on.

#include "ring_scenarios.hpp"

int main(int argc, char** argv) {
    test::ring_lab<multiprocessing::detail::ring_steps> lab;
    test::kill_sweep sweep(argc, argv);
    for (auto& s : test::all_scenarios(lab)) sweep.add(std::move(s));
    test::ring_lab<test::meddled_steps<>> meddled;
    for (auto& s : test::lookout_scenarios(meddled)) sweep.add(std::move(s));
    return sweep.run();
}
