// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What the two ends of a connection share.
///
/// One region, sparse:
///     region_header, link_shared    one page
///     ring 0, ring 1                ring e carries what end e receives
/// and two pipes, outside of it. Pipe e is the bell of end e: the owner of end e polls it, the
/// owner of the other end has it open for writing, and nobody else has. So it hangs up when that
/// owner is gone, and it rings (ring/line.hpp).

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <sys/resource.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/cpu.hpp>
#include <multiprocessing/detail/ring/ring.hpp>
#include <multiprocessing/detail/shm/header.hpp>
#include <multiprocessing/detail/shm/region.hpp>
#include <multiprocessing/detail/shm/region_table.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// Who owns an end, in 64 bits, so that it changes hands, or is closed, in one exchange.
///     63      closed, for ever: by its owner, or by the other end that found its owner dead
///     62      taken: an owner got it by its own doing, so a former one may have its pipe open; or
///             it is on its way to a listener, whose children may have it
///     46..61  how often it changed hands
///     22..45  when the owner started, modulo 2^24 ticks, 1 for 0; only if taken. 0: not known
///      0..21  pid
struct owner_word {
    static constexpr std::uint64_t closed = std::uint64_t{1} << 63;
    static constexpr std::uint64_t taken = std::uint64_t{1} << 62;

    static constexpr std::uint64_t first(pid_t pid) noexcept {
        return static_cast<std::uint64_t>(pid);
    }
    /// The parent gives it to a child that inherited the pipe. \param started  if it was taken once
    static constexpr std::uint64_t given(std::uint64_t from, pid_t pid,
                                         std::uint64_t started) noexcept {
        return from & taken ? took(from, pid, started)
                            : next(from) | static_cast<std::uint64_t>(pid);
    }
    static constexpr std::uint64_t took(std::uint64_t from, pid_t pid,
                                        std::uint64_t started) noexcept {
        return next(from) | taken | started_bits(started) << 22 | static_cast<std::uint64_t>(pid);
    }
    /// A listener took it in: nobody else has its pipe any more.
    static constexpr std::uint64_t accepted(std::uint64_t from, pid_t pid) noexcept {
        return next(from) | static_cast<std::uint64_t>(pid);
    }
    static constexpr pid_t pid(std::uint64_t word) noexcept {
        return static_cast<pid_t>(word & 0x3fffff);  // the kernel's most is 2^22
    }
    /// \param started  not 0, which would say nothing
    static constexpr bool is_of(std::uint64_t word, std::uint64_t started) noexcept {
        const std::uint64_t known = word >> 22 & 0xffffff;
        return known == 0 || known == started_bits(started);
    }

private:
    static constexpr std::uint64_t next(std::uint64_t word) noexcept {
        return (((word >> 46) + 1) & 0xffff) << 46;
    }
    static constexpr std::uint64_t started_bits(std::uint64_t started) noexcept {
        const std::uint64_t bits = started & 0xffffff;
        return started != 0 && bits == 0 ? 1 : bits;
    }
};

/// Layout  side[e], of end e, on lines of its own:
///      0 owner   an owner_word
///      8 bell    inode of pipe e, since who opens it through /proc must know that it is the one
///     16 carries   1 once a message with an end in it was put into ring e, and before
///     20 decoding  how many messages end e has taken and not decoded, once it carries
/// Then constants.
/// Writers  owner: by compare-exchange: the owner (closes it; gives it to a child), a process that
///     inherited or received it (takes it), the owner of the other end (closes it for the dead).
/// I1  owner moves forward only: what was once not a process's never is again, and closed stays.
///     So no end is used by two processes, and no end of file is taken back.
/// I2  the owner of an end has the pipe of the other end open for writing from before the exchange
///     that made it the owner until it ends, closes the end, or somebody else owns it. For a
///     listener that did not accept yet the message in its socket has it (login.hpp).
/// I3  nobody else has it open but: former owners, if the end is taken; a child of this library
///     until it runs user code; a process that was forked and exec'ed by other means, until the
///     exec. The fork hook closes it in all others.
/// I4  hence end of file: closed; or the pipe hangs up; or, if taken, its owner's pidfd is
/// readable.
///     After either of the latter two the other end closes it by exchange: if that fails, somebody
///     took it in time, and it has not ended.
/// I5  who makes an owner of an end that is, or becomes, taken, rings the other end and then makes
///     the exchange, both under the lock that the other end needs to arm: so that one looks for the
///     owner after the exchange, or is not asleep. Who accepts an end need not: its pipe hangs up.
/// I6  an undelivered end in ring e: its message was not taken, or is being decoded (counted before
///     it is committed as taken, until the end was taken or the message is dropped). Else, or when
///     end e is over, its sender closes it.
/// Kill table
///     K1  the owner killed anywhere: I4, and the ring's tables. What was sent before arrives.
///     K2  killed in close() before the exchange: as K1. Behind it: closed; the other end finds
///         that out as in K1, too, if it was not woken.
///     K3  parent killed before it gave an end to its child: the child finds that it has not got
///         it, and closes its copy of the pipe: the parent's death is its end. Behind it: given.
///     K4  child killed before it was given an end, or before its first instruction: the parent
///         gives it to the dead, drops its own copy of the pipe, and that hangs up.
///     K5  one that takes an end killed before the exchange: nothing happened, but that the other
///         end may look in vain. Behind it: it was the owner, and the other end is awake (I5).
///     K6  killed while it decodes: decoding stays above 0, and its end of the link is over (I4).
///     K7  killed while it was to receive an end: its sender finds that out (I6) at its next use,
///     or
///         every look_again while it sleeps.
/// Not covered: exec by an owner that took its end. Its pidfd does not tell, and a former owner may
/// have the pipe open: the end lasts as long as the new program.
struct link_shared {
    struct alignas(line_pair) side {
        std::atomic<std::uint64_t> owner;
        std::uint64_t bell;
        std::atomic<std::uint32_t> carries;
        std::atomic<std::uint32_t> decoding;
    };
    side sides[2];
    std::uint64_t segments;  // of each ring
    std::uint64_t simplex;   // 1: end 0 only receives, end 1 only sends
};
static_assert(std::is_standard_layout_v<link_shared> && sizeof(link_shared) <= 4096 - line_pair);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

