// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <stdexcept>

#include <sys/socket.h>
#include <unistd.h>

#include <multiprocessing/detail/net/own_socket.hpp>

#include "support/child.hpp"

using namespace multiprocessing::detail;

namespace {

unique_fd a_socket() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return {};
    ::close(ends[1]);
    return unique_fd(ends[0]);
}
/// In a forked child.
bool is_open_there(int fd) {
    return test::wait_status(test::fork_child([fd] { return ::fcntl(fd, F_GETFD) != -1; })) != 0;
}

}  // namespace

TEST_CASE("own_socket: is closed in a forked child", "[net][fork]") {
    const own_socket one = own_socket::open(a_socket);
    const unique_fd other = a_socket();
    REQUIRE(one);
    CHECK(!is_open_there(one.get()));
    CHECK(is_open_there(other.get()));
}

TEST_CASE("own_socket: one that can't be opened leaves the others in the table", "[net][fork]") {
    const own_socket before = own_socket::open(a_socket);
    const auto refused = []() -> unique_fd { throw std::runtime_error("no socket"); };
    CHECK_THROWS_AS(own_socket::open(refused), std::runtime_error);
    const own_socket behind = own_socket::open(a_socket);
    CHECK(!is_open_there(before.get()));
    CHECK(!is_open_there(behind.get()));
}

TEST_CASE("own_socket: a moved one is in the table once", "[net][fork]") {
    own_socket one = own_socket::open(a_socket);
    const int fd = one.get();
    own_socket two = std::move(one);
    CHECK(two.get() == fd);
    CHECK(!is_open_there(fd));
    own_socket third = own_socket::open(a_socket);
    const int last = third.get();
    third = std::move(two);
    CHECK(third.get() == fd);
    CHECK(!is_open_there(fd));
    CHECK(!is_open_there(last));
}
