// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The buffer that a thread keeps for the messages it writes.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>
#include <utility>

#include <multiprocessing/detail/platform/compiled.hpp>

namespace multiprocessing::detail {

/// Bytes that only grow at the end, and blocks that stay where they are, in the order of the
/// message. Not zeroed, since all of it is written before it is read.
class message_buffer {
public:
    message_buffer() = default;
    message_buffer(const message_buffer&) = delete;
    message_buffer& operator=(const message_buffer&) = delete;
    ~message_buffer() {
        std::free(begin_);
        std::free(pieces_);
    }

    /// Room for n bytes at the end; the caller fills it.
    std::byte* grow(std::size_t n) {
        if (n > static_cast<std::size_t>(limit_ - end_)) [[unlikely]]
            reallocate(n);
        return std::exchange(end_, end_ + n);
    }

    /// Lets a block of somebody else's memory follow. Blocks must outlive pieces()' use.
    template <compiled = compiled::when_used>
    void refer(const void* from, std::size_t n) {
        end_own_piece();
        add_piece({static_cast<const std::byte*>(from), n});
        outside_ += n;
    }

    std::size_t size() const noexcept { return static_cast<std::size_t>(end_ - begin_) + outside_; }

    /// Makes the gather list; nothing may be added after.
    template <compiled When = compiled::when_used>
    std::span<const std::span<const later<When, std::byte>>> gather() {
        end_own_piece();
        const std::byte* own = begin_;
        for (std::size_t i = 0; i < count_; ++i)
            if (auto& piece = pieces_[i]; piece.data() == nullptr) {
                piece = {own, piece.size()};
                own += piece.size();
            }
        return {pieces_, count_};
    }

    /// Empties it, keeps the memory.
    /// \return false if it is not worth keeping: very large, or larger than the last 64 messages
    ///         had use for
    bool reset() noexcept {
        const std::size_t used = static_cast<std::size_t>(end_ - begin_);
        const std::size_t has = static_cast<std::size_t>(limit_ - begin_);
        end_ = begin_;
        outside_ = in_pieces_ = 0;
        count_ = 0;
        if (has <= small) return true;
        unneeded_ = used <= small ? unneeded_ + 1 : 0;
        return has <= large && unneeded_ < 64;
    }

private:
    static constexpr std::size_t small = std::size_t{1} << 20, large = std::size_t{16} << 20;

    /// Our bytes since the last block become a piece, without an address while they may move.
    template <compiled = compiled::when_used>
    void end_own_piece() {
        const std::size_t own = static_cast<std::size_t>(end_ - begin_) - in_pieces_;
        if (own != 0) add_piece({static_cast<const std::byte*>(nullptr), own});
        in_pieces_ += own;
    }

    template <compiled = compiled::when_used>
    void add_piece(std::span<const std::byte> piece) {
        if (count_ == most_) {
            const std::size_t most = 2 * most_ + 2;
            void* const memory = std::realloc(static_cast<void*>(pieces_), most * sizeof piece);
            if (memory == nullptr) throw std::bad_alloc();
            pieces_ = static_cast<std::span<const std::byte>*>(memory);
            most_ = most;
        }
        ::new (static_cast<void*>(pieces_ + count_)) std::span<const std::byte>(piece);
        ++count_;
    }

    [[gnu::noinline]] void reallocate(std::size_t n) {
        const auto used = static_cast<std::size_t>(end_ - begin_);
        const auto had = static_cast<std::size_t>(limit_ - begin_);
        if (n > SIZE_MAX / 4 - had) throw std::bad_alloc();
        const std::size_t size = used + n <= 512 ? 512 : (used + n) + (used + n) / 2;
        auto* memory = static_cast<std::byte*>(std::realloc(begin_, size));
        if (memory == nullptr) throw std::bad_alloc();
        begin_ = memory;
        end_ = memory + used;
        limit_ = memory + size;
    }

    std::byte *begin_ = nullptr, *end_ = nullptr, *limit_ = nullptr;
    std::size_t outside_ = 0;    // bytes of others in pieces_
    std::size_t in_pieces_ = 0;  // of ours
    std::uint32_t unneeded_ = 0;
    std::span<const std::byte>* pieces_ = nullptr;  // by realloc
    std::size_t count_ = 0, most_ = 0;
};

/// The buffer that this thread keeps between messages; null while a message is being written,
/// so that a serialize function that sends a message of its own gets another one.
struct kept_buffer {
    // Trivial, so that reading it costs no call, and so that it may be used by the thread_local
    // destructors of others that run after the keeper's.
    static inline thread_local constinit message_buffer* buffer = nullptr;
    static inline thread_local constinit bool ended = false;

    static message_buffer* borrow() {
        if (message_buffer* kept = std::exchange(buffer, nullptr)) return kept;
        if (!ended) keeper();
        return new message_buffer;
    }
    static void give_back(message_buffer* used) noexcept {
        if (used == nullptr) return;
        if (!ended && buffer == nullptr && used->reset())
            buffer = used;
        else
            delete used;
    }

private:
    struct frees_at_exit {
        ~frees_at_exit() {
            ended = true;
            delete std::exchange(buffer, nullptr);
        }
    };
    static void keeper() {
        static thread_local frees_at_exit at_exit;
        static_cast<void>(at_exit);
    }
};

}  // namespace multiprocessing::detail
