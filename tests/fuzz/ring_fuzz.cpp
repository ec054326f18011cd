// SPDX-License-Identifier: BSL-1.0

/// \file
/// Somebody wrote into the shared memory of a ring: its users get exceptions, never a crash, bytes
/// from elsewhere or an endless loop. Locks and the words that waiters sleep on are left out: the
/// first belong to glibc and the kernel, the second only end sleeps.
///
/// Input: operations of one byte, each with what it needs. The ring is made anew for each input.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <multiprocessing/detail/ring/ring.hpp>

namespace {

using namespace multiprocessing;
using namespace multiprocessing::detail;

constexpr std::uint64_t segments = 8;
using ring = basic_ring<4096>;

struct input {
    std::span<const std::uint8_t> left;

    template <class T>
    T take() {
        T value{};
        const std::size_t size = std::min(sizeof value, left.size());
        std::memcpy(&value, left.data(), size);
        left = left.subspan(size);
        return value;
    }
};

std::uint64_t sum_of_bytes;  // what was read counts, so that it is read

void put(ring& r, std::size_t size) {
    static const std::array<std::byte, 20'000> text{};
    const std::array parts{std::span(text).first(size % text.size())};
    r.put(parts, 7, deadline::at_once());
}
void get(ring& r, deadline until) {
    r.get(until, [](std::uint64_t, std::span<const std::byte> bytes) {
        for (const std::byte b : bytes) sum_of_bytes += static_cast<std::uint64_t>(b);
    });
}

void damage(ring& r, input& in) {
    ring_shared& shared = r.shared();
    const auto what = in.take<std::uint8_t>();
    const auto index = in.take<std::uint8_t>();
    // Small numbers, and those next to a power of two, are the likely ones.
    std::uint64_t value = in.take<std::uint64_t>();
    if (what & 0x80) value &= 0xff;
    if (what & 0x40) value = (value & 7) * 4096 + (value >> 8 & 0x1ff) * 8;
    switch (what % 16) {
        case 0:
            const_cast<std::uint32_t*>(r.map())[index % segments] =
                static_cast<std::uint32_t>(value);
            break;
        case 1:
            r.laid()[index % segments] = value;
            break;
        case 2:
            shared.put.committed.slot[index & 1].bytes = value;
            break;
        case 3:
            shared.put.committed.slot[index & 1].count = value;
            break;
        case 4:
            shared.get.committed.slot[index & 1].bytes = value;
            break;
        case 5:
            shared.get.committed.slot[index & 1].count = value;
            break;
        case 6:
            shared.put.seen.bytes = value;
            break;
        case 7:
            shared.get.seen.bytes = value;
            break;
        case 8:
            shared.top = static_cast<std::uint32_t>(value);
            break;
        case 9:
            shared.limit = static_cast<std::uint32_t>(value);
            break;
        case 10:
            shared.maxsize = value;
            break;
        case 11:
            shared.window = value;
            break;
        case 12:
            shared.bells_in_use = static_cast<std::uint32_t>(value);
            break;
        case 13:
            shared.bells[index % ring_shared::most_bells].id = value;
            break;
        case 14:
            shared.done.slot[index & 1].count = value;
            break;
        case 15: {  // a message's header, or any other place
            const std::uint64_t at = index % segments * 4096 + (value >> 48) % 512 * 8;
            std::memcpy(r.memory().data() + r.data_begin() + at, &value, sizeof value);
            break;
        }
    }
}

template <class F>
void expect_errors(F f) {
    try {
        f();
    } catch (const Error&) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    input in{{data, std::min<std::size_t>(size, 600)}};
    const auto made = ring::create("mp:fuzz", {}, 0, segments);
    ring& r = *made;
    r.patience = std::chrono::microseconds(50);
    while (!in.left.empty()) {
        expect_errors([&] {
            switch (in.take<std::uint8_t>() % 8) {
                case 0:
                    put(r, in.take<std::uint8_t>());
                    break;
                case 1:
                    put(r, in.take<std::uint16_t>());
                    break;
                case 2:
                case 3:
                    get(r, deadline::at_once());
                    break;
                case 4:
                    r.task_done(), (void)r.full(), (void)r.qsize();
                    break;
                case 5:
                    get(r, deadline::after(std::chrono::microseconds(100)));
                    break;
                case 6:
                    r.shared().segments = in.take<std::uint64_t>();
                    // As a process that receives it sees it.
                    ring(region::open({r.memory().header().id, r.memory().size(), ::getpid(),
                                       r.memory().file().fd()},
                                      region_kind::message_ring, "a ring"));
                    break;
                case 7:
                    damage(r, in);
                    break;
            }
        });
    }
    return 0;
}
