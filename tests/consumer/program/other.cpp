// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/multiprocessing.hpp>

void fail_elsewhere() { throw multiprocessing::QueueEmpty("nothing in the queue"); }
