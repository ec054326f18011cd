// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What the benchmark programs share: time, places, processes, medians. Each program measures one
/// thing once and prints one number; `run` calls them in turns and compares.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

namespace bench {

inline std::int64_t now() {  // nanoseconds
    timespec t;
    ::clock_gettime(CLOCK_MONOTONIC, &t);
    return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

/// Computes for so long: unlike a sleep it keeps the core awake.
inline void stay_busy(std::int64_t nanoseconds) {
    for (const std::int64_t end = now() + nanoseconds; now() < end;) {
    }
}

template <class T>
T median(std::vector<T> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

/// Keeps the compiler from dropping the work that made `value`.
template <class T>
void keep(const T& value) {
    asm volatile("" : : "r,m"(value) : "memory");
}

/// Where the processes of one measurement run.
class placement {
public:
    /// \param name  two: alternately on two cores; one: all on one core; free: left to the kernel
    explicit placement(const std::string& name) : name_(name) {
        cpu_set_t allowed;
        ::sched_getaffinity(0, sizeof allowed, &allowed);
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
            if (CPU_ISSET(cpu, &allowed)) cpus_.push_back(cpu);
        if (name != "two" && name != "one" && name != "free")
            throw std::runtime_error("placement is two, one or free, not " + name);
    }

    /// For the process number `index` of a measurement.
    void settle(std::size_t index) const {
        if (name_ == "free") return;
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpus_[name_ == "one" ? 0 : index % 2 % cpus_.size()], &set);
        ::sched_setaffinity(0, sizeof set, &set);
    }

private:
    std::string name_;
    std::vector<int> cpus_;
};

/// A T in memory that children share; lives until the program ends.
template <class T>
T& shared() {
    void* at = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at == MAP_FAILED) throw std::runtime_error("mmap");
    return *new (at) T{};
}

/// Children of this measurement; a child ends with its function.
class children {
public:
    template <class F>
    void start(F f) {
        std::fflush(nullptr);
        const pid_t pid = ::fork();
        if (pid < 0) throw std::runtime_error("fork");
        if (pid == 0) {
            try {
                f();
            } catch (const std::exception& e) {
                std::fprintf(stderr, "%s\n", e.what());
                ::_exit(1);
            }
            ::_exit(0);
        }
        pids_.push_back(pid);
    }
    void join() {
        for (const pid_t pid : std::exchange(pids_, {})) {
            int status = 0;
            while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
            }
            if (status != 0) throw std::runtime_error("a process of the measurement failed");
        }
    }

private:
    std::vector<pid_t> pids_;
};

/// Nobody goes before all are there.
struct start_line {
    std::atomic<std::size_t> there{0};
    void wait_for(std::size_t all) {
        there.fetch_add(1);
        while (there.load() < all) ::sched_yield();
    }
};

/// Runs a program's main part; errors become a message and status 1.
template <class F>
int program(F f) {
    ::alarm(300);  // a peer that hangs must not hang the rest
    try {
        f();
        return 0;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
}

}  // namespace bench
