// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Forked children for tests: each reports by its exit status, and none outlives its test.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

namespace test {

using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

/// How long a test waits for what must happen, on a machine that does other things too.
inline constexpr std::chrono::seconds patience{30};

[[noreturn]] inline void give_up(const char* what) {
    std::perror(what);
    std::exit(2);
}

/// Between two looks at something that sends no event, such as another process's state.
inline void pause_briefly(std::chrono::microseconds time = std::chrono::microseconds(20)) {
    const timespec left{time.count() / 1'000'000, (time.count() % 1'000'000) * 1000};
    ::nanosleep(&left, nullptr);
}

/// Looks until `f()` is true.
template <class F>
bool eventually(F f, clock::duration limit = patience) {
    for (const auto end = clock::now() + limit; clock::now() < end; pause_briefly())
        if (f()) return true;
    return f();
}

/// One letter from /proc: R runs, S sleeps in the kernel, T stopped, t stopped by a tracer, Z
/// ended.
inline char process_state(pid_t pid) {
    char text[512];
    const std::string path = "/proc/" + std::to_string(pid) + "/stat";
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return '?';
    const ssize_t size = ::read(fd, text, sizeof text - 1);
    ::close(fd);
    text[std::max<ssize_t>(size, 0)] = 0;
    const char* name_end = std::strrchr(text, ')');
    return name_end ? name_end[2] : '?';
}

/// waitpid() that no signal cuts short. \return the wait status
inline int wait_status(pid_t pid, int options = 0) {
    int status = 0;
    while (::waitpid(pid, &status, options) < 0 && errno == EINTR) {
    }
    return status;
}

/// Runs `f` in a forked process, which ends with what it returned as exit status, 99 for an
/// exception. It dies with the thread that forked it.
template <class F>
pid_t fork_child(F&& f) {
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid < 0) give_up("fork");
    if (pid != 0) return pid;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(98);
    try {
        ::_exit(f());
    } catch (const std::exception& e) {
        std::fprintf(stderr, "child %d: %s\n", int{::getpid()}, e.what());
    }
    ::_exit(99);
}

/// \return the exit status or -SIG; nothing if it still ran at the end of the limit
inline std::optional<int> wait_for_exit(pid_t pid, clock::duration limit = patience) {
    const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    if (pidfd < 0) give_up("pidfd_open of a child");
    const auto end = clock::now() + limit;
    for (;;) {
        pollfd one{pidfd, POLLIN, 0};
        const auto left = std::max<clock::duration>(end - clock::now(), 0ns);
        const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
        const timespec time{seconds.count(), std::chrono::nanoseconds(left - seconds).count()};
        const int ready = ::ppoll(&one, 1, &time, nullptr);
        if (ready < 0 && errno == EINTR) continue;
        ::close(pidfd);
        if (ready <= 0) return std::nullopt;
        const int status = wait_status(pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    }
}

/// Waits until the process sleeps in the kernel: seen asleep three times running.
inline bool wait_asleep(pid_t pid, clock::duration limit = patience) {
    int seen = 0;
    return eventually(
        [&] {
            seen = process_state(pid) == 'S' ? seen + 1 : 0;
            return seen >= 3;
        },
        limit);
}

/// From here on a signal interrupts this process every 20 ms, far more often than the library looks
/// again by itself.
inline void interrupt_often() {
    struct sigaction nothing {};
    nothing.sa_handler = [](int) {};
    nothing.sa_flags = SA_RESTART;
    ::sigaction(SIGALRM, &nothing, nullptr);
    const itimerval often{{0, 20'000}, {0, 20'000}};
    ::setitimer(ITIMER_REAL, &often, nullptr);
}

/// A child that is killed, if it still runs, at the end of the scope.
class child {
public:
    template <class F>
    explicit child(F&& f) : pid_(fork_child(std::forward<F>(f))) {}
    child(child&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
    child& operator=(child&&) = delete;
    ~child() { kill(); }

    pid_t pid() const noexcept { return pid_; }
    /// Exit status or -SIG; nothing if it does not end.
    std::optional<int> exit_status(clock::duration limit = patience) {
        const auto status = wait_for_exit(pid_, limit);
        if (status) pid_ = 0;
        return status;
    }
    bool ended() const { return process_state(pid_) == 'Z'; }
    bool wait_asleep() const { return test::wait_asleep(pid_); }
    void kill() {
        if (pid_ == 0) return;
        ::kill(pid_, SIGKILL);
        wait_status(std::exchange(pid_, 0));
    }
    void stop() const {
        ::kill(pid_, SIGSTOP);
        wait_status(pid_, WUNTRACED);
    }
    void go_on() const { ::kill(pid_, SIGCONT); }

private:
    pid_t pid_;
};

/// Zeroed memory that children share with the test.
template <class T>
T& shared_memory() {
    void* memory =
        ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) give_up("mmap");
    return *static_cast<T*>(memory);
}

/// Signals whose handler does not restart what they interrupt.
class interruptions {
public:
    /// In the child: from here on they are handled.
    void count_here() {
        static std::atomic<int>* handled;
        handled = &handled_;
        struct sigaction act {};
        act.sa_handler = [](int) { ++*handled; };
        ::sigaction(SIGUSR1, &act, nullptr);
        ready_ = true;
    }
    /// In the test: five while the child sleeps, after each of which it sleeps again.
    bool interrupt(const child& one) {
        bool right = eventually([&] { return ready_.load(); }) && one.wait_asleep();
        for (int i = 0; right && i < 5; ++i) {
            const int before = handled_;
            ::kill(one.pid(), SIGUSR1);
            right = eventually([&] { return handled_ > before; }) && one.wait_asleep();
        }
        return right;
    }

private:
    std::atomic<bool>& ready_ = shared_memory<std::atomic<bool>>();
    std::atomic<int>& handled_ = shared_memory<std::atomic<int>>();
};

}  // namespace test
