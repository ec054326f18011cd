// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// TCP sockets: names and numbers of hosts, and how soon a lost one is given up.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <multiprocessing/detail/net/address.hpp>
#include <multiprocessing/detail/net/own_socket.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// What "host:port" stands for. Looking up a name blocks for as long as the system's resolver
/// takes; numbers don't.
template <compiled = compiled::when_used>
class tcp_hosts {
public:
    /// \param what  to begin an error with
    /// \throws Error if there is no such host
    tcp_hosts(const Address& address, bool to_listen, const std::string& what) {
        const std::string& text = address.to_string();
        const auto colon = text.rfind(':');
        std::string host = text.substr(0, colon);
        if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
            host = host.substr(1, host.size() - 2);
        addrinfo hints{};
        hints.ai_socktype = SOCK_STREAM;
        hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
        addrinfo* found = nullptr;
        const int result = ::getaddrinfo(host.empty() ? nullptr : host.c_str(),
                                         text.c_str() + colon + 1, &hints, &found);
        if (result != 0)
            throw Error(what + ": " +
                        (result == EAI_SYSTEM ? std::generic_category().message(errno)
                                              : std::string(::gai_strerror(result))));
        found_.reset(found);
    }

    const addrinfo* all() const noexcept { return found_.get(); }
    /// Calls `f(host)` for one after the other until it gives a socket; else the last error stands.
    template <class F>
    unique_fd first(F f) const {
        for (const addrinfo* one = found_.get(); one; one = one->ai_next)
            if (unique_fd socket = f(*one)) return socket;
        return {};
    }

private:
    struct free_hosts {
        void operator()(addrinfo* list) const noexcept { ::freeaddrinfo(list); }
    };
    std::unique_ptr<addrinfo, free_hosts> found_;
};

/// As numbers: "127.0.0.1:8000", "[::1]:8000".
inline Address to_address(const sockaddr_storage& where, socklen_t size) {
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (::getnameinfo(reinterpret_cast<const sockaddr*>(&where), size, host, sizeof host, port,
                      sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return {};
    const std::string text = host;
    return text.find(':') == text.npos ? Address(text + ':' + port)
                                       : Address('[' + text + "]:" + port);
}

inline Address own_address_of(int socket) {
    sockaddr_storage where;
    socklen_t size = sizeof where;
    call("getsockname",
         [&] { return ::getsockname(socket, reinterpret_cast<sockaddr*>(&where), &size); });
    return to_address(where, size);
}

/// Empty if it is gone already.
inline Address peer_address_of(int socket) {
    sockaddr_storage where;
    socklen_t size = sizeof where;
    if (::getpeername(socket, reinterpret_cast<sockaddr*>(&where), &size) != 0) return {};
    return to_address(where, size);
}

inline unique_fd tcp_socket(const addrinfo& host) {
    return off_stdio(unique_fd(
        ::socket(host.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, host.ai_protocol)));
}

/// Small messages go at once, and a host that does not answer for so long is given up: by the
/// acknowledgements of what was sent, else by probes.
inline void tune(int socket, duration unreachable) noexcept {
    const auto set = [&](int level, int name, int value) {
        ::setsockopt(socket, level, name, &value, sizeof value);  // at worst it takes longer
    };
    set(IPPROTO_TCP, TCP_NODELAY, 1);
    using std::chrono::milliseconds;
    static constexpr int probes = 4;
    static constexpr milliseconds most = std::chrono::hours(24);
    const milliseconds limit =
        std::clamp(std::chrono::ceil<milliseconds>(unreachable), milliseconds(1), most);
    const int seconds = static_cast<int>(
        std::max<std::int64_t>(1, limit.count() / 1000 / (probes + 1)));  // the least is a second
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, seconds);
    set(IPPROTO_TCP, TCP_KEEPINTVL, seconds);
    set(IPPROTO_TCP, TCP_KEEPCNT, probes);
    set(IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(limit.count()));
}

/// To the first of these addresses that answers, as RFC 8305 has it: one that is silent for a
/// quarter of a second has the next one tried beside it.
/// \throws OsError, of the last one, as connect() does; TimeoutError
template <compiled When = compiled::when_used>
own_socket connect_to_any(const addrinfo* hosts, deadline until, const std::string& what) {
    static constexpr duration head_start = std::chrono::milliseconds(250);
    std::vector<later<When, own_socket>> tried;
    std::vector<later<When, pollfd>> fds;
    int error = EADDRNOTAVAIL;
    for (bool late = false; hosts || (!tried.empty() && !late);) {
        if (hosts) {
            own_socket one = own_socket::open([&] { return tcp_socket(*hosts); });
            if (one && (::connect(one.get(), hosts->ai_addr, hosts->ai_addrlen) == 0 ||
                        errno == EINPROGRESS || errno == EINTR)) {
                fds.push_back({one.get(), POLLOUT, 0});
                tried.push_back(std::move(one));
            } else {
                error = errno;
            }
            hosts = hosts->ai_next;
        }
        if (tried.empty()) continue;
        poll_until(fds, hosts ? deadline::earlier(until, deadline::after(head_start)) : until);
        for (std::size_t i = 0; i < tried.size();) {
            if (fds[i].revents == 0) {
                ++i;
                continue;
            }
            socklen_t size = sizeof error;
            const int fd = tried[i].get();
            ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
            // Where nobody listens, in the range of clients' ports, it may get the same one.
            if (error == 0 && own_address_of(fd) == peer_address_of(fd)) error = ECONNREFUSED;
            if (error == 0) return std::move(tried[i]);
            tried.erase(tried.begin() + static_cast<std::ptrdiff_t>(i));
            fds.erase(fds.begin() + static_cast<std::ptrdiff_t>(i));
        }
        late = !hosts && until.passed();
    }
    if (!tried.empty() || error == ETIMEDOUT)
        throw TimeoutError(what + ": nobody answered in time");
    throw_os_error(error, what);
}

/// \throws Error if there is no such host; OsError as connect() does; TimeoutError
template <compiled When = compiled::when_used>
own_socket connect_tcp(const Address& address, deadline until, const std::string& what) {
    return connect_to_any<When>(tcp_hosts<When>(address, false, what).all(), until, what);
}

/// \param bound  is set to where it listens: the port may have been 0
template <compiled When = compiled::when_used>
unique_fd listen_tcp(const Address& address, int backlog, Address& bound) {
    const std::string what = "Listener at \"" + address.to_string() + '"';
    int error = 0;
    unique_fd socket = tcp_hosts<When>(address, true, what).first([&](const addrinfo& host) {
        unique_fd one = tcp_socket(host);
        const int on = 1;
        if (one) ::setsockopt(one.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (one && ::bind(one.get(), host.ai_addr, host.ai_addrlen) == 0 &&
            ::listen(one.get(), std::max(backlog, 1)) == 0)
            return one;
        error = errno;
        return unique_fd();
    });
    if (!socket) throw_os_error(error, what + ": bind and listen");
    bound = own_address_of(socket.get());
    return socket;
}

}  // namespace multiprocessing::detail
