// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A ring of 4 KiB segments, and messages that are strings.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <sys/stat.h>

#include <multiprocessing/detail/ring/ring.hpp>

#include "support/child.hpp"

namespace test {

using namespace multiprocessing;
using detail::deadline;

inline constexpr std::uint64_t segment = 4096;
inline constexpr std::uint64_t type_of_strings = 7;

using small_ring = detail::basic_ring<segment>;

template <class Ring = small_ring>
std::shared_ptr<Ring> make_ring(detail::ring_limits limits = {}, std::uint64_t segments = 12) {
    return Ring::create("mp:test", limits, 0, segments);
}

template <class Ring>
bool put(Ring& ring, std::string_view text, deadline until = deadline::never()) {
    const std::array parts{std::as_bytes(std::span(text))};
    return ring.put(parts, type_of_strings, until);
}
template <class Ring>
bool try_put(Ring& ring, std::string_view text) {
    return put(ring, text, deadline::at_once());
}

template <class Ring>
std::optional<std::string> get(Ring& ring, deadline until = deadline::never()) {
    std::string text;
    const auto copy = [&](std::uint64_t type, std::span<const std::byte> bytes) {
        if (type != type_of_strings) throw Error("another fingerprint");
        text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    };
    if (!ring.get(until, copy)) return std::nullopt;
    return text;
}
template <class Ring>
std::optional<std::string> try_get(Ring& ring) {
    return get(ring, deadline::at_once());
}
inline deadline soon() { return deadline::after(std::chrono::seconds(20)); }

/// A message that fills a segment to the last byte, told apart by its first one.
inline std::string segmentful(char first) {
    std::string text(segment - 16, '.');
    text[0] = first;
    return text;
}

template <class Ring>
detail::position tail(Ring& ring) {
    return ring.shared().put.committed.read().at;
}
template <class Ring>
detail::position head(Ring& ring) {
    return ring.shared().get.committed.read().at;
}

/// Pages that the segments have. Small rings have one page before them.
template <class Ring>
std::uint64_t pages(Ring& ring) {
    struct stat info;
    ::fstat(ring.memory().file().fd(), &info);
    return static_cast<std::uint64_t>(info.st_blocks) / 8 - ring.data_begin() / 4096;
}
template <class Ring>
void fallocate_segment(Ring& ring, std::uint64_t index, int mode) {
    if (::fallocate(ring.memory().file().fd(), mode,
                    static_cast<off_t>(ring.data_begin() + index * segment), segment) != 0)
        give_up("fallocate");
}
template <class Ring>
void allocate_segment(Ring& ring, std::uint64_t index) {
    fallocate_segment(ring, index, 0);
}
template <class Ring>
void punch_segment(Ring& ring, std::uint64_t index) {
    fallocate_segment(ring, index, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
}
template <class Ring>
std::uint64_t segments_in_use(Ring& ring) {
    ring.shared().put.seen = head(ring);  // nobody else uses it
    std::uint64_t count = 0;
    for (std::uint64_t p = 0; p < ring.segments(); ++p) count += !ring.is_free(p, tail(ring));
    return count;
}

/// What poll() says of a descriptor, now.
inline bool readable(int fd) { return detail::wait_readable(fd, deadline::at_once()); }

/// A child that takes the lock, does `work` and is killed with the lock held.
template <class Work>
void die_holding(detail::robust_mutex& lock, Work work) {
    child holder([&] {
        lock.lock(deadline::never());
        work();
        ::raise(SIGKILL);
        return 0;
    });
    holder.exit_status();
}
inline void die_holding(detail::robust_mutex& lock) {
    die_holding(lock, [] {});
}

/// Whoever is about to commit, or has, is killed.
struct killed_before_commit : detail::ring_steps {
    template <class TooEarly>
    static bool commit(detail::gate&, detail::position, int, TooEarly) noexcept {
        ::raise(SIGKILL);
        return false;
    }
};
struct killed_after_commit : detail::ring_steps {
    template <class TooEarly>
    static bool commit(detail::gate& g, detail::position p, int wake, TooEarly early) noexcept {
        const bool was_early = g.commit(p, wake, early);
        ::raise(SIGKILL);
        return was_early;
    }
};
using ring_killed_before_commit = detail::basic_ring<segment, killed_before_commit>;
using ring_killed_after_commit = detail::basic_ring<segment, killed_after_commit>;

template <class Ring>
detail::region_handle handle_of(Ring& ring) {
    const auto& memory = ring.memory();
    return {memory.header().id, memory.size(), ::getpid(), memory.file().fd()};
}
/// The same ring to a process in which commits kill.
template <class Ring, class Other>
std::shared_ptr<Ring> same_memory(Other& ring) {
    const detail::region_handle handle = detail::region_table<>::lend(ring);
    return std::make_shared<Ring>(
        detail::region::open(handle, detail::region_kind::message_ring, "a ring"));
}

/// What an exception of type E says, thrown by `f`; empty if there is none.
template <class E, class F>
std::string text_of(F f) {
    try {
        f();
    } catch (const E& e) {
        return e.what();
    }
    return {};
}

/// Somebody sleeps at this gate, or died in his sleep.
inline bool sleeper_at(const detail::gate& gate) {
    return (gate.word.load() & detail::gate::sleeper) != 0;
}

}  // namespace test
