// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a pool's processes share beside their rings: a word for each task, a slot for each worker.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/callable/descriptor.hpp>
#include <multiprocessing/detail/platform/cpu.hpp>
#include <multiprocessing/detail/platform/futex.hpp>
#include <multiprocessing/detail/shm/region.hpp>

namespace multiprocessing::detail {

/// What a worker has to know of a task, beside its bytes.
struct task_header {
    std::uint32_t index;       // of its word
    std::uint32_t generation;  // of that word
    std::uint32_t items;
    std::int64_t timeout;  // nanoseconds for each item; 0: none
    callable_ref callable;
};

/// The same as it travels through the task ring, in front of the bytes: a million may wait there.
struct packed_task {
    static constexpr std::uint32_t timed = 1u << 31;

    std::uint32_t index, generation, items;
    // `timed`: a 64-bit timeout follows. The rest: 1 + the number of a known_callable, which the
    // bytes lack the beginning of; 0: a callable_ref follows, and all bytes.
    std::uint32_t how;
};
static_assert(sizeof(packed_task) == 16 && std::is_trivially_copyable_v<packed_task>);

/// A callable that tasks name by its number.
/// Writers  the parent, before it puts the first task that names it; constant then.
struct known_callable {
    callable_ref callable;
    std::uint32_t size;
    std::uint32_t reserved;
    std::byte front[96];  // `size` bytes with which all those tasks begin
};
static_assert(sizeof(known_callable) == 128 && std::is_trivially_copyable_v<known_callable>);

/// Results as they travel through a worker's ring, in front of their frames.
struct batch_header {
    std::uint32_t index, generation;  // of the task
    std::uint32_t incarnation;        // of the worker
    std::uint32_t sequence;           // of the batch, see worker_slot
    std::uint32_t items;
    std::uint32_t pid;
    std::int64_t began, busy;  // CLOCK_MONOTONIC; nanoseconds that these items took
};
static_assert(sizeof(batch_header) == 40 && std::is_trivially_copyable_v<batch_header>);

/// What a message in a pool's ring is: the place of a type's fingerprint.
enum pool_message : std::uint64_t { task_message = 1, stop_message = 2, batch_message = 3 };

/// How far a task has come, and who runs it: the truth. The task ring only carries.
///
///     free -> queued -> running(worker, incarnation) -> done -> free
///             queued -> cancelled -> free       running -> arrested -> free
/// Writers  free -> queued, and back to free: the parent, by a store; no worker knows the task
/// then.
///          queued -> running, running -> done: the worker, by compare-exchange.
///          queued -> cancelled: the parent; running -> arrested: the supervisor; likewise.
/// I1  a worker calls a task only between running and done, and a task is running once: so it runs
///     at most once. Who wants to kill its worker arrests it first: so nobody else's task dies.
/// K1  killed before running: the message is in the ring still, the next worker has it.
/// K2  killed between running and the ring's commit, while it copies the message: that stays, the
///     next worker finds the word running and skips it; the word says who died with it.
/// K3  killed after done: what of its results is not in the ring is in the worker's slot.
struct task_word {
    enum state : std::uint64_t { free = 0, queued, running, done, cancelled, arrested };

    static constexpr std::uint64_t make(std::uint32_t generation, state s, std::uint32_t worker = 0,
                                        std::uint32_t incarnation = 0) noexcept {
        return std::uint64_t{generation} << 32 | std::uint64_t{incarnation & 0xffff} << 16 |
               std::uint64_t{worker & 0x1fff} << 3 | s;
    }
};

/// One for each worker and parity of its incarnation: the parent may still read that of a dead one
/// while the next runs.
///
/// I1  `candidate` names the only task that the incarnation may have claimed and not delivered.
/// I2  `batch` = {sequence, items, bytes}: so many finished items of the candidate lie framed in
///     the scratch memory. The batch with that sequence is either there or, put, in the worker's
///     ring.
struct worker_slot {
    alignas(line_pair) std::atomic<std::uint64_t> candidate;  // generation << 32 | index
    std::atomic<std::uint64_t> batch;
    std::atomic<std::uint64_t> item;  // items begun; the top bit: arrested (only with timeouts)
    std::atomic<std::uint64_t> item_base;  // of those, before this task
    std::atomic<std::int64_t> item_ends;   // its deadline, CLOCK_MONOTONIC in ns; 0: none
    std::atomic<std::uint32_t> life;       // slot_life
    std::atomic<std::uint32_t> pid;
    std::atomic<std::uint64_t> tasks, busy;  // items run; nanoseconds
    std::atomic<std::int64_t> began;         // what it is at

    static constexpr std::uint64_t nobody = ~std::uint64_t{0};
    static constexpr std::uint64_t arrested_item = std::uint64_t{1} << 63;

