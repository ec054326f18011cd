// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The message ring: put and get between processes that may be killed at any instruction.
/// layout.hpp has the shared structs, the invariants and the kill table.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <sched.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/cpu.hpp>
#include <multiprocessing/detail/platform/futex.hpp>
#include <multiprocessing/detail/platform/robust_mutex.hpp>
#include <multiprocessing/detail/ring/bells.hpp>
#include <multiprocessing/detail/ring/gate.hpp>
#include <multiprocessing/detail/ring/layout.hpp>
#include <multiprocessing/detail/ring/line.hpp>
#include <multiprocessing/detail/ring/waiting.hpp>
#include <multiprocessing/detail/shm/page_tables.hpp>
#include <multiprocessing/detail/shm/region.hpp>
#include <multiprocessing/detail/shm/region_table.hpp>

namespace multiprocessing::detail {

/// A message as the parts it is copied from, in order.
using pieces = std::span<const std::span<const std::byte>>;

/// A value as a piece.
template <class T>
std::span<const std::byte> bytes_of(const T& value) noexcept {
    return {reinterpret_cast<const std::byte*>(std::addressof(value)), sizeof value};
}

struct ring_limits {
    std::uint64_t maxsize = 0;  // messages; 0: bounded by memory alone
    std::uint64_t window = 0;   // bytes: full if more and at least two messages are queued; 0: none
};

/// The steps whose order the kill table relies on. Tests plant bugs by deriving from it.
struct ring_steps {
    static constexpr bool copies_before_commit = true;
    static constexpr bool rings_before_commit = true;
    static constexpr bool marks_skipped = true;
    static constexpr bool marks_growth = true;
    static constexpr bool keeps_room = true;
    static constexpr bool passes_on = true;
    static void spins() noexcept {}
    template <class TooEarly>
    [[gnu::always_inline]] static bool commit(gate& g, position p, int wake,
                                              TooEarly too_early) noexcept {
        return g.commit(p, wake, too_early);
    }
};

/// This process's side of a ring; its threads share it.
/// \tparam SegmentSize  bytes, a multiple of the page size and a power of two
template <std::uint64_t SegmentSize = std::uint64_t{1} << 20, class Steps = ring_steps>
class basic_ring {
    static_assert(SegmentSize % 4096 == 0 && std::has_single_bit(SegmentSize));

public:
    static constexpr std::uint64_t segment_size = SegmentSize;
    static constexpr std::uint32_t kept_segments = 4;  // never given back: the warm window

    /// \param name  shown in /proc/<pid>/maps
    /// \param type  fingerprint of what it carries, 0: anything
    /// \param segments  at most so many; 0: as many as largest_region() has
    static std::shared_ptr<basic_ring> create(const char* name, ring_limits limits = {},
                                              std::uint64_t type = 0, std::uint64_t segments = 0) {
        if (segments == 0) segments = largest_region() / SegmentSize;
        if (segments < kept_segments)
            throw_os_error(EFBIG, "making a queue: RLIMIT_FSIZE (Limits::file_size) of " +
                                      std::to_string(largest_region()) +
                                      " bytes leaves no room for its shared file");
        region made = region::create(name, region_kind::message_ring, type, bytes_with(segments));
        format(made, limits, segments);
        return region_table<used_by<Steps>>::template add<basic_ring>(std::move(made));
    }

    /// Of a region with so many segments.
    static constexpr std::uint64_t bytes_with(std::uint64_t segments) noexcept {
        return data_offset(segments) + segments * SegmentSize;
    }
    /// Makes a ring in a new region, or in a part of one.
    static void format(const region& made, ring_limits limits, std::uint64_t segments) {
        ring_shared& shared = shared_of(made);
        for (robust_mutex* lock : {&shared.put.lock, &shared.put.room, &shared.get.lock,
                                   &shared.get.room, &shared.done_lock})
            lock->init();
        shared.maxsize = limits.maxsize;
        shared.window = limits.window;
        shared.segments = segments;
    }

    /// \param what  for errors: "a Queue"
    static std::shared_ptr<basic_ring> open(const region_handle& handle, const char* what) {
        return region_table<used_by<Steps>>::template open<basic_ring>(
            handle, region_kind::message_ring, what);
    }

