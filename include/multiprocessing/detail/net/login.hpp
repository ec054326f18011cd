// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The login at a Unix socket: how two strangers of one user come to share a link.
///
/// The client makes the link and sends one message: a greeting, and with it (SCM_RIGHTS) the file
/// of the region and the two pipes of the end that is to be the server's. Then both drop the
/// socket. So the client does not wait to be accepted; and what nobody accepts, or accepts in vain,
/// goes with the socket, and the client's pipe hangs up.
///
/// Children of the listener's process may have the socket when that is killed, and never accept. So
/// until an end is accepted, its owner is the process that listens, as the kernel names it: who
/// called listen() last. A child that is to accept after its parent calls it again (listener.hpp).
///
/// Before the greeting is complete the server has allocated nothing for a client but its socket.

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <multiprocessing/detail/net/address.hpp>
#include <multiprocessing/detail/net/end.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// What a client says, once. 48 bytes, in the byte order of the machine that both are on.
struct greeting {
    static constexpr std::uint64_t right_magic = 0x31656469766f7270;
    static constexpr std::uint32_t right_version = 2;

    std::uint64_t magic;
    std::uint32_t version;
    std::uint32_t word_size;
    region_id id;
    std::uint64_t size;   // of the region
    std::uint64_t owner;  // of the end that is the server's
};
static_assert(sizeof(greeting) == 48 && std::is_trivially_copyable_v<greeting>);

struct peer_process {
    pid_t pid;  // 0: in another PID namespace
    uid_t user;
};
/// Who is at the other side of a Unix socket, by the kernel's word.
inline peer_process peer_of(const unique_fd& socket) {
    ucred who{};
    socklen_t size = sizeof who;
    call("getsockopt(SO_PEERCRED)",
         [&] { return ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &who, &size); });
    return {who.pid, who.uid};
}

inline unique_fd unix_socket(int flags = 0) {
    return off_stdio(unique_fd(call("socket(AF_UNIX)", [&] {
        return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    })));
}

