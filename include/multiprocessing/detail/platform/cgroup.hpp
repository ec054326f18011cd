// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Limits that a container or a service manager set for this process.

#include <string>
#include <string_view>

#include <multiprocessing/detail/platform/small_file.hpp>

namespace multiprocessing::detail {

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