    explicit basic_ring(region memory)
        : memory_(std::move(memory)), shared_(&shared_of(memory_)), segments_(shared_->segments) {
        if (segments_ < kept_segments || segments_ > memory_.size() / SegmentSize ||
            bytes_with(segments_) != memory_.size())
            throw Error("the shared memory of this queue is damaged (its size)");
        map_mask_ = map_size(segments_) - 1;
        page_tables_.reset(segments_);
        map_ = reinterpret_cast<std::uint32_t*>(memory_.data() + map_offset);
        laid_ = reinterpret_cast<std::uint64_t*>(memory_.data() + laid_offset(segments_));
        data_ = memory_.data() + data_offset(segments_);
    }
    basic_ring(const basic_ring&) = delete;
    basic_ring& operator=(const basic_ring&) = delete;

    region& memory() noexcept { return memory_; }

    /// Before the last handle of this process goes. Waits for a putter's copy, `patience` at most.
    void detach() noexcept {
        if (!bells_.ever_armed()) return;
        try {
            const held lock(shared_->put.lock, deadline::at_once(), patience);
            if (lock) bells_.disarm(*shared_);
        } catch (...) {  // the bell stays in the table until somebody finds it out
        }
    }

    /// Appends a message. The pieces are read under the put lock: no user code may run.
    /// \return false if the deadline came
    /// \throws OsError (ENOMEM and the like) if there is no memory; the ring is unchanged then
    bool put(pieces from, std::uint64_t fingerprint, deadline until) {
        std::uint64_t length = 0;
        for (const auto& piece : from) length += piece.size();
        const std::uint64_t need = footprint(length);
        if (length > message_header::most_length || need > segments_ * SegmentSize) [[unlikely]]
            throw_os_error(ENOMEM, "a message of " + std::to_string(length) +
                                       " bytes is larger than a queue's memory of " +
                                       std::to_string(segments_ * SegmentSize));
        held room;
        for (;;) {
            check_open();
            {
                held lock(shared_->put.lock, until, patience);
                if (!lock) return false;
                const position tail = shared_->put.committed.mine();
                if (has_room(tail, need)) [[likely]] {
                    append(tail, from, length, fingerprint);
                    return true;
                }
            }
            if (!wait_for_room(need, room, until)) return false;
        }
    }

    /// Takes the oldest message: calls `visit(fingerprint, bytes)` on it, in place and under the
    /// get lock, so no user code may run in it. If it throws the message is taken all the same,
    /// except for std::bad_alloc, which leaves it.
    /// \return false if the deadline came
    template <class Visit>
    bool get(deadline until, Visit visit) {
        std::optional<stay> waits;
        for (;;) {
            check_open();
            std::uint64_t at;
            {
                held lock(shared_->get.lock, until, patience);
                if (!lock) return false;
                const position head = shared_->get.committed.mine();
                at = head.bytes;
                if (shared_->get.seen.bytes > at || look_for_message(head, waits.has_value()))
                    [[likely]] {
                    const bool last = take(head, visit) == shared_->get.seen.bytes;
                    lock.unlock();
                    if (last) hush();
                    return true;
                }
            }
            if (!wait_for_message(at, waits, until)) return false;
        }
    }

    /// Exact: the number of messages at one instant.
    std::uint64_t qsize() const {
        check_open();
        for (;;) {
            const position head = shared_->get.committed.read().at;
            const position tail = shared_->put.committed.read().at;
            if (shared_->get.committed.read().at.count == head.count)
                return tail.count - head.count;
        }
    }
    std::uint64_t maxsize() const noexcept { return shared_->maxsize; }
    bool full() const { return shared_->maxsize != 0 && qsize() >= shared_->maxsize; }

    /// One message less that a join waits for.
    /// \return false if more are reported done than were put
    bool task_done() {
        check_open();
        held lock(shared_->done_lock, deadline::never(), patience);
        position done = shared_->done.mine();
        const std::uint64_t put = shared_->put.committed.read().at.count;
        if (done.count >= put) return false;
        ++done.count;
        const bool all = done.count == put;
        if (all) ++done.bytes;
        Steps::commit(shared_->done, done, wake_all, [&] { return !all; });
        return true;
    }

    /// Returns once every message put was reported done, be it only for a moment.
    /// \return false if the deadline came
    bool join(deadline until) {
        const std::uint64_t before = shared_->done.read().at.bytes;
        for (;;) {
            check_open();
            const gate::view done = shared_->done.read();
            if (done.at.bytes != before || done.at.count == shared_->put.committed.read().at.count)
                return true;
            if (until.passed()) return false;
            sleep(shared_->done, done.word, until);
        }
    }

