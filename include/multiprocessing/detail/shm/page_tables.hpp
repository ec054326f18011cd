// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Spares page faults.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <sys/mman.h>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/fork.hpp>

namespace multiprocessing::detail {

/// Which segments of a mapping this process has page table entries for.
///
/// Each process faults once for each page that it touches, also where the file has memory already,
/// and after a fork anew: 2 us a page, 18 us in a nested virtual machine. Asked for a segment at a
/// time an entry costs 0.2 us. A hint: where it is wrong (another process has punched a segment, or
/// the kernel is older than 5.14), the page faults come as they would.
template <compiled When = compiled::when_used>
class page_tables {
public:
    /// For a mapping of so many segments; knows nothing of them.
    void reset(std::uint64_t segments) {
        have_ = std::vector<std::atomic<later<When, std::uint64_t>>>((segments + 63) / 64);
    }

    /// Before segments first .. first + k - 1, which have memory, are used.
    void prepare(std::byte* segments, std::uint64_t segment_size, std::uint64_t first,
                 std::uint64_t k) noexcept {
        const std::uint64_t now =
            process_identity::get().generation.load(std::memory_order_relaxed);
        // All relaxed: threads that race ask the kernel for the same twice.
        if (process_.load(std::memory_order_relaxed) != now) {  // entries don't cross a fork
            for (auto& word : have_) word.store(0, std::memory_order_relaxed);
            process_.store(now, std::memory_order_relaxed);
        }
        while (k != 0 && has(first)) ++first, --k;
        if (k == 0) return;
        ::madvise(segments + first * segment_size, k * segment_size, populate_read);
        for (; k != 0; ++first, --k)
            have_[first / 64].fetch_or(bit(first), std::memory_order_relaxed);
    }

    /// The segment has lost its memory.
    void forget(std::uint64_t segment) noexcept {
        have_[segment / 64].fetch_and(~bit(segment), std::memory_order_relaxed);
    }

private:
    // The kernel's MADV_POPULATE_READ, which older libcs don't name. In memory files it is enough
    // for writing too, and unlike MADV_POPULATE_WRITE it makes the entries of 16 pages at a time.
    static constexpr int populate_read = 22;

    static constexpr std::uint64_t bit(std::uint64_t segment) noexcept {
        return std::uint64_t{1} << segment % 64;
    }
    bool has(std::uint64_t segment) const noexcept {
        return (have_[segment / 64].load(std::memory_order_relaxed) & bit(segment)) != 0;
    }

    std::vector<std::atomic<later<When, std::uint64_t>>> have_;
    std::atomic<std::uint64_t> process_{0};
};

}  // namespace multiprocessing::detail
