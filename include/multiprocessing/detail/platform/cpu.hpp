// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What differs between processors.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <time.h>

namespace multiprocessing::detail {

/// Words written by different sides lie this far apart: two lines, since the prefetcher of x86
/// fetches pairs.
inline constexpr std::size_t line_pair = 128;

/// Where a pointer to a virtual member function says that it is one: in the lowest bit of its first
/// word, else of its second (Itanium C++ ABI 2.3, and the C++ ABI for Arm).
#if defined(__aarch64__) || defined(__arm__)
inline constexpr bool member_tag_in_pointer = false;
#else
inline constexpr bool member_tag_in_pointer = true;
#endif

/// Tells the processor that this thread spins: some 25 ns on x86.
inline void cpu_relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" ::: "memory");
#else
    asm volatile("" ::: "memory");
#endif
}

/// Time in a unit of the processor's own, some 0.2 to 1 ns: some 7 ns cheaper than a clock, and not
/// to be compared between processors to much less than a microsecond.
inline std::uint64_t ticks() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_ia32_rdtsc();
#else
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
#endif
}

/// Lets the line at `p` come into this core, to be read soon. Never faults.
inline void prefetch_to_read(const std::byte* p) noexcept { __builtin_prefetch(p); }

/// The same, to be written soon.
inline void prefetch_to_write(const std::byte* p) noexcept {
#if defined(__x86_64__)
    asm volatile("prefetchw %0" : : "m"(*p));  // GCC makes it of the builtin only with -mprfchw
#else
    __builtin_prefetch(p, 1);
#endif
}

inline constexpr std::size_t most_at_once = std::size_t{256} << 10;

/// copy_message() of more than that, or of nothing.
///
/// One of 6 MiB or more goes past the caches: with its source, a second message in the queue and
/// the receiver's copy it fills those anyway, and a line that is stored there is read from memory
/// first. (16 MiB through a queue: 11 instead of 7 GB/s; 4 MiB: 17 instead of 25. AMD Zen 4, 32 MiB
/// of cache.)
///
/// Others go in pieces, since one memcpy of a megabyte writes past the caches: the lines that a
/// getter has read last then take 140 us a megabyte instead of 20 (AMD Zen 5, rep movsb).
[[gnu::noinline]] inline void copy_large(std::byte* to, const std::byte* from,
                                         std::size_t n) noexcept {
#if defined(__x86_64__)
    if (n >= std::size_t{6} << 20) {
        using block = long long __attribute__((vector_size(16)));
        const std::size_t before = (0 - reinterpret_cast<std::uintptr_t>(to)) % sizeof(block);
        std::memcpy(to, from, before);
        to += before, from += before, n -= before;
        for (; n >= 4 * sizeof(block); n -= 4 * sizeof(block))
            for (int i = 0; i < 4; ++i, to += sizeof(block), from += sizeof(block)) {
                block value;
                std::memcpy(&value, from, sizeof value);
                asm volatile("movntdq %1, %0" : "=m"(*reinterpret_cast<block*>(to)) : "x"(value));
            }
        asm volatile("sfence" ::: "memory");  // before any store that says that they are there
    }
#endif
    for (std::size_t piece; n != 0; to += piece, from += piece, n -= piece) {
        piece = n < most_at_once ? n : most_at_once;
        std::memcpy(to, from, piece);
    }
}

/// memcpy for messages.
[[gnu::always_inline]] inline void copy_message(std::byte* to, const std::byte* from,
                                                std::size_t n) noexcept {
    if (n != 0 && n <= most_at_once) [[likely]]
        std::memcpy(to, from, n);
    else
        copy_large(to, from, n);
}

}  // namespace multiprocessing::detail
