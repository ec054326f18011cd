// SPDX-License-Identifier: BSL-1.0

/// \file
/// What a put costs while many getters sleep: system calls, counted by ptrace.

#include "support/catch.hpp"

#include <atomic>
#include <string>
#include <vector>

#include <sys/ptrace.h>

#include "small_ring.hpp"

using namespace test;

namespace {

struct call_seen {
    long number, result;
};

struct counts {
    std::atomic<int> got;
    std::atomic<int> go;
};

/// The system calls of `f`, run in a child. Empty where ptrace is not allowed.
template <class F>
std::vector<call_seen> system_calls_of(F f) {
    const pid_t pid = fork_child([&] {
        if (::ptrace(PTRACE_TRACEME, 0, 0, 0) != 0) ::_exit(9);
        ::raise(SIGSTOP);
        f();
        ::kill(::getpid(), SIGSTOP);  // the last call but two: getpid, kill
        return 0;
    });
    std::vector<call_seen> calls;
    int status = wait_status(pid);
    if (!WIFSTOPPED(status)) return calls;
    ::ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    for (bool entry = true;;) {
        ::ptrace(PTRACE_SYSCALL, pid, 0, 0);
        status = wait_status(pid, __WALL);
        if (!WIFSTOPPED(status)) return calls;
        if (WSTOPSIG(status) == SIGSTOP) break;
        if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
        __ptrace_syscall_info info{};
        ::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info);
        if (entry)
            calls.push_back({static_cast<long>(info.entry.nr), 0});
        else
            calls.back().result = static_cast<long>(info.exit.rval);
        entry = !entry;
    }
    ::kill(pid, SIGKILL);
    wait_status(pid, __WALL);
    std::erase_if(calls, [](const call_seen& c) {
        return c.number == SYS_getpid || c.number == SYS_gettid || c.number == SYS_kill ||
               c.number == SYS_tgkill || c.number == SYS_rt_sigprocmask;
    });
    return calls;
}

}  // namespace

TEST_CASE("ring: a put wakes one getter by one system call, however many sleep", "[ring][wake]") {
    const int sleepers = GENERATE(1, 16, 256);
    const auto ring = make_ring();
    put(*ring, "first"), try_get(*ring);  // its segment is laid
    auto& its = shared_memory<counts>();
    std::vector<child> getters;
    for (int i = 0; i < sleepers; ++i)
        getters.emplace_back([&] {
            get(*ring);
            ++its.got;
            return 0;
        });
    for (const child& one : getters) REQUIRE(one.wait_asleep());
    REQUIRE(eventually([&] { return sleeper_at(ring->shared().put.committed); }));

    const auto calls = system_calls_of([&] { put(*ring, "a"); });
    long futex_calls = 0, woken = 0;
    for (const call_seen& c : calls)
        if (c.number == SYS_futex) ++futex_calls, woken += c.result;
    if (calls.empty()) return;  // no ptrace here
    CHECK(futex_calls == 1);
    CHECK(woken == 1);
    CHECK(calls.size() <= 2);  // madvise of a segment that this process touches for the first time
    CHECK(eventually([&] { return its.got == 1; }));
    CHECK(ring->qsize() == 0);
}

TEST_CASE("ring: a put and a get that wake nobody make no system call", "[ring][wake]") {
    const auto ring = make_ring();
    const auto calls = system_calls_of([&] {
        put(*ring, "a"), try_get(*ring);
        for (int i = 0; i < 20; ++i) put(*ring, "b"), try_get(*ring);
    });
    // Only to get the first segment: fstat and fallocate, and madvise.
    CHECK(calls.size() <= 4);
}
