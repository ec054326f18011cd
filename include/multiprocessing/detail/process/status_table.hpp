// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a child tells its parent without a message: how its start went and how it ended.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>
#include <vector>

#include <sys/mman.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/futex.hpp>

namespace multiprocessing::detail {

/// What a child could not set up, and the errno value of it.
struct refusal {
    enum cause : std::int32_t {
        none,
        exit_handler,
        lifeline,
        no_proc_for_memory,
        memory,
        cpu_time,
        open_files,
        file_size,
        core_size
    };
    cause what = none;
    std::int32_t code = 0;
};

inline const char* describe(refusal::cause what) noexcept {
    switch (what) {
        case refusal::exit_handler:
            return "on_exit in the child";
        case refusal::lifeline:
            return "tying a daemon to its parent needs /proc: mount it, or start the process with "
                   "daemon = false: open of /proc/self/fd";
        case refusal::no_proc_for_memory:
            return "Limits::memory needs /proc: mount it: open of /proc/self/status";
        case refusal::memory:
            return "setrlimit for Limits::memory";
        case refusal::cpu_time:
            return "setrlimit for Limits::cpu_time";
        case refusal::open_files:
            return "setrlimit for Limits::open_files";
        case refusal::file_size:
            return "setrlimit for Limits::file_size";
        case refusal::core_size:
            return "setrlimit for Limits::core_size";
        case refusal::none:
            break;
    }
    return "start of the child";
}

/// One child's word to its parent, in memory that both share.
///
/// Layout (16 bytes)
///     0  stage  futex word: forked -> probing -> running or refused; running -> ended
///     4  value  refused: errno; ended: exit code 0..255
///     8  cause  refused: a refusal::cause
///    12  handed  futex word: 1 once the parent has let go of what it gave to the child
/// Writers  the parent before the fork, then the child alone, but for `handed`. Each stage is a
/// release store after
///          the values that belong to it (A); the parent reads it by acquire (B).
/// K1  killed at any point: the stage stays. The parent never waits for a stage without watching
///     the pidfd too, and reads `ended` only once the child is dead.
struct status_slot {
    enum stages : std::uint32_t { forked, probing, running, refused, ended };

    futex_word stage{forked};
    std::atomic<std::int32_t> value{0};
    std::atomic<std::int32_t> cause{0};
    futex_word handed{0};

    void reset() noexcept {
        stage.store(forked, std::memory_order_relaxed);  // fork publishes both
        handed.store(0, std::memory_order_relaxed);
    }
    void refuse(refusal why) noexcept {
        value.store(why.code, std::memory_order_relaxed);  // (A) publishes both
        cause.store(why.what, std::memory_order_relaxed);
        stage.store(refused, std::memory_order_release);  // (A)
        futex_wake(stage, wake_all);
    }
    void end(int code) noexcept {
        value.store(code & 0xff, std::memory_order_relaxed);  // (A) publishes it
        stage.store(ended, std::memory_order_release);        // (A); the parent waits for death
    }
};
static_assert(sizeof(status_slot) == 16 && std::is_standard_layout_v<status_slot>);
static_assert(std::atomic<std::int32_t>::is_always_lock_free);

/// The slots of this process's children. Guarded by process_identity::tables. Pages are never
/// given back: one serves 256 children at a time.
template <compiled When = compiled::when_used>
class status_table {
public:
    /// \throws OsError if there is no memory
    status_slot* take() {
        if (free_.empty()) grow();
        status_slot* slot = free_.back();
        free_.pop_back();
        slot->reset();
        return slot;
    }

    /// Of a child that is dead, or was not born.
    void give_back(status_slot* slot) noexcept { free_.push_back(slot); }  // never above capacity

    /// In a forked child: the slots are its parent's.
    void forget() noexcept {
        free_.clear();
        slots_ = 0;
    }

private:
    void grow() {
        static constexpr std::size_t page = 4096;
        static constexpr std::size_t count = page / sizeof(status_slot);
        free_.reserve(slots_ + count);
        void* memory =
            ::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw_os_error(errno, "mmap for the states of child processes");
        auto* first = static_cast<status_slot*>(memory);
        for (std::size_t i = count; i-- > 0;) free_.push_back(new (first + i) status_slot);
        slots_ += count;
    }

    std::vector<later<When, status_slot*>> free_;
    std::size_t slots_ = 0;
};

}  // namespace multiprocessing::detail