    /// For this process: ClosedError from any later call and, within look_again, from those that
    /// wait. Makes its bell readable for good. Returns once all who sleep have been told.
    void close() {
        closed_.store(true, std::memory_order_seq_cst);  // see sleeper_count
        detach();
        // One that looked at the flag before may be about to sleep: again until nobody is left.
        for (int round = 0; sleepers_.any(); ++round) {
            for (gate* g : {&shared_->put.committed, &shared_->get.committed, &shared_->done})
                futex_wake(g->word, wake_all);
            if (round < 16)
                ::sched_yield();
            else
                futex_wait(futex_word(0), 0, deadline::after(std::chrono::milliseconds(1)));
        }
    }

    /// A descriptor that is readable exactly while the ring is not empty, level-triggered. It
    /// belongs to this process alone, and to the ring: not to be read or closed.
    int fileno() {
        check_open();
        held lock(shared_->put.lock, deadline::never(), patience);
        const bool none =
            shared_->put.committed.mine().bytes == shared_->get.committed.read().at.bytes;
        const int fd = bells_.arm(*shared_, none);
        if (none) bells_.hush(*shared_);  // K4, for one who asks again after he woke in vain
        return fd;
    }

    // ---- for a connection, which has one process at each side

    static constexpr std::uint32_t putters = 1, getters = 2;  // bits of ended

    ring_line& line() noexcept { return line_; }
    bool empty() const noexcept {
        return shared_->get.committed.read().at.bytes >= shared_->put.committed.read().at.bytes;
    }
    /// How many bytes were put since creation.
    std::uint64_t sent() const noexcept { return shared_->put.committed.read().at.bytes; }
    /// How many bytes were taken since creation.
    std::uint64_t taken() const noexcept { return shared_->get.committed.read().at.bytes; }

    /// Returns once a message is there; takes none.
    /// \return false if the deadline came
    bool await(deadline until) {
        stay waits(*this);
        while (empty())
            if (!wait_for_putter(waits, until)) return false;
        return true;
    }

    /// The getter is about to sleep on its descriptor.
    /// \return false if it must not: a message is there, nothing will ring, or the deadline came
    bool arm_line(deadline until) {
        held lock(shared_->put.lock, until, patience);
        if (!lock || !empty() || (ended() & putters) != 0) return false;
        line_.arm(shared_->line);
        return true;
    }
    /// The user is about to poll the getter's descriptor, all the time.
    /// \param fill  makes it readable
    template <class Fill>
    void poll_line(Fill fill) {
        held lock(shared_->put.lock, deadline::never(), patience);
        if (empty() && (ended() & putters) == 0)
            line_.arm(shared_->line);
        else
            fill();
        line_.polled.store(true, std::memory_order_relaxed);
    }
    /// Wakes a getter that sleeps on its descriptor, though nothing is put, and then does `f`,
    /// which it sees done.
    template <class F>
    bool ring_line_and(F f) {
        held lock(shared_->put.lock, deadline::never(), patience);
        if (shared_->line.load(std::memory_order_relaxed) != 0) line_.ring(shared_->line);
        return f();
    }

    /// Putters or getters will do no more, in any process: who waits for them returns as if his
    /// deadline had come, and the getter's descriptor stays readable. `agreed` is asked under the
    /// side's lock.
    /// \return what `agreed` did; nothing happens without
    template <class Agreed>
    bool end(std::uint32_t side, Agreed agreed) {
        ring_side& mine = side == putters ? shared_->put : shared_->get;
        const held lock(mine.lock, deadline::at_once(), patience);
        if (!agreed()) return false;
        shared_->ended.fetch_or(side, std::memory_order_release);  // (E) what was put goes first
        if (side == putters) line_.write_byte();
        if (lock)
            Steps::commit(mine.committed, mine.committed.mine(), wake_all, [] { return false; });
        return true;
    }

    /// A getter that looked and found nothing takes a needless byte away (K4).
    void quiet() { hush(); }

    // ---- for tests and figures

