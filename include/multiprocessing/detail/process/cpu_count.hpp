// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// How many processors this process may use.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include <sched.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/cgroup.hpp>

namespace multiprocessing::detail {

/// Processors in the affinity mask.
inline unsigned affinity_count() {
    cpu_set_t masks[64];  // of 1,024 each
    if (::sched_getaffinity(0, sizeof masks, masks) == 0)
        return static_cast<unsigned>(CPU_COUNT_S(sizeof masks, masks));
    return static_cast<unsigned>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
}

/// Processors' worth of time that the cgroup in `directory` may use, rounded up; nothing: no limit.
inline std::optional<std::uint64_t> cpu_quota(const std::string& directory, bool is_v2) {
    std::optional<std::uint64_t> quota, period;
    if (is_v2) {  // "50000 100000" or "max 100000"
        const std::string text = read_small_file(directory + "/cpu.max");
        quota = leading_number(text);
        if (const auto space = text.find(' '); space != std::string::npos)
            period = leading_number(std::string_view(text).substr(space + 1));
    } else {  // "-1": no limit
        quota = leading_number(read_small_file(directory + "/cpu.cfs_quota_us"));
        period = leading_number(read_small_file(directory + "/cpu.cfs_period_us"));
    }
    if (!quota || !period || *period == 0) return std::nullopt;
    return std::max<std::uint64_t>(1, (*quota + *period - 1) / *period);
}

inline unsigned usable_cpus() {
    std::uint64_t count = affinity_count();
    for_each_cgroup("cpu", [&](const std::string& directory, bool is_v2) {
        if (const auto quota = cpu_quota(directory, is_v2)) count = std::min(count, *quota);
    });
    return static_cast<unsigned>(std::max<std::uint64_t>(1, count));
}

}  // namespace multiprocessing::detail
