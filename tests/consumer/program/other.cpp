// SPDX-License-Identifier: BSL-1.0

#include "job.hpp"

void work(mp::Queue<job>& results) { results.put({"the answer is", 42}); }