    ring_shared& shared() noexcept { return *shared_; }
    const std::uint32_t* map() const noexcept { return map_; }
    std::uint64_t* laid() const noexcept { return laid_; }
    std::uint64_t segments() const noexcept { return segments_; }
    /// Where the segments begin in the file.
    std::uint64_t data_begin() const noexcept { return data_offset(segments_); }
    bool is_free(std::uint64_t segment, position tail) const noexcept {
        return laid_[segment] <= shared_->put.seen.bytes / SegmentSize ||
               laid_[segment] > round_up(tail.bytes, SegmentSize) / SegmentSize;
    }
    /// Bound of each single wait for somebody else's wake; look_again but in tests.
    duration patience = look_again;

private:
    static constexpr std::uint64_t ahead = 1024;  // how far the putter prefetches, in bytes
    static constexpr std::uint64_t large = 64 << 10;

    // ---- layout

    static constexpr std::uint64_t round_up(std::uint64_t bytes, std::uint64_t to) noexcept {
        return (bytes + to - 1) / to * to;
    }
    static constexpr std::uint64_t footprint(std::uint64_t length) noexcept {
        return round_up(sizeof(message_header) + length, 8);
    }
    static constexpr std::uint64_t shared_offset = round_up(sizeof(region_header), line_pair);
    static constexpr std::uint64_t map_offset = shared_offset + sizeof(ring_shared);
    static constexpr std::uint64_t map_size(std::uint64_t segments) noexcept {
        std::uint64_t size = 1;
        while (size < segments) size *= 2;
        return size;
    }
    static constexpr std::uint64_t laid_offset(std::uint64_t segments) noexcept {
        return round_up(map_offset + map_size(segments) * sizeof(std::uint32_t), line_pair);
    }
    static constexpr std::uint64_t data_offset(std::uint64_t segments) noexcept {
        return round_up(laid_offset(segments) + segments * sizeof(std::uint64_t), 4096);
    }
    static ring_shared& shared_of(const region& memory) {
        return *reinterpret_cast<ring_shared*>(memory.data() + shared_offset);
    }

    std::uint32_t& mapped(std::uint64_t logical) const noexcept {
        return map_[logical & map_mask_];
    }
    /// Where position `at` lies; what the map says is checked.
    std::byte* address(std::uint64_t at) const {
        const std::uint64_t physical = mapped(at / SegmentSize);
        if (physical >= segments_ || at % 8 != 0) throw_damaged();
        return data_ + physical * SegmentSize + at % SegmentSize;
    }
    /// The first lines of a message that may be there; without a lock, so the map may change.
    void prefetch(std::uint64_t at) const noexcept {
        const std::uint64_t physical =
            std::atomic_ref(mapped(at / SegmentSize)).load(std::memory_order_relaxed);
        if (physical >= segments_) return;
        const std::byte* const begin = data_ + physical * SegmentSize + at % SegmentSize;
        prefetch_to_read(begin);
        prefetch_to_read(begin + 64);
    }
    [[noreturn]] static void throw_damaged() {
        throw SerializationError(
            "the shared memory of this queue is damaged: something wrote into it that is not this "
            "library; make a new queue");
    }

    /// Before the bytes of a message are touched.
    void prepare(std::uint64_t at, std::uint64_t need) noexcept {
        page_tables_.prepare(data_, SegmentSize, mapped(at / SegmentSize),
                             (at % SegmentSize + need - 1) / SegmentSize + 1);
    }

    /// A segment that a side has found and prepared: what lies in it needs neither again, since the
    /// map of what is committed never changes (I2, I3). Of this process, used under the side's
    /// lock. A forked child, whose parent may have been writing this, makes its own.
    struct current_segment {
        std::uint64_t first = ~std::uint64_t{0};  // position of its first byte
        std::uint64_t process = 0;
        std::byte* begin = nullptr;
    };
    /// \param at  laid, and committed if it is the first of a segment: else somebody may lay that
    ///     anew
    [[gnu::always_inline]] std::byte* address_in(current_segment& current, std::uint64_t at) {
        if ((at ^ current.first) >= SegmentSize || at % 8 != 0 || current.process != process())
            [[unlikely]]
            enter(current, at);
        return current.begin + at % SegmentSize;
    }
    [[gnu::noinline]] void enter(current_segment& current, std::uint64_t at) {
        std::byte* const here = address(at);
        prepare(at, 1);
        current = {at / SegmentSize * SegmentSize, process(), here - at % SegmentSize};
    }
    std::uint64_t process() const noexcept { return process_.load(std::memory_order_relaxed); }

