// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Wake-ups that a thread puts off until it gives a lock back.

#include <array>
#include <memory>
#include <utility>

#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

inline namespace abi_1 {  // one list of a thread, for all modules of the program

/// Of this thread. Who is woken while the lock that it needs is still held would take the core from
/// the holder, or sleep again at once: two switches for nothing. If the thread dies before it has
/// paid, the sleepers come by themselves after `look_again`.
class MP_EXPORT owed_wakes {
public:
    /// \param keep  what `wake` needs, kept alive until then
    /// \return false if too many are owed already: wake now
    static bool owe(const void* lock, std::shared_ptr<void> keep, void (*wake)(void*), void* whom) {
        if (gone()) return false;
        for (owed& one : list().all)
            if (one.lock == nullptr || (one.lock == lock && one.whom == whom)) {
                one = {lock, std::move(keep), wake, whom};
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
                now.wake(now.whom);
            }
    }

private:
    struct owed {
        const void* lock = nullptr;
        std::shared_ptr<void> keep;
        void (*wake)(void*) = nullptr;
        void* whom = nullptr;
    };
    struct entries {
        std::array<owed, 4> all;
        ~entries() { gone() = true; }
    };
    static entries& list() noexcept {
        static thread_local entries of_this_thread;
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
