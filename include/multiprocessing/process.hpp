// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Process: a function that runs in a process of its own, as Python's multiprocessing.Process.
///
/// A child is forked: it has a copy of everything its parent has at that moment, and shares what
/// lies in shared memory. Buffers of stdio and iostreams are flushed before the fork and before the
/// child ends, so nothing is printed twice. Its stdin is empty. Static destructors and exit
/// handlers of the parent don't run in a child, after std::exit(n) neither; those that the child
/// itself registered do, and so do the thread_local destructors of the thread that called start().
///
/// Works whatever the program does with SIGCHLD, and from any thread. What a child can't get from
/// fork(): locks that another thread of the parent holds at that moment stay locked in the child
/// for ever. Those of malloc, stdio, exit handlers and the loader are seen to; the program's own
/// are not, so start processes before threads, or let children stay away from what threads use.

#include <csignal>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/demangle.hpp>
#include <multiprocessing/detail/process/arguments.hpp>
#include <multiprocessing/detail/process/async_child.hpp>
#include <multiprocessing/detail/process/async_result.hpp>
#include <multiprocessing/detail/process/auth_key.hpp>
#include <multiprocessing/detail/process/child.hpp>
#include <multiprocessing/detail/process/child_process.hpp>
#include <multiprocessing/detail/process/cpu_count.hpp>
#include <multiprocessing/detail/process/limits.hpp>
#include <multiprocessing/detail/process/logging.hpp>
#include <multiprocessing/detail/process/process_ref.hpp>
#include <multiprocessing/detail/process/state.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

class Process;

/// How a Process is made; what is left out is as Python has it.
struct ProcessOptions {
    /// "": "Process-1", "Process-2"...; a child of "Process-1" makes "Process-1:1".
    std::string name = {};
    /// A daemon ends with its parent, even if that is killed. Nothing: as the current process.
    std::optional<bool> daemon = {};
    /// What it may use at most.
    Limits limits = {};
};

namespace detail {

template <compiled When = compiled::when_used>
std::shared_ptr<child_process<When>> make_child(ProcessOptions options) {
    auto child = std::make_shared<child_process<When>>();
    if (!options.name.empty()) child->facts.name = std::move(options.name);
    if (options.daemon) child->facts.daemon = *options.daemon;
    child->limits = options.limits;
    return child;
}

/// What Process can do.
template <compiled When = compiled::when_used>
class MP_EXPORT process_calls {
public:
    /// For classes that override run().
    process_calls() : process_calls(ProcessOptions{}) {}
    /// For classes that override run().
    explicit process_calls(ProcessOptions options) : child_(make_child<When>(std::move(options))) {}

    /// Will call `callable(args...)` in the child. Both are copied or moved in now, and dropped in
    /// this process when start() returns; a Connection among them, or inside of them, belongs to
    /// the child from then on. Handles (Queue, Lock...) reach the callable as lvalues, every other
    /// argument as an rvalue; std::ref(x) is x&, the child's copy of it.
    template <class F, class... Args>
    requires(!std::is_base_of_v<Process, std::remove_cvref_t<F>> &&
             !std::is_same_v<ProcessOptions,
                             std::remove_cvref_t<F>>) explicit process_calls(F&& callable,
                                                                             Args&&... args)
        : process_calls(ProcessOptions{}, std::forward<F>(callable), std::forward<Args>(args)...) {}
    template <class F, class... Args>
    process_calls(ProcessOptions options, F&& callable, Args&&... args)
        : process_calls(std::move(options)) {
        check_callable<F, Args...>();
        if constexpr (is_callable<F, Args...>) {
            // Shared, since std::function copies; std::move_only_function comes with C++23.
            target_ = [kept = std::make_shared<packed_call<F, Args...>>(
                           std::in_place, std::forward<F>(callable), std::forward<Args>(args)...)] {
                static_cast<void>((*kept)());
            };
        }
    }

    process_calls(process_calls&&) noexcept = default;
    /// Ends what was there as the destructor does.
    process_calls& operator=(process_calls&& other) noexcept {
        if (this != &other) {
            end();
            child_ = std::move(other.child_);
            target_ = std::move(other.target_);
            closed_ = other.closed_;
        }
        return *this;
    }

