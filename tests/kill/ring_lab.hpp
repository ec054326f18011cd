// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A ring of small segments whose operations are killed, and the checks after each kill.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/detail/ring/ring.hpp>

#include "support/child.hpp"
#include "support/kill_points.hpp"

namespace test {

namespace mpd = multiprocessing::detail;
using mpd::deadline;

/// Statuses of a checker or helper; 0 is good.
enum complaint : int {
    nothing_there = 10,
    torn,
    twice,
    memory_not_as_told = 20,  // I6
    out_of_order,
    wrong_qsize,
    lost_another,
    put_refused,
    got_another,
    got_from_empty,
    segments_not_free,  // I3
    memory_kept,
    segment_lost,
    bell_silent,  // I7
    bell_stuck,
    not_taken = 40,
    getter_asleep,
    putter_asleep,
    too_early_failed,
    done_wrong,
    join_asleep,
    bell_table_wrong,
    close_failed,
    timeout_wrong,
};

template <class Steps>
class ring_lab {
public:
    static constexpr std::uint64_t S = 4096;
    static constexpr std::uint32_t N = 12;
    using ring = mpd::basic_ring<S, Steps>;
    static constexpr std::uint32_t keep = ring::kept_segments;

    struct ledger {
        std::atomic<int> got, sent, go, seen[128];
        std::atomic<int> bell_pid, bell_fd;
    };

    ring_lab() { box_.resize(65536); }

    ring& q() { return *ring_; }
    ledger& sh() { return sh_; }

    // ---- messages: a number, then a pattern that depends on it

    static std::string message(int k, std::size_t size) {
        std::string s(size, '\0');
        for (std::size_t i = 0; i < size; ++i)
            s[i] = static_cast<char>(std::size_t(k) * 131 + i * 7 + (i >> 8));
        std::memcpy(s.data(), &k, sizeof k);
        return s;
    }
    bool put_bytes(const std::string& s, deadline until = deadline::never()) {
        const std::array<std::span<const std::byte>, 2> parts{
            std::as_bytes(std::span(s).first(4)), std::as_bytes(std::span(s).subspan(4))};
        return ring_->put(parts, 7, until);
    }
    bool put(int k, std::size_t size = 64, deadline until = deadline::never()) {
        return put_bytes(message(k, size), until);
    }
    /// A message that fills a segment to the last byte.
    bool put_segment(int k) { return put(k, S - 16); }

    /// The victim's message and its buffer are made before it is stepped.
    void ready(int k, std::size_t size) { ready_ = message(k, size); }
    bool put_ready(deadline until = deadline::never()) { return put_bytes(ready_, until); }
    bool get_box(deadline until = deadline::never()) {
        return ring_->get(until, [this](std::uint64_t, std::span<const std::byte> bytes) {
            std::memcpy(box_.data(), bytes.data(), bytes.size());
        });
    }

    /// 0 and *number, or nothing_there, torn, twice.
    int get(deadline until, int* number = nullptr) {
        std::string bytes;
        std::uint64_t type = 0;
        if (!ring_->get(until, [&](std::uint64_t t, std::span<const std::byte> b) {
                type = t;
                bytes.assign(reinterpret_cast<const char*>(b.data()), b.size());
            }))
            return nothing_there;
        int k = -1;
        if (bytes.size() >= sizeof k) std::memcpy(&k, bytes.data(), sizeof k);
        if (type != 7 || k < 0 || k >= 128 || bytes != message(k, bytes.size())) return torn;
        if (sh_.seen[k].fetch_add(1) != 0) return twice;
        if (number) *number = k;
        return 0;
    }
    int get_now(int* number = nullptr) { return get(deadline::at_once(), number); }
    int getter() {
        const int r = get(deadline::never());
        ++sh_.got;
        return r;
    }
    int putter(int k, std::size_t size = 64) {
        const bool done = put(k, size);
        ++sh_.sent;
        return done ? 0 : put_refused;
    }

    // ---- the state

    void fresh(std::uint64_t maxsize = 0, std::uint64_t window = 0) {
        std::memset(static_cast<void*>(&sh_), 0, sizeof sh_);
        ++trial_;
        ring_.reset();
        ring_ = ring::create("mp:test", {maxsize, window}, 0, N);
        // Nobody may depend on looking again by himself, but where a scenario says so.
        ring_->patience = std::chrono::seconds(10);
    }
    mpd::position head() { return ring_->shared().get.committed.read().at; }
    mpd::position tail() { return ring_->shared().put.committed.read().at; }
    /// Takes all of them, and forgets that it did.
    void drain() {
        while (get_now() == 0) {
        }
        for (auto& n : sh_.seen) n = 0;
    }
    /// I6. S is a page, and one page lies before the segments.
    bool memory_as_told() {
        struct stat info;
        ::fstat(ring_->memory().file().fd(), &info);
        const long pages = info.st_blocks / 8 - static_cast<long>(ring_->data_begin() / 4096);
        const long top = ring_->shared().top.load(), limit = ring_->shared().limit.load();
        return top <= pages && pages <= std::max(top, limit) && limit <= long{N};
    }
    std::uint32_t segments_in_use() {
        ring_->shared().put.seen = head();  // nobody else runs now
        std::uint32_t n = 0;
        for (std::uint64_t p = 0; p < N; ++p) n += !ring_->is_free(p, tail());
        return n;
    }

    // ---- bells

