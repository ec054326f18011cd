// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The back of mp::Pool: worker processes of this machine.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <sys/socket.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/pool/ring_back.hpp>
#include <multiprocessing/detail/pool/supervisor.hpp>
#include <multiprocessing/process.hpp>

namespace multiprocessing::detail {

struct process_back_options {
    std::size_t processes;
    std::string name;
    std::size_t most_items;
    duration shortest_timeout, init_timeout;
    Limits limits;
    bool pin;
    std::function<void()> initializer;
};

template <compiled When = compiled::when_used>
class process_back final : public ring_back<When> {
    using base = ring_back<When>;
    using death_report = later<When, detail::death_report>;
    using pool_plan = later<When, detail::pool_plan>;
    using pool_ring = later<When, detail::pool_ring>;
    using Process = later<When, multiprocessing::Process>;
    using base::all_began, base::board_, base::drain, base::init_error_, base::init_failure,
        base::results_, base::send_stops, base::slept_in_vain_, base::tasks_;

public:
    explicit process_back(process_back_options options)
        : base(options.processes),
          reports_(pool_ring::create("mp:Pool reports")),
          init_timeout_(options.init_timeout) {
        int ends[2];
        call("socketpair for a pool",
             [&] { return ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends); });
        unique_fd theirs = off_stdio(unique_fd(ends[0]));
        orders_ = off_stdio(unique_fd(ends[1]));
        const pool_plan plan{board_,
                             *tasks_,
                             results_,
                             *reports_,
                             theirs.get(),
                             options.name,
                             options.most_items,
                             options.shortest_timeout.count(),
                             options.init_timeout.count(),
                             options.limits,
                             options.pin,
                             std::move(options.initializer)};
        const int ours = orders_.get();
        supervisor_ = std::make_unique<Process>(
            ProcessOptions{.name = options.name + "-Supervisor", .daemon = true}, [&plan, ours] {
                ::close(ours);  // end of file is the parent's end
                supervisor<When>(plan).run();
            });
        supervisor_->start();
    }

    ~process_back() override {
        try {
            terminate();
        } catch (...) {  // gone already
        }
    }

    void send(const task_header& task, pieces bytes) override {
        order_start();
        base::send(task, bytes);
    }

    bool start_workers() override {
        order_start();
        const deadline until = deadline::after(start_patience);
        for (;;) {
            const bool there = all_began() || until.passed();
            const deadline look =
                there ? deadline::at_once() : deadline::earlier(until, deadline::after(next_look));
            if (over_ || wait_readable(supervisor_->sentinel(), look)) return false;
            if (there) return true;
        }
    }

    bool arrest(task_id task) override {
        const std::uint64_t word = board_.word(task.index).load(std::memory_order_acquire);
        if ((word & 7) == task_word::running && word >> 32 == task.generation)
            order({supervisor_order::arrest, static_cast<std::uint32_t>(word >> 3 & 0x1fff),
                   static_cast<std::uint32_t>(word >> 16 & 0xffff), 0,
                   std::uint64_t{task.generation} << 32 | task.index});
        return true;
    }

    void watch(duration timeout) override {
        order({supervisor_order::watch, 0, 0, 0, static_cast<std::uint64_t>(timeout.count())});
    }

    bool collect(pool_events& to) override {
        bool any = base::collect(to);
        while (next_report()) {
            any = true;
            if (report_->worker < results_.size()) judge(*report_, to);
            report_.reset();
        }
        // Its death rings no bell: looked for when a sleep was in vain.
        if (!any && std::exchange(slept_in_vain_, false) && !over_ && !supervisor_->is_alive()) {
            collect(to);  // what was sent before
            to.broken(std::make_exception_ptr(PoolBroken(
                "the pool's supervisor process " + describe_exit(*supervisor_->exitcode()) +
                ", and its workers with it; make a new pool")));
            over_ = true;
        }
        return any;
    }

    void finish() override {
        over_ = true;
        order({supervisor_order::finish, 0, 0, 0, 0});
        {
            const std::lock_guard lock(ordering_);
            orders_.reset();
        }
        supervisor_->join();
    }

    void terminate() override {
        over_ = true;
        supervisor_->kill();
        supervisor_->join();
    }

private:
    // A worker of a large program takes tens of milliseconds.
    static constexpr duration start_patience = std::chrono::seconds(30);
    static constexpr duration next_look = std::chrono::milliseconds(1);

    void order_start() {
        if (!started_.load(std::memory_order_relaxed) &&  // to order it twice does no harm
            !started_.exchange(true, std::memory_order_relaxed))
            order({supervisor_order::start, 0, 0, 0, 0});
    }
    void order(const supervisor_order& what) {
        const std::lock_guard lock(ordering_);
        if (!orders_) return;
        // EPIPE: it has gone, which collect() finds out.
        retry([&] { return ::send(orders_.get(), &what, sizeof what, MSG_NOSIGNAL); });
    }

    /// \return false if there is none
    bool next_report() {
        if (report_) return true;
        death_report report{};
        const bool got =
            reports_->get(deadline::at_once(), [&](std::uint64_t, std::span<const std::byte> b) {
                if (b.size() == sizeof report) std::memcpy(&report, b.data(), sizeof report);
            });
        if (got) report_ = report;
        return got;
    }

    /// A worker has ended: what it finished counts, and what it was at.
    void judge(const death_report& report, pool_events& to) {
        const std::uint32_t w = report.worker;
        if (report.what == death_report::init_too_slow) {
            to.broken(std::make_exception_ptr(
                PoolBroken("the pool's initializer ran longer than its initializer_timeout of " +
                           std::to_string(init_timeout_.count() / 1'000'000) + " ms")));
            return;
        }
        if (report.what == death_report::broken) {
            drain(w, to);
            to.broken(
                !init_error_.empty()
                    ? init_failure(report.pid)
                    : std::make_exception_ptr(PoolBroken(
                          "worker after worker of the pool " + describe_exit(report.exitcode) +
                          " before it could take a task: its initializer, or a limit, is "
                          "at fault")));
            return;
        }
        base::judge(w, report.incarnation, report.pid, report.exitcode, to, report.no_memory != 0);
        order({supervisor_order::acknowledge, w, report.incarnation, 0, 0});
    }

    std::shared_ptr<pool_ring> reports_;
    duration init_timeout_;
    unique_fd orders_;
    std::mutex ordering_;
    std::unique_ptr<Process> supervisor_;
    std::optional<death_report> report_;  // the collecting thread's: not judged yet
    std::atomic<bool> over_{false}, started_{false};
};

}  // namespace multiprocessing::detail
