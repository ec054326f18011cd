// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The fork: what the parent does around it, and a child's first and last code.
///
/// Hangs that were measured, and what is done about each:
/// - In a child, a lock of libc that another thread of the parent held at the fork is held for
/// ever.
///   fork() sees to malloc and stdio. Nobody sees to the table of exit handlers (exit(), atexit(),
///   every static with a destructor) and the loader's locks (dlopen, thread_local with a
///   destructor, exceptions in older programs). So in a program with threads a child first takes
///   each of these locks, and its parent waits for its word; one that got stuck, which happened to
///   1 of 1,305 next to a thread that registers handlers, is killed before any code of the user
///   ran, and the fork is made anew. A program with one thread, where nobody can hold them, waits
///   for nothing.
/// - Static destructors and exit handlers of the parent must not run in a child. The child
/// registers
///   a handler of its own before it runs user code. The newest runs first, so what the child
///   registers later runs, then ours, which leaves by _exit.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>

#include <cxxabi.h>
#include <link.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/demangle.hpp>
#include <multiprocessing/detail/platform/handover.hpp>
#include <multiprocessing/detail/platform/small_file.hpp>
#include <multiprocessing/detail/process/child_process.hpp>
#include <multiprocessing/detail/process/limits.hpp>
#include <multiprocessing/detail/process/logging.hpp>
#include <multiprocessing/detail/process/state.hpp>
#include <multiprocessing/detail/process/streams.hpp>

// In glibc's library for compilers, in no header: what `thread_local T x;` compiles to.
extern "C" int __cxa_thread_atexit_impl(void (*)(void*), void*, void*) noexcept;

