// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A message ring that carries values of one type.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/archive/fingerprint.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/archive/sendable.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/cpu.hpp>
#include <multiprocessing/detail/queue/receive_buffer.hpp>
#include <multiprocessing/detail/ring/ring.hpp>
#include <multiprocessing/detail/shm/loans.hpp>

namespace multiprocessing::detail {

/// Messages from this size on are decoded in place where that runs no user code: it saves a copy
/// and costs the other getters the time of a copy.
inline constexpr std::size_t decode_in_place_from = std::size_t{64} << 10;

/// Takes a value out of a ring. \param get  ring::get() with the visitor given to it
/// \param where  for errors
/// \return nothing if there was none
template <class T, class Get>
std::optional<T> get_value(Get get, const char* where) {
    std::optional<T> item;
    receive_buffer<used_by<T>> buffer;
    std::span<const std::byte> copied;
    std::uint64_t received = 0;
    const bool got = get([&](std::uint64_t type, std::span<const std::byte> bytes) {
        received = type;
        if (type != fingerprint<T>()) return;
        if constexpr (decodes_in_place<T>)
            if (std::is_trivially_copyable_v<T> || bytes.size() >= decode_in_place_from) {
                item.emplace(decode<T>(bytes));
                return;
            }
        const std::span<std::byte> own = buffer.resize(bytes.size());
        copy_message(own.data(), bytes.data(), bytes.size());
        copied = own;
    });
    if (!got) return std::nullopt;
    if (received != fingerprint<T>()) throw_type_mismatch(type_name<T>(), received, where);
    if (!item) item.emplace(decode<T>(copied));
    return item;
}

/// A handle: copies are the same channel, in this process and, sent or inherited, in others.
///
/// No user code runs under a ring lock (I5): a value is encoded before the put lock is taken and
/// decoded after the get lock is released, unless its decoding is none of the user's.
template <class T>
class channel {
public:
    channel(const char* name, ring_limits limits)
        : ring_(message_ring::create(name, limits, fingerprint<T>())) {
        check_sendable<T>();
    }

    message_ring& ring() const noexcept { return *ring_; }

    bool put(const T& value, deadline until) const {
        loans<used_by<T>> in_message;
        const encoded message = encode(value);
        const bool sent = ring_->put(message.pieces(), fingerprint<T>(), until);
        if (sent) in_message.sent();
        return sent;
    }

    std::optional<T> get(deadline until) const {
        return get_value<T>([&](auto visit) { return ring_->get(until, std::move(visit)); },
                            "a queue's message");
    }

    /// As bytes of a message.
    template <class Archive>
    void save(Archive& archive) const {
        region_handle handle = loans<used_by<T>>::lend(*ring_);
        archive(handle.id[0], handle.id[1], handle.size, handle.pid, handle.fd);
    }
    /// \param what  "a Queue"
    template <class Archive>
    void load(Archive& archive, const char* what) {
        region_handle handle{};
        archive(handle.id[0], handle.id[1], handle.size, handle.pid, handle.fd);
        auto received = message_ring::open(handle, what);
        if (const std::uint64_t type = received->memory().header().type; type != fingerprint<T>())
            throw_type_mismatch(type_name<T>(), type, what);
        ring_ = std::move(received);
    }

    friend bool operator==(const channel& a, const channel& b) noexcept {
        return a.ring_ == b.ring_;
    }

private:
    std::shared_ptr<message_ring> ring_;
};

}  // namespace multiprocessing::detail