    /// Joins the child, however long it runs. A daemon is terminated first: SIGTERM, after a second
    /// SIGKILL. Python lets go of it instead.
    virtual ~process_calls() { end(); }

    /// Starts the child. Once, by the process that made the object.
    /// \throws ProcessError if it was started before; OsError if the kernel refuses the fork or a
    ///     limit, or if a daemon finds no /proc: then no child is left, and start() may be tried
    ///     again
    void start() {
        child_process<When>& child = open();
        child.require_owner("start");
        if (child.started())
            throw ProcessError("can't start " + child.facts.name +
                               " again: a Process runs once; make another");
        launch(child_, [this] {
            run();
            return 0;
        });
        detail::hand_over(child, [this] {
            target_ = nullptr;
            hand_over();
        });
    }

    /// What the child does; calls the callable unless overridden. An exception that it throws is
    /// printed to stderr, and the exit code is 1.
    ///
    /// A Connection that is a member of the derived class is the child's from start() on only if
    /// hand_over() drops it. Else it is from its first use in the child: if that is killed before,
    /// the other end waits until the parent's copy is closed.
    virtual void run() {
        if (target_) target_();
    }

    /// Waits until the child has ended.
    /// \throws ProcessError if it was not started, or belongs to another process
    void join() { started("join").wait(deadline::never()); }
    /// \return false if it still runs when the timeout ends. Python returns None: look at exitcode
    bool join(duration timeout) { return started("join").wait(deadline::after(timeout)); }

    /// False before start(). Reaps an ended child.
    bool is_alive() {
        child_process<When>& child = open();
        if (child.is_this_process()) return true;
        child.require_owner("query");
        return child.started() && !child.exitcode();
    }

    /// SIGINT, SIGTERM, SIGKILL. No effect once it has ended. A killed process may have left data
    /// half written where it held a lock: the next to acquire that gets AbandonedLock. Its own
    /// daemons die with it; its other children live on.
    void interrupt() { started("interrupt").signal(SIGINT); }
    void terminate() { started("terminate").signal(SIGTERM); }
    void kill() { started("kill").signal(SIGKILL); }

    /// Gives the descriptor back; not needed, the destructor does. May be repeated.
    /// \throws ProcessError while the child runs
    void close() {
        if (closed_) return;
        child_process<When>& child = open();
        child.require_owner("close");
        if (child.started()) {
            if (!child.exitcode())
                throw ProcessError("can't close " + child.facts.name +
                                   " while it runs: join() or terminate() it first");
            child.close();
        }
        target_ = nullptr;
        closed_ = true;
    }

    const std::string& name() const { return open().facts.name; }
    void name(std::string name) {
        const std::lock_guard lock(process_identity::get().tables);  // ProcessRefs read it
        open().facts.name = std::move(name);
    }

    /// Nothing before start().
    std::optional<pid_t> pid() const {
        const child_process<When>& child = open();
        return child.started() ? std::optional(child.pid()) : std::nullopt;
    }
    std::optional<pid_t> ident() const { return pid(); }

    /// Nothing before start() and while it runs. n (0 to 255) after exit(n); -SIG when signal SIG
    /// killed it; 1 after an uncaught exception. When the program ignores SIGCHLD or reaps all its
    /// children itself, a kernel before Linux 6.15 forgets the status of a killed child and of
    /// _exit(): -SIGKILL then.
    std::optional<int> exitcode() {
        child_process<When>& child = open();
        if (child.is_this_process()) return std::nullopt;
        child.require_owner("query");
        return child.exitcode();
    }

    bool daemon() const { return open().facts.daemon; }
    /// \throws ProcessError once started
    void daemon(bool on) { unstarted("daemon").facts.daemon = on; }

    /// The child's key; by default that of this process.
    AuthKey authkey() const {
        const auto& own = open().facts.authkey;
        return own ? *own : current_authkey();
    }
    /// \throws ProcessError once started: the child has its key
    void authkey(AuthKey key) { unstarted("authkey").facts.authkey = std::move(key); }

