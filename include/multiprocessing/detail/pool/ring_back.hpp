// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Tasks and results through rings in shared memory, whoever the workers are.

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <vector>

#include <sched.h>

#include <multiprocessing/detail/archive/exception.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/kept_by_thread.hpp>
#include <multiprocessing/detail/platform/robust_mutex.hpp>
#include <multiprocessing/detail/pool/back.hpp>
#include <multiprocessing/detail/pool/board.hpp>
#include <multiprocessing/detail/pool/worker.hpp>
#include <multiprocessing/detail/queue/receive_buffer.hpp>
#include <multiprocessing/detail/ring/ring.hpp>
#include <multiprocessing/detail/ring/waiting.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// The parent's side of the board's known callables. Each has one place where it may be, by its
/// hash; if another is there, its tasks are that much longer.
class known_callables {
public:
    /// Any thread.
    /// \return 1 + its number; 0: it has none
    std::uint32_t number(const pool_board& board, const callable_ref& callable,
                         std::span<const std::byte> front) {
        if (front.size() > sizeof(known_callable::front)) return 0;
        std::uint64_t hash = callable.offset;
        for (std::size_t i = 0; i + 8 <= front.size(); i += 8) {
            std::uint64_t word;
            std::memcpy(&word, front.data() + i, sizeof word);
            hash = (std::rotl(hash, 23) ^ word) * 0x9e3779b97f4a7c15;
        }
        const auto number = static_cast<std::uint32_t>(hash >> 32) % pool_board::most_callables;
        known_callable& known = board.callable(number);
        std::atomic<bool>& there = there_[number];
        if (!there.load(std::memory_order_acquire)) {  // (D)
            const std::lock_guard lock(adding_);
            if (!there.load(std::memory_order_relaxed)) {  // under the lock
                known.callable = callable;
                known.size = static_cast<std::uint32_t>(front.size());
                if (!front.empty()) std::memcpy(known.front, front.data(), front.size());
                there.store(true, std::memory_order_release);  // (D) known
            }
        }
        const bool same =
            known.callable == callable && known.size == front.size() &&
            (front.empty() || std::memcmp(known.front, front.data(), front.size()) == 0);
        return same ? 1 + number : 0;
    }

private:
    std::mutex adding_;
    std::array<std::atomic<bool>, pool_board::most_callables> there_{};
};

/// Tasks go through one ring, the results of each worker through one of its own. What the workers
/// are, process_back.hpp and thread_back.hpp know.
template <compiled When = compiled::when_used>
class ring_back : public pool_back {
    using pool_ring = later<When, detail::pool_ring>;
    using worker_facts = later<When, detail::worker_facts>;

public:
    explicit ring_back(std::size_t workers)
        : board_(static_cast<std::uint32_t>(workers)),
          tasks_(pool_ring::create("mp:Pool tasks")),
          facts_(workers),
          delivered_(2 * workers) {
        for (std::size_t i = 0; i < workers; ++i)
            results_.push_back(pool_ring::create("mp:Pool results"));
    }

    std::size_t workers() const override { return results_.size(); }

    void send(const task_header& task, pieces bytes) override {
        auto& word = board_.word(task.index);
        word.store(task_word::make(task.generation, task_word::queued), std::memory_order_release);
        using gather_list = std::vector<std::span<const later<When, std::byte>>>;
        gather_list own;
        gather_list* const kept = kept_by_thread<gather_list>();
        gather_list& all = kept ? *kept : own;
        packed_task packed{task.index, task.generation, task.items, 0};
        all.assign(1, bytes_of(packed));
        if (task.timeout != 0) {
            packed.how = packed_task::timed;
            all.push_back(bytes_of(task.timeout));
        }
        const std::size_t first = all.size();
        for (const auto& piece : bytes) all.push_back(piece);
        const std::span<const std::byte> front =
            bytes.empty() ? std::span<const std::byte>() : front_of(bytes.front());
        if (const std::uint32_t number = known_.number(board_, task.callable, front)) {
            packed.how |= number;
            if (!front.empty()) all[first] = all[first].subspan(front.size());
        } else {
            all.insert(all.begin() + static_cast<std::ptrdiff_t>(first), bytes_of(task.callable));
        }
        try {
            tasks_->put(all, task_message, deadline::never());
        } catch (...) {
            word.store(0, std::memory_order_release);
            throw;
        }
    }

    bool withdraw(task_id task) override {
        auto queued = task_word::make(task.generation, task_word::queued);
        return board_.word(task.index)
            .compare_exchange_strong(queued, task_word::make(task.generation, task_word::cancelled),
                                     std::memory_order_acq_rel);
    }

