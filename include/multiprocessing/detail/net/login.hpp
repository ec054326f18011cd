// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The login: how two strangers come to share a connection. With a key, each first proves to the
/// other that it has it (stream.hpp).
///
/// TCP: then each says hello, and the stream carries the messages (remote_end.hpp).
///
/// A Unix socket: the client makes the link and sends one message: a greeting, and with it
/// (SCM_RIGHTS) the file of the region and the two pipes of the end that is to be the server's.
/// Then both drop the socket. So the client does not wait to be accepted; and what nobody accepts,
/// or accepts in vain, goes with the socket, and the client's pipe hangs up.
///
/// Children of the listener's process may have the socket when that is killed, and never accept. So
/// until an end is accepted, its owner is the process that listens, as the kernel names it: who
/// called listen() last. A child that is to accept after its parent calls it again (listener.hpp).
///
/// Before the login is complete the server has allocated nothing for a client but its socket, and
/// the state of the transport once it has said something.

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <multiprocessing/detail/net/address.hpp>
#include <multiprocessing/detail/net/end.hpp>
#include <multiprocessing/detail/net/own_socket.hpp>
#include <multiprocessing/detail/net/remote_end.hpp>
#include <multiprocessing/detail/net/stream.hpp>
#include <multiprocessing/detail/net/tcp.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
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
inline peer_process peer_of(int socket) {
    ucred who{};
    socklen_t size = sizeof who;
    call("getsockopt(SO_PEERCRED)",
         [&] { return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &size); });
    return {who.pid, who.uid};
}

inline unique_fd unix_socket(int flags = 0) {
    return off_stdio(unique_fd(call("socket(AF_UNIX)", [&] {
        return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    })));
}

/// A connection, of either kind.
template <compiled When = compiled::when_used>
struct any_end {
    std::unique_ptr<end<When>> local;
    std::unique_ptr<remote_end<When>> remote;
};

/// \return when the process that listens there started; 0: not known
/// \throws OsError if it has ended
inline std::uint64_t require_listening(pid_t pid, const std::string& what) {
    const unique_fd listens = open_pidfd(pid);
    // Opened first: what starts later under that pid is not what listened.
    const std::uint64_t started = start_time(pid);
    if (!listens || wait_readable(listens.get(), deadline::at_once()))
        throw_os_error(ECONNREFUSED, what + ": process " + std::to_string(pid) +
                                         ", which listened there, has ended, and none of its "
                                         "children that have the socket accepts");
    return started;
}

/// \throws OsError as connect() does; TimeoutError; AuthenticationError if another user listens
template <compiled = compiled::when_used>
own_socket connect_unix(const Address& address, deadline until, const std::string& what) {
    if (address.empty()) throw Error("Client: an address is needed, as Listener::address() has it");
    const unix_address to(address);
    own_socket socket = own_socket::open([] { return unix_socket(); });
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
    const peer_process peer = peer_of(socket.get());
    if (peer.user != ::geteuid())
        throw AuthenticationError(what + ": a process of user " + std::to_string(peer.user) +
                                  " listens there, and this one is of user " +
                                  std::to_string(::geteuid()));
    if (peer.pid == 0)
        throw Error(what +
                    ": the listener is in another PID namespace, where locks can't be "
                    "shared; run both in one");
    require_listening(peer.pid, what);
    return socket;
}

/// Makes a link, and gives one end of it to the server.
template <compiled When = compiled::when_used>
std::unique_ptr<end<When>> give_end(int socket, const std::string& what) {
    const pid_t listens = peer_of(socket).pid;
    const std::uint64_t started = require_listening(listens, what);
    auto [mine, theirs] = end<When>::make_pair(0, true);
    typename end<When>::departure leaves(std::move(theirs), listens, started);
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
    call(what, [&] { return ::sendmsg(socket, &message, MSG_NOSIGNAL); });
    leaves.gone();
    return std::move(mine);
}

/// Repeats `f()`, a step of the login, until it is done.
template <class F>
void log_in_until(stream& with, deadline until, const std::string& what, F f) {
    for (;;) {
        short event = POLLIN;
        switch (f()) {
            case stream::progress::done:
                return;
            case stream::progress::ended:
                throw EndOfFile(what + ": the other side ended the connection during the login");
            case stream::progress::awaits_write:
                event = POLLOUT;
                break;
            case stream::progress::awaits_read:
                break;
        }
        pollfd one{with.fd(), event, 0};
        if (poll_until(&one, 1, until) <= 0)
            throw TimeoutError(what + ": the other side did not complete the login in time");
    }
}