    /// Under the put lock.
    [[gnu::always_inline]] bool has_room(position tail, std::uint64_t need) noexcept {
        position& seen = shared_->put.seen;
        if (!is_full(tail, seen, need)) [[likely]]
            return true;
        seen = shared_->get.committed.read().at;
        return !is_full(tail, seen, need);
    }
    [[gnu::noinline]] bool wait_for_room(std::uint64_t need, held& room, deadline until) {
        const auto still_full = [&](position head) {
            return is_full(shared_->put.committed.read().at, head, need);
        };
        return wait(shared_->get.committed, shared_->put.room, room, until, still_full, nullptr);
    }

    /// Conservative with a head that lags.
    [[gnu::always_inline]] bool is_full(position tail, position head,
                                        std::uint64_t need) const noexcept {
        const std::uint64_t queued = tail.count - head.count;
        const std::uint64_t maxsize = shared_->maxsize, window = shared_->window;
        return (maxsize != 0 && queued >= maxsize) ||
               (window != 0 && queued > 1 && tail.bytes - head.bytes + need > window);
    }

    // ---- messages. Inlined, though they are large: calls would be a third of what a small one
    // costs (benchmarks/run ring).

    /// Under the put lock: writes one message behind the tail and commits it.
    [[gnu::always_inline]] void append(position tail, pieces from, std::uint64_t length,
                                       std::uint64_t fingerprint) {
        const std::uint64_t need = footprint(length);
        std::uint64_t at = tail.bytes;
        std::byte* begin;
        if (at % SegmentSize != 0 && need <= SegmentSize - at % SegmentSize) [[likely]] {
            begin = address_in(putting_, at);
        } else {
            begin = new_segment(tail, need);
            at = round_up(at, SegmentSize);
        }
        last_need_.store(need, std::memory_order_relaxed);  // a guess
        const auto copy = [&] {
            std::byte* to = begin;
            const message_header header{message_header::word(length, message_header::message),
                                        fingerprint};
            std::memcpy(to, &header, sizeof header);
            to += sizeof header;
            for (const auto& piece : from) {
                copy_message(to, piece.data(), piece.size());
                to += piece.size();
            }
        };
        if constexpr (Steps::copies_before_commit) copy();
        // The lines of a later message come over meanwhile: getters read them a lap ago, and the
        // commit would wait some 100 ns for each.
        if (need <= 2 * ahead && at % SegmentSize + 2 * need + ahead <= SegmentSize)
            for (std::uint64_t i = 0; i < need; i += 64)
                prefetch_to_write(begin + need + ahead + i);
        const auto ring = [&] {
            // relaxed: written under this lock
            if ((shared_->bells_in_use.load(std::memory_order_relaxed) |
                 shared_->line.load(std::memory_order_relaxed)) != 0) [[unlikely]]
                ring_all();
        };
        if constexpr (Steps::rings_before_commit) ring();
        if (Steps::commit(shared_->put.committed, {at + need, tail.count + 1}, 1,
                          [this] { return shared_->get.spinners.manned(); }) &&
            !shared_->get.spinners.manned())  // I2 of lookout.hpp
            futex_wake(shared_->put.committed.word, 1);
        if constexpr (!Steps::rings_before_commit) ring();
        if constexpr (!Steps::copies_before_commit) copy();
    }

    [[gnu::noinline]] void ring_all() {
        if (shared_->bells_in_use.load(std::memory_order_relaxed) != 0) bells_.ring(*shared_);
        if (shared_->line.load(std::memory_order_relaxed) != 0) line_.ring(shared_->line);
    }

    /// Lays the segments of a message that the current one has no room for.
    /// \return where it begins
    [[gnu::noinline]] std::byte* new_segment(position tail, std::uint64_t need) {
        const std::uint64_t at = round_up(tail.bytes, SegmentSize);
        if (at != tail.bytes) {
            constexpr std::uint64_t word = message_header::word(0, message_header::skip);
            if constexpr (Steps::marks_skipped)
                std::memcpy(address(tail.bytes), &word, sizeof word);
        }
        lay(tail, at / SegmentSize, round_up(need, SegmentSize) / SegmentSize);
        prepare(at, need);
        return address(at);
    }

