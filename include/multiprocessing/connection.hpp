// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Connections between two processes: Pipe, Connection, Listener, Client; and wait() for many.
///
/// Messages keep their bounds. On one host they lie in anonymous shared memory: each of the two
/// processes may be killed at any instruction, and the other one receives what was sent, and then
/// an EndOfFile, however many processes were forked meanwhile. Between hosts they go through TCP:
/// what was sent last may be lost with its sender. SIGPIPE is never raised.
///
/// An end has one owner at a time: the process that made it, then the child into whose arguments
/// it was moved (by itself, or inside of other objects; of a class derived from Process: into what
/// its hand_over() drops), the process that received it in a message, or a forked process that uses
/// its copy first. (An end to another host: a child's only by the first of these.) A former owner
/// gets a ClosedError. What fork() tells nobody about is not covered: vfork, _Fork and clone
/// without exec in the host; nor is exec in a process that took an end by using or receiving it:
/// the end lasts until the new program ends.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <multiprocessing/detail/archive/fingerprint.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/archive/sendable.hpp>
#include <multiprocessing/detail/net/address.hpp>
#include <multiprocessing/detail/net/end.hpp>
#include <multiprocessing/detail/net/listener.hpp>
#include <multiprocessing/detail/net/login.hpp>
#include <multiprocessing/detail/net/remote_end.hpp>
#include <multiprocessing/detail/net/waitable.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/cpu.hpp>
#include <multiprocessing/detail/queue/channel.hpp>
#include <multiprocessing/detail/shm/region_table.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

template <class T = void>
class Connection;

namespace detail {

/// What send_bytes() sends; here for its name in errors.
inline known_type raw_bytes{hash_name("bytes, of send_bytes"), "bytes, of send_bytes"};

/// What every Connection can do.
template <compiled When = compiled::when_used>
class connection_base {
public:
    /// Returns true if recv() would not block: a message is there, or the end of the file.
    /// \throws Error if this end can only send
    bool poll() { return poll(duration::zero()); }
    /// Waits for that, so long at most.
    bool poll(duration timeout) {
        return with([&](auto& e) { return e.poll(deadline::after(timeout)); });
    }

    /// Sends bytes as one message; it may be empty. As send().
    void send_bytes(std::span<const std::byte> message) {
        with([&](auto& e) { e.send({&message, 1}, raw_bytes.fingerprint); });
    }

    /// Takes a message as bytes, whatever was sent: that of send() as it travels. As recv().
    /// \param max_length  \throws BufferTooShort if it is longer: it is in the error then, and the
    ///     connection goes on. Python's can't be used any more
    std::vector<std::byte> recv_bytes(std::optional<std::size_t> max_length = {}) {
        std::vector<std::byte> message;
        with([&](auto& e) {
            e.recv([&](std::uint64_t, std::span<const std::byte> bytes) {
                message.assign(bytes.data(), bytes.data() + bytes.size());
            });
        });
        if (max_length && message.size() > *max_length)
            throw_too_short("recv_bytes", std::move(message), *max_length);
        return message;
    }

    /// Takes a message into `buffer`, from `offset` on. As recv().
    /// \return its length
    /// \throws BufferTooShort if it is longer: it is in the error then, the buffer is as before,
    /// and
    ///     the connection goes on; Error if the offset lies beyond the buffer
    std::size_t recv_bytes_into(std::span<std::byte> buffer, std::size_t offset = 0) {
        if (offset > buffer.size())
            throw Error("recv_bytes_into: the offset of " + std::to_string(offset) +
                        " lies beyond the buffer of " + std::to_string(buffer.size()) + " bytes");
        const std::span<std::byte> to(buffer.data() + offset, buffer.size() - offset);
        std::vector<std::byte> too_long;
        std::size_t length = 0;
        with([&](auto& e) {
            e.recv([&](std::uint64_t, std::span<const std::byte> bytes) {
                length = bytes.size();
                if (length > to.size())
                    too_long.assign(bytes.data(), bytes.data() + bytes.size());
                else
                    detail::copy_message(to.data(), bytes.data(), length);
            });
        });
        if (length > to.size()) throw_too_short("recv_bytes_into", std::move(too_long), to.size());
        return length;
    }

