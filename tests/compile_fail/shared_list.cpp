// expect: multiprocessing: only a trivially copyable type can lie in shared memory.*std::array
// SPDX-License-Identifier: BSL-1.0
#include <string>
#include <vector>

#include <multiprocessing/shared_memory.hpp>

namespace mp = multiprocessing;

int main() { mp::ShareableList<int, std::vector<int>> list{1, {2}}; }
