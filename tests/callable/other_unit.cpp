// SPDX-License-Identifier: BSL-1.0
//
// The names and lambda signatures of program.cpp once more: they must not be mixed up.

#include "tasks.hpp"

static int same_name(int x) { return x + 2; }

void other_unit_tasks(std::vector<task>& tasks) {
    tasks.push_back(make_task("other unit: static function of the same name", &same_name, 7));
    tasks.push_back(make_task(
        "other unit: lambda", [](int x) { return x + 20; }, 25));
    tasks.push_back(make_task("other unit: shared lambda", shared_lambda(), 4005));
}
