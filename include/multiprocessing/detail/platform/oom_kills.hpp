// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Whether the kernel has ended processes for want of memory.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/cgroup.hpp>
#include <multiprocessing/detail/platform/small_file.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>

namespace multiprocessing::detail {

/// Tells which SIGKILLs were those of the kernel's out-of-memory killer, by its count for this
/// process's memory cgroup, or where that has none, for the machine. It counts before it kills. Of
/// several that are killed at once, in other ways too, the wrong one may be named.
class oom_kills {
public:
    /// From now on.
    void watch() {
        for_each_cgroup("memory", [&](const std::string& group, bool is_v2) {
            open(group + (is_v2 ? "/memory.events" : "/memory.oom_control"));
        });
        open("/proc/vmstat");
    }

    /// After a SIGKILL. \return whether it was one that no earlier call has returned true for
    bool another() {
        if (const auto now = count(path_); now && *now > seen_) {
            ++seen_;
            return true;
        }
        return false;
    }

private:
    void open(std::string path) {
        if (!path_.empty()) return;
        const auto now = count(path);
        if (!now) return;
        seen_ = *now;
        path_ = std::move(path);
    }

    /// The line "oom_kill N".
    static std::optional<std::uint64_t> count(const std::string& path) {
        constexpr std::string_view key = "\noom_kill ";
        if (path.empty()) return std::nullopt;
        const unique_fd fd(retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
        std::string text = "\n";
        for (char part[4096]; fd;) {
            const ssize_t size = retry([&] { return ::read(fd.get(), part, sizeof part); });
            if (size <= 0) break;
            text.append(part, static_cast<std::size_t>(size));
        }
        const auto at = text.find(key);
        if (at == text.npos) return std::nullopt;
        return leading_number(std::string_view(text).substr(at + key.size()));
    }

    std::string path_;  // empty: nobody counts
    std::uint64_t seen_ = 0;
};

}  // namespace multiprocessing::detail