    /// A descriptor for poll, epoll and event loops, readable exactly while recv() would not block,
    /// level-triggered. Of a connection to another host it is also readable when a part of a
    /// message came: poll() takes that in and returns false; recv() would wait for the rest. It
    /// belongs to the connection (don't read or close it) and to the process
    /// that called this. From the first call on, each change from empty to not empty and back
    /// costs two system calls. It may once be readable in vain, so ask poll(), when the other end
    /// is taken over by a process that it was not moved into.
    int fileno() const {
        return with([](auto& e) { return e.fileno(); });
    }

    /// Whether this end can receive, and send; both unless it is of a simplex pipe. False if
    /// closed.
    bool readable() const noexcept { return !closed() && (remote_ || end_->readable()); }
    bool writable() const noexcept { return !closed() && (remote_ || end_->writable()); }

    /// The other end gets what was sent, and then an EndOfFile. Another thread that waits here gets
    /// a ClosedError, and so does any later call. May be repeated; the destructor does it, too.
    void close() noexcept {
        if (end_) end_->close();
        if (remote_) remote_->close();
    }
    bool closed() const noexcept { return end_ ? end_->closed() : !remote_ || remote_->closed(); }

    /// For messages.
    template <class Archive>
    void save(Archive& archive) const {
        const auto [where, which] = open().lend();
        archive(where.id[0], where.id[1], where.size, where.pid, where.fd, which.which, which.bell,
                which.out, which.owner, which.most);
    }

protected:
    connection_base() = default;
    explicit connection_base(any_end<When> of) noexcept
        : end_(std::move(of.local)), remote_(std::move(of.remote)) {}
    connection_base(connection_base&&) noexcept = default;
    connection_base& operator=(connection_base&& other) noexcept {
        if (this != &other) {
            end<When>::let_go(std::exchange(end_, std::move(other.end_)));
            remote_ = std::move(other.remote_);
        }
        return *this;
    }
    ~connection_base() { end<When>::let_go(std::move(end_)); }

    /// For messages.
    end<When>& open() const {
        if (remote_)
            throw Error(
                "a Connection to another host can't be sent in a message; move it into the "
                "arguments of a Process");
        if (!end_) throw_none();
        return *end_;
    }
    /// Calls `f` with the end, of either kind.
    template <class F>
    auto with(F f) const -> decltype(f(std::declval<end<When>&>())) {
        if (end_) [[likely]]
            return f(*end_);
        if (!remote_) throw_none();
        return f(*remote_);
    }
    [[noreturn]] static void throw_none() {
        throw ClosedError("this Connection was moved from, or never had a pipe");
    }

    template <class U>
    void put(const U& value) {
        put_as(fingerprint<U>(), value);
    }
    /// \param type  the message's fingerprint
    template <class... Us>
    void put_as(std::uint64_t type, const Us&... values) {
        loans<When> in_message;
        const encoded message = encode(values...);
        if (remote_) {
            if (in_message.any())
                throw Error(
                    "send: a handle of shared memory (a Queue, a Lock, a Connection...) can't go "
                    "to another host");
            return remote_->send(message.pieces(), type);
        }
        std::shared_ptr<const carrier<When>> by;
        if (in_message.watched()) by = open().carries();
        open().send(message.pieces(), type);
        in_message.sent(&by);
    }
    template <class U>
    U get() {
        reception<When> in_hand;
        return *get_value<U>(
            [&](auto visit) {
                with([&](auto& e) { e.recv(std::move(visit), in_hand); });
                return true;
            },
            "recv");
    }

    /// \param type  fingerprint of what it carries, by its own type; 0: anything
    template <class Archive>
    void load(Archive& archive, std::uint64_t type) {
        region_handle where{};
        end_handle which{};
        archive(where.id[0], where.id[1], where.size, where.pid, where.fd, which.which, which.bell,
                which.out, which.owner, which.most);
        auto link = region_table<When>::template open<detail::link<When>>(
            where, region_kind::connection, "a Connection");
        if (const std::uint64_t carries = link->memory().header().type; carries != type)
            throw SerializationError("receiving a Connection: it carries " + carried(carries) +
                                     ", and one of " + carried(type) + " was asked for");
        end<When>::let_go(
            std::exchange(end_, end<When>::receive(std::move(link), which, where.pid)));
    }

private:
    friend struct wait_access;

    /// What wait() asks.
    struct waiting {
        const connection_base& of;
        bool prepare(std::vector<later<When, pollfd>>& fds, deadline& next) const {
            return of.with([&](auto& e) { return e.prepare(fds, next); });
        }
        bool is_ready() const {
            return of.with([](auto& e) { return e.is_ready(); });
        }
    };
    waiting waited() const noexcept { return {*this}; }

