// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A pool's supervisor: forks the workers and their replacements, reaps them, enforces time limits,
/// reports deaths.
///
/// It is a process with one thread and the memory of the moment when the pool was made, so a
/// replacement is never forked from a program full of threads and held locks. Until it is to finish
/// it takes no lock that a worker can hold: a stopped worker can't stop it. The workers are its
/// daemons: they die with it, and it with the parent.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/oom_kills.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/pool/board.hpp>
#include <multiprocessing/detail/pool/worker.hpp>
#include <multiprocessing/detail/ring/ring.hpp>
#include <multiprocessing/process.hpp>

namespace multiprocessing::detail {

/// From the parent, by a socket of packets.
struct supervisor_order {
    enum kind : std::uint32_t {
        acknowledge = 1,  // worker, incarnation: its slot and ring were read
        arrest = 2,       // worker, incarnation, word: kill it if it still runs that task
        watch = 3,        // word: items may have timeouts as short as this, in ns
        finish = 4,       // all is answered: stop the workers, replace none, end when all did
        start = 5,        // the first task is on its way
    };
    kind what;
    std::uint32_t worker, incarnation, reserved;  // arrest: the low 16 bits
    std::uint64_t word;
};
static_assert(sizeof(supervisor_order) == 24);

/// To the parent, in a ring.
struct death_report {
    enum kind : std::uint32_t { died = 1, broken = 2, init_too_slow = 3 };
    kind what;
    std::uint32_t worker, incarnation;
    std::int32_t pid, exitcode;
    std::uint32_t no_memory;  // 1: the kernel ended it for want of memory
};

struct pool_plan {
    const pool_board& board;
    pool_ring& tasks;
    const std::vector<std::shared_ptr<pool_ring>>& results;
    pool_ring& reports;
    int orders;
    std::string name;
    std::uint64_t most_items;
    std::int64_t shortest_timeout;  // 0: none so far
    std::int64_t init_timeout;      // 0: none
    Limits limits;
    bool pin;
    std::function<void()> initializer;
};

/// Before its worker is killed. \return false if the task is over: nobody is to be killed
inline bool arrest_task(const pool_board& board, std::uint32_t index, std::uint32_t generation,
                        std::uint32_t worker, std::uint32_t incarnation) noexcept {
    auto running = task_word::make(generation, task_word::running, worker, incarnation);
    return board.word(index).compare_exchange_strong(
        running, task_word::make(generation, task_word::arrested, worker, incarnation),
        std::memory_order_acq_rel);
}

/// Likewise of the item that the worker is at, if its time is over.
inline bool arrest_item(worker_slot& slot, std::int64_t now) noexcept {
    std::uint64_t item = slot.item.load(std::memory_order_acquire);
    const std::int64_t ends = slot.item_ends.load(std::memory_order_acquire);
    if (ends == 0 || ends > now || item & worker_slot::arrested_item) return false;
    // It moves to the next item by an exchange of the same word, so that can't be hit.
    return slot.item.load(std::memory_order_acquire) == item &&
           slot.item.compare_exchange_strong(item, item | worker_slot::arrested_item,
                                             std::memory_order_acq_rel);
}

inline void reset_signals() {
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
    ::signal(SIGINT, SIG_IGN);  // Ctrl-C is the parent's
    ::signal(SIGPIPE, SIG_IGN);
}

template <compiled When = compiled::when_used>
class supervisor {
    using Process = later<When, multiprocessing::Process>;
    using pool_plan = later<When, detail::pool_plan>;

public:
    explicit supervisor(const pool_plan& plan) : plan_(plan), workers_(plan.board.workers()) {}

    void run() {
        reset_signals();
        if (!start_all()) return;
        if (!finishing_) oom_kills_.watch();  // late: a pool of short life has no use for it
        while (!(finishing_ && alive_ == 0))
            if (!look(next_look(), true)) return;
    }

protected:  // what run() is made of, for tests that kill it in each
    static constexpr int most_failed_starts = 8;
    static constexpr duration head_start = std::chrono::milliseconds(1);

    struct seat {
        std::unique_ptr<Process> process;
        std::uint32_t incarnation = 0, acknowledged = 0;
    };

