// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The line: the doorbell of a ring that one process gets from and one puts into.

#include <atomic>
#include <cstdint>

#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>

namespace multiprocessing::detail {

/// This process's side of a line: a pipe that both sides have open, and one shared word, armed when
/// the next put is to write a byte. All but the fields is used under the ring's put lock.
///
/// I1  armed: the ring is empty, and no byte is in the pipe but those that K2 left.
/// I2  a putter writes the byte, then clears the word, then commits.
/// K1  killed before the byte: armed, nothing put.
/// K2  killed behind it: a needless byte, which the getter's next look at the empty ring removes.
/// So a getter may sleep in poll() once it armed; and it pays for a put that wakes it, but neither
/// side pays for one that finds it awake.
class ring_line {
public:
    void ring(std::atomic<std::uint32_t>& word) noexcept {
        write_byte();
        word.store(0, std::memory_order_release);  // I2; the lock orders it for the others
    }
    /// Whatever the word says.
    void write_byte() noexcept {
        const int fd = out.load(std::memory_order_relaxed);
        if (fd >= 0) retry([&] { return ::write(fd, "", 1); });  // a full pipe is readable, too
    }
    /// The ring is empty.
    void arm(std::atomic<std::uint32_t>& word) noexcept {
        char bytes[64];
        const int fd = in.load(std::memory_order_relaxed);
        ssize_t size = sizeof bytes;
        // A bound, since who has the pipe may write garbage for ever; the pipe doesn't block.
        for (int i = 0; i < 1024 && fd >= 0 && size == sizeof bytes; ++i)
            size = retry([&] { return ::read(fd, bytes, sizeof bytes); });
        word.store(1, std::memory_order_release);  // as above
    }

    // Relaxed: the threads of a process that use a connection order them by themselves.
    std::atomic<int> out{-1};         // where this process rings, when it puts
    std::atomic<int> in{-1};          // what it polls, when it gets
    std::atomic<bool> polled{false};  // by the user, all the time: arm whenever it is empty
};

}  // namespace multiprocessing::detail
