// SPDX-License-Identifier: BSL-1.0

#include "parts.hpp"

#include <multiprocessing/multiprocessing.hpp>

void plugin_throws() { throw multiprocessing::QueueEmpty("from the plugin"); }
