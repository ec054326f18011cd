// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What belongs to one process at a time, and goes to a child with the arguments of a Process.
///
/// Nobody can list what lies in a callable and its arguments. But its destructors can: after the
/// fork the parent drops its copies, and what is dropped meanwhile goes to the child, its heir. The
/// child waits for that before it runs user code, and then knows what it has. In any other fork
/// nothing is given.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <utility>

#include <sys/types.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/futex.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

inline namespace abi_1 {

/// One in each process.
struct MP_EXPORT handover {
    std::atomic<std::uint64_t> things{0};       // such things of this process; a guess outside it
    static inline thread_local pid_t heir = 0;  // of what this thread destroys; 0: nobody
    /// This thread forks a child that will settle: fork hooks leave the rest to that.
    static inline thread_local bool launching = false;

    static handover& get() {
        static constinit handover only;
        return only;
    }
};

}  // namespace abi_1

/// Whether a child has to wait for its parent.
inline bool hands_over() {
    return handover::get().things.load(std::memory_order_relaxed) != 0;  // own things are seen
}

/// In a child, before user code. Its parent tells within microseconds, or is dead: its end shows
/// only by looking.
inline void await_handover(const futex_word& handed, pid_t parent) {
    while (handed.load(std::memory_order_acquire) == 0 && ::getppid() == parent)
        futex_wait(handed, 0, deadline::after(std::chrono::milliseconds(10)));
    handover::launching = false;
    process_identity::get().settle();  // keeps what it was given, no more
}

/// While this lives, what this thread destroys goes to that process.
class handing_over {
public:
    explicit handing_over(pid_t heir) noexcept : outer_(std::exchange(handover::heir, heir)) {}
    handing_over(const handing_over&) = delete;
    handing_over& operator=(const handing_over&) = delete;
    ~handing_over() { handover::heir = outer_; }

private:
    const pid_t outer_;
};

}  // namespace multiprocessing::detail
