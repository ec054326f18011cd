// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What differs between processors.

#include <cstddef>
#include <cstdint>

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

}  // namespace multiprocessing::detail
