// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The one include of Catch2, for its versions 2.13 and 3.

#include <string>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>

namespace Catch {
/// Under its name of version 2.
inline auto Contains(const std::string& part) { return Matchers::ContainsSubstring(part); }
}  // namespace Catch
#else
#include <catch2/catch.hpp>
#endif
