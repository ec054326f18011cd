// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <fstream>
#include <string>

#include <boost/interprocess/mapped_region.hpp>

#include <multiprocessing/detail/platform/memfd.hpp>

using namespace multiprocessing;
using detail::memfd;

TEST_CASE("memfd: for its owner only, closed by exec, sealed against shrinking",
          "[platform][memfd]") {
    const memfd file = memfd::create("mp:test", 1 << 20);
    struct stat info;
    REQUIRE(::fstat(file.fd(), &info) == 0);
    CHECK((info.st_mode & 07777) == 0600);
    CHECK(info.st_size == 1 << 20);
    CHECK(info.st_blocks == 0);
    CHECK(file.fd() > 2);
    CHECK((::fcntl(file.fd(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK((::fcntl(file.fd(), F_GET_SEALS) & F_SEAL_SHRINK) != 0);
    CHECK(::ftruncate(file.fd(), 4096) == -1);
    CHECK(errno == EPERM);
    CHECK(::ftruncate(file.fd(), 2 << 20) == 0);  // growing is not refused
}

TEST_CASE("memfd: what Boost.Interprocess maps, under its name", "[platform][memfd]") {
    const memfd file = memfd::create("mp:named", 8192);
    boost::interprocess::mapped_region mapping(file, boost::interprocess::read_write);
    CHECK(mapping.get_size() == 8192);
    static_cast<char*>(mapping.get_address())[8191] = 'x';
    char back = 0;
    CHECK(::pread(file.fd(), &back, 1, 8191) == 1);
    CHECK(back == 'x');
    std::ifstream maps("/proc/self/maps");
    bool named = false;
    for (std::string line; std::getline(maps, line);)
        named |= line.find("/memfd:mp:named") != std::string::npos;
    CHECK(named);
}

TEST_CASE("memfd: a name that the kernel refuses is an OsError that names the call",
          "[platform][memfd]") {
    const std::string name(300, 'x');
    try {
        memfd::create(name.c_str(), 4096);
        FAIL("no error");
    } catch (const OsError& e) {
        CHECK(std::string(e.what()).find("memfd_create") != std::string::npos);
    }
}