    static constexpr std::uint64_t make_batch(std::uint32_t sequence, std::uint64_t items,
                                              std::uint64_t bytes) noexcept {
        return std::uint64_t{sequence & 0xffff} << 48 | items << 24 | bytes;
    }
    static constexpr std::uint32_t sequence(std::uint64_t b) noexcept {
        return static_cast<std::uint32_t>(b >> 48);
    }
    static constexpr std::uint32_t items(std::uint64_t b) noexcept { return b >> 24 & 0xffffff; }
    static constexpr std::uint32_t bytes(std::uint64_t b) noexcept { return b & 0xffffff; }

    /// For the next incarnation; that of two before has been judged.
    void renew(std::int64_t now) noexcept {
        candidate.store(nobody, std::memory_order_relaxed);
        batch.store(0, std::memory_order_relaxed);
        item.store(0, std::memory_order_relaxed);
        item_base.store(0, std::memory_order_relaxed);
        item_ends.store(0, std::memory_order_relaxed);
        began.store(now, std::memory_order_relaxed);
        life.store(0, std::memory_order_release);  // starting
    }
};
/// starting -> working: the worker; starting -> init_slow: the supervisor, which kills it then;
/// both by compare-exchange.
enum slot_life : std::uint32_t { starting, working, retiring, init_failed, init_slow };
static_assert(sizeof(worker_slot) == line_pair);

/// The shared memory of a pool.
///
/// Layout: region header; shared; known callables; 2 slots a worker; 2 * scratch bytes a worker;
/// task words.
/// The bell counts what the parent should look at, << 1 | somebody sleeps. A worker or supervisor
/// sets its bit in `dirty`, then adds 2, then, if somebody slept, clears that bit and wakes in one
/// step.
/// K4  killed between those: its death is reported, which finds what is still to be done.
class pool_board {
public:
    static constexpr std::uint32_t most_tasks = 1u << 24, most_workers = 1u << 12;
    static constexpr std::size_t scratch = std::size_t{64} << 10;
    static constexpr std::uint32_t most_callables = 128;

    explicit pool_board(std::uint32_t workers)
        : workers_(workers),
          memory_(region::create("mp:Pool", region_kind::pool_board, 0,
                                 words_offset() + most_tasks * sizeof(std::uint64_t))) {}

    std::uint32_t workers() const noexcept { return workers_; }
    worker_slot& slot(std::uint32_t worker, std::uint32_t incarnation) const noexcept {
        return at<worker_slot>(slots_offset)[2 * worker + incarnation % 2];
    }
    known_callable& callable(std::uint32_t number) const noexcept {
        return at<known_callable>(callables_offset)[number];
    }
    std::byte* scratch_of(std::uint32_t worker, std::uint32_t incarnation) const noexcept {
        return at<std::byte>(scratch_offset()) + (2 * worker + incarnation % 2) * scratch;
    }
    std::atomic<std::uint64_t>& word(std::uint32_t index) const noexcept {
        return at<std::atomic<std::uint64_t>>(words_offset())[index];
    }
    /// The memory of all words is given back; all are free then.
    void forget_words(std::uint32_t used) const noexcept {
        memory_.punch(words_offset(), (used * sizeof(std::uint64_t) + 4095) / 4096 * 4096);
    }

    futex_word& bell() const noexcept { return at<shared>(shared_offset)->bell; }
    std::atomic<std::uint64_t>& dirty(std::uint32_t worker) const noexcept {
        return at<shared>(shared_offset)->dirty[worker / 64];
    }
    void ring(std::uint32_t worker) const noexcept {
        dirty(worker).fetch_or(std::uint64_t{1} << worker % 64, std::memory_order_release);  // (A)
        ring();
    }
    void ring() const noexcept {
        if (bell().fetch_add(2, std::memory_order_seq_cst) & 1)  // against sleep(), in one word
            futex_clear_and_wake(bell(), 1, 1);                  // K4
    }
    /// Until a ring() after `seen`.
    void sleep(std::uint32_t seen, deadline until) const {
        std::uint32_t expected = seen & ~1u;
        if (!(seen & 1) &&
            !bell().compare_exchange_strong(expected, seen | 1, std::memory_order_seq_cst))
            return;
        futex_wait(bell(), seen | 1, until);
    }

private:
    struct shared {
        alignas(line_pair) futex_word bell;
        alignas(line_pair) std::atomic<std::uint64_t> dirty[most_workers / 64];
    };
    static constexpr std::size_t shared_offset = line_pair;
    static constexpr std::size_t callables_offset = shared_offset + sizeof(shared);
    static constexpr std::size_t slots_offset =
        callables_offset + most_callables * sizeof(known_callable);
    std::size_t scratch_offset() const noexcept {
        return (slots_offset + 2 * workers_ * sizeof(worker_slot) + 4095) / 4096 * 4096;
    }
    std::size_t words_offset() const noexcept { return scratch_offset() + 2 * workers_ * scratch; }
    template <class T>
    T* at(std::size_t offset) const noexcept {
        return reinterpret_cast<T*>(memory_.data() + offset);
    }

    std::uint32_t workers_;
    region memory_;
};

}  // namespace multiprocessing::detail
