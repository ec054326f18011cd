// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A stream of bytes to another program, as a transport makes it of a socket.

#include <cerrno>
#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include <sys/socket.h>

#include <multiprocessing/detail/net/own_socket.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/process/auth_key.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {
namespace detail {

/// Owns a socket that does not block. One thread at a time.
class stream {
public:
    enum class progress {
        done,
        awaits_read,   // again once the socket is readable
        awaits_write,  // again once it is writable
        ended,         // the other side ended it, or is gone
    };

    explicit stream(own_socket socket) noexcept : socket_(std::move(socket)) {}
    stream(const stream&) = delete;
    stream& operator=(const stream&) = delete;
    virtual ~stream() = default;

    int fd() const noexcept { return socket_.get(); }

    /// The two sides prove to each other that they have the key.
    /// \throws AuthenticationError if the other one did not
    virtual progress log_in() = 0;
    /// \param size  how many bytes were read: at least one if it is done
    /// \throws EndOfFile if bytes were changed on the way; TimeoutError if the other host did not
    ///     answer for so long that the kernel gave it up
    virtual progress read(std::span<std::byte> to, std::size_t& size) = 0;
    /// \param size  how many bytes were written: at least one if it is done
    virtual progress write(std::span<const std::byte> from, std::size_t& size) = 0;
    /// Says that nothing will follow. Once.
    virtual void end() noexcept = 0;
    /// Whether it has a part of what read() can give only when the rest is there, too.
    virtual bool holds_part() noexcept = 0;

    /// What a failed call on the socket means.
    /// \throws TimeoutError
    static progress failed(int error, progress if_busy) {
        switch (error) {
            case EAGAIN:
                return if_busy;
            case ETIMEDOUT:
            case EHOSTUNREACH:
            case ENETUNREACH:
            case ENETDOWN:
                throw TimeoutError(std::string("the other host can't be reached any more (") +
                                   std::generic_category().message(error) + ")");
            default:
                return progress::ended;
        }
    }
    progress receive(std::span<std::byte> to, std::size_t& size) {
        const ssize_t n = retry([&] { return ::recv(fd(), to.data(), to.size(), 0); });
        if (n < 0) return failed(errno, progress::awaits_read);
        size = static_cast<std::size_t>(n);
        return n == 0 ? progress::ended : progress::done;
    }
    progress transmit(std::span<const std::byte> from, std::size_t& size) {
        const ssize_t n =
            retry([&] { return ::send(fd(), from.data(), from.size(), MSG_NOSIGNAL); });
        if (n < 0) return failed(errno, progress::awaits_write);
        size = static_cast<std::size_t>(n);
        return progress::done;
    }

private:
    own_socket socket_;
};

/// The bytes as they are: anybody on the way can read and change them, and anybody can connect.
class plain_stream final : public stream {
public:
    using stream::stream;
    progress log_in() override { return progress::done; }
    progress read(std::span<std::byte> to, std::size_t& size) override { return receive(to, size); }
    progress write(std::span<const std::byte> from, std::size_t& size) override {
        return transmit(from, size);
    }
    void end() noexcept override {}
    bool holds_part() noexcept override { return false; }
};

struct transport_kind {
    enum class side { client, server };

    bool is_keyed;
    /// Doesn't block. \param key  null unless it is keyed. \return one that the caller deletes: a
    /// unique_ptr would be compiled with each include
    stream* (*open)(own_socket socket, side, const AuthKey* key);
};

inline constexpr transport_kind plain_transport{
    false, [](own_socket socket, transport_kind::side, const AuthKey*) {
        return static_cast<stream*>(new plain_stream(std::move(socket)));
    }};

}  // namespace detail

/// How bytes travel: mp::tls (tls.hpp), mp::insecure. By default: to a Unix socket without a key as
/// they are, and to nothing else.
class Transport {
public:
    constexpr Transport() noexcept = default;
    explicit constexpr Transport(const detail::transport_kind& kind) noexcept : kind_(&kind) {}

    /// For the code that opens connections; null: none was said.
    constexpr const detail::transport_kind* kind() const noexcept { return kind_; }

private:
    const detail::transport_kind* kind_ = nullptr;
};

/// TCP as it is, without a key: anybody who reaches the port is let in, and anybody on the way can
/// read and change what is sent. For networks that nobody else is in.
inline constexpr Transport insecure{detail::plain_transport};

}  // namespace multiprocessing
