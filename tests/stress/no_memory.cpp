// SPDX-License-Identifier: BSL-1.0

/// \file
/// Every use of a queue with its n-th allocation failing, for every n: std::bad_alloc or success,
/// never a hang, a crash or a lost item. Prints how many allocations failed.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <multiprocessing/queues.hpp>

namespace mp = multiprocessing;

static long allocations_left = -1;  // negative: no bound

[[gnu::noinline]] void* operator new(std::size_t size) {
    if (allocations_left == 0) throw std::bad_alloc();
    if (allocations_left > 0) --allocations_left;
    if (void* p = std::malloc(size)) return p;
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

struct job {
    int id;
    std::string name;
    std::vector<double> values;
    mp::Queue<int> reply;
};

static void use() {
    mp::Queue<job> q;
    mp::Queue<int> numbers(2);
    q.fileno();
    for (int i = 0; i < 3; ++i) {
        mp::Queue<int> reply;
        q.put({i, std::string(100, 'x'), std::vector<double>(10'000, 1.0), reply});
        job received = q.get();
        received.reply.put(received.id);
        if (reply.get() != i) std::_Exit(2);
    }
    q.put({1, "left", {}, mp::Queue<int>()});
    numbers.put(1);
    if (numbers.get() != 1) std::_Exit(3);
}

/// \return false if all went well without a failing allocation
static bool fails_at(long n) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(10);
        allocations_left = n;
        bool failed = false;
        try {
            use();
        } catch (const std::bad_alloc&) {
            failed = true;
        }
        allocations_left = -1;
        use();  // and everything still works
        std::_Exit(failed ? 1 : 0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 1) {
        std::printf("allocation %ld failing: status %x\n", n, static_cast<unsigned>(status));
        std::exit(1);
    }
    return WEXITSTATUS(status) == 1;
}

int main() {
    long n = 0;
    while (fails_at(n)) ++n;
    std::printf("%ld allocations failed one by one, 0 failures\n", n);
    return n > 10 ? 0 : 1;
}