namespace multiprocessing::detail {

/// The last exit handler that runs in a child, on exit(), from whichever thread: its own children,
/// its streams, its exit code.
template <compiled When = compiled::when_used>
void leave(int status, void*) noexcept {
    process_state& state = process_state::get();
    log_line(LogLevel::info, "process shutting down");
    end_children<When>();
    flush_streams();
    if (state.logs(LogLevel::info))
        log_line(LogLevel::info, "process exiting with exitcode " + std::to_string(status & 0xff));
    if (state.slot) state.slot->end(status);
    early<::_exit>(status);
    std::abort();  // not reached
}

/// "Process Process-1 (pid 42): uncaught std::runtime_error: what". Called in a catch block.
template <compiled = compiled::when_used>
void report_uncaught(const char* what) noexcept {
    try {
        const process_facts& self = *process_state::get().self;
        const std::type_info* type = abi::__cxa_current_exception_type();
        std::string line = "Process " + self.name + " (pid " + std::to_string(self.pid) +
                           "): uncaught " + (type ? demangled(*type) : "exception");
        if (what) line.append(": ").append(what);
        write_stderr(line + '\n');
    } catch (...) {  // out of memory
        write_stderr("Process: uncaught exception, and no memory to tell which\n");
    }
}

/// In a catch (...): pthread_exit, or a cancellation, on its way. It is no exception of C++: no
/// exception_ptr holds it, and what libstdc++ has for its type is anything. To catch it by
/// abi::__forced_unwind& is a null reference for UBSan of g++.
inline bool is_forced_unwind() noexcept { return std::current_exception() == nullptr; }

/// Runs user code as the last thing of a child. Nothing unwinds past this.
template <compiled = compiled::when_used>
[[noreturn]] void run_and_exit(const std::function<int()>& body) noexcept {
    int code = 1;
    try {
        log_line(LogLevel::info, "child process calling run()");
        code = body();
    } catch (const std::exception& e) {
        report_uncaught(e.what());
    } catch (...) {
        if (is_forced_unwind()) early<std::exit>(0);  // this block must not be left
        report_uncaught(nullptr);
    }
    early<std::exit>(code);
    ::_exit(code);  // not reached
}

/// What a child has to do at its start. The parent finds out, since that costs the child a copy or
/// a mapping of each page that it touches.
struct onset {
    bool watched = false;      // the parent waits until the child runs
    bool with_loader = false;  // the child tries the loader's locks as well
    bool purges = false;       // streams may hold text of the parent
    bool has_read = false;     // stdin too
    bool settles = false;      // the parent may give it things
};

/// The whole life of a child.
template <compiled When = compiled::when_used>
[[noreturn]] void live(child_process<When>& self, onset how,
                       const std::function<int()>& body) noexcept {
    status_slot& slot = self.slot();
    slot.stage.store(status_slot::probing, std::memory_order_relaxed);  // says no more than that
    refusal trouble;
    if (early<::on_exit>(&leave<When>, nullptr) != 0) trouble = {refusal::exit_handler, ENOMEM};
    if (how.with_loader) {
        ::__cxa_thread_atexit_impl([](void*) {}, nullptr, &process_state::get());
        ::dl_iterate_phdr([](dl_phdr_info*, std::size_t, void*) { return 1; }, nullptr);
    }
    if (how.purges) purge_streams();

    process_state& state = process_state::get();
    state.self->pid = self.owner();  // its parent's facts
    state.parent = std::exchange(state.self, &self.facts);
    state.path = &self.path();
    state.numbers.store(0, std::memory_order_relaxed);  // one thread
    state.is_child = true;
    state.slot = &slot;
    self.is_me();

    empty_stdin(how.has_read);
    if (trouble.what == refusal::none && self.facts.daemon) {
        if (const int e = state.line.arm()) trouble = {refusal::lifeline, e};
    } else {
        state.line.drop();
    }
    if (trouble.what == refusal::none) trouble = apply_limits(self.limits);
    if (trouble.what != refusal::none) {
        slot.refuse(trouble);
        ::_exit(1);
    }
    slot.stage.store(status_slot::running, std::memory_order_release);  // (A)
    if (how.watched) futex_wake(slot.stage, wake_all);
    if (how.settles) await_handover(slot.handed, self.owner());
    run_and_exit<When>(body);
}

/// Whether a process sleeps in the kernel; nothing where /proc is not mounted.
inline std::optional<bool> is_asleep(pid_t pid) {
    const std::string stat = read_small_file("/proc/" + std::to_string(pid) + "/stat");
    const auto name_end = stat.rfind(") ");
    if (name_end == std::string::npos) return std::nullopt;
    return stat.compare(name_end + 2, 1, "S") == 0;
}

/// Waits until the child runs user code, was refused, or has ended.
/// \param patience  without /proc: so long a child may be silent before it counts as stuck
/// \return false if it is stuck in a lock: nothing else puts it to sleep there
template <compiled When = compiled::when_used>
bool await_onset(const child_process<When>& child, duration patience) {
    const futex_word& stage = child.slot().stage;
    deadline stuck = deadline::never();
    for (duration look = std::chrono::microseconds(250);; look = std::min(2 * look, patience)) {
        const auto now = stage.load(std::memory_order_acquire);  // (B)
        if (now > status_slot::probing) return true;
        futex_wait(stage, now, deadline::after(look));
        if (wait_readable(child.sentinel(), deadline::at_once())) return true;
        if (stage.load(std::memory_order_relaxed) != status_slot::probing) continue;  // looks again
        if (stuck.is_never()) stuck = deadline::after(patience);
        if (is_asleep(child.born()).value_or(stuck.passed()) &&
            stage.load(std::memory_order_relaxed) == status_slot::probing)  // a child forked anew
            return false;                                                   // is no harm
    }
}

/// Everything that must be there before a fork, since a child can't make it.
template <compiled When = compiled::when_used>
void prepare_launch(child_process<When>& child) {
    process_state& state = process_state::get();
    if (!child.facts.authkey) child.facts.authkey = current_authkey();
    {
        const std::lock_guard lock(process_identity::get().tables);
        if (child.facts.daemon) state.line.make();
        if (std::exchange(state.has_finalizer, true)) return;
    }
    // A child of ours never gets here: leave() runs first.
    if (!state.is_child && std::atexit([] { end_children<When>(); }) != 0)
        throw_os_error(ENOMEM, "atexit");
}

/// Starts the child, which runs `body` and ends with the code that it returns, after hand_over().
/// \throws OsError if the kernel refuses; then nothing is left of it
template <compiled When = compiled::when_used>
void launch(const std::shared_ptr<child_process<When>>& child, const std::function<int()>& body) {
    sweep_children<When>();
    prepare_launch(*child);
    child->enroll();
    struct undo {
        child_process<When>* child;
        ~undo() {
            if (child) child->forget();
        }
    } guard{child.get()};
    // adopt() needs a descriptor: better refused before the fork than after it.
    unique_fd(call("eventfd before a fork", [] { return ::eventfd(0, EFD_CLOEXEC); }));

    const bool threads = !single_threaded();
    onset how{.watched = threads || child->facts.daemon || has_limits(child->limits),
              .with_loader = threads,
              .settles = hands_over()};
    duration patience = std::chrono::milliseconds(20);
    const deadline loader_matters = deadline::after(std::chrono::seconds(3));
    for (;;) {
        how.purges = !flush_streams();
        how.has_read = has_read_stdin();
        handover::launching = how.settles;
        const pid_t pid = ::fork();
        if (pid == 0) live(*child, how, body);
        handover::launching = false;
        if (pid == -1) throw_os_error(errno, "fork for " + child->facts.name);
        child->adopt(pid);
        if (!how.watched || await_onset(*child, patience)) break;
        child->disown();
        // Somebody has been in dlopen for seconds, perhaps this thread is: then the child must do
        // without that lock, and most never need it.
        how.with_loader = how.with_loader && !loader_matters.passed();
        patience = std::min<duration>(2 * patience, std::chrono::seconds(1));
    }
    const status_slot& slot = child->slot();
    if (how.watched && slot.stage.load(std::memory_order_acquire) == status_slot::refused) {  // (B)
        const auto cause = static_cast<refusal::cause>(slot.cause.load(std::memory_order_relaxed));
        const int code = slot.value.load(std::memory_order_relaxed);
        child->disown();
        throw_os_error(code, describe(cause));
    }
    if (!child->settled()) guard.child = nullptr;
    child->publish();
}

/// After launch(): drops what the child alone is to have, and lets it go on, also if that throws.
/// \param drop  destroys the callable and its arguments
template <compiled When, class F>
void hand_over(child_process<When>& child, F drop) {
    struct go_on {
        child_process<When>& child;
        ~go_on() { child.handed_over(); }
    } at_last{child};
    const handing_over to(child.pid());
    drop();
}

}  // namespace multiprocessing::detail