/// This process's side of the region.
template <compiled When = compiled::when_used>
class link {
public:
    /// What may lie unread before send() waits: more than 10,000 small messages.
    static constexpr std::uint64_t window = std::uint64_t{2} << 20;
    /// Bytes of its region at most: thousands of connections must fit into the address space.
    static constexpr std::uint64_t longest = 4096 + (std::uint64_t{32} << 30);

    /// \param type  fingerprint of what it carries; 0: anything
    static std::shared_ptr<link> create(std::uint64_t type, bool duplex) {
        const std::uint64_t segments = most_segments();
        region made = region::create("mp:Pipe", region_kind::connection, type,
                                     head + 2 * message_ring::bytes_with(segments));
        link_shared& shared = shared_of(made);
        shared.segments = segments;
        shared.simplex = duplex ? 0 : 1;
        for (unsigned e : {0u, 1u})
            message_ring::format(part(made, segments, e), {.window = window}, segments);
        return region_table<When>::template add<link>(std::move(made));
    }

    explicit link(region memory) : memory_(std::move(memory)) {
        const std::uint64_t segments = shared().segments;
        if (segments > memory_.size() / message_ring::segment_size ||
            head + 2 * message_ring::bytes_with(segments) != memory_.size())
            throw Error("the shared memory of this connection is damaged (its size)");
        for (unsigned e : {0u, 1u})
            rings_[e] = std::make_unique<later<When, message_ring>>(part(memory_, segments, e));
    }

    region& memory() noexcept { return memory_; }
    void detach() noexcept {}

    link_shared& shared() const noexcept { return shared_of(memory_); }
    std::atomic<std::uint64_t>& owner(unsigned end) const noexcept {
        return shared().sides[end].owner;
    }
    message_ring& ring(unsigned end) const noexcept { return *rings_[end]; }

private:
    static constexpr std::uint64_t head = 4096;

    /// For each ring: half of this process's memory, within `longest`.
    static std::uint64_t most_segments() {
        static constexpr std::uint64_t most = (longest - head) / 2;
        rlimit files{};
        ::getrlimit(RLIMIT_FSIZE, &files);
        const std::uint64_t largest =
            std::min({half_of_memory(), most, std::uint64_t{files.rlim_cur} / 2});
        // A ring's tables take less than a segment of each 64.
        const std::uint64_t segments = largest / message_ring::segment_size / 65 * 64;
        if (segments < message_ring::kept_segments)
            throw_os_error(EFBIG, "making a connection: RLIMIT_FSIZE (Limits::file_size) of " +
                                      std::to_string(files.rlim_cur) +
                                      " bytes leaves no room for its shared file");
        return segments;
    }

    static link_shared& shared_of(const region& memory) noexcept {
        static_assert(sizeof(region_header) <= line_pair);
        return *reinterpret_cast<link_shared*>(memory.data() + line_pair);
    }
    static region part(const region& whole, std::uint64_t segments, unsigned end) noexcept {
        const std::uint64_t bytes = message_ring::bytes_with(segments);
        return whole.part(head + end * bytes, bytes);
    }

    region memory_;
    std::array<std::unique_ptr<later<When, message_ring>>, 2> rings_;
};

}  // namespace multiprocessing::detail
