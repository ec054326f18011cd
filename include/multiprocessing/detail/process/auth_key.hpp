// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The secret that processes of one program share.

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <string.h>
#include <sys/random.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

/// A secret key. It can't be printed or serialized, and its bytes are wiped at its end.
///
/// Each program makes one at random; children inherit it. Unlike Python's it is no `bytes`.
class MP_EXPORT AuthKey {
public:
    explicit AuthKey(std::string_view key) : key_(key.size()) {
        key.copy(reinterpret_cast<char*>(key_.data()), key.size());
    }
    AuthKey(const AuthKey&) = default;
    AuthKey(AuthKey&&) noexcept = default;  // that one is empty then
    AuthKey& operator=(AuthKey other) noexcept {
        key_.swap(other.key_);
        return *this;
    }
    ~AuthKey() {
        if (!key_.empty()) ::explicit_bzero(key_.data(), key_.size());
    }

    /// 32 bytes from the kernel's random number generator.
    /// \throws OsError
    static AuthKey generate() {
        AuthKey made{std::vector<std::byte>(32)};
        detail::call("getrandom",
                     [&] { return ::getrandom(made.key_.data(), made.key_.size(), 0); });
        return made;
    }

    /// For the code that talks to a peer. Don't log them.
    std::span<const std::byte> bytes() const noexcept { return {key_.data(), key_.size()}; }

    /// The time it takes tells only whether the lengths differ.
    friend bool operator==(const AuthKey& a, const AuthKey& b) noexcept {
        const auto x = a.bytes(), y = b.bytes();
        if (x.size() != y.size()) return false;
        volatile unsigned char difference = 0;
        for (std::size_t i = 0; i < x.size(); ++i)
            difference = static_cast<unsigned char>(difference |
                                                    std::to_integer<unsigned char>(x[i] ^ y[i]));
        return difference == 0;
    }

    template <class Stream>
    friend Stream& operator<<(Stream&, const AuthKey&) = delete;  // a secret
    template <class Archive>
    void serialize(Archive&) = delete;  // a secret

private:
    explicit AuthKey(std::vector<std::byte> key) noexcept : key_(std::move(key)) {}

    std::vector<std::byte> key_;
};

}  // namespace multiprocessing