    /// A descriptor (a pidfd) that is readable once the child has ended, for poll and the like. It
    /// is the object's: don't close it.
    int sentinel() const {
        child_process<When>& child = open();
        child.require_started("give the sentinel of");
        return child.sentinel();
    }

protected:
    /// Drops what the child alone is to have of a derived class's members, Connections and
    /// Listeners among them: `void hand_over() override { connection = {}; }`. start() calls it in
    /// this process, not in the child, which has them all and waits until it returns. What it
    /// throws comes out of start(), and the child goes on.
    virtual void hand_over() {}

private:
    child_process<When>& open() const {
        if (!child_) throw ProcessError("this Process was moved from");
        if (closed_) throw ClosedError(child_->facts.name + " is closed");
        return *child_;
    }
    child_process<When>& started(const char* what) const {
        child_process<When>& child = open();
        child.require_started(what);
        return child;
    }
    child_process<When>& unstarted(const char* what) const {
        child_process<When>& child = open();
        if (child.started())
            throw ProcessError(child.facts.name + " was started: set its " + what +
                               " before start()");
        return child;
    }

    void end() noexcept {
        if (!child_ || closed_ || !child_->belongs_here() || !child_->started()) return;
        try {
            if (child_->facts.daemon)
                child_->end_daemon();
            else
                child_->wait(deadline::never());
        } catch (...) {  // the program closed the descriptor under it
        }
    }

    std::shared_ptr<child_process<When>> child_;  // null: moved from
    std::function<void()> target_;                // empty: nothing to call, or called
    bool closed_ = false;
};

}  // namespace detail

/// A function in a process of its own.
///
/// Threads: one at a time may use an object, but join(), is_alive(), exitcode(), interrupt(),
/// terminate() and kill() may be called by any number of threads at once.
/// Processes: the object belongs to the process that made it. In a forked copy the destructor does
/// nothing, and whatever waits for or signals the child throws ProcessError.
class MP_EXPORT Process : public detail::process_calls<> {
public:
    using process_calls::process_calls;
};

/// Calls `callable(args...)` once, in a fresh child, which has a copy of everything: so any
/// callable will do, [&] too, but what it changes stays in the child. Its result, or its exception,
/// comes back; it must be Sendable. Arguments arrive as in Process.
///
/// To drop the AsyncResult does not end the call; at its exit the program waits for it, unless this
/// process is a daemon. If the child is killed, or calls exit(), get() throws WorkerCrashed.
/// \throws OsError if the kernel refuses the child or its shared memory
template <class F, class... Args>
auto async(ProcessOptions options, F&& callable, Args&&... args) {
    detail::check_callable<F, Args...>();
    if constexpr (detail::is_callable<F, Args...>) {
        using call = detail::packed_call<F, Args...>;
        using result = std::remove_cvref_t<typename call::result>;
        if constexpr (!std::is_void_v<result>) detail::check_sendable<result>();
        std::optional<call> kept(std::in_place, std::in_place, std::forward<F>(callable),
                                 std::forward<Args>(args)...);
        const auto child = detail::make_child<detail::used_by<F>>(std::move(options));
        auto state = std::make_shared<detail::async_child<result>>(
            child, detail::demangled(typeid(std::decay_t<F>)), *kept);
        detail::hand_over(*child, [&] { kept.reset(); });
        return AsyncResult<result>(std::move(state));
    }
}
template <class F, class... Args>
requires(!std::is_same_v<ProcessOptions, std::remove_cvref_t<F>>) auto async(F&& callable,
                                                                             Args&&... args) {
    return async(ProcessOptions{}, std::forward<F>(callable), std::forward<Args>(args)...);
}

/// Processors that this process may use, at least 1: the affinity mask counts, and so do the quotas
/// of its cgroups (versions 1 and 2), rounded up. Python's counts the machine's.
inline unsigned cpu_count() { return detail::usable_cpus(); }

/// From now on this process and its later children report on stderr what they do, in Python's
/// format: "[INFO/Process-1] child process calling run()". Silent without it.
template <detail::compiled = detail::compiled::when_used>
void log_to_stderr(LogLevel level = LogLevel::info) {
    detail::process_state::get().log_level.store(static_cast<int>(level),
                                                 std::memory_order_relaxed);  // a switch
}

}  // namespace multiprocessing
