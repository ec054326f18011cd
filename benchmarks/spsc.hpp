// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The limit: a ring of bytes between one putter and one getter, without any lock. It does what two
/// cores can do with shared memory and no more: a process killed in it may hang the other.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "support.hpp"

namespace bench {

class spsc_ring {
public:
    void put(std::span<const std::byte> message) {
        const std::uint64_t length = message.size();
        const std::size_t whole = padded(message.size());
        if (whole <= largest_piece) {
            room(whole);
            write(&length, sizeof length);
            write(message.data(), message.size());
            mine_ = (mine_ + 7) / 8 * 8;
            publish(s_.tail, s_.getter_sleeps);
            return;
        }
        room(sizeof length);
        write(&length, sizeof length);
        publish(s_.tail, s_.getter_sleeps);
        for (std::size_t done = 0; done < message.size();) {
            const std::size_t piece = std::min(largest_piece, message.size() - done);
            room(padded(piece));
            write(message.data() + done, piece);
            done += piece;
            mine_ = (mine_ + 7) / 8 * 8;
            publish(s_.tail, s_.getter_sleeps);
        }
    }

    std::size_t get(std::span<std::byte> into) {
        std::uint64_t length;
        await(sizeof length);
        read(&length, sizeof length);
        if (padded(length) <= largest_piece) {
            read(into.data(), length);
            mine_ = (mine_ + 7) / 8 * 8;
            publish(s_.head, s_.putter_sleeps);
            return length;
        }
        for (std::size_t done = 0; done < length;) {
            const std::size_t piece = std::min(largest_piece, length - done);
            await(piece);
            read(into.data() + done, piece);
            done += piece;
            mine_ = (mine_ + 7) / 8 * 8;
            publish(s_.head, s_.putter_sleeps);
        }
        return length;
    }

private:
    static constexpr std::uint64_t capacity = 4 << 20;
    static constexpr std::size_t largest_piece = 64 << 10;

    struct shared_part {
        alignas(128) std::atomic<std::uint64_t> tail;
        alignas(128) std::atomic<std::uint64_t> head;
        alignas(128) std::atomic<std::uint32_t> getter_sleeps;
        alignas(128) std::atomic<std::uint32_t> putter_sleeps;
        alignas(128) std::byte data[capacity];
    };

    static std::size_t padded(std::size_t length) { return (8 + length + 7) / 8 * 8; }

    void write(const void* from, std::size_t n) {
        const std::size_t at = mine_ % capacity, first = std::min<std::size_t>(n, capacity - at);
        std::memcpy(s_.data + at, from, first);
        if (first < n) std::memcpy(s_.data, static_cast<const char*>(from) + first, n - first);
        mine_ += n;
    }
    void read(void* to, std::size_t n) {
        const std::size_t at = mine_ % capacity, first = std::min<std::size_t>(n, capacity - at);
        std::memcpy(to, s_.data + at, first);
        if (first < n) std::memcpy(static_cast<char*>(to) + first, s_.data, n - first);
        mine_ += n;
    }

    void room(std::size_t n) {
        const auto enough = [&] { return capacity - (mine_ - other_) >= n; };
        if (!enough()) look(s_.head, s_.putter_sleeps, enough);
    }
    void await(std::size_t n) {
        const auto enough = [&] { return other_ >= mine_ + n; };
        if (!enough()) look(s_.tail, s_.getter_sleeps, enough);
    }

    template <class Enough>
    void look(std::atomic<std::uint64_t>& at, std::atomic<std::uint32_t>& sleeps, Enough enough) {
        const auto found = [&] { return other_ = at.load(std::memory_order_acquire), enough(); };
        if (found()) return;
        for (;;) {
            for (const std::int64_t end = now() + spin_; now() < end;) {
                for (int i = 0; i < 4; ++i) {
                    if (found()) {
                        spin_ = most_spin;
                        return;
                    }
                    __builtin_ia32_pause();
                }
            }
            spin_ = spin_ / 2 < 1000 ? (++misses_ % 32 == 0 ? most_spin : 0) : spin_ / 2;
            ::sched_yield();
            if (found()) return;
            sleeps.store(1, std::memory_order_relaxed);
            std::atomic_thread_fence(std::memory_order_seq_cst);
            if (!found()) ::syscall(SYS_futex, &sleeps, FUTEX_WAIT, 1, nullptr, nullptr, 0);
            sleeps.store(0, std::memory_order_relaxed);
            if (found()) return;
        }
    }

    void publish(std::atomic<std::uint64_t>& at, std::atomic<std::uint32_t>& sleeps) {
        at.store(mine_, std::memory_order_release);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (sleeps.load(std::memory_order_relaxed) != 0 && sleeps.exchange(0) != 0)
            ::syscall(SYS_futex, &sleeps, FUTEX_WAKE, 1, nullptr, nullptr, 0);
    }

    static constexpr std::int64_t most_spin = 20'000;

    shared_part& s_ = shared<shared_part>();
    std::uint64_t mine_ = 0, other_ = 0;  // this process's side: head or tail, the other's as known
    std::int64_t spin_ = most_spin;
    unsigned misses_ = 0;
};

}  // namespace bench
