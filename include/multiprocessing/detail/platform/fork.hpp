// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What this process is, kept right over every fork, the host's own ones included.

#include <atomic>
#include <cstdint>
#include <mutex>

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>

namespace multiprocessing::detail {

inline namespace abi_1 {  // what modules of a program share must be of one layout

/// One in each process. Registered with pthread_atfork at its first use, never before main.
/// vfork, _Fork and clone without exec run no hooks: not covered, documented.
struct MP_EXPORT process_identity {
    std::atomic<pid_t> pid{::getpid()};
    std::atomic<std::uint64_t> generation{1};     // counts the forks above this process
    std::atomic<std::uint64_t> pid_namespace{0};  // its inode; 0: not looked up, or no /proc
    /// Guards the tables of this library. Held over a fork, so that the child finds them whole.
    std::mutex tables;

    process_identity() {
        const int result = ::pthread_atfork([] { get().tables.lock(); },
                                            [] { get().tables.unlock(); }, [] { get().child(); });
        if (result != 0) throw_os_error(result, "pthread_atfork");
    }

    /// Never destroyed: destructors of the host may still use queues.
    static process_identity& get() {
        static process_identity& only = *new process_identity;
        return only;
    }

private:
    void child() noexcept {
        pid.store(::getpid(), std::memory_order_relaxed);  // one thread is left
        generation.fetch_add(1, std::memory_order_relaxed);
        pid_namespace.store(0, std::memory_order_relaxed);
        tables.unlock();
    }
};

}  // namespace abi_1

/// The pid of this process: a load, not a system call.
inline pid_t this_pid() { return process_identity::get().pid.load(std::memory_order_relaxed); }

/// Names this process's PID namespace; 0 where /proc is not mounted.
inline std::uint64_t this_pid_namespace() {
    auto& known = process_identity::get().pid_namespace;
    std::uint64_t inode = known.load(std::memory_order_relaxed);  // any thread finds the same
    if (inode == 0) {
        struct stat info;
        if (::stat("/proc/self/ns/pid", &info) == 0) inode = info.st_ino;
        known.store(inode, std::memory_order_relaxed);
    }
    return inode;
}

}  // namespace multiprocessing::detail