    static std::string carried(std::uint64_t type) {
        return type == 0 ? std::string("any type") : name_of(type);
    }
    [[noreturn]] static void throw_too_short(const char* what, std::vector<std::byte> message,
                                             std::size_t most) {
        throw BufferTooShort(std::string(what) + ": the message has " +
                                 std::to_string(message.size()) +
                                 " bytes, and there was room for " + std::to_string(most) +
                                 "; it is in this error's message()",
                             std::move(message));
    }

    std::unique_ptr<end<When>> end_;            // null: moved from, or
    std::unique_ptr<remote_end<When>> remote_;  // of a connection to another host
};

}  // namespace detail

/// One end of a connection that carries T; Connection<> carries anything.
///
/// Threads: one may send while another receives. Movable; the moved-from one is closed. Can be sent
/// through a connection, unless it goes to another host: then it belongs to the receiver once that
/// has received it, and to its sender until then, who may let go of it meanwhile, but must not end.
/// If it can't be received any more (the receiver closed its end or died, or dropped the message
/// unread) it is closed at the sender's next use of connections, or within half a second if that
/// waits for one.
/// \tparam T  mp::Sendable; need not be copyable
template <class T>
class Connection : public detail::connection_base<detail::used_by<T>> {
public:
    using value_type = T;

    /// Of no pipe: as if moved from.
    Connection() = default;
    explicit Connection(detail::any_end<detail::used_by<T>> of) noexcept
        : Connection::connection_base(std::move(of)) {}

    /// Sends a value as one message. Blocks while it would make more than 2 MiB unread, unless at
    /// most one other message is. To another host: while its socket's buffers are full. If killed:
    /// the message was sent or it was not.
    /// \throws EndOfFile if the other end was closed, or its process ended: what is sent within
    ///     some 100 us of its death may be lost; ClosedError if this end is closed, or belongs to
    ///     another process now; OsError (ENOMEM, ENOSPC) if there is no memory; TimeoutError if
    ///     another host took nothing for its unreachable_timeout; what the value's own serialize
    ///     function throws: nothing was sent then
    void send(const T& value) { this->put(value); }

    /// Takes the oldest message. Blocks while there is none.
    /// \throws EndOfFile once the other end was closed or its process ended, and all that it sent
    ///     was received; ClosedError as send(); SerializationError if the message is no T, and what
    ///     its load function throws: it is then gone
    T recv() { return this->template get<T>(); }

    template <class Archive>
    void load(Archive& archive) {
        Connection::connection_base::load(archive, detail::fingerprint<T>());
    }
};

/// One end of a connection that carries any type, a message at a time.
template <class T>
requires std::is_void_v<T>
class Connection<T> : public detail::connection_base<detail::used_by<T>> {
public:
    using value_type = void;

    Connection() = default;
    explicit Connection(detail::any_end<detail::used_by<T>> of) noexcept
        : Connection::connection_base(std::move(of)) {}

    /// As Connection<T>::send().
    template <class U>
    void send(const U& value) {
        detail::check_sendable<U>();
        if constexpr (Sendable<U>) this->put(value);
    }
    /// A text is sent as std::string.
    void send(const char* text) { this->put(std::string(text)); }

    /// As Connection<T>::recv().
    /// \tparam U  what was sent. \throws SerializationError if it was something else: that message
    ///     is then gone
    template <class U>
    U recv() {
        detail::check_sendable<U>();
        return this->template get<U>();
    }

    template <class Archive>
    void load(Archive& archive) {
        Connection::connection_base::load(archive, 0);
    }
};

/// A connection's two ends: `auto [a, b] = mp::Pipe<Job>();`
template <class T = void>
struct Pipe {
    /// \param duplex  false: `first` only receives, `second` only sends
    /// \throws OsError if the kernel refuses the shared memory or its descriptors (five, of which
    ///     each end keeps two and both share one)
    explicit Pipe(bool duplex = true) : Pipe(make(duplex)) {}

    Connection<T> first, second;

private:
    using ends = std::pair<std::unique_ptr<detail::end<detail::used_by<T>>>,
                           std::unique_ptr<detail::end<detail::used_by<T>>>>;

    static ends make(bool duplex) {
        if constexpr (std::is_void_v<T>) {
            return detail::end<detail::used_by<T>>::make_pair(0, duplex);
        } else {
            detail::check_sendable<T>();
            return detail::end<detail::used_by<T>>::make_pair(detail::fingerprint<T>(), duplex);
        }
    }
    explicit Pipe(ends made) noexcept
        : first({std::move(made.first), nullptr}), second({std::move(made.second), nullptr}) {}
};

