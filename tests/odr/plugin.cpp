// SPDX-License-Identifier: BSL-1.0

#include "parts.hpp"

void plugin_throws() { throw multiprocessing::QueueEmpty("from the plugin"); }

bool plugin_works(text_queue& queue) { return part_works(queue, "of-plugin"); }