    /// Waits for something to do, and does it.
    /// \return false if the parent has gone, or the pool is broken
    bool look(deadline until, bool at_orders) {
        fds_.assign(1, pollfd{at_orders && !orders_end_ ? plan_.orders : -1, POLLIN, 0});
        for (const seat& s : workers_)
            fds_.push_back(pollfd{s.process ? s.process->sentinel() : -1, POLLIN, 0});
        poll_until(fds_, until);
        if (at_orders && !orders_end_ && !read_orders()) return false;
        for (std::uint32_t w = 0; w < workers_.size(); ++w)
            if (fds_[w + 1].revents != 0 && !reap(w)) return false;
        if (shortest_ != 0) arrest_overdue();
        if (plan_.init_timeout != 0) end_slow_starts();
        return true;
    }

    /// With the first task, or soon; as long as the pool is not closed with all done, since a
    /// worker of a large program costs tens of milliseconds. With an initializer, whose effects may
    /// be wanted, now and all. In between, those that are there are looked after.
    /// \return false if the parent has gone, or the pool is broken
    bool start_all() {
        const bool need = plan_.initializer != nullptr;
        if (!need) wait_readable(plan_.orders, deadline::after(head_start));
        for (std::uint32_t w = 0; w < workers_.size(); ++w) {
            if (!look(deadline::at_once(), !need)) return false;
            if (finishing_) break;
            start(w);
        }
        return true;
    }

    void start(std::uint32_t w) {
        seat& s = workers_[w];
        const std::uint32_t incarnation = s.incarnation + 1;
        plan_.board.slot(w, incarnation).renew(deadline::clock());
        ProcessOptions options{.name = plan_.name + "-Worker-" + std::to_string(w + 1),
                               .daemon = true,
                               .limits = plan_.limits};
        auto process = std::make_unique<Process>(std::move(options), [this, w, incarnation] {
            ::close(plan_.orders);
            if (plan_.pin) pin(w);
            if (const int code =
                    work<When>({plan_.board, plan_.tasks, *plan_.results[w], w, incarnation,
                                plan_.most_items, plan_.initializer, true}))
                std::exit(code);
        });
        process->start();
        s.process = std::move(process);
        s.incarnation = incarnation;
        ++alive_;
    }

    /// \return false if the pool is broken
    bool reap(std::uint32_t w) {
        seat& s = workers_[w];
        const std::optional<int> code = s.process->exitcode();
        if (!code) return true;
        const auto life = plan_.board.slot(w, s.incarnation).life.load(std::memory_order_acquire);
        const bool regular = *code == 0 && (life == retiring || finishing_);
        if (life == starting && !regular)
            ++failed_starts_;
        else
            failed_starts_ = 0;
        if (!finishing_)  // else nobody reads it
            report({death_report::died, w, s.incarnation, *s.process->pid(), *code,
                    *code == -SIGKILL && oom_kills_.another()});
        s.process.reset();
        --alive_;
        if (life == init_failed || life == init_slow || failed_starts_ >= most_failed_starts) {
            report({life == init_slow ? death_report::init_too_slow : death_report::broken, w,
                    s.incarnation, 0, *code, 0});
            return false;
        }
        if (!finishing_) replace(w);
        return true;
    }

    /// Its slot of the same parity, two incarnations ago, must have been read.
    void replace(std::uint32_t w) {
        seat& s = workers_[w];
        if (!s.process && s.incarnation - s.acknowledged < 2) start(w);
    }

    void report(const death_report& what) {
        const auto bytes = bytes_of(what);
        plan_.reports.put({&bytes, 1}, 0, deadline::never());
        plan_.board.ring();
    }

    /// All that there are: a worker that ended by a stop message, and was seen to, is not replaced,
    /// since `finish` was ordered before.
    /// \return false at their end, unless they were to finish
    bool read_orders() {
        for (supervisor_order order;;) {
            const ssize_t got =
                retry([&] { return ::recv(plan_.orders, &order, sizeof order, MSG_DONTWAIT); });
            if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
            if (got != sizeof order) {
                orders_end_ = true;
                return finishing_;
            }
            obey(order);
        }
    }

