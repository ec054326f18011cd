// SPDX-License-Identifier: BSL-1.0
//
// sleepers (time|calls) GETTERS: what a put costs while so many getters sleep: the median in
// microseconds, or the system calls of one.

#include <multiprocessing/detail/ring/ring.hpp>

#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "support.hpp"

namespace {

namespace mpd = multiprocessing::detail;

struct board {
    std::atomic<std::uint64_t> got;
};

void put(mpd::message_ring& ring, bool last = false) {
    const std::byte byte{last};
    const std::span<const std::byte> message(&byte, 1);
    ring.put({&message, 1}, 1, mpd::deadline::never());
}

/// Puts when everybody sleeps, and waits until the one that was woken sleeps again.
class room_full_of_sleepers {
public:
    explicit room_full_of_sleepers(std::size_t getters) : getters_(getters) {
        for (std::size_t i = 0; i < getters; ++i)
            processes_.start([&] {
                place_.settle(1);
                for (std::byte byte{}; byte == std::byte{0}; ++board_.got)
                    ring_->get(mpd::deadline::never(),
                               [&](std::uint64_t, std::span<const std::byte> m) { byte = m[0]; });
            });
        place_.settle(0);
        ::usleep(static_cast<useconds_t>(20'000 + 2'000 * getters));
    }
    template <class F>
    void once(F f) {
        const std::uint64_t before = board_.got;
        f(*ring_);
        while (board_.got == before) ::usleep(50);
        ::usleep(2000);  // nobody can see another process fall asleep
    }
    void end() {
        for (std::size_t i = 0; i < getters_; ++i) put(*ring_, true);
        processes_.join();
    }

private:
    const std::size_t getters_;
    bench::placement place_{"two"};
    std::shared_ptr<mpd::message_ring> ring_ = mpd::message_ring::create("benchmark");
    board& board_ = bench::shared<board>();
    bench::children processes_;
};

double microseconds(std::size_t getters) {
    room_full_of_sleepers room(getters);
    std::vector<std::int64_t> times;
    for (int i = 0; i < 201; ++i)
        room.once([&](mpd::message_ring& ring) {
            const std::int64_t before = bench::now();
            put(ring);
            times.push_back(bench::now() - before);
        });
    room.end();
    return static_cast<double>(bench::median(times)) / 1e3;
}

/// System calls between two calls of getppid().
std::uint64_t calls_of(pid_t traced) {
    std::uint64_t calls = 0;
    bool entering = false, counting = false;
    int status;
    ::waitpid(traced, &status, 0);
    ::ptrace(PTRACE_SETOPTIONS, traced, nullptr, PTRACE_O_TRACESYSGOOD);
    for (;;) {
        ::ptrace(PTRACE_SYSCALL, traced, nullptr, nullptr);
        ::waitpid(traced, &status, 0);
        if (!WIFSTOPPED(status)) throw std::runtime_error("the traced process has ended");
        if (WSTOPSIG(status) != (SIGTRAP | 0x80) || !(entering = !entering)) continue;
        __ptrace_syscall_info info{};
        ::ptrace(PTRACE_GET_SYSCALL_INFO, traced, sizeof info, &info);
        if (info.entry.nr != SYS_getppid) {
            calls += counting;
        } else if (counting) {
            ::ptrace(PTRACE_DETACH, traced, nullptr, nullptr);
            ::waitpid(traced, &status, 0);
            return calls;
        } else {
            counting = true;
        }
    }
}

double system_calls(std::size_t getters) {
    room_full_of_sleepers room(getters);
    std::vector<std::uint64_t> calls;
    for (int i = 0; i < 5; ++i)
        room.once([&](mpd::message_ring& ring) {
            const pid_t putter = ::fork();
            if (putter == 0) {
                ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
                ::raise(SIGSTOP);
                ::syscall(SYS_getppid);
                put(ring);
                ::syscall(SYS_getppid);
                ::_exit(0);
            }
            calls.push_back(calls_of(putter));
        });
    room.end();
    return static_cast<double>(bench::median(calls));
}

}  // namespace

int main(int, char** arguments) {
    return bench::program([&] {
        const std::size_t getters = std::stoul(arguments[2]);
        std::printf("%.6g\n", std::string(arguments[1]) == "time" ? microseconds(getters)
                                                                  : system_calls(getters));
    });
}