namespace detail {

/// What Listener can do.
template <compiled When = compiled::when_used>
class listener_calls {
public:
    /// \throws OsError (EADDRINUSE and the like) as bind() does; Error if the address is too long,
    ///     or needs a transport
    explicit listener_calls(Address address = {}, ListenerOptions options = {})
        : listener_(std::make_unique<listener<When>>(std::move(address), std::move(options))) {}

    /// Waits for the next client that logged in.
    /// \throws ClosedError after close(), by whichever thread, and in a forked child after close()
    ///     in the process that made it; OsError if there are no descriptors for a client: others
    ///     may be accepted later; AuthenticationError for a client that has another key, or none:
    ///     others may be accepted all the same
    Connection<later<When, void>> accept() {
        return Connection<later<When, void>>(open().accept(deadline::never()));
    }
    /// \throws TimeoutError if none came in time
    Connection<later<When, void>> accept(duration timeout) {
        auto made = open().accept(deadline::after(timeout));
        if (!made.local && !made.remote)
            throw TimeoutError("accept: no client came to \"" + address().to_string() +
                               "\" in time");
        return Connection<later<When, void>>(std::move(made));
    }

    /// For Client().
    Address address() const { return open().address(); }
    /// Where the last client came from that accept() told of, by TCP; those of Unix sockets have no
    /// address.
    std::optional<later<When, Address>> last_accepted() const { return open().last_accepted(); }

    /// Nobody is accepted any more, in no process; who waits for that gets an EndOfFile, and those
    /// who were accepted go on. Removes the file. In a forked child: closes its copy.
    void close() noexcept {
        if (listener_) listener_->close();
    }

    /// A descriptor for poll, epoll and event loops, readable when accept() has something to do:
    /// there may be nobody to accept all the same, so call accept(0s), or wait(), which is exact.
    int fileno() const { return open().fileno(); }

private:
    friend struct wait_access;

    listener<When>& open() const {
        if (!listener_) throw ClosedError("this Listener was moved from");
        return *listener_;
    }
    listener<When>& waited() const { return open(); }

    std::unique_ptr<listener<When>> listener_;
};

}  // namespace detail

/// Where Connections to other programs are accepted: of this user, or with a key from any host.
///
/// A Unix socket admits processes of the same user only: its file has mode 0600, and the kernel
/// says who connects, and who listens. Both then share memory, as the ends of a Pipe do. Clients
/// that say nothing, or garbage, are dropped and delay nobody.
///
/// TCP needs a transport: mp::tls with an authkey, or mp::insecure. With a key each side proves to
/// the other that it has it, on a Unix socket too, before anything else is believed. Between hosts
/// messages go through the socket; what they hold must not name shared memory (a Queue, a Lock).
/// Programs of different builds understand each other: integers, floating-point numbers and
/// containers travel in one little-endian form, and types are known by their names.
///
/// Differences from Python: without an address it is an abstract one, which needs no directory; the
/// file of a listener that was killed is replaced.
/// Threads: any number may accept at once. Processes: a forked child may accept, too, until the one
/// that made the Listener closes it; moved into a Process it is the child's.
/// If killed: clients that nobody accepted yet get an EndOfFile, whatever children have the socket.
/// If one of those accepts it listens in its stead from then on. Else clients are refused, and
/// others may listen at its file; an abstract address is free once no process has the socket.
class Listener : public detail::listener_calls<> {
public:
    using listener_calls::listener_calls;
};

/// Connects to a Listener. At a Unix socket without a key it does not wait until that accepts: what
/// is sent before waits there, as in a Pipe, and if it never does there is an EndOfFile. Otherwise
/// it does, until the timeout.
/// \throws OsError as connect() does (ECONNREFUSED, ENOENT...), or if this process has no
///     descriptors left; TimeoutError; AuthenticationError if the Listener has another key, or is
///     another user's; EndOfFile if it ended the connection; Error as Listener's, for a host that
///     is not known, and if no Listener of ours is there
template <detail::compiled When = detail::compiled::when_used>
Connection<detail::later<When, void>> Client(Address address, ClientOptions options = {}) {
    detail::check_transport("Client", address, options.transport, options.authkey);
    auto made = detail::log_in<When>(address, options);
    if (made.local) made.local->limit(options.max_message);
    return Connection<detail::later<When, void>>(std::move(made));
}

}  // namespace multiprocessing