    /// Under the get lock, with no message known: whether there is one.
    /// \param waited  before this look, so that it is no time to let messages gather
    [[gnu::noinline]] bool look_for_message(position head, bool waited) noexcept {
        position& seen = shared_->get.seen;
        if (!waited) chase_.before_look(head.count);
        seen = shared_->put.committed.read().at;
        if (!waited) chase_.after_look(seen.count > head.count);
        return seen.bytes != head.bytes;
    }

    /// Under the get lock: shows the message at the head and commits that it is gone.
    /// \return the new head
    template <class Visit>
    [[gnu::always_inline]] std::uint64_t take(position head, Visit& visit) {
        const std::uint64_t tail = shared_->get.seen.bytes;
        std::uint64_t at = head.bytes;
        message_header header{};
        const std::byte* from = address_in(getting_, at);
        std::memcpy(&header, from, sizeof header.length_and_kind);
        if (header.is(message_header::skip)) {
            at = round_up(at, SegmentSize);
            if (at >= tail) throw_damaged();
            from = address_in(getting_, at);
            std::memcpy(&header, from, sizeof header.length_and_kind);
        }
        const std::uint64_t length = header.length(), need = footprint(length);
        if (!header.is(message_header::message) || at >= tail || need > tail - at) throw_damaged();
        if (need > SegmentSize - at % SegmentSize) [[unlikely]] {
            if (!contiguous(at, need) || address(at) != from) throw_damaged();
            prepare(at, need);
        }
        last_need_.store(need, std::memory_order_relaxed);  // a guess
        std::memcpy(&header.fingerprint, from + offsetof(message_header, fingerprint),
                    sizeof header.fingerprint);
        const position next{at + need, head.count + 1};
        try {
            visit(header.fingerprint, std::span<const std::byte>(from + sizeof header, length));
        } catch (const std::bad_alloc&) {
            throw;  // the message stays for somebody with more memory
        } catch (...) {
            commit_taken(next);
            throw;
        }
        commit_taken(next);
        return next.bytes;
    }

    [[gnu::always_inline]] void commit_taken(position next) noexcept {
        // A putter that waits for bytes sleeps until a quarter of the window is free: else one that
        // is faster than the getters would be woken for every single message.
        Steps::commit(shared_->get.committed, next, 1, [this, next] {
            if (shared_->window == 0 || shared_->maxsize != 0) return false;
            const position now = shared_->put.committed.read().at;
            return now.count - next.count > 1 && now.bytes - next.bytes > shared_->window / 4 * 3;
        });
    }

    bool contiguous(std::uint64_t at, std::uint64_t need) const noexcept {
        const std::uint64_t first = at / SegmentSize;
        const std::uint64_t more = (at % SegmentSize + need - 1) / SegmentSize;
        const std::uint64_t physical = mapped(first);
        if (more >= segments_ || physical + more >= segments_) return false;
        for (std::uint64_t i = 1; i <= more; ++i)
            if (mapped(first + i) != physical + i) return false;
        return true;
    }

    /// Getters tell those who poll that nothing is there.
    void hush() {
        // A look ahead. relaxed: a getter's own doing, or another's that looks himself.
        const bool arms = line_.polled.load(std::memory_order_relaxed) &&
                          shared_->line.load(std::memory_order_relaxed) == 0 && ended() == 0;
        if (shared_->bells_in_use.load(std::memory_order_relaxed) == 0 && !arms) return;
        held lock;
        // I7 errs on this side. The line of one putter is exact: the lock is free in a moment, or a
        // message comes.
        if (!(arms ? lock.lock(shared_->put.lock, deadline::at_once(), patience)
                   : lock.try_lock(shared_->put.lock)))
            return;
        if (shared_->put.committed.mine().bytes == shared_->get.committed.read().at.bytes) {
            bells_.hush(*shared_);
            if (arms && ended() == 0) line_.arm(shared_->line);
        }
    }

    std::uint32_t ended() const noexcept {
        return shared_->ended.load(std::memory_order_acquire);  // (E)
    }

    // ---- segments; all under the put lock

    /// Lays logical segments first .. first + k - 1 on k physical ones in a row.
    void lay(position tail, std::uint64_t first, std::uint64_t k) {
        shared_->put.seen = shared_->get.committed.read().at;
        give_back(tail, true);
        const std::uint64_t physical = find(tail, first, k);
        while (shared_->top.load(std::memory_order_relaxed) < physical + k) grow(tail);
        for (std::uint64_t i = 0; i < k; ++i) {
            laid_[physical + i] = first + i + 1;
            // relaxed: the commit publishes it; atomic for prefetch()
            std::atomic_ref(mapped(first + i))
                .store(static_cast<std::uint32_t>(physical + i), std::memory_order_relaxed);
        }
    }

