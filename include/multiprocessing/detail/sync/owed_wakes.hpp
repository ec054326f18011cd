// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Wake-ups that a thread puts off until it gives a lock back.

#include <array>
#include <cstdint>
#include <memory>
#include <utility>

#include <multiprocessing/detail/sync/thread_id.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

inline namespace abi_1 {  // one list of a thread, for all modules of the program

/// Of this thread. Who is woken while the lock that it needs is still held would take the core from
/// the holder, or sleep again at once: two switches for nothing. If the thread dies before it has
/// paid, the sleepers come by themselves after `look_again`. What it owes keeps no handle's memory:
/// whom nobody here has any more was woken when his last handle went. A forked child owes nothing
/// of its parent's.
class MP_EXPORT owed_wakes {
public:
    /// \param needs  what `wake` uses: it is not called when that is gone
    /// \return false if too many are owed already: wake now
    static bool owe(const void* lock, const std::shared_ptr<void>& needs, void (*wake)(void*),
                    void* whom) {
        if (gone()) return false;
        for (owed& one : list().all)
            if (one.needs.expired() || (one.lock == lock && one.whom == whom)) {
                one = {lock, needs, wake, whom};
                return true;
            }
        return false;
    }

    /// The lock was given back.
    static void pay(const void* lock) noexcept {
        if (gone()) return;
        for (owed& one : list().all)
            if (one.lock == lock) {
                const owed now = std::exchange(one, {});
                if (const auto still = now.needs.lock()) now.wake(now.whom);
            }
    }

private:
    struct owed {
        const void* lock = nullptr;
        std::weak_ptr<void> needs;
        void (*wake)(void*) = nullptr;
        void* whom = nullptr;
    };
    struct entries {
        std::array<owed, 4> all;
        std::uint64_t thread = 0;
        ~entries() { gone() = true; }
    };
    static entries& list() noexcept {
        static thread_local entries of_this_thread;
        if (of_this_thread.thread != this_thread_id()) {  // new, or the parent's
            of_this_thread.all = {};
            of_this_thread.thread = this_thread_id();
        }
        return of_this_thread;
    }
    /// The thread ends: other destructors may still use locks.
    static bool& gone() noexcept {
        static thread_local bool is_gone = false;
        return is_gone;
    }
};

}  // namespace abi_1

}  // namespace multiprocessing::detail
