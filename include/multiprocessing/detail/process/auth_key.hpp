// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The secret that processes of one program share.

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>

#include <string.h>
#include <sys/random.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

/// A secret key. It can't be printed or serialized, and its bytes are wiped when its last
/// copy ends.
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

    /// For the code that talks to a peer. Don't log them.
    std::span<const std::byte> bytes() const noexcept {
        return key_ ? key_->bytes() : std::span<const std::byte>();
    }

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
    /// The bytes, wiped when the last copy of the key ends.
    class secret {
    public:
        secret(const void* key, std::size_t size)
            : size_(size), bytes_(std::make_unique<std::byte[]>(size)) {
            if (size != 0) std::memcpy(bytes_.get(), key, size);
        }
        secret(const secret&) = delete;
        secret& operator=(const secret&) = delete;
        ~secret() { ::explicit_bzero(bytes_.get(), size_); }

        std::span<const std::byte> bytes() const noexcept { return {bytes_.get(), size_}; }

    private:
        std::size_t size_;
        std::unique_ptr<std::byte[]> bytes_;
    };

    AuthKey(const void* key, std::size_t size) : key_(std::make_shared<secret>(key, size)) {}

    std::shared_ptr<const secret> key_;  // null: moved from
};

}  // namespace multiprocessing
