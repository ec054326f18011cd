// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The version of the library. The build reads it from here.

#include <string_view>

namespace multiprocessing {

inline constexpr int version_major = 0;
inline constexpr int version_minor = 1;
inline constexpr int version_patch = 0;
inline constexpr std::string_view version = "0.1.0";

}  // namespace multiprocessing
