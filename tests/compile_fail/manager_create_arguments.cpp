// expect: multiprocessing: the class can't be made of these arguments
// SPDX-License-Identifier: BSL-1.0
#include <multiprocessing/managers.hpp>

namespace mp = multiprocessing;

struct Till {
    explicit Till(int) {}
};

int main() {
    mp::Manager manager;
    manager.create<Till>("much");
}
