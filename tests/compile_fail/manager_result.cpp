// expect: multiprocessing: this type can't be sent because it holds a raw pointer
// SPDX-License-Identifier: BSL-1.0
#include <multiprocessing/managers.hpp>

namespace mp = multiprocessing;

struct Till {
    const char* name() const { return "till"; }
};

int main() {
    mp::Manager manager;
    static_cast<void>(manager.create<Till>().call<&Till::name>());
}
