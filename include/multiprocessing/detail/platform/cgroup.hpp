// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Limits that a container or a service manager set for this process.

#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>

namespace multiprocessing::detail {

/// The first 4 KiB of a small text file of the kernel; empty if there is none.
inline std::string read_small_file(const std::string& path) {
    unique_fd fd(retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
    if (!fd) return {};
    std::array<char, 4096> text;
    const ssize_t size = retry([&] { return ::read(fd.get(), text.data(), text.size()); });
    return size > 0 ? std::string(text.data(), static_cast<std::size_t>(size)) : std::string();
}

/// Leading digits of `text` as a number; nothing for "max" and the like.
inline std::optional<std::uint64_t> leading_number(std::string_view text) {
    std::uint64_t value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    if (result.ec != std::errc()) return std::nullopt;
    return value;
}

/// Calls `look(directory, is_v2)` for each cgroup directory that holds this process in the given
/// controller ("cpu", "memory"): version 1 and 2, from its own group up to the root.
template <class Look>
void for_each_cgroup(std::string_view controller, Look look) {
    const std::string groups = read_small_file("/proc/self/cgroup");
    for (std::string_view rest = groups;
         !rest.empty();) {  // lines "4:cpu,cpuacct:/path", "0::/path"
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(line.size() < rest.size() ? line.size() + 1 : rest.size());
        const auto first = line.find(':');
        const auto second = first == line.npos ? line.npos : line.find(':', first + 1);
        if (second == line.npos) continue;
        const std::string_view names = line.substr(first + 1, second - first - 1);
        const bool is_v2 = names.empty();
        if (!is_v2 && (',' + std::string(names) + ',').find(',' + std::string(controller) + ',') ==
                          std::string::npos)
            continue;
        std::string root = "/sys/fs/cgroup";
        if (!is_v2) root += '/' + std::string(controller);
        std::string path(line.substr(second + 1));
        if (path == "/") path.clear();
        for (;;) {
            look(root + path, is_v2);
            const auto slash = path.rfind('/');
            if (slash == path.npos) break;
            path.resize(slash);
        }
    }
}

}  // namespace multiprocessing::detail
