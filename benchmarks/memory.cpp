// SPDX-License-Identifier: BSL-1.0
//
// memory: what queues take of memory, descriptors and mappings: lines of name, figure and unit.

#include <filesystem>
#include <fstream>

#include <sys/stat.h>

#include <multiprocessing/queues.hpp>

#include "support.hpp"

namespace {

struct usage {
    double shared = 0;  // bytes of memory files that this process has open
    double own = 0;     // bytes of private memory
    double descriptors = 0, mappings = 0, address_space = 0;

    static usage now() {
        usage u;
        for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
            struct stat info;
            if (::stat(entry.path().c_str(), &info) != 0) continue;
            ++u.descriptors;
            std::error_code none;
            if (read_symlink(entry.path(), none).native().rfind("/memfd:", 0) == 0)
                u.shared += static_cast<double>(info.st_blocks) * 512;
        }
        std::string line;
        for (std::ifstream maps("/proc/self/maps"); std::getline(maps, line);) ++u.mappings;
        for (std::ifstream status("/proc/self/status"); std::getline(status, line);) {
            if (line.rfind("RssAnon:", 0) == 0) u.own = std::stod(line.substr(8)) * 1024;
            if (line.rfind("VmSize:", 0) == 0) u.address_space = std::stod(line.substr(7)) * 1024;
        }
        return u;
    }
};

void print(const char* what, const usage& before, double queues = 1) {
    const usage after = usage::now();
    std::printf("%s, shared memory\t%.6g\tKiB\n", what,
                (after.shared - before.shared) / queues / 1024);
    std::printf("%s, private memory\t%.6g\tKiB\n", what, (after.own - before.own) / queues / 1024);
    std::printf("%s, descriptors\t%.6g\t\n", what,
                (after.descriptors - before.descriptors) / queues);
    std::printf("%s, mappings\t%.6g\t\n", what, (after.mappings - before.mappings) / queues);
    std::printf("%s, address space\t%.6g\tGiB\n", what,
                (after.address_space - before.address_space) / queues / (1 << 30));
}

}  // namespace

int main() {
    return bench::program([] {
        namespace mp = multiprocessing;
        {
            mp::Queue<int> warm;
        }
        {
            const usage before = usage::now();
            mp::Queue<int> queue;
            print("an empty queue", before);
            queue.put(1);
            queue.get();
            print("a queue after one item", before);
            for (int i = 0; i < 1'000'000; ++i) queue.put(i);
            print("a queue of 1,000,000 ints", before);
            for (int i = 0; i < 1'000'000; ++i) queue.get();
            print("the same, drained", before);
            queue.try_get_for(std::chrono::seconds(1));
            print("the same, after a getter has waited 1 s", before);
            for (int i = 0; i < 100'000; ++i) queue.put(i), queue.get();  // out of the last segment
            queue.try_get_for(std::chrono::seconds(1));
            print("the same, used a little more, and a second's wait", before);
        }
        const usage before = usage::now();
        std::vector<mp::Queue<int>> queues(1000);
        print("each of 1,000 empty queues", before, 1000);
        for (auto& queue : queues) queue.put(1);
        print("each of 1,000 queues with an int", before, 1000);
    });
}
