// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A pool's worker: takes a task, runs its items, sends their results home.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <unistd.h>

#include <multiprocessing/detail/archive/exception.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/callable/descriptor.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/pool/board.hpp>
#include <multiprocessing/detail/process/child.hpp>
#include <multiprocessing/detail/queue/receive_buffer.hpp>
#include <multiprocessing/detail/ring/ring.hpp>

namespace multiprocessing::detail {

/// A pool's rings have smaller segments than a queue's, since the first message claims and maps one
/// in each process that touches it: 0.8 ms for 1 MiB, 0.1 for 128 KiB.
using pool_ring = basic_ring<std::uint64_t{128} << 10>;

/// How the result of an item is framed: a byte, then of a `flat` value its bytes, else a 64-bit
/// length and so many bytes.
enum class frame : std::uint8_t { flat = 1, value = 2, exception = 3 };

/// The kill is on its way, and nothing of this worker may be sent.
[[noreturn]] inline void wait_for_death() noexcept {
    for (;;) ::pause();
}

/// What a task's thunk runs its items through.
template <compiled When = compiled::when_used>
class task_output {
public:
    /// \param most_items  before the worker retires; 0: never
    /// \param killable  the worker is a process: whoever takes a task from it kills it
    task_output(const pool_board& board, pool_ring& ring, std::uint32_t worker,
                std::uint32_t incarnation, std::uint64_t most_items, bool killable)
        : slot_(board.slot(worker, incarnation)),
          board_(board),
          ring_(ring),
          scratch_(board.scratch_of(worker, incarnation)),
          worker_(worker),
          most_items_(most_items),
          killable_(killable) {
        header_.incarnation = incarnation;
        header_.pid = static_cast<std::uint32_t>(this_pid());
    }

    /// A task begins, and is this worker's.
    void open(const task_header& task) noexcept {
        header_.index = task.index;
        header_.generation = task.generation;
        left_ = task.items;
        timeout_ = task.timeout;
        slot_.item_base.store(
            slot_.item.load(std::memory_order_relaxed) & ~worker_slot::arrested_item,
            std::memory_order_release);
        opened_ = flushed_ = sent_ = deadline::clock();
        slot_.began.store(sent_, std::memory_order_relaxed);  // for statistics
        check_every_ = 1;
        unchecked_ = 0;
    }

    /// An item begins. Whoever may arrest it at its deadline knows from here on.
    void begin() noexcept {
        if (timeout_ == 0) return;
        slot_.item_ends.store(0, std::memory_order_release);  // not that of the one before
        advance();
        slot_.item_ends.store(deadline::clock() + timeout_, std::memory_order_release);
    }

    void flat(const void* value, std::size_t size) {
        if (1 + size > pool_board::scratch / 4) {
            constexpr std::byte head{static_cast<std::uint8_t>(frame::flat)};
            const auto bytes =
                std::span<const std::byte>(static_cast<const std::byte*>(value), size);
            return send_large({&head, 1}, {&bytes, 1});
        }
        std::byte* to = room(1 + size);
        *to = static_cast<std::byte>(frame::flat);
        std::memcpy(to + 1, value, size);
        finish(1 + size);
    }
    void value(pieces from, std::size_t size) { framed(frame::value, from, size); }
    void exception(std::exception_ptr error) {
        const std::vector<std::byte> bytes = encode_exception(std::move(error));
        const std::span<const std::byte> piece(bytes);
        framed(frame::exception, {&piece, 1}, bytes.size());
    }
    /// Items of the task that have no result yet.
    std::uint32_t left() const noexcept { return left_; }
    /// This worker has run as many items as it may: the rest is for others.
    bool retires() const noexcept { return most_items_ != 0 && count_ >= most_items_; }

    /// The task is over, and its results were sent.
    void close() noexcept {
        slot_.busy.fetch_add(static_cast<std::uint64_t>(sent_ - opened_),
                             std::memory_order_relaxed);  // for statistics
    }

    /// Sends what is finished.
    void flush() {
        if (batched_ == 0) return;
        const std::span<const std::byte> frames(scratch_, used_);
        send({&frames, 1});
    }

private:
    static constexpr std::int64_t flush_after = 50'000;  // nanoseconds

