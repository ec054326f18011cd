// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a child may use at most.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include <sys/resource.h>

#include <multiprocessing/detail/platform/cgroup.hpp>
#include <multiprocessing/detail/process/status_table.hpp>

namespace multiprocessing {

/// What a process may use at most; nothing: as its parent. It can't raise them itself, and its
/// children have them too. A limit above one that holds already changes nothing.
struct Limits {
    /// Private bytes beyond those that it inherits: then allocations fail (std::bad_alloc).
    /// Regions of queues and shared arrays don't count: they are sparse.
    std::optional<std::size_t> memory = {};
    /// Descriptors that it has open, inherited ones included: then opening fails.
    std::optional<std::size_t> open_files = {};
    /// Size of any file that it writes: a longer write fails with EFBIG (SIGXFSZ is ignored).
    std::optional<std::size_t> file_size = {};
    /// Size of its core dump; 0: none.
    std::optional<std::size_t> core_size = {};
    /// Then SIGXCPU, and SIGKILL a second later. At least 1 s.
    std::optional<std::chrono::seconds> cpu_time = {};
};

namespace detail {

inline bool has_limits(const Limits& limits) noexcept {
    return limits.memory || limits.open_files || limits.file_size || limits.core_size ||
           limits.cpu_time;
}

/// \return 0 or an errno value
inline int lower_limit(int resource, rlim_t soft, rlim_t hard) noexcept {
    rlimit now;
    if (::getrlimit(static_cast<__rlimit_resource_t>(resource), &now) != 0) return errno;
    now.rlim_max = std::min(now.rlim_max, hard);
    now.rlim_cur = std::min({now.rlim_cur, now.rlim_max, soft});
    return ::setrlimit(static_cast<__rlimit_resource_t>(resource), &now) == 0 ? 0 : errno;
}
inline int lower_limit(int resource, std::size_t value) noexcept {
    return lower_limit(resource, value, value);
}

/// Private writable bytes of this process as RLIMIT_DATA counts them.
inline std::optional<std::uint64_t> private_bytes() {
    const std::string status = read_small_file("/proc/self/status");
    const auto line = status.find("\nVmData:");
    if (line == std::string::npos) return std::nullopt;
    const auto digits = status.find_first_of("0123456789", line);
    const auto kilobytes = leading_number(std::string_view(status).substr(digits));
    if (!kilobytes) return std::nullopt;
    return *kilobytes * 1024;
}

/// In the child, before user code.
inline refusal apply_limits(const Limits& limits) {
    constexpr std::uint64_t most = RLIM_INFINITY;
    if (limits.memory) {
        // Not RLIMIT_AS: regions are sparse, it would count what is never used (measured).
        const auto inherited = private_bytes();
        if (!inherited) return {refusal::no_proc_for_memory, ENOENT};
        const std::uint64_t sum =
            *limits.memory > most - *inherited ? most : *inherited + *limits.memory;
        if (const int e = lower_limit(RLIMIT_DATA, sum)) return {refusal::memory, e};
    }
    if (limits.cpu_time) {
        const auto seconds =
            static_cast<rlim_t>(std::max<std::int64_t>(1, limits.cpu_time->count()));
        if (const int e = lower_limit(RLIMIT_CPU, seconds, seconds + 1))
            return {refusal::cpu_time, e};
    }
    if (limits.open_files) {
        if (const int e = lower_limit(RLIMIT_NOFILE, *limits.open_files))
            return {refusal::open_files, e};
    }
    if (limits.file_size) {
        ::signal(SIGXFSZ, SIG_IGN);
        if (const int e = lower_limit(RLIMIT_FSIZE, *limits.file_size))
            return {refusal::file_size, e};
    }
    if (limits.core_size) {
        if (const int e = lower_limit(RLIMIT_CORE, *limits.core_size))
            return {refusal::core_size, e};
    }
    return {};
}

}  // namespace detail
}  // namespace multiprocessing
