// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include <sys/stat.h>

#include <multiprocessing/detail/shm/region_table.hpp>

#include "support/child.hpp"

using namespace multiprocessing;
using namespace multiprocessing::detail;
using namespace test;

namespace {

/// The least that region_table asks of an object.
class thing {
public:
    explicit thing(region memory) : memory_(std::move(memory)) {}
    region& memory() { return memory_; }
    void detach() noexcept { ++detached; }

    static inline std::atomic<int> detached{0};

private:
    region memory_;
};

constexpr auto kind = region_kind::message_ring;

std::shared_ptr<thing> make() {
    return region_table<>::add<thing>(region::create("mp:test", kind, 0, 1 << 20));
}
std::shared_ptr<thing> open(const region_handle& handle) {
    return region_table<>::open<thing>(handle, kind, "a test");
}
/// Mapped or kept for its receiver.
bool is_here(const region_handle& handle) {
    struct stat info;
    const std::string path = "/proc/self/fd/" + std::to_string(handle.fd);
    return ::stat(path.c_str(), &info) == 0 &&
           static_cast<std::uint64_t>(info.st_size) == handle.size;
}

}  // namespace

TEST_CASE("region_table: a handle that comes back finds the object that is here", "[shm][table]") {
    const auto made = make();
    const region_handle handle = region_table<>::lend(*made);
    CHECK(open(handle) == made);
    CHECK(!made->memory().awaited());
}

TEST_CASE("region_table: the last handle detaches and closes", "[shm][table]") {
    auto made = make();
    const region_handle handle = made->memory().handle();
    const int before = thing::detached;
    auto second = made;
    made.reset();
    CHECK(thing::detached == before);
    second.reset();
    CHECK(thing::detached == before + 1);
    CHECK(!is_here(handle));
    CHECK_THROWS_AS(open(handle), Error);
}

TEST_CASE("region_table: a region lent stays until its receiver has it", "[shm][table]") {
    auto made = make();
    const region_handle handle = region_table<>::lend(*made);
    made->memory().data()[4096] = std::byte{9};
    made.reset();
    CHECK(is_here(handle));
    CHECK(child([&] {
              const auto mine = open(handle);
              return mine->memory().data()[4096] == std::byte{9} ? 0 : 1;
          }).exit_status() == 0);
    CHECK(is_here(handle));
    make();  // a further use of the table
    CHECK(!is_here(handle));
}

TEST_CASE("region_table: among many that nobody receives one is found by and by", "[shm][table]") {
    child apart([] {  // they stay for ever
        const auto lend_and_drop = [] {
            auto made = make();
            const region_handle handle = region_table<>::lend(*made);
            made.reset();
            return handle;
        };
        for (int i = 0; i < 70; ++i) lend_and_drop();
        const region_handle received = lend_and_drop(), back = lend_and_drop(),
                            not_sent = lend_and_drop();
        for (int i = 0; i < 30; ++i) lend_and_drop();
        if (child([&] { return open(received) ? 0 : 1; }).exit_status() != 0) return 1;
        for (int i = 0; i < 10 && is_here(received); ++i) make();
        if (is_here(received)) return 2;
        if (!open(back)) return 3;
        if (is_here(back)) return 4;  // its last handle went
        region_table<>::take_back(not_sent.id);
        return is_here(not_sent) ? 5 : 0;
    });
    CHECK(apart.exit_status() == 0);
}

TEST_CASE("region_table: a region lent comes back to its lender", "[shm][table]") {
    auto made = make();
    const region_handle handle = region_table<>::lend(*made);
    made->memory().data()[4096] = std::byte{9};
    made.reset();
    const auto back = open(handle);
    CHECK(back->memory().data()[4096] == std::byte{9});
    CHECK(!back->memory().awaited());
}

TEST_CASE("region_table: what was not sent is not waited for", "[shm][table]") {
    auto made = make();
    const region_handle handle = region_table<>::lend(*made);
    region_table<>::take_back(handle.id);
    CHECK(!made->memory().awaited());
    made.reset();
    CHECK(!is_here(handle));

    made = make();
    const region_handle late = region_table<>::lend(*made);
    made.reset();
    CHECK(is_here(late));
    region_table<>::take_back(late.id);
    CHECK(!is_here(late));
}

TEST_CASE("region_table: killed between lending and sending, the file stays a while (K1)",
          "[shm][table][kill]") {
    const auto made = make();
    CHECK(child([&] {
              region_table<>::lend(*made);
              ::raise(SIGKILL);
              return 0;
          }).exit_status() == -SIGKILL);
    CHECK(made->memory().awaited());
    CHECK(open(made->memory().handle()) == made);
    CHECK(!made->memory().awaited());
}

TEST_CASE("region_table: a handle of another kind of object is refused", "[shm][table]") {
    const auto made = make();
    const region_handle handle = region_table<>::lend(*made);
    CHECK_THROWS_AS(region_table<>::open<thing>(handle, static_cast<region_kind>(77), "a test"),
                    Error);
    CHECK(open(handle) == made);
}
