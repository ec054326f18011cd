// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The first 64 bytes of every region.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace multiprocessing::detail {

/// What a region holds.
enum class region_kind : std::uint16_t {
    message_ring = 1,
    pool_board = 2,
    synchronization = 3,
    shared_data = 4,
    connection = 5,
};

using region_id = std::array<std::uint64_t, 2>;

/// Layout (64 bytes)
///      0 magic           "mpregion"
///      8 version         of all shared layouts of this library
///     12 word_size       bytes of a pointer: 32-bit programs have other locks
///     14 kind            what lies behind the header
///     16 size            bytes of the whole region
///     24 id              128 random bits: which region this is, whatever descriptor led here
///     40 pid_namespace   inode; robust locks lie between namespaces. 0: its maker had no /proc
///     48 type            fingerprint of the type that the region carries
///     56 lent            handles of it that were put into messages
///     60 opened          handles of it that were received
/// Writers  all but the last two: the maker, before anybody else sees the region. lent, opened:
///          anyone, by atomic addition.
/// K1  killed between lending and the delivery of the handle, or a message lost with its receiver:
///     lent stays ahead of opened, and a lender that lets go of the region keeps its file until it
///     ends or has lent many others (region_table). Nothing else.
struct region_header {
    static constexpr std::uint64_t right_magic = 0x6e6f69676572706d;
    static constexpr std::uint32_t right_version = 3;

    std::uint64_t magic;
    std::uint32_t version;
    std::uint16_t word_size;
    region_kind kind;
    std::uint64_t size;
    region_id id;
    std::uint64_t pid_namespace;
    std::uint64_t type;
    std::atomic<std::uint32_t> lent;
    std::atomic<std::uint32_t> opened;
};
static_assert(sizeof(region_header) == 64 && std::is_standard_layout_v<region_header>);
static_assert(offsetof(region_header, lent) == 56 && offsetof(region_header, id) == 24);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

}  // namespace multiprocessing::detail