    void forget(task_id task) override {
        board_.word(task.index).store(0, std::memory_order_release);
    }
    void forget_all(std::uint32_t used) override { board_.forget_words(used); }

    bool collect(pool_events& to) override {
        bool any = false;
        for (std::uint32_t first = 0; first < results_.size(); first += 64) {
            auto& word = board_.dirty(first);
            if (word.load(std::memory_order_relaxed) == 0) continue;
            undrained left{word, word.exchange(0, std::memory_order_acquire)};  // (B)
            any = any || left.bits != 0;
            for (; left.bits != 0; left.bits &= left.bits - 1)
                if (const auto w = first + static_cast<std::uint32_t>(std::countr_zero(left.bits));
                    w < results_.size())
                    drain(w, to);
        }
        return any;
    }

    std::uint32_t seen() const override { return board_.bell().load(std::memory_order_acquire); }

    void sleep(std::uint32_t seen, deadline until, bool hot) override {
        const auto changed = [&] {
            return (board_.bell().load(std::memory_order_acquire) ^ seen) > 1;
        };
        // Workers that compute for long need all processors: who spins takes time from one, and who
        // yields to one gets his turn after milliseconds, when others have run out of tasks.
        if (hot && !slept_long_) {
            if (spin_(0, changed)) return;
            ::sched_yield();
            if (changed()) return;
        }
        const std::int64_t begin = deadline::clock();
        board_.sleep(seen, deadline::earlier(until, deadline::after(look_again)));
        slept_long_ = deadline::clock() - begin > long_sleep;
        slept_in_vain_ = !changed();
    }
    void interrupt() override { board_.ring(); }

    std::vector<worker_facts> facts() const override {
        const std::lock_guard lock(about_);
        std::vector<worker_facts> all = facts_;
        for (std::uint32_t w = 0; w < all.size(); ++w) {
            const worker_slot& now = board_.slot(w, all[w].incarnation + 1);
            all[w].items += now.tasks.load(std::memory_order_relaxed);
            all[w].busy += now.busy.load(std::memory_order_relaxed);
            all[w].pid = static_cast<pid_t>(now.pid.load(std::memory_order_relaxed));
        }
        return all;
    }

protected:
    /// Each worker has run, whether or not it still does.
    bool all_began() const {
        const std::lock_guard lock(about_);
        for (std::uint32_t w = 0; w < facts_.size(); ++w)
            if (facts_[w].incarnation == 0 &&
                board_.slot(w, 1).pid.load(std::memory_order_relaxed) == 0)
                return false;
        return true;
    }

    /// All that is in a worker's ring.
    void drain(std::uint32_t w, pool_events& to) {
        batch_header header{};
        receive_buffer<When> buffer;
        for (;;) {
            std::span<const std::byte> frames;
            std::uint64_t kind = 0;
            std::size_t size = 0;
            bool fits = true;
            const bool got = results_[w]->get(
                deadline::at_once(), [&](std::uint64_t is, std::span<const std::byte> message) {
                    kind = is;
                    size = message.size();
                    if (kind == batch_message) {
                        if (size < sizeof header) return;
                        std::memcpy(&header, message.data(), sizeof header);
                        message = message.subspan(sizeof header);
                    }
                    try {
                        const std::span<std::byte> own = buffer.resize(message.size());
                        if (!message.empty())
                            std::memcpy(own.data(), message.data(), message.size());
                        frames = own;
                    } catch (const std::bad_alloc&) {  // taken all the same: others wait behind it
                        fits = false;
                    }
                });
            if (!got) return;
            if (kind == stop_message) {  // the initializer's exception
                init_error_.assign(frames.data(), frames.data() + frames.size());
                continue;
            }
            if (kind != batch_message || size < sizeof header) continue;
            delivered_[2 * w + header.incarnation % 2] = {header.incarnation, header.sequence + 1};
            const task_id task{header.index, header.generation};
            const worker_run run{w, static_cast<pid_t>(header.pid), header.began, header.busy};
            if (fits)
                to.batch(task, header.items, frames, run);
            else
                to.unread(task, header.items, run);
        }
    }

    /// A worker has ended: what it finished counts, and what it was at.
    void judge(std::uint32_t w, std::uint32_t incarnation, pid_t pid, int exitcode, pool_events& to,
               bool no_memory = false) {
        drain(w, to);  // perhaps of its replacement too
        worker_slot& slot = board_.slot(w, incarnation);
        judge_task({w, incarnation, pid, exitcode, no_memory}, slot, to);
        const std::lock_guard lock(about_);
        facts_[w].items += slot.tasks.exchange(0, std::memory_order_relaxed);
        facts_[w].busy += slot.busy.exchange(0, std::memory_order_relaxed);
        slot.pid.store(0, std::memory_order_relaxed);  // until there is a new one
        ++facts_[w].restarts;
        facts_[w].incarnation = incarnation;
    }