    std::uint64_t find(position tail, std::uint64_t first, std::uint64_t k) const {
        if (k == 1)
            for (std::uint64_t i = 0; i < kept_segments; ++i)
                if (is_free((first + i) % kept_segments, tail)) return (first + i) % kept_segments;
        std::uint64_t run = 0;
        for (std::uint64_t p = 0; p < segments_; ++p) {
            run = is_free(p, tail) ? run + 1 : 0;
            if (run == k) return p + 1 - k;
        }
        throw_os_error(ENOMEM, "the queue's memory of " + std::to_string(segments_ * SegmentSize) +
                                   " bytes is full" + unread(tail));
    }

    void grow(position tail) {
        const std::uint32_t top = shared_->top.load(std::memory_order_relaxed);
        if (Steps::marks_growth && shared_->limit.load(std::memory_order_relaxed) <= top)
            shared_->limit.store(top + 1, std::memory_order_release);  // K3
        if (const int refused = memory_.allocate(file_offset(top), SegmentSize))
            throw_os_error(refused, "growing a queue by " + std::to_string(SegmentSize) + " bytes" +
                                        unread(tail));
        if (!Steps::marks_growth) shared_->limit.store(top + 1, std::memory_order_release);
        shared_->top.store(top + 1, std::memory_order_release);
    }

    /// Gives back the memory above `top`, else the highest segment if it is free.
    /// \param only_if_old  and was not used lately
    /// \return whether something was given back
    bool give_back(position tail, bool only_if_old) {
        std::uint32_t top = shared_->top.load(std::memory_order_relaxed);
        const std::uint32_t limit = shared_->limit.load(std::memory_order_relaxed);
        if (limit <= kept_segments || limit > segments_ || top > limit) return false;
        if (limit == top) {
            if (!is_free(top - 1, tail)) return false;
            if (only_if_old && laid_[top - 1] + 2 * std::uint64_t{top} > tail.bytes / SegmentSize)
                return false;
            shared_->top.store(--top, std::memory_order_release);
        }
        for (std::uint32_t i = top; i < limit; ++i) page_tables_.forget(i);
        memory_.punch(file_offset(top), (limit - top) * SegmentSize);
        shared_->limit.store(top, std::memory_order_release);  // K10
        return true;
    }

    /// By a getter that waited in vain: one segment a hold, until something else is to be done.
    template <class Enough>
    void give_back_all(Enough enough) {
        bool more = shared_->limit.load(std::memory_order_relaxed) > kept_segments;  // a guess
        while (more && !enough() && !closed_.load(std::memory_order_acquire)) {
            held lock;
            if (!lock.try_lock(shared_->put.lock)) return;
            shared_->put.seen = shared_->get.committed.read().at;
            more = give_back(shared_->put.committed.mine(), false);
        }
    }

    std::uint64_t file_offset(std::uint64_t segment) const noexcept {
        return data_offset(segments_) + segment * SegmentSize;
    }
    std::string unread(position tail) const {
        const position head = shared_->put.seen;
        return "; " + std::to_string(tail.count - head.count) + " messages of " +
               std::to_string(tail.bytes - head.bytes) + " bytes lie unread";
    }

    // ---- waiting; no lock but the room is held

    /// Returns true once it may be worth looking again, false when the deadline came. The room,
    /// once taken, stays with the caller until his operation is over: then the next one looks.
    /// \param owed  of a getter, null for a putter: set if he is to wake_next() in the end
    template <class Blocked>
    bool wait(gate& other, robust_mutex& mutex, held& room, deadline until, Blocked blocked,
              bool* owed) {
        if (until.is_at_once() || (ended() & (owed ? putters : getters)) != 0) return false;
        if (!room) {
            // For a getter of small messages a putter that is faster should sleep, and let a good
            // part of the window be emptied.
            const std::uint64_t copied = last_need_.load(std::memory_order_relaxed);
            if ((owed || copied >= large) && spin(other, copied, blocked, owed)) return true;
            ::sched_yield();
            if (!blocked(other.read().at)) return true;
            spin_.sleeps();
            if (until.passed()) return false;
            if (!room.lock(mutex, deadline::earlier(until, deadline::after(patience)), patience))
                return true;
        }
        if (owed) shared_->get.spinners.lie_down();
        gate::view now = other.read();
        if (!blocked(now.at)) return true;
        if (until.passed()) return false;
        const deadline soon = deadline::after(patience);
        if (owed && soon < until) {
            if (sleep(other, now.word, soon)) return leave(room);
            give_back_all([&] { return !blocked(other.read().at) || until.passed(); });
            if (!shared_->get.spinners.bar()) return leave(room);
            now = other.read();
            if (!blocked(now.at)) return true;
        }
        sleep(other, now.word, until);
        return leave(room);
    }

