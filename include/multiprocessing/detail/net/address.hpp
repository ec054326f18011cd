// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Where a Listener listens, and what is agreed with those who connect.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <sys/socket.h>
#include <sys/un.h>

#include <multiprocessing/detail/net/stream.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/process/auth_key.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

/// "/path/to.sock" or "to.sock" (a Unix socket), "@name" (one without a file, Linux's abstract
/// ones), "host:port" or "[::1]:port" (TCP). An empty one lets a Listener choose.
class Address {
public:
    Address() = default;
    Address(std::string text) : text_(std::move(text)) {}   // NOLINT: implicit
    Address(std::string_view text) : text_(text) {}         // NOLINT: implicit
    Address(const char* text) : text_(text ? text : "") {}  // NOLINT: implicit

    const std::string& to_string() const noexcept { return text_; }
    friend bool operator==(const Address&, const Address&) = default;

    bool empty() const noexcept { return text_.empty(); }
    bool is_abstract() const noexcept { return text_.starts_with('@'); }
    bool is_tcp() const noexcept {
        if (is_abstract() || text_.find('/') != text_.npos) return false;
        const auto colon = text_.rfind(':');
        return colon != text_.npos && colon + 1 < text_.size() &&
               std::all_of(text_.begin() + static_cast<std::ptrdiff_t>(colon) + 1, text_.end(),
                           [](char c) { return c >= '0' && c <= '9'; });
    }

private:
    std::string text_;
};

struct ListenerOptions {
    /// How many may wait to be accepted.
    int backlog = 128;
    /// Of 32 bytes or more, for mp::tls.
    std::optional<AuthKey> authkey = {};
    Transport transport = {};
    /// After which a client that has not said who it is is dropped.
    duration login_timeout = std::chrono::seconds(5);
    /// Bytes: a longer message is refused when it is sent, and dropped when it is received; from
    /// another host it ends the connection.
    std::size_t max_message = std::numeric_limits<std::size_t>::max();
    /// TCP: after which a host that does not answer is given up, and so is a program that stops in
    /// the middle of a message, or does not receive for so long while this one is in send().
    duration unreachable_timeout = std::chrono::seconds(20);
};

struct ClientOptions {
    /// As in ListenerOptions.
    std::optional<AuthKey> authkey = {};
    Transport transport = {};
    /// For the connection to be made, and the login.
    duration timeout = std::chrono::seconds(10);
    /// As in ListenerOptions.
    std::size_t max_message = std::numeric_limits<std::size_t>::max();
    /// As in ListenerOptions.
    duration unreachable_timeout = std::chrono::seconds(20);
};

namespace detail {

/// \param who  "Listener"
/// \throws Error if address, transport and key don't go together
inline void check_transport(const char* who, const Address& address, const Transport& transport,
                            const std::optional<AuthKey>& key) {
    static constexpr std::size_t shortest = 32;  // bytes: a password could be guessed offline
    const transport_kind* const kind = transport.kind();
    const auto refuse = [&](const char* why) {
        throw Error(std::string(who) + " at \"" + address.to_string() + "\": " + why);
    };
    if (!kind && key)
        refuse(
            "with an authkey the transport must be said: mp::tls (multiprocessing/tls.hpp), which "
            "is keyed by it; mp::insecure is TCP without a key");
    if (!kind && address.is_tcp())
        refuse(
            "for a TCP address the transport must be said: mp::tls (multiprocessing/tls.hpp) with "
            "an authkey, or mp::insecure without");
    if (!kind) return;
    if (kind->is_keyed && !key) refuse("mp::tls needs an authkey; mp::insecure is without");
    if (!kind->is_keyed && key) refuse("mp::insecure uses no authkey; mp::tls does");
    if (kind->is_keyed && key->bytes().size() < shortest)
        refuse(
            "mp::tls needs an authkey of at least 32 random bytes, as AuthKey::generate() makes "
            "them");
}

/// For bind() and connect().
class unix_address {
public:
    /// \throws Error if it is too long
    explicit unix_address(const Address& from) {
        const std::string& text = from.to_string();
        static constexpr std::size_t most = sizeof(sockaddr_un::sun_path) - 1;
        const bool abstract = from.is_abstract();
        if (text.size() - (abstract ? 1 : 0) > most)
            throw Error("the address of a Unix socket has at most " + std::to_string(most) +
                        " bytes, and \"" + text + "\" has " +
                        std::to_string(text.size() - (abstract ? 1 : 0)) +
                        "; use a shorter path, a relative one, or \"@name\"");
        if (text.find('\0') != text.npos)
            throw Error("the address of a Unix socket holds a NUL byte");
        address_.sun_family = AF_UNIX;
        std::memcpy(address_.sun_path, text.data(), text.size());
        if (abstract) address_.sun_path[0] = 0;
        size_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + text.size() +
                                       (abstract ? 0 : 1));
    }

    const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&address_); }
    socklen_t size() const noexcept { return size_; }

private:
    sockaddr_un address_{};
    socklen_t size_;
};

}  // namespace detail
}  // namespace multiprocessing
