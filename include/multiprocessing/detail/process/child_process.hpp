// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A child, as its parent sees it: waiting for it, signalling it, how it ended.

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sched.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/handover.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/process/limits.hpp>
#include <multiprocessing/detail/process/state.hpp>

namespace multiprocessing::detail {

/// How long a daemon may take after SIGTERM before SIGKILL.
inline constexpr duration daemon_grace = std::chrono::seconds(1);

/// Shared by its Process (or AsyncResult), the ProcessRefs to it, and the table of children while
/// it was not joined. Any number of threads of the parent may wait for it at once. In any other
/// process it is a dead copy: belongs_here() is false there, and nobody touches more.
///
/// The exit status comes from the first of these that knows: waitid; the code that the child left
/// in its slot; the kernel (Linux 6.15); else -SIGKILL. waitid knows nothing when the host ignores
/// SIGCHLD, or when a waitpid(-1) of the host was faster.
template <compiled When>
class child_process : public std::enable_shared_from_this<child_process<When>> {
public:
    // Fixed once it was started; before that its Process sets them.
    process_facts facts;  // authkey: nothing if it is its parent's; the name: see tables
    Limits limits;

    child_process() {
        process_state& state = process_state::get();
        owner_ = this_pid();
        number_ = state.numbers.fetch_add(1, std::memory_order_relaxed) + 1;  // only unique
        path_ = (state.path->empty() ? "" : *state.path + ':') + std::to_string(number_);
        facts.name = "Process-" + path_;
        facts.daemon = state.self->daemon;
    }

    /// "1:2": the numbers of its ancestors and its own.
    const std::string& path() const noexcept { return path_; }
    std::uint64_t number() const noexcept { return number_; }
    bool started() const noexcept { return pid() != 0; }
    pid_t pid() const noexcept { return pid_.load(std::memory_order_acquire); }
    int sentinel() const noexcept { return pidfd_.get(); }
    pid_t owner() const noexcept { return owner_; }
    bool belongs_here() const { return owner_ == this_pid(); }
    bool is_this_process() const { return pid() == this_pid() && !belongs_here(); }

    /// \param what  "join", "kill"
    void require_owner(const char* what) const {
        if (belongs_here()) return;
        throw ProcessError("can't " + std::string(what) + ' ' + facts.name + ": only process " +
                           std::to_string(owner_) + ", which made it, may; this is process " +
                           std::to_string(this_pid()));
    }
    void require_started(const char* what) const {
        require_owner(what);
        if (!started())
            throw ProcessError("can't " + std::string(what) + ' ' + facts.name +
                               ": it was not started; call start() first");
    }

    /// Reaps it if it has ended. Doesn't wait.
    std::optional<int> exitcode() {
        std::optional<int> code;
        {
            const std::lock_guard lock(settling_);
            if (code_ || !started()) return code_;
            bool running = false;
            code = reap(pidfd_, &running);
            if (running) return std::nullopt;
            if (!code) code = status_of_stranger();
            code_ = code;
        }
        forget();
        return code;
    }

    /// \return false if it still runs at the deadline
    bool wait(deadline until) {
        for (;;) {
            if (settled()) return true;
            if (!wait_readable(pidfd_.get(), until)) return false;
            if (exitcode()) return true;
            // Dead, but not to be reaped yet: the host is about to, or a debugger holds it.
            if (until.passed()) return false;
            ::poll(nullptr, 0, 1);
        }
    }

    /// Its exit code is known; it was reaped, by whomever.
    bool settled() {
        const std::lock_guard lock(settling_);
        return code_.has_value();
    }

    /// Does nothing to one that has ended.
    void signal(int number) {
        const std::lock_guard lock(settling_);
        if (!code_) send_signal(pidfd_, number);
    }

    /// SIGTERM, a second, SIGKILL; and waits for its end.
    void end_daemon() {
        signal(SIGTERM);
        if (wait(deadline::after(daemon_grace))) return;
        signal(SIGKILL);
        wait(deadline::never());
    }

    /// Takes the descriptor back. Only after its end; the sentinel is void then.
    void close() noexcept { pidfd_.reset(); }

    // --- for launch()

    status_slot& slot() const noexcept { return *slot_; }
    pid_t born() const noexcept { return born_; }

    /// Before the fork: a slot, and a place in the table of children.
    void enroll() {
        process_state& state = process_state::get();
        const std::lock_guard lock(process_identity::get().tables);
        slot_ = state.statuses.take();
        try {
            child_table<When>*& table = state.children;
            if (!table) table = new child_table<When>{.above = state.inherited};
            auto& children = table->by_number;
            auto at = children.end();
            while (at != children.begin() && at[-1]->number_ > number_) --at;
            children.insert(at, this->shared_from_this());
        } catch (...) {
            state.statuses.give_back(std::exchange(slot_, nullptr));
            throw;
        }
    }

