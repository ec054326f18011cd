// SPDX-License-Identifier: BSL-1.0
//
// Built twice: as the library that the program links (NUMBER 1) and as a plugin (NUMBER 2).

#include "tasks.hpp"

#if NUMBER == 1
#define FUNCTION linked_function
#define TASKS linked_tasks
#else
#define FUNCTION plugin_function
#define TASKS plugin_tasks
#endif

extern "C" __attribute__((visibility("default"))) int FUNCTION(int x) { return x + 100 * NUMBER; }

static int internal(int x) { return x + 100 * NUMBER + 1; }

extern "C" __attribute__((visibility("default"))) void TASKS(std::vector<task>* tasks) {
    tasks->push_back(make_task("library: exported function", &FUNCTION, 5 + 100 * NUMBER));
    tasks->push_back(make_task("library: static function", &internal, 6 + 100 * NUMBER));
    tasks->push_back(make_task(
        "library: lambda", [](int x) { return x + 100 * NUMBER + 2; }, 7 + 100 * NUMBER));
    tasks->push_back(make_task(
        "library: object", [k = NUMBER](int x) { return x + k; }, 5 + NUMBER));
    tasks->push_back(make_task("library: lambda shared by all modules", shared_lambda(), 4005));
}
