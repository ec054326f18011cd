// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Functions that only children call.

namespace multiprocessing::detail {

/// A function that is looked up when the program is loaded, not at its first call. Whatever is
/// first called in a child, each child looks up anew, through tables in pages that it has to map
/// for it: that made half of the page faults of a child (31 of them, 18 without; fork and _exit
/// alone: 18).
template <auto* Function>
inline auto* const volatile early = Function;

}  // namespace multiprocessing::detail
