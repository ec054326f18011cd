// expect: multiprocessing: the method does not take these arguments
// SPDX-License-Identifier: BSL-1.0
#include <string>

#include <multiprocessing/managers.hpp>

namespace mp = multiprocessing;

struct Till {
    int take(int money) { return money; }
};

int main() {
    mp::Manager manager;
    return manager.create<Till>().call<&Till::take>(std::string("much"));
}
