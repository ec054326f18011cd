// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Processes named by descriptors, which no reuse of a pid can fool.

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/platform/small_file.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>

namespace multiprocessing::detail {

/// Empty if no such process exists (errno ESRCH); otherwise refused is an OsError.
inline unique_fd open_pidfd(pid_t pid) {
    unique_fd fd(static_cast<int>(retry([&] { return ::syscall(SYS_pidfd_open, pid, 0); })));
    if (!fd && errno != ESRCH) throw_os_error(errno, "pidfd_open");
    return off_stdio(std::move(fd));
}

/// \return false if the process has ended and was reaped
inline bool send_signal(const unique_fd& pidfd, int signal) {
    if (retry([&] { return ::syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0); }) ==
        0)
        return true;
    if (errno == ESRCH) return false;
    throw_os_error(errno, "pidfd_send_signal");
}

/// Reaps a child that has ended. Its exit code, or -SIG; nothing if it is not ours to reap (the
/// host ignores SIGCHLD or reaped it) or still runs (`*running` is set then).
inline std::optional<int> reap(const unique_fd& pidfd, bool* running) {
    constexpr auto by_pidfd = static_cast<idtype_t>(3);  // P_PIDFD, not in the headers of 2022
    siginfo_t info{};
    *running = false;
    const int result = retry([&] {
        return ::waitid(by_pidfd, static_cast<id_t>(pidfd.get()), &info, WEXITED | WNOHANG);
    });
    if (result == -1) {
        if (errno == ECHILD) return std::nullopt;
        throw_os_error(errno, "waitid");
    }
    if (info.si_pid == 0) {
        *running = true;
        return std::nullopt;
    }
    return info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
}

/// The exit code, or -SIG, of a process that somebody else reaped: Linux 6.15 and later know it.
inline std::optional<int> exit_info(const unique_fd& pidfd) noexcept {
    struct pidfd_info {  // of linux/pidfd.h, first published size 64
        std::uint64_t mask, cgroup;
        std::uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
        std::int32_t exit_code;
    };
    constexpr std::uint64_t want_exit = 1u << 3;  // PIDFD_INFO_EXIT
    pidfd_info info{};
    info.mask = want_exit;
    if (retry([&] { return ::ioctl(pidfd.get(), _IOWR(0xFF, 11, pidfd_info), &info); }) == -1 ||
        !(info.mask & want_exit))
        return std::nullopt;
    const int status = info.exit_code;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/// When a process started, in clock ticks since boot: with its pid, its name for all time. 0 if
/// there is no such process, or no /proc.
inline std::uint64_t start_time(pid_t pid) {
    const std::string stat = read_small_file("/proc/" + std::to_string(pid) + "/stat");
    std::size_t at = stat.rfind(')');  // the 2nd field, which may hold anything; this is the 22nd
    for (int field = 2; field < 22 && at != stat.npos; ++field) at = stat.find(' ', at + 1);
    if (at == stat.npos) return 0;
    return leading_number(std::string_view(stat).substr(at + 1)).value_or(0);
}

/// Whether the process that was named so has ended, reaped or not. A start time of 0 is one that
/// could not be read, there or here (no descriptor left, no /proc): nothing follows from it.
inline bool is_gone(pid_t pid, std::uint64_t started) {
    const unique_fd pidfd = open_pidfd(pid);
    if (!pidfd) return true;
    // Opened first: what is compared then is what the descriptor names.
    const std::uint64_t now = start_time(pid);
    return (now != 0 && started != 0 && now != started) ||
           wait_readable(pidfd.get(), deadline::at_once());
}

}  // namespace multiprocessing::detail
