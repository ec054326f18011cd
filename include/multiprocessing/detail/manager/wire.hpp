// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a manager's server and its clients say to each other, and the connection they say it over.
///
/// A client process has one *control* connection: while it is open the process lives, and what is
/// not answered goes over it, in order. Each of its threads has a *channel*, over which it asks and
/// waits for the answer, so a call that blocks blocks nobody else. Both are Connections, of
/// whichever transport.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/detail/archive/fingerprint.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/callable/descriptor.hpp>
#include <multiprocessing/detail/net/end.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/queue/receive_buffer.hpp>
#include <multiprocessing/detail/shm/loans.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

enum class manager_op : std::uint32_t {
    // the first message of a connection, answered
    open_session,  // pid -> number of the session
    open_channel,  // `object` is the session's number
    // over a channel, answered
    call,     // arguments -> result
    create,   // arguments -> number of the object, counted for the session
    acquire,  // {key, token}: counts a reference of the session. See manager_server
    lend,     // -> token of a reference that lies in a message
    close,    // ends what this process waits for in the object
    count,    // -> how many objects there are
    // over the control connection, not answered
    release,    // a reference of the session is gone
    take_back,  // `object` is the token of a message that was not sent
    bequeath,   // {pid, key}: a reference for a child of the session's process
};

/// The front of a message to the server; arguments follow, encoded.
struct manager_request {
    std::uint32_t op;
    std::uint32_t number;  // the answer has it, too
    std::uint64_t object;
    callable_ref callable;
};
static_assert(sizeof(manager_request) == 40 && std::is_trivially_copyable_v<manager_request>);

/// The front of an answer; the value follows, or the exception.
struct manager_reply {
    std::uint32_t number;
    std::uint32_t failed;
};
static_assert(sizeof(manager_reply) == 8);

/// The other side of a wire has closed it or ended. Never leaves the library.
struct peer_gone {};

/// Threads: one at a time may post, one take; any may close.
template <compiled When = compiled::when_used>
class manager_wire : public later<When, Connection<>> {
    using base = later<When, Connection<>>;

public:
    explicit manager_wire(base of) noexcept : base(std::move(of)) {}

    /// Sends the values as one message.
    /// \throws peer_gone; what encoding throws: nothing was sent then; OsError
    template <class... Ts>
    void post(const Ts&... values) {
        unless_gone([&] { this->put_as(type.fingerprint, values...); });
    }

    /// The same if there is room now, through shared memory, of values that lend nothing.
    /// \return false if there is none
    template <class... Ts>
    bool try_post(const Ts&... values) {
        const encoded message = encode(values...);
        return unless_gone(
            [&] { return this->open().try_send(message.pieces(), type.fingerprint); });
    }

    /// Whether take() would not block; waits for that, so long at most.
    /// \throws peer_gone if this side was closed meanwhile; OsError
    bool poll(duration timeout = duration::zero()) {
        return unless_gone([&] { return base::poll(timeout); });
    }

    /// Waits for a message.
    /// \param in_hand  lives until it is decoded
    /// \throws peer_gone; std::bad_alloc: it stays then; OsError
    std::span<const std::byte> take(receive_buffer<When>& buffer, reception<When>& in_hand) {
        std::span<const std::byte> taken;
        unless_gone([&] {
            const auto visit = [&](std::uint64_t what, std::span<const std::byte> bytes) {
                if (what != type.fingerprint) return;  // too short for any message of ours
                const std::span<std::byte> own = buffer.resize(bytes.size());
                if (!bytes.empty()) std::memcpy(own.data(), bytes.data(), bytes.size());
                taken = own;
            };
            this->with([&](auto& e) { e.recv(visit, in_hand); });
        });
        return taken;
    }

private:
    template <class F>
    static auto unless_gone(F f) {
        try {
            return f();
        } catch (const EndOfFile&) {
            throw peer_gone();
        } catch (const ClosedError&) {
            throw peer_gone();
        }
    }

    static inline known_type type{hash_name("a message of a Manager, layout 2"),
                                  "a message of a Manager"};
};

/// Cuts the front off a message.
/// \throws peer_gone if it is too short: the other side is not one of ours
template <class Head>
Head take_head(std::span<const std::byte>& message) {
    Head head;
    if (message.size() < sizeof head) throw peer_gone();
    std::memcpy(&head, message.data(), sizeof head);
    message = message.subspan(sizeof head);
    return head;
}

}  // namespace multiprocessing::detail
