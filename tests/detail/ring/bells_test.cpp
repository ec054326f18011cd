// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <filesystem>
#include <vector>

#include "small_ring.hpp"

using namespace test;

namespace {

std::ptrdiff_t open_descriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return std::distance(begin(all), end(all));
}

/// A child that polls the ring until it is killed.
struct poller {
    struct shared {
        std::atomic<int> fd;
    };
    shared& its;
    child process;

    template <class Ring>
    explicit poller(Ring& ring)
        : its(shared_memory<shared>()), process([&] {
              its.fd = ring.fileno();
              for (;;) ::pause();
              return 0;
          }) {
        eventually([&] { return its.fd != 0; });
    }
    poller(poller&&) = default;

    detail::unique_fd open() const {
        return detail::unique_fd(::open(
            ("/proc/" + std::to_string(process.pid()) + "/fd/" + std::to_string(its.fd)).c_str(),
            O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    }
    bool sees_something() const { return readable(open().get()); }
};

}  // namespace

TEST_CASE("bells: fileno() is readable exactly while something is queued (I7)", "[ring][bells]") {
    const auto ring = make_ring();
    const int fd = ring->fileno();
    CHECK(ring->fileno() == fd);
    CHECK(!readable(fd));
    put(*ring, "a"), put(*ring, "b");
    CHECK(readable(fd));
    CHECK(try_get(*ring) == "a");
    CHECK(readable(fd));
    CHECK(try_get(*ring) == "b");
    CHECK(!readable(fd));
    put(*ring, "c");
    CHECK(readable(fd));
}

TEST_CASE("bells: fileno() of a queue that is not empty is readable at once", "[ring][bells]") {
    const auto ring = make_ring();
    put(*ring, "a");
    CHECK(readable(ring->fileno()));
}

TEST_CASE("bells: every process that polls has a bell of its own", "[ring][bells]") {
    const auto ring = make_ring();
    const int fd = ring->fileno();
    const poller first(*ring), second(*ring);
    put(*ring, "a");
    CHECK(readable(fd));
    CHECK(first.sees_something());
    CHECK(second.sees_something());
    child([&] { return try_get(*ring) == "a" ? 0 : 1; }).exit_status();
    CHECK(!readable(fd));
    CHECK(!first.sees_something());
    CHECK(!second.sees_something());
}

TEST_CASE(
    "bells: a putter killed between the bell and the commit leaves a byte that the next "
    "getter takes away (K4)",
    "[ring][bells][kill]") {
    const auto ring = make_ring<ring_killed_before_commit>();
    const int fd = ring->fileno();
    CHECK(child([&] { return put(*ring, "lost"); }).exit_status() == -SIGKILL);
    CHECK(readable(fd));
    CHECK(ring->qsize() == 0);
    CHECK(!try_get(*ring));
    CHECK(!readable(fd));
}

TEST_CASE("bells: while a putter holds its lock a needless byte stays, and goes with the next get",
          "[ring][bells]") {
    const auto ring = make_ring();
    const int fd = ring->fileno();
    put(*ring, "a");
    struct shared {
        std::atomic<int> held, go;
    };
    auto& its = shared_memory<shared>();
    child putter([&] {
        const detail::held lock(ring->shared().put.lock, deadline::never());
        its.held = 1;
        return eventually([&] { return its.go == 1; }) ? 0 : 1;
    });
    REQUIRE(eventually([&] { return its.held == 1; }));
    CHECK(try_get(*ring) == "a");
    CHECK(readable(fd));
    its.go = 1;
    CHECK(putter.exit_status() == 0);
    CHECK(!try_get(*ring));
    CHECK(!readable(fd));
}

TEST_CASE("bells: those of dead processes give way when the table is full", "[ring][bells][kill]") {
    const auto ring = make_ring();
    {
        std::vector<poller> all;
        for (std::size_t i = 0; i < detail::ring_shared::most_bells; ++i) all.emplace_back(*ring);
        CHECK(text_of<Error>([&] { ring->fileno(); }).find("16 processes poll") !=
              std::string::npos);
        put(*ring, "a");
        for (const poller& one : all) CHECK(one.sees_something());
    }
    const int fd = ring->fileno();
    CHECK(readable(fd));
    CHECK(try_get(*ring) == "a");
    CHECK(!readable(fd));
}

TEST_CASE("bells: processes that polled and ended leave no descriptors with the putters",
          "[ring][bells]") {
    const auto ring = make_ring();
    put(*ring, "a"), try_get(*ring);
    const auto before = open_descriptors();
    for (int i = 0; i < 50; ++i) {
        const poller one(*ring);
        put(*ring, "b"), try_get(*ring);
    }
    CHECK(open_descriptors() <= before + static_cast<long>(detail::ring_shared::most_bells) + 1);
}

TEST_CASE("bells: a child that polls too hushes and rings its parent's bell", "[ring][bells]") {
    const auto ring = make_ring();
    const int fd = ring->fileno();
    CHECK(child([&] {
              const int mine = ring->fileno();
              put(*ring, "a");
              if (!readable(fd) || !readable(mine)) return 1;
              if (try_get(*ring) != "a") return 2;
              return readable(mine) ? 3 : 0;
          }).exit_status() == 0);
    CHECK(!readable(fd));
    CHECK(try_put(*ring, "b"));
    CHECK(readable(fd));
}

TEST_CASE("bells: a child that polls too survives the end of its parent's bell",
          "[ring][bells][kill]") {
    const auto ring = make_ring();
    struct shared {
        std::atomic<int> parent, done;
    };
    auto& its = shared_memory<shared>();
    child parent([&] {
        ring->fileno();
        const pid_t pid = ::fork();  // survives its parent
        if (pid == 0) {
            ring->fileno();
            its.parent = ::getppid();
            eventually([&] { return ::getppid() != its.parent; });
            put(*ring, "a");  // rings the bell that nobody has any more
            its.done = 1;
            ::_exit(0);
        }
        eventually([&] { return its.parent != 0; });
        return 0;
    });
    CHECK(parent.exit_status() == 0);
    CHECK(eventually([&] { return its.done == 1; }, std::chrono::seconds(5)));
    CHECK(try_get(*ring) == "a");
}

TEST_CASE("bells: close() takes this process's bell off the table", "[ring][bells]") {
    const auto ring = make_ring();
    child one([&] {
        ring->fileno();
        ring->close();
        return 0;
    });
    CHECK(one.exit_status() == 0);
    CHECK(ring->shared().bells[0].id == 0);
}

TEST_CASE("bells: a damaged entry is no bell", "[ring][bells][damage]") {
    const auto ring = make_ring();
    auto& shared = ring->shared();
    shared.bells_in_use = 0xffffffff;
    for (auto& bell : shared.bells) {
        bell.id = 1 + static_cast<std::uint64_t>(&bell - shared.bells);
        bell.pid = ::getpid();
        bell.fd = ring->memory().file().fd();  // open here, but not a pipe
        bell.inode = 1;
        bell.rung = 77;
    }
    CHECK(try_put(*ring, "a"));
    CHECK(try_get(*ring) == "a");
    CHECK(!try_get(*ring));
    CHECK(shared.bells[3].id == 0);
}
