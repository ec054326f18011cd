// SPDX-License-Identifier: BSL-1.0
//
// start (process|fork): the median time in microseconds to start a process that does nothing, and
// to wait for its end.

#include <multiprocessing/process.hpp>

#include "support.hpp"

namespace {

void nothing() {}

void start_process() {
    multiprocessing::Process process(nothing);
    process.start();
    process.join();
}

void start_fork() {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(0);
    int status;
    ::waitpid(pid, &status, 0);
}

}  // namespace

int main(int, char** arguments) {
    return bench::program([&] {
        const bool is_process = std::string(arguments[1]) == "process";
        std::vector<std::int64_t> times;
        for (int i = 0; i < 105; ++i) {
            const std::int64_t before = bench::now();
            is_process ? start_process() : start_fork();
            if (i >= 5) times.push_back(bench::now() - before);
        }
        std::printf("%.6g\n", static_cast<double>(bench::median(times)) / 1e3);
    });
}
