// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What each part of the program offers to main.cpp.

extern "C" {
__attribute__((visibility("default"))) void library_throws();
__attribute__((visibility("default"))) void plugin_throws();
}
void other_unit_throws();