/// The client's side.
/// \throws what connect_unix() and connect_tcp() do; AuthenticationError if the other side has not
///     got the key; TimeoutError; EndOfFile if it ends the connection; Error if it is none of ours
template <compiled When = compiled::when_used>
any_end<When> log_in(const Address& address, const ClientOptions& options) {
    const deadline until = deadline::after(options.timeout);
    const std::string what = "Client: connecting to \"" + address.to_string() + '"';
    const transport_kind* const kind =
        options.transport.kind() ? options.transport.kind() : &plain_transport;
    own_socket socket =
        address.is_tcp() ? connect_tcp(address, until, what) : connect_unix(address, until, what);
    if (!address.is_tcp() && !kind->is_keyed) return {give_end<When>(socket.get(), what), nullptr};
    call(what, [&] { return ::fcntl(socket.get(), F_SETFL, O_NONBLOCK); });
    if (address.is_tcp()) tune(socket.get(), options.unreachable_timeout);
    std::unique_ptr<later<When, stream>> with(
        kind->open(std::move(socket), transport_kind::side::client,
                   options.authkey ? &*options.authkey : nullptr));
    log_in_until(*with, until, what, [&] { return with->log_in(); });
    if (!address.is_tcp()) return {give_end<When>(with->fd(), what), nullptr};

    remote_hello mine, theirs;
    mine.max_message = options.max_message;
    std::size_t done = 0, size = 0;
    const auto all_of = [&](auto bytes, auto step) {
        done = 0;
        log_in_until(*with, until, what, [&] {
            for (stream::progress p; done < bytes.size(); done += size)
                if ((p = step(bytes.subspan(done))) != stream::progress::done) return p;
            return stream::progress::done;
        });
    };
    all_of(bytes_of(mine), [&](auto part) { return with->write(part, size); });
    all_of(std::span<std::byte>(reinterpret_cast<std::byte*>(&theirs), sizeof theirs),
           [&](auto part) { return with->read(part, size); });
    theirs.check();
    return {nullptr,
            std::make_unique<remote_end<When>>(std::move(with), options.max_message,
                                               theirs.max_message, options.unreachable_timeout)};
}

/// A client that the server has not heard out.
template <compiled When = compiled::when_used>
class newcomer {
public:
    /// \param is_tcp  else it comes through a Unix socket
    newcomer(std::unique_ptr<later<When, stream>> with, bool is_tcp, deadline until)
        : stream_(std::move(with)), is_tcp_(is_tcp), until_(until) {}

    int fd() const noexcept { return stream_ ? stream_->fd() : -1; }
    bool late() const noexcept { return until_.passed(); }
    deadline until() const noexcept { return until_; }

    enum class progress { waits, refused, complete };
    /// Reads what is there, and answers. Doesn't block.
    /// \throws OsError if this process has no descriptors left; AuthenticationError if the client
    ///     has another key, or none; EndOfFile if it is no Client, or of another version
    progress read(const ListenerOptions& options) {
        if (!logged_in_) {
            const auto so_far = stream_->log_in();
            if (so_far == stream::progress::ended) return progress::refused;
            if (so_far != stream::progress::done) return progress::waits;
            logged_in_ = true;
        }
        return is_tcp_ ? read_hello(options.max_message) : read_greeting();
    }

    /// After it is complete. Empty if what it sent is no link, or can't be used here.
    /// \throws OsError if this process has no descriptors left
    any_end<When> arrive(const ListenerOptions& options) {
        if (!is_tcp_) {
            auto arrived = arrive(peer_of(stream_->fd()).pid);
            if (arrived) arrived->limit(options.max_message);
            return {std::move(arrived), nullptr};
        }
        return {nullptr, std::make_unique<remote_end<When>>(std::move(stream_), options.max_message,
                                                            remote_.max_message,
                                                            options.unreachable_timeout)};
    }

private:
    progress read_hello(std::uint64_t most) {
        const auto bytes =
            std::span<std::byte>(reinterpret_cast<std::byte*>(&remote_), sizeof remote_);
        for (std::size_t size = 0; heard_ < bytes.size(); heard_ += size) {
            const auto so_far = stream_->read(bytes.subspan(heard_), size);
            if (so_far == stream::progress::ended) return progress::refused;
            if (so_far != stream::progress::done) return progress::waits;
        }
        const std::string wrong = remote_.what_is_wrong();
        if (remote_.magic != remote_hello::right_magic) throw EndOfFile(wrong);
        remote_hello mine;  // for another version, too, so that it can say so
        mine.max_message = most;
        std::size_t size = 0;  // a new socket has room for it
        const bool answered =
            stream_->write(bytes_of(mine), size) == stream::progress::done && size == sizeof mine;
        if (!wrong.empty()) throw EndOfFile(wrong);
        return answered ? progress::complete : progress::refused;
    }
    progress read_greeting() {
        iovec bytes{&hello_, sizeof hello_};
        alignas(cmsghdr) std::array<char, CMSG_SPACE(3 * sizeof(int))> control{};
        msghdr message{};
        message.msg_iov = &bytes;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        const ssize_t size = retry(
            [&] { return ::recvmsg(stream_->fd(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT); });
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
                           hello_.word_size == sizeof(void*) && hello_.size <= link<When>::longest;
        return right ? progress::complete : progress::refused;
    }

    std::unique_ptr<end<When>> arrive(pid_t from) {
        const region_handle handle{hello_.id, hello_.size, from, -1};
        try {
            unique_fd bell = reopen(files_[1], O_RDONLY), out = reopen(files_[2], O_RDWR);
            if (!bell || !out) return nullptr;
            return end<When>::arrive(handle, off_stdio(std::move(files_[0])), std::move(bell),
                                     std::move(out), hello_.owner);
        } catch (const OsError& e) {
            if (is_out_of_descriptors(e.code().value())) throw;  // not the client's fault
            return nullptr;
        } catch (const std::exception&) {
            return nullptr;
        }
    }

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

    std::unique_ptr<later<When, stream>> stream_;
    bool is_tcp_, logged_in_ = false;
    deadline until_;
    remote_hello remote_;    // of a client through TCP,
    std::size_t heard_ = 0;  // so much of it
    greeting hello_{};
    std::array<unique_fd, 3> files_;  // as end::departure has them
};

}  // namespace multiprocessing::detail