    /// A process that arms the ring's bell and lives until the checks are over.
    void spawn_poller(bystanders& others) {
        others.spawn([this] {
            sh_.bell_fd = ring_->fileno();
            sh_.bell_pid = ::getpid();
            return eventually([this] { return sh_.go == 99; }) ? 0 : bell_table_wrong;
        });
        eventually([this] { return sh_.bell_pid != 0; });
    }
    /// What poll() says to the poller, whatever process asks.
    bool bell_readable() {
        const mpd::unique_fd fd(
            ::open(("/proc/" + std::to_string(sh_.bell_pid) + "/fd/" + std::to_string(sh_.bell_fd))
                       .c_str(),
                   O_RDONLY | O_NONBLOCK | O_CLOEXEC));
        return mpd::wait_readable(fd.get(), deadline::at_once());
    }
    /// I7 and its inverse after a call that finds nothing.
    int check_bell() {
        if (sh_.bell_pid == 0) return 0;
        if (ring_->qsize() != 0) return bell_readable() ? 0 : bell_silent;
        if (get_now() != nothing_there) return got_from_empty;
        return bell_readable() ? bell_stuck : 0;
    }

    // ---- checks

    /// With everybody else done: qsize exact, messages whole and in order, none of `must` lost,
    /// the ring works in both directions, and all its memory comes back.
    int finish(std::initializer_list<int> must) {
        const int r = finish_but_helpers(must);
        sh_.go = 99;
        return r;
    }

    int finish_but_helpers(std::initializer_list<int> must) {
        if (!memory_as_told()) return memory_not_as_told;
        if (const int r = bell_before_drain()) return r;
        const std::uint64_t size = ring_->qsize();
        std::uint64_t n = 0;
        int last = -1, k = 0, r;
        for (; (r = get_now(&k)) == 0; ++n, last = k)
            if (k <= last) return out_of_order;
        if (r != nothing_there) return r;
        if (n != size || ring_->qsize() != 0) return wrong_qsize;
        for (const int m : must)
            if (sh_.seen[m] == 0) return lost_another;
        if (const int b = check_bell()) return b;

        mpd::ring_shared& shared = ring_->shared();
        shared.maxsize = shared.window = 0;
        int next = 60;
        for (const std::size_t bytes : {64u, 3000u, 3000u, 9000u, 64u, 3000u}) {
            if (!put(next, bytes, deadline::after(soon))) return put_refused;
            if (ring_->qsize() != 1) return wrong_qsize;
            if (const int b = check_bell()) return b;
            if (get(deadline::after(soon), &k) != 0 || k != next++) return got_another;
        }
        // An idle getter gives back, but not what lies below the tail's own segment.
        const std::uint32_t pinned = tail().bytes % S ? ring_->map()[tail().bytes / S % 16] + 1 : 0;
        const std::uint32_t rest = std::max(keep, pinned);
        const auto usual = ring_->patience;
        ring_->patience = 300us;
        for (int i = 0; i < 1000 && shared.limit > rest; ++i)
            if (get(deadline::after(3ms)) != nothing_there) return got_from_empty;
        ring_->patience = usual;
        if (segments_in_use() != (tail().bytes % S ? 1 : 0)) return segments_not_free;
        if (!memory_as_told()) return memory_not_as_told;
        if (shared.limit != shared.top || shared.top > rest) return memory_kept;
        if (trial_ % 8 == 0) {  // all of it can be used again; to show that takes a while
            for (std::uint32_t i = 0; i < N - 1; ++i)
                if (!put_segment(next++)) return segment_lost;
            for (std::uint32_t i = 0; i < N - 1; ++i)
                if (get_now() != 0) return segment_lost;
        }
        return check_bell();
    }

    /// Some getters wait. What was published must reach one of them with no help; then feed the
    /// others.
    int feed(int waiting, std::initializer_list<int> must) {
        if (!eventually([&] { return ring_->qsize() == 0; }, soon)) return not_taken;
        eventually([&] { return sh_.got >= waiting; }, 1ms);  // counted a little after the get
        for (int k = 40; sh_.got < waiting && k < 50; ++k) {
            const int before = sh_.got;
            put(k);
            if (!eventually([&] { return sh_.got > before; }, soon)) return getter_asleep;
        }
        return sh_.got < waiting ? getter_asleep : finish(must);
    }
    /// Some putters wait for room. A get must let one in, with no further help.
    int make_room(int waiting, std::initializer_list<int> must) {
        const std::uint64_t maxsize = ring_->shared().maxsize;
        for (int i = 0; sh_.sent < waiting && i < 20; ++i) {
            if (ring_->qsize() < maxsize) {  // there is room: they must see it by themselves
                if (eventually([&] { return sh_.sent >= waiting || ring_->qsize() >= maxsize; },
                               soon))
                    continue;
                return putter_asleep;
            }
            if (const int r = get_now()) return r;
        }
        eventually([&] { return sh_.sent >= waiting; }, soon);
        return sh_.sent < waiting ? putter_asleep : finish(must);
    }

    // ---- others that die

    void die_holding(
        mpd::robust_mutex& lock, const std::function<void()>& work = [] {}) {
        wait_status(fork_child([&] {
            lock.lock(deadline::never());
            work();
            return 0;
        }));
    }
    void die_waiting(const std::function<int()>& f) {
        child one(f);
        one.wait_asleep();
    }
    static pid_t ended_process() {
        const pid_t pid = fork_child([] { return 0; });
        wait_status(pid);
        return pid;
    }

    static constexpr auto soon = 2s;  // on a machine that does other things too

private:
    int bell_before_drain() {
        if (sh_.bell_pid == 0 || ring_->qsize() == 0) return 0;
        return bell_readable() ? 0 : bell_silent;
    }

    ledger& sh_ = shared_memory<ledger>();
    std::shared_ptr<ring> ring_;
    unsigned trial_ = 0;
    std::string ready_;
    std::vector<char> box_;
};

}  // namespace test
