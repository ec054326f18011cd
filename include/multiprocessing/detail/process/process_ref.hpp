// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// ProcessRef: this process, its parent or a child, by value.

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/process/auth_key.hpp>
#include <multiprocessing/detail/process/child_process.hpp>
#include <multiprocessing/detail/process/state.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {
namespace detail {

template <compiled When = compiled::when_used>
class process_ref;

}  // namespace detail

template <detail::compiled When = detail::compiled::when_used>
detail::process_ref<When> current_process();
template <detail::compiled When = detail::compiled::when_used>
std::optional<detail::process_ref<When>> parent_process();
template <detail::compiled When = detail::compiled::when_used>
std::vector<detail::process_ref<When>> active_children();

namespace detail {

/// A process of this program: the current one, its parent, or a child of it.
///
/// Cheap to copy; owns nothing. Name, daemon and key are those of the moment it was asked for.
/// Threads: any number may use one at once. Whoever may join, kill or query a process may do so
/// here: its parent, while it is a child; and any process may wait for its own parent.
template <compiled When>
class MP_EXPORT process_ref {
public:
    const std::string& name() const noexcept { return facts_.name; }
    pid_t pid() const noexcept { return facts_.pid; }
    pid_t ident() const noexcept { return facts_.pid; }
    bool daemon() const noexcept { return facts_.daemon; }
    AuthKey authkey() const { return *facts_.authkey; }
    /// Of the current process: for itself and the children that it starts from now on.
    /// \throws ProcessError of any other
    void authkey(AuthKey key) {
        if (facts_.pid != this_pid())
            throw ProcessError("only a process itself can change its authkey");
        const std::lock_guard lock(process_identity::get().tables);
        facts_.authkey = process_state::get().self->authkey = std::move(key);
    }

    /// True for the current process.
    bool is_alive() const {
        if (facts_.pid == this_pid()) return true;
        if (child_) return !child("query").exitcode();
        return !parent("query", deadline::at_once());
    }

    /// Waits until it has ended.
    /// \throws ProcessError of the current process, which would wait for ever
    void join() const { wait(deadline::never()); }
    /// \return false if it still runs when the timeout ends
    bool join(duration timeout) const { return wait(deadline::after(timeout)); }

    // Of children only, as in Process.
    std::optional<int> exitcode() const { return child("query").exitcode(); }
    void interrupt() const { child("interrupt").signal(SIGINT); }
    void terminate() const { child("terminate").signal(SIGTERM); }
    void kill() const { child("kill").signal(SIGKILL); }

private:
    friend process_ref multiprocessing::current_process<When>();
    friend std::optional<process_ref> multiprocessing::parent_process<When>();
    friend std::vector<process_ref> multiprocessing::active_children<When>();

    explicit process_ref(process_facts facts) : facts_(std::move(facts)) {}

    child_process<When>& child(const char* what) const {
        if (!child_)
            throw ProcessError("can't " + std::string(what) + ' ' + facts_.name +
                               ": it is no child of this process");
        child_->require_owner(what);
        return *child_;
    }

    bool parent(const char* what, deadline until) const {
        if (!parent_) static_cast<void>(child(what));  // neither: throws
        return !*parent_ || wait_readable(parent_->get(), until);
    }

    bool wait(deadline until) const {
        if (facts_.pid == this_pid())
            throw ProcessError("join: the current process can't wait for its own end");
        return child_ ? child("join").wait(until) : parent("join", until);
    }

    process_facts facts_;
    std::shared_ptr<child_process<When>> child_;
    std::shared_ptr<unique_fd> parent_;  // its pidfd; empty if it had ended
};

}  // namespace detail

/// As detail::process_ref.
using ProcessRef = detail::process_ref<>;

/// The process that calls this: "MainProcess" in the first one.
template <detail::compiled When>
detail::process_ref<When> current_process() {
    detail::process_facts facts;
    {
        detail::current_authkey();
        const std::lock_guard lock(detail::process_identity::get().tables);
        facts = *detail::process_state::get().self;
    }
    return detail::process_ref<When>(std::move(facts));
}

/// Nothing in the first process, and in one that does not come from this library.
/// \throws OsError if there is no descriptor left
template <detail::compiled When>
std::optional<detail::process_ref<When>> parent_process() {
    const detail::process_facts* facts = detail::process_state::get().parent;
    if (!facts) return std::nullopt;
    detail::process_ref<When> parent(*facts);
    auto pidfd = std::make_shared<detail::unique_fd>(detail::open_pidfd(parent.pid()));
    if (::getppid() != parent.pid()) pidfd->reset();  // it ended; the number may be another's
    parent.parent_ = std::move(pidfd);
    return parent;
}

/// The children that run, in the order in which they were made. Reaps those that ended, as Python
/// does: their exit codes remain with their Process objects.
template <detail::compiled When>
std::vector<detail::process_ref<When>> active_children() {
    std::vector<detail::process_ref<When>> found;
    for (auto& child : detail::children_of_this_process<When>()) {
        if (child->exitcode()) continue;
        detail::process_facts facts;
        {
            const std::lock_guard lock(detail::process_identity::get().tables);  // the name
            facts = child->facts;
        }
        detail::process_ref<When> ref(std::move(facts));
        ref.child_ = std::move(child);
        found.push_back(std::move(ref));
    }
    return found;
}

}  // namespace multiprocessing
