// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Thunks like those of a Pool, and what each part of the program offers to be called.

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <multiprocessing/detail/callable/descriptor.hpp>

namespace mpd = multiprocessing::detail;

struct number {
    int value = 0;
};

/// Calls F with the int in the message; F itself travels as bytes if it has any.
template <class F>
struct call_object {
    using output = number;
    static constexpr std::size_t state = mpd::stateless<F> ? 0 : sizeof(F);
    static constexpr std::size_t size = state + sizeof(int);
    static void invoke(std::span<const std::byte> bytes, number& out) {
        int x;
        std::memcpy(&x, bytes.data() + state, sizeof x);
        if constexpr (mpd::stateless<F>) {
            out.value = F{}(x);
        } else {
            alignas(F) std::byte copy[sizeof(F)];
            std::memcpy(copy, bytes.data(), sizeof(F));
            out.value = (*reinterpret_cast<const F*>(copy))(x);
        }
    }
};

/// Calls the function whose place is in the message.
struct call_pointer {
    using output = number;
    static constexpr std::size_t size = sizeof(mpd::place) + sizeof(int);
    static void invoke(std::span<const std::byte> bytes, number& out) {
        mpd::place at;
        int x;
        std::memcpy(&at, bytes.data(), sizeof at);
        std::memcpy(&x, bytes.data() + sizeof at, sizeof x);
        out.value = mpd::function_at<int (*)(int)>(at)(x);
    }
};

struct task {
    const char* name;
    std::vector<std::byte> message;
    int result;  // for the argument 5; refused: the message must not be called
    static constexpr int refused = -1;
};

template <class T>
void append(std::vector<std::byte>& bytes, const T& value) {
    const auto* const from = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof value);
}

template <class F>
task make_task(const char* name, const F& f, int result) {
    task t{name, {}, result};
    append(t.message, mpd::reference_to<call_object<F>>());
    if constexpr (!mpd::stateless<F>) append(t.message, f);
    append(t.message, 5);
    return t;
}

inline task make_task(const char* name, int (*f)(int), int result) {
    task t{name, {}, result};
    append(t.message, mpd::reference_to<call_pointer>());
    append(t.message, mpd::place_of(f));
    append(t.message, 5);
    return t;
}

/// One type in every module that includes this.
inline auto shared_lambda() {
    return [](int x) { return x + 4000; };
}

void other_unit_tasks(std::vector<task>& tasks);
extern "C" __attribute__((visibility("default"))) int linked_function(int x);
extern "C" __attribute__((visibility("default"))) void linked_tasks(std::vector<task>* tasks);