/// The client's side.
/// \throws OsError as connect() does; TimeoutError; AuthenticationError if another user listens
inline std::unique_ptr<end> log_in(const Address& address, duration timeout) {
    const deadline until = deadline::after(timeout);
    const std::string what = "Client: connecting to \"" + address.to_string() + '"';
    if (address.empty()) throw Error("Client: an address is needed, as Listener::address() has it");
    const unix_address to(address);
    const unique_fd socket = unix_socket();
    for (;;) {  // waits while the listener's backlog is full
        const auto left = std::chrono::ceil<std::chrono::microseconds>(
            std::min<duration>(until.remaining(), std::chrono::hours(1)));
        const timeval time{left.count() / 1'000'000,
                           std::max<suseconds_t>(1, left.count() % 1'000'000)};
        ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
        if (::connect(socket.get(), to.get(), to.size()) == 0) break;
        if (errno == EAGAIN && until.passed())
            throw TimeoutError(what + ": the listener's backlog was full until the timeout");
        if (errno != EINTR && errno != EAGAIN) throw_os_error(errno, what);
    }
    const peer_process peer = peer_of(socket);
    if (peer.user != ::geteuid())
        throw AuthenticationError(what + ": a process of user " + std::to_string(peer.user) +
                                  " listens there, and this one is of user " +
                                  std::to_string(::geteuid()));
    if (peer.pid == 0)
        throw Error(what +
                    ": the listener is in another PID namespace, where locks can't be "
                    "shared; run both in one");

    const unique_fd listens = open_pidfd(peer.pid);
    // Opened first: what starts later under that pid is not what listened.
    const std::uint64_t started = start_time(peer.pid);
    if (!listens || wait_readable(listens.get(), deadline::at_once()))
        throw_os_error(ECONNREFUSED, what + ": process " + std::to_string(peer.pid) +
                                         ", which listened there, has ended, and none of its "
                                         "children that have the socket accepts");

    auto [mine, theirs] = end::make_pair(0, true);
    end::departure leaves(std::move(theirs), peer.pid, started);
    greeting hello{greeting::right_magic, greeting::right_version, sizeof(void*),
                   leaves.id(),           leaves.size(),           leaves.owner()};
    iovec bytes{&hello, sizeof hello};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(3 * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(3 * sizeof(int));
    const std::array<int, 3> fds = leaves.descriptors();
    std::memcpy(CMSG_DATA(part), fds.data(), sizeof fds);
    call(what, [&] { return ::sendmsg(socket.get(), &message, MSG_NOSIGNAL); });
    leaves.gone();
    return std::move(mine);
}

/// A client that the server has not heard out.
class newcomer {
public:
    newcomer(unique_fd socket, deadline until) : socket_(std::move(socket)), until_(until) {}

    int fd() const noexcept { return socket_.get(); }
    bool late() const noexcept { return until_.passed(); }
    deadline until() const noexcept { return until_; }

    enum class progress { waits, refused, complete };
    /// Reads what is there. Doesn't block.
    /// \throws OsError if this process has no descriptors left
    progress read() {
        iovec bytes{&hello_, sizeof hello_};
        alignas(cmsghdr) std::array<char, CMSG_SPACE(3 * sizeof(int))> control{};
        msghdr message{};
        message.msg_iov = &bytes;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        const ssize_t size = retry(
            [&] { return ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT); });
        if (size < 0 && errno == EAGAIN) return progress::waits;
        std::size_t count = 0;
        for (cmsghdr* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
            if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
            const std::size_t n = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (std::size_t i = 0; i < n; ++i) {
                int fd;
                std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
                unique_fd owned(fd);
                if (count < files_.size()) files_[count++] = std::move(owned);
            }
        }
        if ((message.msg_flags & MSG_CTRUNC) != 0 && count < files_.size())
            throw_os_error(EMFILE, "accept: receiving the descriptors of a client");
        // The kernel keeps what was sent at once in one piece, so a part of it is not from us.
        const bool right = size == sizeof hello_ && count == files_.size() &&
                           hello_.magic == greeting::right_magic &&
                           hello_.version == greeting::right_version &&
                           hello_.word_size == sizeof(void*) && hello_.size <= link::longest;
        return right ? progress::complete : progress::refused;
    }

    /// After it is complete. Null if what it sent is no link, or can't be used here.
    /// \throws OsError if this process has no descriptors left
    std::unique_ptr<end> arrive(pid_t from) {
        const region_handle handle{hello_.id, hello_.size, from, -1};
        try {
            unique_fd bell = reopen(files_[1], O_RDONLY), out = reopen(files_[2], O_RDWR);
            if (!bell || !out) return nullptr;
            return end::arrive(handle, off_stdio(std::move(files_[0])), std::move(bell),
                               std::move(out), hello_.owner);
        } catch (const OsError& e) {
            if (is_out_of_descriptors(e.code().value())) throw;  // not the client's fault
            return nullptr;
        } catch (const std::exception&) {
            return nullptr;
        }
    }
    const unique_fd& socket() const noexcept { return socket_; }

private:
    static bool is_out_of_descriptors(int error) noexcept {
        return error == EMFILE || error == ENFILE;
    }
    /// A pipe of our own: that which came shares its O_NONBLOCK with the client. Empty if it is no
    /// pipe, or not like that.
    static unique_fd reopen(const unique_fd& pipe, int mode) {
        struct stat info;  // looked at first: opening may have effects on what is no pipe
        if (::fstat(pipe.get(), &info) != 0 || !S_ISFIFO(info.st_mode) ||
            (::fcntl(pipe.get(), F_GETFL) & O_ACCMODE) != mode)
            return {};
        const std::string path = "/proc/self/fd/" + std::to_string(pipe.get());
        unique_fd own(retry([&] { return ::open(path.c_str(), mode | O_NONBLOCK | O_CLOEXEC); }));
        if (!own && is_out_of_descriptors(errno))
            throw_os_error(errno, "accept: opening the pipes of a client");
        return off_stdio(std::move(own));
    }

    unique_fd socket_;
    deadline until_;
    greeting hello_{};
    std::array<unique_fd, 3> files_;  // as end::departure has them
};

}  // namespace multiprocessing::detail
