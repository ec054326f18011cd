// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Ways to bring bytes from one process to another, all with the same face: made before the fork
/// with the size of its messages, then put() in some processes and get() in others.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <boost/interprocess/ipc/message_queue.hpp>
#ifdef MP_BENCHMARK_ZMQ
#include <zmq.h>
#endif

#include <multiprocessing/connection.hpp>
#include <multiprocessing/detail/ring/ring.hpp>

#include "spsc.hpp"
#include "support.hpp"

namespace bench {

using bytes = std::span<std::byte>;
using const_bytes = std::span<const std::byte>;

/// The library's ring. The window is the size of a pipe's or connection's: what bounds it.
template <std::uint64_t Window>
class ring_of {
public:
    static constexpr bool many = true;  // more than one putter or getter
    explicit ring_of(std::size_t)
        : ring_(multiprocessing::detail::message_ring::create("benchmark", {.window = Window})) {}
    void put(const_bytes message) {
        ring_->put({&message, 1}, 1, multiprocessing::detail::deadline::never());
    }
    void get(bytes into) {
        ring_->get(
            multiprocessing::detail::deadline::never(), [&](std::uint64_t, const_bytes message) {
                multiprocessing::detail::copy_message(into.data(), message.data(), message.size());
            });
    }

private:
    std::shared_ptr<multiprocessing::detail::message_ring> ring_;
};
using ring = ring_of<4 << 20>;
using ring_unbounded = ring_of<0>;

/// A Pipe, from its second end to its first.
class connection {
public:
    static constexpr bool many = false;
    explicit connection(std::size_t) {}
    void put(const_bytes message) { ends_.second.send_bytes(message); }
    void get(bytes into) { ends_.first.recv_bytes_into(into); }

private:
    multiprocessing::Pipe<> ends_{false};
};

class spsc {
public:
    static constexpr bool many = false;
    explicit spsc(std::size_t) {}
    void put(const_bytes message) { ring_.put(message); }
    void get(bytes into) { ring_.get(into); }

private:
    spsc_ring ring_;
};

/// boost::interprocess::message_queue with about as many bytes as the ring's window.
class bip {
public:
    static constexpr bool many = true;
    explicit bip(std::size_t size) {
        static int number = 0;
        const std::string name =
            "multiprocessing-benchmark-" + std::to_string(::getpid()) + std::to_string(number++);
        const std::size_t depth = std::clamp<std::size_t>((4 << 20) / size, 2, 4096);
        queue_ =
            std::make_unique<queue>(boost::interprocess::create_only, name.c_str(), depth, size);
        queue::remove(name.c_str());
    }
    void put(const_bytes message) { queue_->send(message.data(), message.size(), 0); }
    void get(bytes into) {
        queue::size_type length;
        unsigned priority;
        queue_->receive(into.data(), into.size(), length, priority);
    }

private:
    using queue = boost::interprocess::message_queue;
    std::unique_ptr<queue> queue_;
};

/// Two descriptors, and messages of one size.
class stream {
public:
    void put(const_bytes message) {
        for (std::size_t done = 0; done < message.size();)
            done += checked(::write(out_, message.data() + done, message.size() - done));
    }
    void get(bytes into) {
        for (std::size_t done = 0; done < into.size();)
            done += checked(::read(in_, into.data() + done, into.size() - done));
    }

protected:
    int in_ = -1, out_ = -1;

private:
    static std::size_t checked(ssize_t n) {
        if (n < 0 && errno == EINTR) return 0;
        if (n <= 0) throw std::runtime_error("pipe or socket");
        return static_cast<std::size_t>(n);
    }
};

class pipe : public stream {
public:
    static constexpr bool many = true;  // of messages up to PIPE_BUF, 4 KiB
    explicit pipe(std::size_t) {
        int ends[2];
        if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
        in_ = ends[0], out_ = ends[1];
        ::fcntl(out_, F_SETPIPE_SZ, 1 << 20);
    }
};

class unix_socket : public stream {
public:
    static constexpr bool many = false;
    explicit unix_socket(std::size_t) {
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
            throw std::runtime_error("socketpair");
        in_ = ends[0], out_ = ends[1];
    }
};

#ifdef MP_BENCHMARK_ZMQ
/// PUSH to PULL over ipc://, as ZeroMQ has it by default.
class zmq {
public:
    static constexpr bool many = false;
    explicit zmq(std::size_t) {
        static int number = 0;
        address_ = "ipc://@multiprocessing-benchmark-" + std::to_string(::getpid()) + "-" +
                   std::to_string(number++);
    }
    ~zmq() {
        if (socket_ == nullptr) return;
        ::zmq_close(socket_);  // waits until all was sent
        ::zmq_ctx_term(context_);
    }
    void put(const_bytes message) {
        if (socket_ == nullptr) open(ZMQ_PUSH);
        if (::zmq_send(socket_, message.data(), message.size(), 0) < 0)
            throw std::runtime_error("zmq_send");
    }
    void get(bytes into) {
        if (socket_ == nullptr) open(ZMQ_PULL);
        if (::zmq_recv(socket_, into.data(), into.size(), 0) < 0)
            throw std::runtime_error("zmq_recv");
    }

private:
    void open(int type) {  // not before the fork
        context_ = ::zmq_ctx_new();
        socket_ = ::zmq_socket(context_, type);
        const int result = type == ZMQ_PULL ? ::zmq_bind(socket_, address_.c_str())
                                            : ::zmq_connect(socket_, address_.c_str());
        if (result != 0) throw std::runtime_error("zmq_bind or zmq_connect");
    }

    std::string address_;
    void *context_ = nullptr, *socket_ = nullptr;
};
#endif

/// Calls f with the type of the transport as `f.template operator()<T>()`.
template <class F>
void with_transport(const std::string& name, F f) {
    if (name == "ring") return f.template operator()<ring>();
    if (name == "ring_unbounded") return f.template operator()<ring_unbounded>();
    if (name == "connection") return f.template operator()<connection>();
    if (name == "spsc") return f.template operator()<spsc>();
    if (name == "bip") return f.template operator()<bip>();
    if (name == "pipe") return f.template operator()<pipe>();
    if (name == "unix") return f.template operator()<unix_socket>();
#ifdef MP_BENCHMARK_ZMQ
    if (name == "zmq") return f.template operator()<zmq>();
#endif
    throw std::runtime_error("no transport " + name);
}

}  // namespace bench
