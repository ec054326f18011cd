// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The secret that processes of one program share.

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include <string.h>
#include <sys/random.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

/// A secret key. It can't be printed or serialized, and its bytes are wiped when it ends.
///
/// Each program makes one at random; children inherit it. Unlike Python's it is no `bytes`.
class MP_EXPORT AuthKey {
public:
    explicit AuthKey(std::string_view key) : AuthKey(key.data(), key.size()) {}

    /// 32 bytes from the kernel's random number generator.
    /// \throws OsError
    static AuthKey generate() {
        std::byte key[32];
        detail::call("getrandom", [&] { return ::getrandom(key, sizeof key, 0); });
        AuthKey made(key, sizeof key);
        ::explicit_bzero(key, sizeof key);
        return made;
    }

    AuthKey(const AuthKey& other) : AuthKey(other.bytes_.get(), other.size_) {}
    AuthKey(AuthKey&& other) noexcept
        : size_(std::exchange(other.size_, 0)), bytes_(std::move(other.bytes_)) {}
    AuthKey& operator=(AuthKey other) noexcept {
        std::swap(size_, other.size_);
        bytes_.swap(other.bytes_);
        return *this;
    }
    ~AuthKey() {
        if (bytes_) ::explicit_bzero(bytes_.get(), size_);
    }

    /// For the code that talks to a peer. Don't log them.
    std::span<const std::byte> bytes() const noexcept { return {bytes_.get(), size_}; }

    /// The time it takes tells only whether the lengths differ.
    friend bool operator==(const AuthKey& a, const AuthKey& b) noexcept {
        if (a.size_ != b.size_) return false;
        volatile unsigned char difference = 0;
        for (std::size_t i = 0; i < a.size_; ++i)
            difference = static_cast<unsigned char>(
                difference | std::to_integer<unsigned char>(a.bytes_[i] ^ b.bytes_[i]));
        return difference == 0;
    }

    template <class Stream>
    friend Stream& operator<<(Stream&, const AuthKey&) = delete;  // a secret
    template <class Archive>
    void serialize(Archive&) = delete;  // a secret

private:
    AuthKey(const void* key, std::size_t size)
        : size_(size), bytes_(std::make_unique<std::byte[]>(size)) {
        if (size != 0) std::memcpy(bytes_.get(), key, size);
    }

    std::size_t size_;
    std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace multiprocessing
