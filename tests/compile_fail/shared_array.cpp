// expect: multiprocessing: only a trivially copyable type can lie in shared memory.*std::array
// SPDX-License-Identifier: BSL-1.0
#include <string>
#include <vector>

#include <multiprocessing/shared_memory.hpp>

namespace mp = multiprocessing;

int main() { mp::SharedArray<std::vector<int>> a(3); }
