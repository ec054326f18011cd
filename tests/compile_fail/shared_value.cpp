// expect: multiprocessing: only a trivially copyable type can lie in shared memory.*std::array
// SPDX-License-Identifier: BSL-1.0
#include <string>
#include <vector>

#include <multiprocessing/sharedctypes.hpp>

namespace mp = multiprocessing;

int main() { mp::Value<std::string> v{"text"}; }
