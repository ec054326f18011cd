// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What this process is, kept right over every fork, the host's own ones included.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>

namespace multiprocessing::detail {

inline namespace abi_1 {  // what modules of a program share must be of one layout

/// What a part of the library does around each fork; a null is nothing. Those of a part that is
/// first used while a fork goes on may be left out of that one, all but `in_child`.
struct fork_hooks {
    enum part : std::size_t {
        modules,
        tls,  // locked after those that have sessions, and theirs again before them in a child
        processes,
        connections,
        remote_connections,
        sockets,
        listeners,
        thread_ids,
        parts
    };

    void (*before)() = nullptr;  // in the parent, without any lock
    void (*lock)() = nullptr;  // in the parent, under process_identity::listeners; last part first
    void (*unlock)() = nullptr;  // in the parent, as lock()
    void (*in_child)() = nullptr;
    void (*settle)() = nullptr;  // in a child of a Process, once it has what it was given
};

/// One in each process. Registered with pthread_atfork at its first use, never before main.
/// vfork, _Fork and clone without exec run no hooks: not covered, documented.
///
/// A host's thread may fork while another one is in any of our functions. So what all threads share
/// is constant-initialised as this struct, made by only_one, or made under a lock that is held over
/// forks: never a local static that is made by its first caller, since a child whose parent was
/// just making it would wait for that for ever.
struct MP_EXPORT process_identity {
    std::atomic<pid_t> pid{0};                    // 0: not registered
    std::atomic<std::uint64_t> generation{1};     // counts the forks above this process
    std::atomic<std::uint64_t> pid_namespace{0};  // its inode; 0: not looked up, or no /proc
    /// Both are held over a fork, so that the child finds what they guard whole. Locked in this
    /// order: the listeners' table, each of the listeners, the other tables of this library.
    std::mutex listeners, tables;

    static process_identity& get() {
        process_identity& only = object();
        if (only.pid.load(std::memory_order_acquire) == 0) only.begin();
        return only;
    }

    /// Any number of times, with the same hooks for the same part.
    void hook(fork_hooks::part which, const fork_hooks& what) noexcept {
        hooks_[which].store(&what, std::memory_order_release);
    }

    /// Registers the hooks. To do that twice does no harm: two threads may be the first, or the
    /// thread that did it is one that this process, a child, has not got.
    void begin() {
        const int result = ::pthread_atfork([] { object().before(); }, [] { object().after(); },
                                            [] { object().child(); });
        if (result != 0) throw_os_error(result, "pthread_atfork");
        pid.store(::getpid(), std::memory_order_release);
    }

    void settle() noexcept { run(&fork_hooks::settle); }

private:
    static process_identity& object() noexcept {
        static constinit process_identity only;  // never destroyed: the host's destructors may
        return only;                             // still use queues
    }
    using hook_function = void (*fork_hooks::*)();
    void run(hook_function which) noexcept {
        for (std::size_t part = 0; part < fork_hooks::parts; ++part) run(part, which);
    }
    void run(std::size_t part, hook_function which) noexcept {
        if (const fork_hooks* const hooks = hooks_[part].load(std::memory_order_acquire))
            if (hooks->*which) (hooks->*which)();
    }
    void before() noexcept {
        if (registrations_++ != 0) return;
        run(&fork_hooks::before);
        listeners.lock();
        for (std::size_t part = fork_hooks::parts; part-- > 0;) run(part, &fork_hooks::lock);
        tables.lock();
    }
    void after() noexcept {
        if (--registrations_ != 0) return;
        tables.unlock();
        run(&fork_hooks::unlock);
        listeners.unlock();
    }
    void child() noexcept {
        if (--registrations_ != 0) return;
        pid.store(::getpid(), std::memory_order_relaxed);  // one thread is left
        generation.fetch_add(1, std::memory_order_relaxed);
        pid_namespace.store(0, std::memory_order_relaxed);
        tables.unlock();
        run(&fork_hooks::in_child);
        listeners.unlock();
    }

    std::array<std::atomic<const fork_hooks*>, fork_hooks::parts> hooks_{};
    static inline thread_local constinit int registrations_ = 0;  // whose hooks run in this fork
};

/// The T of this process, made at its first use, never destroyed. No thread waits for another one
/// that makes it: each makes its own, and all use the one that was first. So its constructor must
/// not have effects that can't be had twice.
template <class T>
struct MP_EXPORT only_one {
    static T& get() {
        T* const one = made.load(std::memory_order_acquire);
        return one ? *one : make();
    }
    static inline constinit std::atomic<T*> made{nullptr};

private:
    [[gnu::cold, gnu::noinline]] static T& make() {
        T* const mine = new T;
        T* first = nullptr;
        if (made.compare_exchange_strong(first, mine, std::memory_order_acq_rel)) return *mine;
        delete mine;
        return *first;
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
