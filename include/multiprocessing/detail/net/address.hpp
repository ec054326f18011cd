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

/// How bytes travel. By default: to a Unix socket without a key as they are, and to nothing else.
class Transport {};

struct ListenerOptions {
    /// How many may wait to be accepted.
    int backlog = 128;
    std::optional<AuthKey> authkey = {};
    Transport transport = {};
    /// After which a client that has not said who it is is dropped.
    duration login_timeout = std::chrono::seconds(5);
    /// Bytes: a longer message is refused when it is sent, and dropped when it is received.
    std::size_t max_message = std::numeric_limits<std::size_t>::max();
};

struct ClientOptions {
    std::optional<AuthKey> authkey = {};
    Transport transport = {};
    /// For the connection to be made.
    duration timeout = std::chrono::seconds(10);
    /// As in ListenerOptions.
    std::size_t max_message = std::numeric_limits<std::size_t>::max();
};

namespace detail {

/// \param who  "Listener"
/// \throws Error if they need another transport than there is
inline void check_transport(const char* who, const Address& address,
                            const std::optional<AuthKey>& key) {
    const std::string made = std::string(who) + " at \"" + address.to_string() + "\": ";
    if (key)
        throw Error(made +
                    "with an authkey the transport must be said: mp::tls, which is keyed by "
                    "it, or none and mp::insecure for TCP without a key. This version has "
                    "neither: use a Unix socket, which admits only processes of this user, "
                    "without an authkey");
    if (address.is_tcp())
        throw Error(made +
                    "for a TCP address the transport must be said: mp::tls with an authkey, "
                    "or mp::insecure without. This version has neither: use a Unix socket, "
                    "\"/path\" or \"@name\"");
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