    /// Of an initializer that threw.
    std::exception_ptr init_failure(pid_t pid) const {
        std::string what = "of an unknown kind";
        try {
            std::rethrow_exception(decode_exception({init_error_.data(), init_error_.size()}, pid));
        } catch (const std::exception& e) {
            what = e.what();
        } catch (...) {  // what a message can't carry
        }
        return std::make_exception_ptr(
            PoolBroken("the pool's initializer threw an exception: " + what));
    }

    /// To all workers, behind the tasks.
    void send_stops() {
        for (std::size_t i = 0; i < results_.size(); ++i)
            tasks_->put({}, stop_message, deadline::never());
    }

    /// The framed callable, with which the bytes of a task begin.
    static std::span<const std::byte> front_of(std::span<const std::byte> bytes) noexcept {
        std::uint64_t length = 0;
        if (bytes.size() < sizeof length) return {};
        std::memcpy(&length, bytes.data(), sizeof length);
        if (bytes.size() - sizeof length < length) return {};
        return bytes.first(sizeof length + length);
    }

    pool_board board_;
    known_callables known_;
    std::shared_ptr<pool_ring> tasks_;
    std::vector<std::shared_ptr<pool_ring>> results_;
    mutable std::mutex about_;
    std::vector<worker_facts> facts_;  // under about_: of incarnations that ended

    // The collecting thread's.
    std::vector<std::byte> init_error_;
    bool slept_in_vain_ = false, slept_long_ = false;

private:
    static constexpr std::int64_t long_sleep = 200'000;  // nanoseconds

    struct end {
        std::uint32_t worker, incarnation;
        pid_t pid;
        int exitcode;
        bool no_memory;
    };
    /// Bits of `dirty` whose workers are still to be drained, if an exception comes between.
    struct undrained {
        std::atomic<std::uint64_t>& word;
        std::uint64_t bits;
        ~undrained() {
            if (bits != 0) word.fetch_or(bits, std::memory_order_release);  // (A)
        }
    };
    struct delivery {
        std::uint32_t incarnation = 0, next = 0;  // the sequence number that comes next
    };

    void judge_task(const end& ended, const worker_slot& slot, pool_events& to) {
        const std::uint32_t w = ended.worker;
        const std::uint64_t candidate = slot.candidate.load(std::memory_order_acquire);
        const task_id task{static_cast<std::uint32_t>(candidate),
                           static_cast<std::uint32_t>(candidate >> 32)};
        if (candidate == worker_slot::nobody || task.index >= pool_board::most_tasks) return;
        const std::uint64_t word = board_.word(task.index).load(std::memory_order_acquire);
        const auto is = [&](task_word::state s) {
            return word == task_word::make(task.generation, s, w, ended.incarnation);
        };
        const bool cancelled = is(task_word::arrested);
        if (!is(task_word::running) && !is(task_word::done) && !cancelled) return;
        const std::int64_t began = slot.began.load(std::memory_order_relaxed);
        const worker_run run{w, ended.pid, began, deadline::clock() - began};

        const std::uint64_t batch = slot.batch.load(std::memory_order_acquire);
        const delivery& last = delivered_[2 * w + ended.incarnation % 2];
        const std::uint32_t next = last.incarnation == ended.incarnation ? last.next : 0;
        const std::size_t bytes = worker_slot::bytes(batch);
        if (!cancelled && worker_slot::sequence(batch) == (next & 0xffff) &&
            worker_slot::items(batch) != 0 && bytes <= pool_board::scratch)
            to.batch(task, worker_slot::items(batch),
                     {board_.scratch_of(w, ended.incarnation), bytes}, run);

        const std::uint64_t item = slot.item.load(std::memory_order_acquire);
        const bool retired =
            slot.life.load(std::memory_order_acquire) == retiring && ended.exitcode == 0;
        to.ended(task,
                 cancelled                           ? task_end::cancelled
                 : item & worker_slot::arrested_item ? task_end::timed_out
                 : retired                           ? task_end::retired
                 : ended.no_memory                   ? task_end::no_memory
                                                     : task_end::crashed,
                 (item & ~worker_slot::arrested_item) -
                     slot.item_base.load(std::memory_order_acquire) - 1,
                 ended.exitcode, run);
    }

    // By worker and parity of the incarnation: the replacement of a worker that is not judged yet
    // may have delivered already, into the same ring.
    std::vector<delivery> delivered_;
    spinner spin_{std::chrono::microseconds(20)};
};

}  // namespace multiprocessing::detail
