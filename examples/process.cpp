// SPDX-License-Identifier: BSL-1.0
//
// A function in a process of its own: its arguments, its end. Prints
//
//     hello Bob from Greeter, a child of MainProcess
//     Greeter ended with exit code 3
//     Sleeper was killed by signal 15

#include <cstdlib>
#include <iostream>
#include <string>

#include <unistd.h>

#include <multiprocessing/process.hpp>

namespace mp = multiprocessing;

void greet(const std::string& name) {
    std::cout << "hello " << name << " from " << mp::current_process().name() << ", a child of "
              << mp::parent_process()->name() << '\n';
    std::exit(3);
}

int main() {
    mp::Process greeter({.name = "Greeter"}, greet, "Bob");
    greeter.start();
    greeter.join();
    std::cout << greeter.name() << " ended with exit code " << *greeter.exitcode() << '\n';

    mp::Process sleeper({.name = "Sleeper"}, [] { ::pause(); });
    sleeper.start();
    sleeper.terminate();
    sleeper.join();
    std::cout << sleeper.name() << " was killed by signal " << -*sleeper.exitcode() << '\n';
}