    /// Outside the room. \return whether it may be worth looking again
    template <class Blocked>
    bool spin(gate& other, std::uint64_t copied, Blocked blocked, bool* owed) {
        const auto ready = [&] {
            Steps::spins();
            return !blocked(other.read().at);
        };
        std::int64_t manned = 0;  // until then
        const bool came = spin_(copied, ready, [&](std::int64_t end) {
            // relaxed: a guess. With nobody asleep no putter looks there.
            if (owed && other.word.load(std::memory_order_relaxed) & gate::sleeper &&
                shared_->get.spinners.enter(end))
                manned = end;
        });
        if (manned == 0) return came;
        shared_->get.spinners.leave(manned);
        // I2 of lookout.hpp: what is read from here on is what this load sees, or newer.
        (void)other.word.load(std::memory_order_seq_cst);
        return *owed = !blocked(other.read().at);
    }

    /// I3 of lookout.hpp.
    struct relay {
        basic_ring& ring;
        bool owed = false;  // while it spun somebody may not have been woken

        explicit relay(basic_ring& of) : ring(of) {}
        relay(const relay&) = delete;
        relay& operator=(const relay&) = delete;
        ~relay() {
            if (!Steps::passes_on || !owed) return;
            gate& tail = ring.shared_->put.committed;
            if (tail.read().at.bytes != ring.shared_->get.committed.read().at.bytes)
                futex_wake(tail.word, 1);
        }
    };

    /// What a getter that waits has until its operation is over.
    struct stay {
        relay duty;  // first, so that its end comes behind the room's
        held room;

        explicit stay(basic_ring& of) : duty(of) {}
    };
    [[gnu::noinline]] bool wait_for_message(std::uint64_t at, std::optional<stay>& waits,
                                            deadline until) {
        hush();
        if (!waits) waits.emplace(*this);
        if (!wait_for_putter(*waits, until)) return false;
        prefetch(at);  // comes over while we take the lock
        return true;
    }
    bool wait_for_putter(stay& waits, deadline until) {
        const auto still_empty = [&](position tail) {
            return shared_->get.committed.read().at.bytes >= tail.bytes;
        };
        return wait(shared_->put.committed, shared_->get.room, waits.room, until, still_empty,
                    &waits.duty.owed);
    }

    static bool leave(held& room) noexcept {
        if (!Steps::keeps_room) room.unlock();
        return true;
    }

    bool sleep(gate& at, std::uint32_t seen, deadline until) {
        struct entered {
            sleeper_count& count;
            explicit entered(sleeper_count& c) : count(c) { count.enter(); }
            ~entered() { count.leave(); }
        } here(sleepers_);
        if (closed_.load(std::memory_order_seq_cst)) return true;  // see sleeper_count
        return at.sleep(seen, until);
    }

    void check_open() const {
        // acquire: what happened before close() in another thread happened before our error
        if (closed_.load(std::memory_order_acquire))
            throw ClosedError("the queue was closed in this process");
    }

    region memory_;
    ring_shared* shared_;
    std::uint64_t segments_, map_mask_ = 0;
    std::uint32_t* map_ = nullptr;
    std::uint64_t* laid_ = nullptr;
    std::byte* data_ = nullptr;

    const std::atomic<std::uint64_t>& process_ = process_identity::get().generation;
    page_tables<> page_tables_;
    current_segment putting_, getting_;
    std::atomic<std::uint64_t> last_need_{0};  // of a message that this process put or got
    spinner spin_{std::chrono::microseconds(20)};
    chase chase_;
    std::atomic<bool> closed_{false};
    sleeper_count sleepers_;
    doorbells bells_;
    ring_line line_;
};

using message_ring = basic_ring<>;

}  // namespace multiprocessing::detail
