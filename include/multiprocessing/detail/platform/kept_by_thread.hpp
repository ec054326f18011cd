// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a thread keeps from use to use.

namespace multiprocessing::detail {

/// This thread's object of that type, made at its first use. Null once it is gone: destructors of
/// static and thread_local objects may run later than its own, and call what would use it.
template <class T>
T* kept_by_thread() noexcept {
    static thread_local constinit bool gone = false;  // trivial: can be read to the end
    struct holder {
        T value{};
        ~holder() { gone = true; }
    };
    if (gone) return nullptr;
    static thread_local holder here;
    return &here.value;
}

}  // namespace multiprocessing::detail
