// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// System calls: EINTR means again, any other refusal is an OsError that names the call.

#include <cerrno>
#include <string_view>

#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

[[noreturn]] inline void throw_os_error(int code, std::string_view what) {
    throw OsError(code, what);
}

/// Runs `f` until it is not interrupted. Returns what it returned; -1 leaves errno.
template <class F>
auto retry(F f) {
    for (;;) {
        auto result = f();
        if (result != -1 || errno != EINTR) return result;
    }
}

/// As retry(), but -1 is an OsError with the text `what`, such as "ftruncate of a new region".
template <class F>
auto call(std::string_view what, F f) {
    auto result = retry(f);
    if (result == -1) throw_os_error(errno, what);
    return result;
}

}  // namespace multiprocessing::detail
