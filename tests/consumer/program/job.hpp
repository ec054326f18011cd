// SPDX-License-Identifier: BSL-1.0
#pragma once

#include <string>

#include <multiprocessing/multiprocessing.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>

namespace mp = multiprocessing;

struct job {
    std::string name;
    int number = 0;
};

void work(mp::Queue<job>& results);
