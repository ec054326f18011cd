// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What each part of the program offers to main.cpp.

#include <string>

#include <multiprocessing/multiprocessing.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>

/// A Queue that main.cpp made, to be filled by a Process that another part starts.
using text_queue = multiprocessing::Queue<std::string>;

extern "C" {
/// Throws QueueEmpty.
__attribute__((visibility("default"))) void library_throws();
__attribute__((visibility("default"))) void plugin_throws();
/// Puts text into the queue from a Process of its own, and takes text out of a Queue of its own,
/// which a Process has filled. True if all went well.
__attribute__((visibility("default"))) bool library_works(text_queue& queue);
__attribute__((visibility("default"))) bool plugin_works(text_queue& queue);
}
void other_unit_throws();
bool other_unit_works(text_queue& queue);

namespace {

/// The same code, compiled into each part.
[[maybe_unused]] bool part_works(text_queue& queue, const char* name) {
    namespace mp = multiprocessing;
    mp::Queue<int> own;
    mp::Process process({.name = name}, [&] {
        queue.put(mp::current_process().name());
        own.put(7);
        mp::Process nested([&] { own.put(8); });
        nested.start();
        nested.join();
    });
    process.start();
    process.join();
    return process.exitcode() == 0 && own.get(std::chrono::seconds(20)) == 7 &&
           own.get(std::chrono::seconds(20)) == 8 && own.empty();
}

}  // namespace
