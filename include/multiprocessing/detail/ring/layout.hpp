// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The shared structs of the message ring, with their protocol. ring.hpp has the operations.
///
/// Many putters, many getters, any of which may be killed after any instruction.
///
/// Layout of the region, behind its 64-byte header
///     ring_shared            the struct below
///     map[map_size]          u32: logical segment -> physical segment, index modulo map_size
///     laid[segments]         u64: 1 + the last logical segment laid on a physical one; 0: none
///     data                   `segments` segments of S bytes each, sparse, from a page boundary on
/// Position P: bytes since creation; 64 bits, a multiple of 8, only grows. It lies in logical
/// segment P / S; its address is data + map[P / S % map_size] * S + P % S. A message never leaves a
/// run of physically contiguous segments.
///
/// Writers
///     put.gate, map, laid, top, limit, bells    the holder of put.lock
///     line                                      likewise
///     ended                                     the holder of the lock of the side that ends
///     get.gate                                  the holder of get.lock
///     done                                      the holder of done_lock
///     get.spinners                              getters that wait (lookout.hpp, with its kills)
///     put.seen, get.seen                        the holder of that side's lock (a cache of the
///         other side's gate; a torn one is made of old true values, hence only conservative)
///
/// Invariants
/// I1  head <= tail, in bytes and in count.
/// I2  the bytes in [head, tail) and their map entries never change.
/// I3  map and laid are written for segments beyond the committed tail only. Physical segment p is
///     free iff laid[p] <= head / S or laid[p] > ceil(tail / S): moving the head frees, and so does
///     the death of a putter that had laid ahead. There is no free list.
/// I4  recovery of any lock is pthread_mutex_consistent and nothing else.
/// I5  under a lock: no user code, no sleep.
/// I6  segments below `top` have memory; none at or above `limit` has.
/// I7  not empty and a bell armed means that the bell's pipe is readable. (bells.hpp)
/// I8  the line is armed only while the ring is empty. (line.hpp)
///
/// Commit: gate::commit, one compare-exchange, or with a sleeper one FUTEX_WAKE_OP.
///
/// Kill table
///     put  K1  before it writes map, laid, bytes: nothing happened
///          K2  while it writes them: all above the tail, hence free or unseen
///          K3  growing, between limit, memory and top: give_back() punches [top, limit)
///          K4  between the bell and the commit: one needless byte in the pipe, removed by the next
///              getter that finds nothing
///          K5  the commit wakes in the same step; behind it: delivered
///     get  K6  before the commit: nothing happened, the next getter has the message
///          K7  behind it: taken; this message is lost with its getter
///     wait K8  the room's holder, awake or asleep: the robust room tells one of those outside, who
///              looks for himself; a sleeper bit left behind costs one needless wake
///          K9  one outside the room: nothing stays; while it spins, lookout.hpp's K1 to K3
///     shrink K10  between top, punch and limit: punched again
///     done K11  as put: the commit wakes, or nothing happened
///     end  K12  between the flag and the commit that wakes: those who sleep find out at their
///              deadline; a connection's are short where its other side may be gone
/// A process that is stopped while it waits holds the room: while it is stopped, each message may
/// wait up to look_again (500 ms) for a getter that looks himself. One stopped while it copies
/// holds its side until it goes on or is killed, and timed calls end in time.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <multiprocessing/detail/platform/cpu.hpp>
#include <multiprocessing/detail/platform/robust_mutex.hpp>
#include <multiprocessing/detail/ring/gate.hpp>
#include <multiprocessing/detail/ring/lookout.hpp>
#include <multiprocessing/detail/shm/header.hpp>

namespace multiprocessing::detail {

/// First 16 bytes of a message, or first 8 of the unused rest of a segment. Only 8 may be left
/// there, so a getter looks at the first word before it reads the second.
struct message_header {
    static constexpr unsigned length_bits = 48;
    static constexpr std::uint64_t most_length = (std::uint64_t{1} << length_bits) - 1;
    enum kind : std::uint16_t { message = 1, skip = 2 };

    std::uint64_t length_and_kind;  // bytes behind the header; kind << 48
    std::uint64_t fingerprint;      // of the type that the bytes are

    static constexpr std::uint64_t word(std::uint64_t length, kind k) noexcept {
        return length | std::uint64_t{k} << length_bits;
    }
    constexpr std::uint64_t length() const noexcept { return length_and_kind & most_length; }
    constexpr bool is(kind k) const noexcept { return length_and_kind >> length_bits == k; }
};
static_assert(sizeof(message_header) == 16);

/// One side of the ring. Putters and getters write different lines; a side's gate is read by the
/// other only when its cached copy has run dry.
struct ring_side {
    alignas(line_pair) robust_mutex lock;
    position seen;
    alignas(line_pair) gate committed;
    alignas(line_pair) robust_mutex room;  // of those that wait, its holder alone sleeps
    lookout spinners;                      // the getters' alone
};

/// A process that polls: it made a pipe, and those who put open that by /proc/<pid>/fd/<fd>.
struct ring_bell {
    std::atomic<std::uint64_t> id;  // 0: a free entry; written last
    std::uint64_t inode;            // of the pipe, since pids and descriptors are used again
    std::uint64_t started;          // when the process did
    std::int32_t pid;
    std::int32_t fd;
    std::atomic<std::uint32_t> rung;  // bell_state
};

struct ring_shared {
    static constexpr std::size_t most_bells = 16;

    ring_side put, get;  // put.committed is the tail, get.committed the head

    // JoinableQueue: count is the number of items done, bytes how often none was left to do.
    alignas(line_pair) robust_mutex done_lock;
    gate done;

    // Constant once made.
    alignas(line_pair) std::uint64_t maxsize;  // messages; 0: no bound
    std::uint64_t window;                      // bytes; 0: no bound
    std::uint64_t segments;

    alignas(line_pair) std::atomic<std::uint32_t> top;  // I6
    std::atomic<std::uint32_t> limit;                   // I6
    std::atomic<std::uint32_t> bells_in_use;            // entries at or above it are free
    std::atomic<std::uint32_t> line;                    // 1: the next put writes a byte (line.hpp)
    std::atomic<std::uint32_t> ended;                   // sides that will do no more, as bits
    std::uint64_t last_bell;
    ring_bell bells[most_bells];
};
static_assert(std::is_standard_layout_v<ring_shared> && alignof(ring_shared) == line_pair);
static_assert(offsetof(ring_side, committed) == line_pair && sizeof(ring_side) == 3 * line_pair);
static_assert(offsetof(ring_shared, get) == 3 * line_pair &&
              offsetof(ring_shared, done_lock) == 6 * line_pair);
static_assert(sizeof(ring_bell) == 40);

}  // namespace multiprocessing::detail
