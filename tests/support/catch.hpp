// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The one include of Catch2, for its versions 2.13 and 3.

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
