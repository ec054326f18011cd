// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Memory for a message that is copied out of shared memory before it is decoded.

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/kept_by_thread.hpp>

namespace multiprocessing::detail {

/// Borrows the thread's buffer; one nested in another (a user's load() that gets from a queue)
/// finds none and has its own. Kept from message to message while it is not large: fresh pages
/// cost more than the copy. One in a destructor of a static or thread_local object, when the
/// thread's buffer may be gone, has its own, too.
template <compiled When = compiled::when_used>
class receive_buffer {
public:
    receive_buffer() noexcept {
        if (block* const kept = kept_by_thread<block>()) std::swap(*kept, memory_);
    }
    receive_buffer(const receive_buffer&) = delete;
    receive_buffer& operator=(const receive_buffer&) = delete;
    ~receive_buffer() {
        if (memory_.capacity > most_kept) return;
        if (block* const kept = kept_by_thread<block>()) std::swap(*kept, memory_);
    }

    /// `size` bytes of anything.
    std::span<std::byte> resize(std::size_t size) {
        if (size > memory_.capacity) {
            memory_ = {};
            memory_ = {std::make_unique_for_overwrite<later<When, std::byte>[]>(size), size};
        }
        return {memory_.bytes.get(), size};
    }

private:
    static constexpr std::size_t most_kept = std::size_t{16} << 20;

    struct block {
        std::unique_ptr<later<When, std::byte>[]> bytes;
        std::size_t capacity = 0;
    };

    block memory_;
};

}  // namespace multiprocessing::detail
