// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Sockets without the library: for strangers, and for those between two sides of a connection.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>

#include "support/child.hpp"

namespace test {

/// Of digits in pairs; blanks don't count.
inline std::string from_hex(std::string_view text) {
    std::string bytes, digits;
    for (const char c : text) {
        if (c != ' ') digits += c;
        if (digits.size() < 2) continue;
        bytes += static_cast<char>(std::stoi(digits, nullptr, 16));
        digits.clear();
    }
    return bytes;
}
inline std::string to_hex(std::string_view bytes) {
    std::string text;
    for (const char byte : bytes)
        for (const int shift : {4, 0}) text += "0123456789abcdef"[byte >> shift & 15];
    return text;
}

/// A socket, closed at the end of the scope.
class tcp_socket {
public:
    explicit tcp_socket(int fd) noexcept : fd_(fd) {}
    tcp_socket(tcp_socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    tcp_socket& operator=(tcp_socket&&) = delete;
    ~tcp_socket() {
        if (fd_ >= 0) ::close(fd_);
    }
    int get() const noexcept { return fd_; }

    /// False if the other side is gone.
    bool send(std::string_view bytes) const {
        while (!bytes.empty()) {
            const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (n <= 0) return false;
            bytes.remove_prefix(static_cast<std::size_t>(n));
        }
        return true;
    }
    /// What comes next; empty at the end.
    std::string receive() const {
        char bytes[65536];
        const ssize_t n = ::recv(fd_, bytes, sizeof bytes, 0);
        return std::string(bytes, static_cast<std::size_t>(n > 0 ? n : 0));
    }
    /// The next `size` bytes; fewer if it ends before.
    std::string receive(std::size_t size) const {
        std::string bytes(size, 0);
        const ssize_t n = ::recv(fd_, bytes.data(), size, MSG_WAITALL);
        bytes.resize(static_cast<std::size_t>(n > 0 ? n : 0));
        return bytes;
    }
    /// Waits until the other side has ended it, or reset it.
    bool ended() const {
        for (;;) {
            pollfd one{fd_, POLLIN, 0};
            if (::poll(&one, 1, 30'000) <= 0) return false;
            if (receive().empty()) return true;
        }
    }

private:
    int fd_;
};

/// Of 127.0.0.1.
inline sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_port = htons(port);
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return where;
}

inline std::uint16_t port_of(const multiprocessing::Address& address) {
    const std::string text = address.to_string();
    return static_cast<std::uint16_t>(std::atoi(text.c_str() + text.rfind(':') + 1));
}

inline tcp_socket tcp_connect(const multiprocessing::Address& address) {
    tcp_socket made(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in where = loopback(port_of(address));
    if (::connect(made.get(), reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0)
        give_up("connect");
    return made;
}

/// Listens on a free port of 127.0.0.1.
class tcp_server {
public:
    tcp_server() : listens_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in where = loopback(0);
        socklen_t size = sizeof where;
        if (::bind(listens_.get(), reinterpret_cast<const sockaddr*>(&where), size) != 0 ||
            ::listen(listens_.get(), 128) != 0 ||
            ::getsockname(listens_.get(), reinterpret_cast<sockaddr*>(&where), &size) != 0)
            give_up("listen");
        port_ = ntohs(where.sin_port);
    }
    multiprocessing::Address address() const {
        return multiprocessing::Address("127.0.0.1:" + std::to_string(port_));
    }
    tcp_socket accept() const {
        return tcp_socket(::accept4(listens_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    }
    /// Who waits in accept() gets a socket that is none.
    void stop() const { ::shutdown(listens_.get(), SHUT_RDWR); }

private:
    tcp_socket listens_;
    std::uint16_t port_;
};

/// One who sits between the two sides of one connection.
class relay {
public:
    enum direction { to_server, to_client };
    /// Sees and may change what passes, and how much of it passes before the line is cut.
    using meddle = std::function<void(direction, std::string& bytes, bool& cut)>;

    relay(multiprocessing::Address server, meddle f)
        : thread_([this, server = std::move(server), f = std::move(f)] {
              const tcp_socket client = in_.accept();
              if (client.get() < 0) return;
              const tcp_socket other = tcp_connect(server);
              for (;;) {
                  pollfd both[2] = {{client.get(), POLLIN, 0}, {other.get(), POLLIN, 0}};
                  if (::poll(both, 2, 30'000) <= 0) return;
                  for (const direction d : {to_server, to_client}) {
                      if (both[d].revents == 0) continue;
                      std::string bytes = (d == to_server ? client : other).receive();
                      bool cut = bytes.empty();
                      f(d, bytes, cut);
                      (d == to_server ? other : client).send(bytes);
                      if (cut) return;
                  }
              }
          }) {}
    relay(const relay&) = delete;
    relay& operator=(const relay&) = delete;
    ~relay() {
        in_.stop();
        thread_.join();
    }
    multiprocessing::Address address() const { return in_.address(); }

private:
    tcp_server in_;
    std::thread thread_;
};

}  // namespace test
