// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Memory for shared files, claimed before it is used: refused is an error, used later is SIGBUS.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <sys/resource.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/cgroup.hpp>
#include <multiprocessing/detail/platform/small_file.hpp>

namespace multiprocessing::detail {

/// Bytes that this process can have at most as things stand: what the machine has free, swap
/// included, or a cgroup's limit. A guess; the largest number if there is no /proc.
inline std::uint64_t memory_left() {
    const std::string info = read_small_file("/proc/meminfo");
    std::uint64_t bytes = 0;
    for (const std::string_view line : {"MemAvailable:", "SwapFree:"})
        if (const auto at = info.find(line); at != info.npos) {
            const auto digits = info.find_first_not_of(' ', at + line.size());
            if (digits != info.npos) bytes += 1024 * leading_number(&info[digits]).value_or(0);
        }
    if (bytes == 0) bytes = std::numeric_limits<std::uint64_t>::max();
    for_each_cgroup("memory", [&](const std::string& group, bool is_v2) {
        const auto limit = leading_number(
            read_small_file(group + (is_v2 ? "/memory.max" : "/memory.limit_in_bytes")));
        if (limit) bytes = std::min(bytes, *limit);
    });
    return bytes;
}

/// Before a file of this size is made: the kernel would go on taking memory until it kills for it,
/// and answers a file beyond RLIMIT_FSIZE with SIGXFSZ.
/// \param what  what is being done, for errors
/// \throws OsError that names both sizes
inline void check_claim(std::uint64_t bytes, const std::string& what) {
    static constexpr std::uint64_t large = std::uint64_t{16} << 20;  // worth the look
    rlimit files{};
    ::getrlimit(RLIMIT_FSIZE, &files);
    if (bytes > files.rlim_cur)
        throw_os_error(EFBIG, what + " (RLIMIT_FSIZE is " + std::to_string(files.rlim_cur) + ")");
    if (bytes < large) return;
    if (const std::uint64_t left = memory_left(); bytes > left || bytes > INT64_MAX)
        throw_os_error(ENOMEM, what + ", of which " + std::to_string(left) + " are left");
}

/// Gives memory to the whole file by `allocate(offset, bytes)`, which returns 0 or an errno value.
/// In pieces: a signal makes the kernel undo the call that it interrupts. Costs 0.25 s a GiB.
template <class Allocate>
int claim_in_pieces(std::uint64_t bytes, Allocate allocate) {
    static constexpr std::uint64_t piece = std::uint64_t{1} << 20;
    int refused = 0;
    for (std::uint64_t at = 0; at < bytes && refused == 0; at += piece)
        refused = allocate(at, std::min(piece, bytes - at));
    return refused;
}

}  // namespace multiprocessing::detail
