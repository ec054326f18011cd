// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A name for each thread, that no thread of any process had before it.

#include <cstdint>

#include <sys/syscall.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/fork.hpp>

namespace multiprocessing::detail {

inline namespace abi_1 {

/// Forgotten in the thread that lives on in a forked child.
MP_EXPORT inline std::uint64_t& known_thread_id() noexcept {
    static thread_local constinit std::uint64_t id = 0;
    return id;
}

[[gnu::cold, gnu::noinline]] MP_EXPORT inline std::uint64_t make_thread_id() {
    static constexpr fork_hooks hooks{.in_child = [] { known_thread_id() = 0; }};
    process_identity::get().hook(fork_hooks::thread_ids, hooks);
    const auto number = static_cast<std::uint64_t>(::syscall(SYS_gettid));
    return known_thread_id() =
               number << 32 | (static_cast<std::uint64_t>(deadline::clock() / 1000) & 0xffffffff);
}

/// The kernel's number of this thread << 32 | the microsecond in which it first asked, modulo 2^32:
/// numbers come again, but not with the same microsecond. Never 0. A forked child has another one.
MP_EXPORT inline std::uint64_t this_thread_id() {
    const std::uint64_t id = known_thread_id();
    return id != 0 ? id : make_thread_id();
}

}  // namespace abi_1

/// As ps -L and gdb show it.
inline pid_t number_of_thread(std::uint64_t id) noexcept { return static_cast<pid_t>(id >> 32); }

/// A thread of this process has that number.
inline bool is_thread_here(std::uint64_t id) noexcept {
    return ::syscall(SYS_tgkill, ::getpid(), number_of_thread(id), 0) == 0;
}

}  // namespace multiprocessing::detail
