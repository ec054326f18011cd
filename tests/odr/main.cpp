// SPDX-License-Identifier: BSL-1.0
//
// odr_program PLUGIN: uses the library in every part of itself; 0 when all of it worked.

#include "parts.hpp"

#include <chrono>
#include <cstdio>

#include <dlfcn.h>

namespace mp = multiprocessing;

namespace {

int failures = 0;

void check(bool ok, const char* part, const char* what) {
    std::printf("%s: %s: %s\n", ok ? "ok" : "FAILED", part, what);
    if (!ok) ++failures;
}

void check_part(const char* part, void (*throws)(), bool (*works)(text_queue&)) {
    bool caught = false;
    try {
        throws();
    } catch (const mp::QueueEmpty&) {
        caught = true;
    } catch (...) {
    }
    check(caught, part, "its exception is caught by type");

    text_queue queue;
    check(works(queue), part, "its Process and Queue work");
    const auto text = queue.get(std::chrono::seconds(20));
    check(text.starts_with("of-"), part, "its Process has filled the program's Queue");

    // and the program's own go on working beside them
    mp::Process process([&] { queue.put("mine"); });
    process.start();
    process.join();
    check(queue.get(std::chrono::seconds(20)) == "mine", part, "the program's own still work");
}

}  // namespace

int main(int argc, char** argv) {
    check_part("another unit", &other_unit_throws, &other_unit_works);
#ifdef WITH_LIBRARY
    check_part("shared library", &library_throws, &library_works);
#endif

    void* const plugin = argc > 1 ? ::dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
    check(plugin != nullptr, "plugin", "it opens");
    if (!plugin) return 1;
    check_part("plugin", reinterpret_cast<void (*)()>(::dlsym(plugin, "plugin_throws")),
               reinterpret_cast<bool (*)(text_queue&)>(::dlsym(plugin, "plugin_works")));
    check(mp::active_children().empty(), "program", "no process is left");
    return failures;
}
