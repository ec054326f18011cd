// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Who carries a pool's tasks to workers and their results home. The front (front.hpp) knows tasks
/// by index and generation, and nothing of processes.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <vector>

#include <sys/types.h>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/pool/board.hpp>
#include <multiprocessing/detail/ring/ring.hpp>

namespace multiprocessing::detail {

struct task_id {
    std::uint32_t index, generation;
    friend bool operator==(task_id, task_id) = default;
};

/// Why a worker's task got no further. no_memory: a crash, by the kernel for want of memory.
enum class task_end { crashed, no_memory, timed_out, cancelled, retired };

struct worker_facts {
    pid_t pid = 0;
    std::uint64_t items = 0, busy = 0, restarts = 0;  // busy: nanoseconds
    std::uint32_t incarnation = 0;                    // the last that ended
};

/// Who ran something, and when: CLOCK_MONOTONIC, in nanoseconds.
struct worker_run {
    std::uint32_t worker;
    pid_t pid;
    std::int64_t began, busy;
};

/// What a back tells its front; on the thread that collects. None of it throws.
class pool_events {
public:
    /// Finished items of a task, in order, framed; the bytes are good until this returns.
    virtual void batch(task_id task, std::uint32_t items, std::span<const std::byte> frames,
                       const worker_run& run) noexcept = 0;
    /// The same, but there is no memory to read the frames in: they are gone.
    virtual void unread(task_id task, std::uint32_t items, const worker_run& run) noexcept = 0;
    /// The worker ended; what follows the last finished item has no result.
    /// \param item  of a timeout: which item of the message overran, counted from 0
    virtual void ended(task_id task, task_end how, std::uint64_t item, int exitcode,
                       const worker_run& run) noexcept = 0;
    /// No task will be run any more.
    virtual void broken(std::exception_ptr why) noexcept = 0;

protected:
    ~pool_events() = default;
};

class pool_back {
public:
    virtual ~pool_back() = default;

    virtual std::size_t workers() const = 0;
    /// Any thread. May throw for want of memory: then nothing was sent.
    virtual void send(const task_header& task, pieces bytes) = 0;
    /// The task will not be begun. Any thread. \return false if it was begun
    virtual bool withdraw(task_id task) = 0;
    /// The task's worker will be killed if it still runs it. Any thread.
    /// \return false if this back can't
    virtual bool arrest(task_id task) = 0;
    /// Its word may be used again.
    virtual void forget(task_id task) = 0;
    /// No task is known any more.
    virtual void forget_all(std::uint32_t used) = 0;

    /// Hands over what has arrived; one thread at a time. \return whether anything had
    /// May throw for want of memory: what is left is for the next call.
    virtual bool collect(pool_events& to) = 0;
    virtual std::uint32_t seen() const = 0;
    /// Until something arrives after `seen`, or interrupt(), or the deadline; the collecting
    /// thread.
    virtual void sleep(std::uint32_t seen, deadline until, bool hot) = 0;
    virtual void interrupt() = 0;

    /// Items may have timeouts as short as this.
    virtual void watch(duration timeout) = 0;

    /// All tasks are done: the workers end. Blocks until they did.
    virtual void finish() = 0;
    /// The workers are killed.
    virtual void terminate() = 0;

    /// The workers need not wait for the first task. Blocks, for a bounded time, until each has
    /// begun once. Any thread. \return false if they have ended, or will never begin
    virtual bool start_workers() { return true; }
    virtual std::vector<worker_facts> facts() const = 0;
};

}  // namespace multiprocessing::detail