    void framed(frame kind, pieces from, std::size_t size) {
        std::array<std::byte, 9> head;
        head[0] = static_cast<std::byte>(kind);
        const std::uint64_t length = size;
        std::memcpy(head.data() + 1, &length, sizeof length);
        if (size + head.size() <= pool_board::scratch / 4) {
            std::byte* to = room(head.size() + size);
            std::memcpy(to, head.data(), head.size());
            to += head.size();
            for (const auto& piece : from) {
                if (!piece.empty()) std::memcpy(to, piece.data(), piece.size());
                to += piece.size();
            }
            finish(head.size() + size);
        } else {
            send_large(head, from);
        }
    }

    /// A result that would fill the scratch memory, straight into the ring.
    void send_large(std::span<const std::byte> head, pieces from) {
        flush();
        large_.assign(1, head);
        for (const auto& piece : from) large_.push_back(piece);
        ++batched_;
        note_finished();
        send(large_);
    }

    std::byte* room(std::size_t size) {
        if (used_ + size > pool_board::scratch) flush();
        return scratch_ + used_;
    }

    void finish(std::size_t size) {
        used_ += static_cast<std::uint32_t>(size);
        ++batched_;
        // (A) release: the frames go first. The parent reads it after the worker's end.
        slot_.batch.store(worker_slot::make_batch(header_.sequence, batched_, used_),
                          std::memory_order_release);
        note_finished();
        if (left_ == 0 || ++unchecked_ < check_every_) return;
        const std::int64_t now = deadline::clock();
        if (now - flushed_ >= flush_after) {
            check_every_ = unchecked_ < 64 && now - flushed_ > 4 * flush_after ? 1 : check_every_;
            flush();
            flushed_ = now;
        } else if (check_every_ < 64) {
            check_every_ *= 2;  // short items: the clock would cost more than they do
        }
        unchecked_ = 0;
    }

    void note_finished() noexcept {
        --left_;
        ++count_;
        slot_.tasks.store(count_, std::memory_order_relaxed);  // for statistics
        if (timeout_ != 0) slot_.item_ends.store(0, std::memory_order_release);
    }

    void send(pieces frames) {
        // Before the parent may see the last result.
        if (left_ != 0 || mark_done()) {
            header_.items = batched_;
            const std::int64_t now = deadline::clock();
            header_.began = std::exchange(sent_, now);
            header_.busy = now - header_.began;
            slot_.began.store(now, std::memory_order_relaxed);  // for statistics
            all_.assign(1, bytes_of(header_));
            for (const auto& piece : frames) all_.push_back(piece);
            ring_.put(all_, batch_message, deadline::never());
            ++header_.sequence;
        }
        batched_ = used_ = 0;
        slot_.batch.store(worker_slot::make_batch(header_.sequence, 0, 0),
                          std::memory_order_release);
        board_.ring(worker_);
    }

    /// The next item, unless this one was arrested.
    void advance() noexcept {
        std::uint64_t now = slot_.item.load(std::memory_order_relaxed);  // the exchange checks it
        if (now & worker_slot::arrested_item ||
            !slot_.item.compare_exchange_strong(now, now + 1, std::memory_order_acq_rel))
            wait_for_death();
    }

    /// \return false if the task was taken from a worker that nobody can kill
    bool mark_done() noexcept {
        auto running =
            task_word::make(header_.generation, task_word::running, worker_, header_.incarnation);
        if (!board_.word(header_.index)
                 .compare_exchange_strong(running,
                                          task_word::make(header_.generation, task_word::done,
                                                          worker_, header_.incarnation),
                                          std::memory_order_acq_rel)) {
            if (killable_) wait_for_death();
            return false;
        }
        if (timeout_ != 0) advance();  // or the last item was arrested: it has no result then
        return true;
    }

