// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include <sys/resource.h>
#include <sys/stat.h>

#include <multiprocessing/detail/shm/region.hpp>

#include "support/child.hpp"

using namespace multiprocessing;
using namespace multiprocessing::detail;
using namespace test;

namespace {

constexpr std::uint64_t size = 1 << 20;

region make() { return region::create("mp:test", region_kind::message_ring, 42, size); }
region_handle handle_of(const region& r) {
    return {r.header().id, r.size(), ::getpid(), r.file().fd()};
}

/// What the refusal says.
std::string refused_with(const region_handle& handle) {
    try {
        region::open(handle, region_kind::message_ring, "a test");
    } catch (const Error& e) {
        return e.what();
    }
    return "opened";
}
bool contains(const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
}

std::string smaps_of(const void* address) {  // the lines of its mapping
    char start[32];
    std::snprintf(start, sizeof start, "%zx-", reinterpret_cast<std::size_t>(address));
    std::ifstream maps("/proc/self/smaps");
    std::string text;
    bool inside = false;
    for (std::string line; std::getline(maps, line);) {
        if (line.find('-') < line.find(' ')) inside = line.rfind(start, 0) == 0;
        if (inside) text += line + '\n';
    }
    return text;
}

}  // namespace

TEST_CASE("region: a new one is zero behind its header, and takes no memory", "[shm][region]") {
    const region made = make();
    const region_header& h = made.header();
    CHECK(h.magic == region_header::right_magic);
    CHECK(h.version == region_header::right_version);
    CHECK(h.word_size == sizeof(void*));
    CHECK(h.size == size);
    CHECK(h.type == 42);
    CHECK(h.pid_namespace == this_pid_namespace());
    CHECK(made.size() == size);
    struct stat info;
    ::fstat(made.file().fd(), &info);
    CHECK(info.st_blocks <= 8);  // the header's page
    CHECK((info.st_mode & 0777) == 0600);
    for (std::uint64_t i = sizeof(region_header); i < size; i += 512)
        REQUIRE(made.data()[i] == std::byte{0});
}

TEST_CASE("region: two have different ids", "[shm][region]") {
    CHECK(make().header().id != make().header().id);
}

TEST_CASE("region: is named in the maps and left out of core dumps", "[shm][region]") {
    const region made = make();
    const std::string text = smaps_of(made.data());
    CHECK(contains(text, "/memfd:mp:test"));
    CHECK(contains(text, " dd"));  // VmFlags
}

TEST_CASE("region: opened by its handle it is the same memory", "[shm][region]") {
    const region made = make();
    const region other = region::open(handle_of(made), region_kind::message_ring, "a test");
    made.data()[5000] = std::byte{7};
    CHECK(other.data()[5000] == std::byte{7});
    CHECK(other.data() != made.data());
}

TEST_CASE("region: another process opens it by its handle", "[shm][region]") {
    struct shared {
        region_handle handle;
        std::atomic<int> ready, done;
    };
    auto& its = shared_memory<shared>();
    child maker([&] {
        const region made = make();
        std::memcpy(made.data() + 4096, "hello", 6);
        its.handle = handle_of(made);
        its.ready = 1;
        return eventually([&] { return its.done == 1; }) ? 0 : 1;
    });
    REQUIRE(eventually([&] { return its.ready == 1; }));
    {
        const region opened = region::open(its.handle, region_kind::message_ring, "a test");
        CHECK(std::strcmp(reinterpret_cast<char*>(opened.data() + 4096), "hello") == 0);
        its.done = 1;
        CHECK(maker.exit_status() == 0);
        CHECK(std::strcmp(reinterpret_cast<char*>(opened.data() + 4096), "hello") == 0);
    }
    CHECK(contains(refused_with(its.handle), "its last holder ended"));
}

TEST_CASE("region: what is no region under the handle's name is refused", "[shm][region]") {
    const region made = make();
    region_handle wrong = handle_of(made);
    wrong.fd = 100'000;
    CHECK(contains(refused_with(wrong), "receiving a test from process"));
    wrong = handle_of(made);
    wrong.size += 4096;
    CHECK(contains(refused_with(wrong), "its last holder ended"));
    wrong = handle_of(made);
    ++wrong.id[1];  // the pid or the descriptor was used again
    CHECK(contains(refused_with(wrong), "its last holder ended"));
    const unique_fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    wrong.fd = null.get();
    CHECK(contains(refused_with(wrong), "its last holder ended"));
    std::FILE* plain = std::tmpfile();
    REQUIRE(::ftruncate(::fileno(plain), size) == 0);
    wrong.fd = ::fileno(plain);  // may shrink under us
    CHECK(contains(refused_with(wrong), "its last holder ended"));
    std::fclose(plain);
    CHECK(refused_with(handle_of(made)) == "opened");
}

TEST_CASE("region: another version, word size, kind, size or namespace is refused",
          "[shm][region]") {
    const region made = make();
    const region_handle handle = handle_of(made);
    region_header& h = made.header();
    const auto with = [&](auto& field, auto value, const char* part) {
        const auto right = std::exchange(field, value);
        CHECK(contains(refused_with(handle), part));
        field = right;
    };
    with(h.magic, std::uint64_t{1}, "its last holder ended");
    with(h.version, region_header::right_version + 1, "another version of this library");
    with(h.word_size, std::uint16_t{4}, "word size");
    with(h.kind, static_cast<region_kind>(99), "another kind of object");
    with(h.size, size / 2, "another kind of object");
    with(h.pid_namespace, h.pid_namespace + 1, "PID namespace");
    CHECK(refused_with(handle) == "opened");
}

TEST_CASE("region: memory is allocated and taken back by the page", "[shm][region]") {
    const region made = make();
    const auto blocks = [&] {
        struct stat info;
        ::fstat(made.file().fd(), &info);
        return info.st_blocks / 8;
    };
    const auto before = blocks();
    CHECK(made.allocate(65536, 16384) == 0);
    CHECK(blocks() == before + 4);
    made.data()[65536] = std::byte{1};
    made.punch(65536, 16384);
    CHECK(blocks() == before);
    CHECK(made.data()[65536] == std::byte{0});
}

TEST_CASE("region: the largest is at most half of the memory and 64 GiB", "[shm][region]") {
    CHECK(largest_region() <= std::uint64_t{64} << 30);
    CHECK(largest_region() >= std::uint64_t{16} << 20);
    CHECK(largest_region() == largest_region());
    CHECK(child([] {
              const rlimit small{100 << 20, 100 << 20};
              ::setrlimit(RLIMIT_FSIZE, &small);
              return largest_region() < (100u << 20) ? 0 : 1;
          }).exit_status() == 0);
}
