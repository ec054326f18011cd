// SPDX-License-Identifier: BSL-1.0

#include "parts.hpp"

void other_unit_throws() { throw multiprocessing::QueueEmpty("from the other"); }

bool other_unit_works(text_queue& queue) { return part_works(queue, "of-other"); }