    worker_slot& slot_;
    const pool_board& board_;
    pool_ring& ring_;
    std::byte* scratch_;
    std::uint32_t worker_;
    std::uint64_t most_items_;
    bool killable_;
    batch_header header_{};
    std::uint32_t left_ = 0, batched_ = 0, used_ = 0;
    std::uint64_t count_ = 0;
    std::int64_t timeout_ = 0, opened_ = 0, flushed_ = 0, sent_ = 0;
    unsigned check_every_ = 1, unchecked_ = 0;
    std::vector<std::span<const later<When, std::byte>>> all_, large_;
};

/// Reads the front of a task's message.
/// \return the bytes of the task, in two parts; nothing if the message is malformed
template <compiled When = compiled::when_used>
std::optional<std::array<std::span<const later<When, std::byte>>, 2>> unpack_task(
    const pool_board& board, std::span<const std::byte> message, task_header& to) noexcept {
    const auto take = [&message](void* value, std::size_t size) {
        if (message.size() < size) return false;
        std::memcpy(value, message.data(), size);
        message = message.subspan(size);
        return true;
    };
    packed_task packed{};
    if (!take(&packed, sizeof packed) || packed.index >= pool_board::most_tasks)
        return std::nullopt;
    to = {packed.index, packed.generation, packed.items, 0, {}};
    if (packed.how & packed_task::timed && !take(&to.timeout, sizeof to.timeout))
        return std::nullopt;
    const std::uint32_t number = packed.how & ~packed_task::timed;
    if (number > pool_board::most_callables) return std::nullopt;
    if (number == 0) {
        if (!take(&to.callable, sizeof to.callable)) return std::nullopt;
        return std::array{std::span<const std::byte>(), message};
    }
    const known_callable& known = board.callable(number - 1);
    to.callable = known.callable;
    const std::span<const std::byte> front(known.front);
    return std::array{front.first(std::min<std::size_t>(known.size, front.size())), message};
}

/// What a worker needs to know; all of it is inherited.
struct worker_plan {
    const pool_board& board;
    pool_ring& tasks;
    pool_ring& results;
    std::uint32_t worker, incarnation;
    std::uint64_t most_items;  // before it retires; 0: never
    const std::function<void()>& initializer;
    bool killable;
};

/// In the worker. \return its exit code
template <compiled When = compiled::when_used>
int work(const worker_plan& plan) {
    worker_slot& slot = plan.board.slot(plan.worker, plan.incarnation);
    slot.pid.store(static_cast<std::uint32_t>(this_pid()), std::memory_order_release);
    if (plan.initializer) {
        try {
            plan.initializer();
        } catch (...) {
            if (is_forced_unwind()) throw;  // pthread_exit
            const std::vector<std::byte> bytes = encode_exception(std::current_exception());
            const std::span<const std::byte> piece(bytes);
            plan.results.put({&piece, 1}, stop_message, deadline::never());
            slot.life.store(init_failed, std::memory_order_release);
            return 1;
        }
    }
    std::uint32_t life = starting;
    if (!slot.life.compare_exchange_strong(life, working, std::memory_order_acq_rel))
        wait_for_death();
    task_output<When> output(plan.board, plan.results, plan.worker, plan.incarnation,
                             plan.most_items, plan.killable);
    receive_buffer<When> buffer;
    for (;;) {
        task_header task{};
        std::span<const std::byte> bytes;
        bool mine = false, fits = true, stop = false;
        plan.tasks.get(deadline::never(), [&](std::uint64_t kind,
                                              std::span<const std::byte> message) {
            stop = kind == stop_message;
            if (stop) return;
            const auto parts = unpack_task<When>(plan.board, message, task);
            if (!parts) return;
            slot.candidate.store(std::uint64_t{task.generation} << 32 | task.index,
                                 std::memory_order_release);  // before the claim: I1 of the slot
            auto queued = task_word::make(task.generation, task_word::queued);
            mine = plan.board.word(task.index)
                       .compare_exchange_strong(queued,
                                                task_word::make(task.generation, task_word::running,
                                                                plan.worker, plan.incarnation),
                                                std::memory_order_acq_rel);
            if (!mine) return;
            const auto& [front, body] = *parts;
            try {
                const std::span<std::byte> own = buffer.resize(front.size() + body.size());
                if (!front.empty()) std::memcpy(own.data(), front.data(), front.size());
                if (!body.empty()) std::memcpy(own.data() + front.size(), body.data(), body.size());
                bytes = own;
            } catch (const std::bad_alloc&) {  // nor has the next worker memory for it: answered
                fits = false;
            }
        });
        if (stop) return 0;
        if (!mine) continue;
        output.open(task);
        try {
            if (!fits) throw std::bad_alloc();
            resolve(task.callable).invoke(bytes, &output);
        } catch (...) {  // of the message, not of the task: UnknownCallable, SerializationError
            if (is_forced_unwind()) throw;
            while (output.left() != 0) output.exception(std::current_exception());
        }
        output.flush();
        output.close();
        if (output.retires()) {
            slot.life.store(retiring, std::memory_order_release);
            return 0;
        }
    }
}

}  // namespace multiprocessing::detail
