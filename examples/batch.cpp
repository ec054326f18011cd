// SPDX-License-Identifier: BSL-1.0
//
// A batch over files whose parser has bugs: some files crash it, some hang it, some make it ask for
// too much memory, some it refuses. Each is reported with its index and the reason, and costs the
// others nothing. Prints a line for each file, such as
//
//      2: 8
//      3: the task number 3 of long(const std::string&)* did not return: its worker (pid 4711) was
//         killed by signal 11 (Segmentation fault)
//
// and "20 files: 13 read, 2 crashed, 1 hung, 2 out of memory, 2 refused".

#include <cctype>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <istream>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;
using namespace std::chrono_literals;

/// The sum of "1 (2 3)", up to a ')'. "[n" makes room for n numbers, '#' begins a comment.
long sum(std::istream& in) {
    long total = 0;
    for (char c; in >> c && c != ')';) {
        long number = 0;
        if (c == '(') {
            total += sum(in);  // a bug: how deep may it be?
        } else if (c == '#') {
            while (in.get() != '\n') {  // a bug: the file may end
            }
        } else if (c == '[') {
            in >> number;
            total += std::vector<long>(static_cast<std::size_t>(number)).front();  // a bug, or two
        } else if (in.putback(c); in >> number) {
            total += number;
        } else {
            throw std::invalid_argument(std::string("unexpected '") + c + '\'');
        }
    }
    return total;
}

long sum_of_file(const std::string& path) {
    std::ifstream in(path);
    return sum(in);
}

std::string content(int i) {
    switch (i) {
        case 3:
        case 13:
            return std::string(1'000'000, '(');
        case 7:
            return "1 2 # the end";
        case 11:
        case 16:
            return "[1000000000";
        case 5:
        case 18:
            return "1 2 three";
        default:
            return std::to_string(i) + " (1 2 (3)) # a comment\n";
    }
}

int main() {
    const auto folder =
        std::filesystem::temp_directory_path() / ("batch-" + std::to_string(::getpid()));
    std::filesystem::create_directory(folder);
    std::vector<std::string> files;
    for (int i = 0; i < 20; ++i) {
        files.push_back(folder / (std::to_string(i) + ".txt"));
        std::ofstream(files.back()) << content(i);
    }

    mp::Pool pool(mp::PoolOptions{
        .processes = 4, .task_timeout = 2s, .limits = {.memory = 512u << 20, .core_size = 0}});
    int read = 0, crashed = 0, hung = 0, out_of_memory = 0, refused = 0, index = 0;
    auto results = pool.imap(sum_of_file, files);
    for (auto it = results.begin(); it != results.end(); ++it, ++index) {
        const auto report = [&](int& count, const char* reason) {
            std::printf("%2d: %s\n", index, reason);
            ++count;
        };
        try {
            report(read, std::to_string(*it).c_str());
        } catch (const mp::WorkerCrashed& error) {
            report(crashed, error.what());
        } catch (const mp::TaskTimeout& error) {
            report(hung, error.what());
        } catch (const std::bad_alloc& error) {
            report(out_of_memory, error.what());
        } catch (const std::exception& error) {
            report(refused, error.what());
        }
    }
    std::printf("%zu files: %d read, %d crashed, %d hung, %d out of memory, %d refused\n",
                files.size(), read, crashed, hung, out_of_memory, refused);
    std::filesystem::remove_all(folder);
}
