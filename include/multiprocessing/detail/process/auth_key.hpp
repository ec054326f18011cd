// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The secret that processes of one program share.

#include <cerrno>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {
namespace detail {

/// Bytes in pages of their own, which no core dump has, of a forked child neither. Wiped at the
/// end.
class MP_EXPORT secret_bytes {
public:
    /// \throws OsError if there is no memory
    explicit secret_bytes(std::size_t size) : size_(size) {
        void* const pages =
            ::mmap(nullptr, room(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED) throw_os_error(errno, "mmap for a key");
        bytes_ = static_cast<std::byte*>(pages);
        ::madvise(pages, room(), MADV_DONTDUMP);
    }
    secret_bytes(const secret_bytes&) = delete;
    secret_bytes& operator=(const secret_bytes&) = delete;
    ~secret_bytes() {
        ::explicit_bzero(bytes_, size_);
        ::munmap(bytes_, room());
    }
    std::span<std::byte> get() const noexcept { return {bytes_, size_}; }

private:
    std::size_t room() const noexcept { return size_ + 1; }

    std::byte* bytes_;
    std::size_t size_;
};

}  // namespace detail

/// A secret key. It can't be printed or serialized; its bytes are in no core dump, and wiped at the
/// end of its last copy.
///
/// Each program makes one at random; children inherit it. Unlike Python's it is no `bytes`.
class MP_EXPORT AuthKey {
public:
    template <detail::compiled = detail::compiled::when_used>
    explicit AuthKey(std::string_view key) : AuthKey(make(key.size())) {
        key.copy(reinterpret_cast<char*>(key_->get().data()), key.size());
    }

    /// 32 bytes from the kernel's random number generator.
    /// \throws OsError
    template <detail::compiled = detail::compiled::when_used>
    static AuthKey generate() {
        AuthKey made(make(32));
        const auto bytes = made.key_->get();
        detail::call("getrandom", [&] { return ::getrandom(bytes.data(), bytes.size(), 0); });
        return made;
    }

    /// For the code that talks to a peer. Don't log them.
    std::span<const std::byte> bytes() const noexcept {
        return key_ ? key_->get() : std::span<std::byte>();
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
    using shared_bytes = std::shared_ptr<const detail::secret_bytes>;
    explicit AuthKey(shared_bytes key) noexcept : key_(std::move(key)) {}
    template <detail::compiled = detail::compiled::when_used>
    static shared_bytes make(std::size_t size) {
        return std::make_shared<detail::secret_bytes>(size);
    }

    shared_bytes key_;  // copies share it; null: moved from
};

}  // namespace multiprocessing
