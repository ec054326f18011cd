// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/process.hpp>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"
#include "support/reports.hpp"

namespace mp = multiprocessing;

namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;

template <class F>
int code_under(mp::Limits limits, F f) {
    mp::Process p(mp::ProcessOptions{.limits = limits}, std::move(f));
    p.start();
    p.join();
    return p.exitcode().value();
}

bool can_allocate(std::size_t bytes) {
    void* memory =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    ::munmap(memory, bytes);
    return true;
}

}  // namespace

TEST_CASE("Limits::memory: private bytes beyond the inherited ones", "[process][limits]") {
    std::vector<char> inherited(256 * mebibyte, 'x');
    CHECK(code_under({.memory = 64 * mebibyte}, [&] {
              if (!can_allocate(48 * mebibyte)) std::exit(1);
              if (can_allocate(72 * mebibyte)) std::exit(2);
              for (std::size_t i = 0; i < inherited.size(); i += 4096) inherited[i] = 'y';
          }) == 0);
    // Shared maps don't count: a region of a queue is sparse.
    CHECK(code_under({.memory = 16 * mebibyte}, [] {
              void* shared = ::mmap(nullptr, std::size_t{1} << 32, PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
              std::exit(shared == MAP_FAILED ? 1 : 0);
          }) == 0);
}

TEST_CASE("Limits::memory: an allocation beyond it is std::bad_alloc", "[process][limits]") {
    if (test::address_sanitizer) return;  // its operator new aborts
    const std::string text = test::output_of(STDERR_FILENO, [] {
        CHECK(code_under({.memory = 64 * mebibyte}, [] {
                  std::vector<std::vector<char>> hoard;
                  for (;;) hoard.emplace_back(mebibyte, 'x');
              }) == 1);
    });
    CHECK_THAT(text, Catch::Contains("uncaught std::bad_alloc"));
}

TEST_CASE("Limits::cpu_time: SIGXCPU, and SIGKILL a second later", "[process][limits]") {
    const auto spin = [] {
        for (volatile unsigned long n = 0;;) n = n + 1;
    };
    CHECK(code_under({.cpu_time = std::chrono::seconds(1)}, spin) == -SIGXCPU);
    CHECK(code_under({.cpu_time = std::chrono::seconds(-3)}, [&] {
              std::signal(SIGXCPU, SIG_IGN);
              spin();
          }) == -SIGKILL);
}

TEST_CASE("Limits::open_files", "[process][limits]") {
    CHECK(code_under({.open_files = 20}, [] {
              int last = 0;
              for (int fd; (fd = ::dup(2)) >= 0;) last = fd;
              std::exit(errno == EMFILE ? last : 99);
          }) == 19);
}

TEST_CASE("Limits::file_size: a longer write fails with EFBIG", "[process][limits]") {
    CHECK(code_under({.file_size = 10'000}, [] {
              std::FILE* file = std::tmpfile();
              const std::string half(5'000, 'x');
              const int fd = ::fileno(file);
              if (::write(fd, half.data(), half.size()) != 5'000) std::exit(1);
              if (::write(fd, half.data(), half.size()) != 5'000) std::exit(2);
              std::exit(::write(fd, half.data(), half.size()) == -1 && errno == EFBIG ? 0 : 3);
          }) == 0);
}

TEST_CASE("Limits::core_size, and all of them at once; children inherit them",
          "[process][limits]") {
    const mp::Limits all{.memory = 512 * mebibyte,
                         .open_files = 64,
                         .file_size = mebibyte,
                         .core_size = 0,
                         .cpu_time = std::chrono::seconds(100)};
    const auto check = [] {
        rlimit now{};
        ::getrlimit(RLIMIT_CORE, &now);
        if (now.rlim_max != 0) std::exit(1);
        ::getrlimit(RLIMIT_NOFILE, &now);
        if (now.rlim_cur != 64 || now.rlim_max != 64) std::exit(2);
        ::getrlimit(RLIMIT_FSIZE, &now);
        if (now.rlim_cur != mebibyte) std::exit(3);
        ::getrlimit(RLIMIT_CPU, &now);
        if (now.rlim_cur != 100 || now.rlim_max != 101) std::exit(4);
    };
    CHECK(code_under(all, check) == 0);
    CHECK(code_under(all, [&] {
              // A higher limit than the one that holds changes nothing.
              std::exit(code_under({.open_files = 100'000, .core_size = 100}, check));
          }) == 0);
    rlimit here{};
    ::getrlimit(RLIMIT_NOFILE, &here);
    CHECK(here.rlim_cur != 64);
}
