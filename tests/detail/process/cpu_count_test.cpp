// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/process.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <sched.h>

#include "support/catch.hpp"
#include "support/child.hpp"

namespace mp = multiprocessing;

TEST_CASE("cpu_count: at least 1, and never more than the affinity mask has", "[process]") {
    CHECK(mp::cpu_count() >= 1);
    CHECK(mp::cpu_count() <= mp::detail::affinity_count());
    test::child one([] {
        cpu_set_t mask;
        CPU_ZERO(&mask);
        CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &mask);
        if (::sched_setaffinity(0, sizeof mask, &mask) != 0) return 90;
        return static_cast<int>(mp::cpu_count());
    });
    CHECK(one.exit_status() == 1);
}

TEST_CASE("cpu_count: quotas of cgroups, versions 1 and 2, rounded up", "[process]") {
    char name[] = "/tmp/mp-cgroup-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    const std::filesystem::path directory(name);
    const auto write = [&](const char* file, const char* text) {
        std::ofstream(directory / file) << text;
    };
    const auto v1 = [&] { return mp::detail::cpu_quota(name, false); };
    const auto v2 = [&] { return mp::detail::cpu_quota(name, true); };
    CHECK_FALSE(v1());
    CHECK_FALSE(v2());
    write("cpu.max", "max 100000\n");
    CHECK_FALSE(v2());
    write("cpu.max", "150000 100000\n");
    CHECK(v2() == 2u);
    write("cpu.max", "200000 100000\n");
    CHECK(v2() == 2u);
    write("cpu.max", "1000 100000\n");
    CHECK(v2() == 1u);
    write("cpu.max", "nonsense");
    CHECK_FALSE(v2());
    write("cpu.cfs_quota_us", "-1\n");
    write("cpu.cfs_period_us", "100000\n");
    CHECK_FALSE(v1());
    write("cpu.cfs_quota_us", "250000\n");
    CHECK(v1() == 3u);
    write("cpu.cfs_period_us", "0\n");
    CHECK_FALSE(v1());
    std::filesystem::remove_all(directory);
}
