// SPDX-License-Identifier: BSL-1.0

#include "parts.hpp"

void library_throws() { throw multiprocessing::QueueEmpty("from the library"); }

bool library_works(text_queue& queue) { return part_works(queue, "of-library"); }