    /// After the fork, in the parent. If there is no pidfd for it the child is killed.
    void adopt(pid_t child) {
        const std::lock_guard lock(settling_);
        try {
            pidfd_ = open_pidfd(child);
            if (!pidfd_) {  // ended and reaped already, by the kernel or the host
                pidfd_ = ended_descriptor();
                code_ = status_of_stranger();
            }
        } catch (...) {
            ::kill(child, SIGKILL);
            retry([&] { return ::waitpid(child, nullptr, 0); });
            throw;
        }
        born_ = child;
    }

    /// From here on it is started for everybody.
    void publish() noexcept {
        facts.pid = born_;
        pid_.store(born_, std::memory_order_release);  // with the pidfd and the facts
    }

    /// The child may go on: whatever its parent had for it, it has.
    void handed_over() noexcept {
        const std::lock_guard lock(process_identity::get().tables);
        if (!slot_) return;  // it has ended
        slot_->handed.store(1, std::memory_order_release);
        futex_wake(slot_->handed, wake_all);
    }

    /// Back to before adopt(): that child is to be killed and replaced, or was refused.
    void disown() {
        signal(SIGKILL);
        for (;;) {
            wait_readable(pidfd_.get(), deadline::never());
            const std::lock_guard lock(settling_);
            bool running = false;
            if (!code_) reap(pidfd_, &running);
            if (!running) break;
            ::poll(nullptr, 0, 1);
        }
        pidfd_.reset();
        code_.reset();
        slot_->reset();
    }

    /// Out of the table of children, and the slot is free: it has ended or was not born.
    void forget() noexcept {
        std::shared_ptr<child_process> last;  // may be the last reference: goes outside the lock
        process_state& state = process_state::get();
        const std::lock_guard lock(process_identity::get().tables);
        if (slot_) state.statuses.give_back(std::exchange(slot_, nullptr));
        child_table<When>* const table = state.children;
        if (!table) return;
        auto& children = table->by_number;
        auto at = children.begin();
        while (at != children.end() && at->get() != this) ++at;
        if (at == children.end()) return;
        last = std::move(*at);
        children.erase(at);
    }

    /// In the child: a copy that says what the child itself is.
    void is_me() noexcept {
        facts.pid = this_pid();
        pid_.store(facts.pid, std::memory_order_relaxed);  // one thread
    }

private:
    int status_of_stranger() const noexcept {
        if (slot_->stage.load(std::memory_order_acquire) == status_slot::ended)  // (B)
            return slot_->value.load(std::memory_order_relaxed);
        if (const auto code = exit_info(pidfd_)) return *code;
        return -SIGKILL;
    }

    /// Readable for ever.
    static unique_fd ended_descriptor() {
        return off_stdio(
            unique_fd(call("eventfd for a child", [] { return ::eventfd(1, EFD_CLOEXEC); })));
    }

    pid_t owner_;
    std::uint64_t number_;
    std::string path_;
    pid_t born_ = 0;             // of launch()
    std::atomic<pid_t> pid_{0};  // 0: not started
    unique_fd pidfd_;            // fixed while it is started
    status_slot* slot_ = nullptr;
    std::mutex settling_;      // guards code_, and reaping against signalling
    std::optional<int> code_;  // how it ended, once known
};

/// Those not joined yet. Without `all` only those that nobody refers to: dropped results.
template <compiled When = compiled::when_used>
std::vector<std::shared_ptr<child_process<When>>> children_of_this_process(bool all = true) {
    process_state& state = process_state::get();
    std::vector<std::shared_ptr<child_process<When>>> found;
    const std::lock_guard lock(process_identity::get().tables);
    const child_table<When>* const table = state.children;
    if (!table) return found;
    for (const auto& child : table->by_number)
        if (child->started() && (all || child.use_count() == 1)) found.push_back(child);
    return found;
}

/// Reaps children that ended and that nobody will join.
template <compiled When = compiled::when_used>
void sweep_children() {
    for (const auto& child : children_of_this_process<When>(false)) child->exitcode();
}

/// At the end of a process: its daemons are terminated, then its other children joined.
template <compiled When = compiled::when_used>
void end_children() noexcept {
    try {
        for (;;) {
            const auto children = children_of_this_process<When>();
            if (children.empty()) return;
            for (const auto& child : children)
                if (child->facts.daemon) child->signal(SIGTERM);
            const deadline grace = deadline::after(daemon_grace);
            for (const auto& child : children)
                if (child->facts.daemon && !child->wait(grace)) child->signal(SIGKILL);
            for (const auto& child : children) child->wait(deadline::never());
        }
    } catch (...) {  // a descriptor that the host closed: nothing is left to wait on
    }
}

}  // namespace multiprocessing::detail