    void obey(const supervisor_order& order) {
        switch (order.what) {
            case supervisor_order::acknowledge:
                if (order.worker >= workers_.size()) break;
                workers_[order.worker].acknowledged = order.incarnation;
                if (!finishing_) replace(order.worker);
                break;
            case supervisor_order::arrest:
                arrest(order);
                break;
            case supervisor_order::watch:
                shortest_ = shortest_ == 0
                                ? static_cast<std::int64_t>(order.word)
                                : std::min(shortest_, static_cast<std::int64_t>(order.word));
                break;
            case supervisor_order::finish:
                finishing_ = true;
                stop_all();
                break;
            case supervisor_order::start:
                break;
        }
    }

    /// A message for each. A worker that was stopped while it held the ring's lock delays this: it
    /// is to be waited for in any case.
    void stop_all() {
        try {
            for (std::size_t i = 0; i < alive_; ++i)
                plan_.tasks.put({}, stop_message, deadline::never());
        } catch (...) {  // no memory for messages
            for (const seat& s : workers_)
                if (s.process) s.process->kill();
        }
    }

    void arrest(const supervisor_order& order) {
        if (order.worker >= workers_.size()) return;
        seat& s = workers_[order.worker];
        const auto index = static_cast<std::uint32_t>(order.word);
        const auto generation = static_cast<std::uint32_t>(order.word >> 32);
        if (!s.process || (s.incarnation & 0xffff) != order.incarnation ||
            index >= pool_board::most_tasks)
            return;
        if (arrest_task(plan_.board, index, generation, order.worker, s.incarnation))
            s.process->kill();
    }

    void arrest_overdue() {
        const std::int64_t now = deadline::clock();
        for (std::uint32_t w = 0; w < workers_.size(); ++w) {
            seat& s = workers_[w];
            if (!s.process) continue;
            if (arrest_item(plan_.board.slot(w, s.incarnation), now)) s.process->kill();
        }
    }

    void end_slow_starts() {
        const std::int64_t now = deadline::clock();
        for (std::uint32_t w = 0; w < workers_.size(); ++w) {
            seat& s = workers_[w];
            if (!s.process) continue;
            worker_slot& slot = plan_.board.slot(w, s.incarnation);
            std::uint32_t life = starting;
            if (now - slot.began.load(std::memory_order_relaxed) >= plan_.init_timeout &&
                slot.life.compare_exchange_strong(life, init_slow, std::memory_order_acq_rel))
                s.process->kill();
        }
    }

    /// The next deadline of an item or a start, as far as it is known: none of an item can come
    /// sooner than `shortest_`.
    deadline next_look() const {
        if (shortest_ == 0 && plan_.init_timeout == 0) return deadline::never();
        constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();
        std::int64_t wait = shortest_ != 0 ? shortest_ : never;
        const std::int64_t now = deadline::clock();
        for (std::uint32_t w = 0; w < workers_.size(); ++w) {
            if (!workers_[w].process) continue;
            const worker_slot& slot = plan_.board.slot(w, workers_[w].incarnation);
            if (plan_.init_timeout != 0 && slot.life.load(std::memory_order_relaxed) == starting)
                wait = std::min(
                    wait, slot.began.load(std::memory_order_relaxed) + plan_.init_timeout - now);
            if (const auto ends = slot.item_ends.load(std::memory_order_acquire); ends != 0)
                wait = std::min(wait, ends - now);
        }
        if (wait == never) return deadline::never();
        return deadline::after(duration(std::max<std::int64_t>(wait, 100'000)));
    }

    void pin(std::uint32_t w) {
        cpu_set_t usable;
        if (::sched_getaffinity(0, sizeof usable, &usable) != 0) return;
        const int count = CPU_COUNT(&usable);
        int nth = count > 0 ? static_cast<int>(w) % count : 0;
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
            if (CPU_ISSET(cpu, &usable) && nth-- == 0) {
                CPU_ZERO(&usable);
                CPU_SET(cpu, &usable);
                ::sched_setaffinity(0, sizeof usable, &usable);  // or runs anywhere
                return;
            }
    }

    const pool_plan& plan_;
    std::vector<seat> workers_;
    std::vector<later<When, pollfd>> fds_;  // of a look
    std::size_t alive_ = 0;
    int failed_starts_ = 0;
    std::int64_t shortest_ = plan_.shortest_timeout;
    bool finishing_ = false, orders_end_ = false;
    oom_kills oom_kills_;
};

}  // namespace multiprocessing::detail
