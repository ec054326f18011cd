// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What this process knows about itself, its parent and its children.

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/types.h>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/process/auth_key.hpp>
#include <multiprocessing/detail/process/lifeline.hpp>
#include <multiprocessing/detail/process/logging.hpp>
#include <multiprocessing/detail/process/status_table.hpp>

namespace multiprocessing::detail {

template <compiled When = compiled::when_used>
class child_process;

template <compiled When = compiled::when_used>
struct child_table {
    std::vector<std::shared_ptr<child_process<When>>> by_number = {};
    /// The parent's, as it was at the fork. Left alone: to take it apart would copy its pages, and
    /// its objects are the parent's business.
    child_table* above = nullptr;
};

/// What a ProcessRef tells about any process.
struct process_facts {
    std::string name = "MainProcess";
    pid_t pid = 0;
    bool daemon = false;
    std::optional<AuthKey> authkey = {};
};

/// One in each process; never destroyed, since destructors of the host may still use it.
/// The number in the name belongs to the layout: two shared libraries share the struct.
///
/// "tables" means guarded by process_identity::tables, which is held over every fork. Nothing that
/// forks or waits is called under it.
struct MP_EXPORT process_state_1 {
    // In a child these point to what its parent made: nothing is copied at its start.
    process_facts* self = &first;           // tables; name, pid and daemon are fixed
    const process_facts* parent = nullptr;  // null where no Process made this one; fixed
    const std::string* path = &none;        // "1:2" in "Process-1:2", "" in the first; fixed
    status_slot* slot = nullptr;            // where to leave the exit code; only in a child of ours
    bool is_child = false;                  // a child of ours, or a raw fork below one; fixed
    bool has_finalizer = false;             // tables
    std::atomic<std::uint64_t> numbers{0};  // the N of the last "Process-N"
    std::atomic<int> log_level{100};        // silent
    child_table<>* children = nullptr;      // tables; those not yet joined; null: none yet
    child_table<>* inherited = nullptr;     // tables
    status_table<> statuses;                // tables
    lifeline line;                          // tables

    template <compiled = compiled::when_used>
    static process_state_1& get() {
        return only_one<process_state_1>::get();
    }

    bool logs(LogLevel level) const noexcept {
        return static_cast<int>(level) >= log_level.load(std::memory_order_relaxed);  // a switch
    }

private:
    friend only_one<process_state_1>;
    process_facts first;
    const std::string none;

    process_state_1() {
        first.pid = this_pid();
        static constexpr fork_hooks hooks{.in_child = [] {
            if (process_state_1* const here = only_one<process_state_1>::made) here->forked();
        }};
        process_identity::get().hook(fork_hooks::processes, hooks);
    }

    /// In every forked child, the host's own ones too.
    void forked() noexcept {
        self->pid = this_pid();
        slot = nullptr;
        parent = nullptr;
        if (children) inherited = std::exchange(children, nullptr);
        statuses.forget();
        line.let_go();
    }
};
using process_state = process_state_1;

template <compiled = compiled::when_used>
void log_line(LogLevel level, std::string_view text) {
    process_state& state = process_state::get();
    if (state.logs(level)) write_log_line(level, state.self->name, text);
}

/// Where no error can go on: without memory the line is lost. \param text  makes it, if it is
/// wanted
template <class F>
void log_line_or_none(LogLevel level, F text) noexcept try {
    if (process_state::get<used_by<F>>().logs(level)) log_line<used_by<F>>(level, text());
} catch (...) {
}

/// Made at first use, then the same in every process below.
template <compiled = compiled::when_used>
AuthKey current_authkey() {
    process_state& state = process_state::get();
    const std::lock_guard lock(process_identity::get().tables);
    if (!state.self->authkey) state.self->authkey = AuthKey::generate();
    return *state.self->authkey;
}

}  // namespace multiprocessing::detail
