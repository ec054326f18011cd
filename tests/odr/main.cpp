// SPDX-License-Identifier: BSL-1.0
//
// odr_program PLUGIN: uses the library in every part of itself; 0 when all of it worked.

#include "parts.hpp"

#include <cstdio>

#include <dlfcn.h>

#include <multiprocessing/multiprocessing.hpp>

namespace mp = multiprocessing;

namespace {

int failures = 0;

void check(bool ok, const char* what) {
    std::printf("%s: %s\n", ok ? "ok" : "FAILED", what);
    if (!ok) ++failures;
}

bool caught(void (*thrower)()) {
    try {
        thrower();
    } catch (const mp::QueueEmpty&) {
        return true;
    } catch (...) {
    }
    return false;
}

}  // namespace

int main(int argc, char** argv) {
    check(caught(&other_unit_throws), "an exception of another translation unit is caught by type");
    check(caught(&library_throws), "an exception of a shared library is caught by type");

    void* plugin = argc > 1 ? ::dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
    check(plugin != nullptr, "the plugin opens");
    if (plugin) {
        auto* thrower = reinterpret_cast<void (*)()>(::dlsym(plugin, "plugin_throws"));
        check(thrower && caught(thrower), "an exception of a plugin is caught by type");
    }
    return failures;
}
