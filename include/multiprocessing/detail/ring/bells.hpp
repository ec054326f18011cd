// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Doorbells: what makes a ring's fileno() readable.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/ring/layout.hpp>

namespace multiprocessing::detail {

/// This process's side of a ring's bells. All of it is used under the ring's put lock alone, which
/// guards the shared entries and, between the threads of a process, this object.
///
/// A process that polls has a pipe of its own in a table of the ring, so the bell lives exactly as
/// long as somebody polls it. A putter rings each bell that is not rung and only then commits; the
/// getter that finds the ring empty drains them. Each other process opens a bell's pipe once, for
/// reading and writing, and checks the inode: pids and descriptors are used again.
///
/// State of an entry: quiet -> unsure -> rung (by a putter), rung | unsure -> unsure -> quiet (when
/// drained). `unsure` says that a byte may be in the pipe or not:
/// K1  killed at `unsure`: the next putter rings, the next that finds the ring empty drains.
/// K2  killed while arming: the id is written last, so the entry is free.
/// K3  the poller dies: its pipe is gone, or rings for nobody; the entry is freed by whoever finds
///     that out, at the latest when the table is full.
class doorbells {
public:
    /// Arms this process's bell. \return its descriptor, readable while the ring is not empty
    /// \throws Error if too many processes poll this ring
    int arm(ring_shared& shared, bool empty) {
        if (armed() && find(shared, own_) != nullptr) return own_fd_.get();
        if (::access("/proc/self/fd", X_OK) != 0)
            throw_os_error(errno, "fileno of a queue needs /proc, where others find its pipe");
        ring_bell& entry = free_entry(shared);
        const auto pipe = make_pipe(O_NONBLOCK);
        struct stat info;
        call("fstat of a pipe", [&] { return ::fstat(pipe.first.get(), &info); });
        entry.inode = info.st_ino;
        entry.pid = this_pid();
        entry.fd = pipe.first.get();
        entry.rung.store(quiet, std::memory_order_release);
        // For reading and writing, as everybody else has it: without a reader there is SIGPIPE,
        // without a writer poll() returns for a hang-up.
        own_fd_ = open_path(entry);
        if (!own_fd_) throw Error("fileno: /proc of this process shows another process");
        entry.fd = own_fd_.get();
        own_ = ++shared.last_bell;
        own_pid_ = this_pid();
        const auto index = static_cast<std::uint32_t>(&entry - shared.bells);
        if (shared.bells_in_use.load(std::memory_order_relaxed) <= index)  // under the lock
            shared.bells_in_use.store(index + 1, std::memory_order_release);
        entry.id.store(own_, std::memory_order_release);  // K2
        if (!empty) ring(shared);
        return own_fd_.get();
    }

    /// Before a commit.
    void ring(ring_shared& shared) {
        for_each(shared, [&](ring_bell& entry, std::uint64_t id) {
            if (entry.rung.load(std::memory_order_relaxed) == rung) return;
            const int fd = open(shared, entry, id);
            if (fd < 0) return;
            entry.rung.store(unsure, std::memory_order_release);  // K1
            retry([&] { return ::write(fd, "", 1); });            // a full pipe is readable as well
            entry.rung.store(rung, std::memory_order_release);
        });
    }

    /// When the ring is empty.
    void hush(ring_shared& shared) {
        for_each(shared, [&](ring_bell& entry, std::uint64_t id) {
            if (entry.rung.load(std::memory_order_relaxed) == quiet) return;
            const int fd = open(shared, entry, id);
            if (fd < 0) return;
            entry.rung.store(unsure, std::memory_order_release);  // K1
            char bytes[64];
            while (retry([&] { return ::read(fd, bytes, sizeof bytes); }) > 0) {
            }
            entry.rung.store(quiet, std::memory_order_release);
        });
    }

    /// This process polls no more.
    void disarm(ring_shared& shared) noexcept {
        if (!armed()) return;
        if (ring_bell* entry = find(shared, own_)) entry->id.store(0, std::memory_order_release);
        own_ = 0;
    }

private:
    enum bell_state : std::uint32_t { quiet = 0, rung = 1, unsure = 2 };
    struct open_bell {
        std::uint64_t id;
        unique_fd fd;
    };

    bool armed() const { return own_ != 0 && own_pid_ == this_pid(); }

    template <class F>
    static void for_each(ring_shared& shared, F f) {
        const std::size_t in_use = std::min<std::size_t>(
            shared.bells_in_use.load(std::memory_order_relaxed), ring_shared::most_bells);
        for (std::size_t i = 0; i < in_use; ++i)
            if (const auto id = shared.bells[i].id.load(std::memory_order_relaxed); id != 0)
                f(shared.bells[i], id);
    }

    static ring_bell* find(ring_shared& shared, std::uint64_t id) {
        ring_bell* found = nullptr;
        for_each(shared, [&](ring_bell& entry, std::uint64_t its) {
            if (its == id) found = &entry;
        });
        return found;
    }

    ring_bell& free_entry(ring_shared& shared) {
        for (int round = 0; round < 2; ++round) {
            for (ring_bell& entry : shared.bells)
                if (entry.id.load(std::memory_order_relaxed) == 0) return entry;
            for (ring_bell& entry : shared.bells) {  // K3
                unique_fd gone_or_not(open_path(entry));
                if (!gone_or_not) entry.id.store(0, std::memory_order_release);
            }
        }
        throw Error("fileno: " + std::to_string(ring_shared::most_bells) +
                    " processes poll this queue already; let one of them poll for the others");
    }

    /// The bell's descriptor here; -1 if its process or its pipe is gone, and the entry freed.
    int open(ring_shared& shared, ring_bell& entry, std::uint64_t id) {
        if (id == own_) return own_fd_.get();  // or our parent's, in a child that has none
        for (const open_bell& bell : open_)
            if (bell.id == id) return bell.fd.get();
        unique_fd fd(open_path(entry));
        if (!fd) {
            entry.id.store(0, std::memory_order_release);
            return -1;
        }
        std::erase_if(open_, [&](const open_bell& old) { return find(shared, old.id) == nullptr; });
        open_.push_back({id, std::move(fd)});
        return open_.back().fd.get();
    }

    static unique_fd open_path(const ring_bell& entry) {
        const std::string path =
            "/proc/" + std::to_string(entry.pid) + "/fd/" + std::to_string(entry.fd);
        unique_fd fd(retry(
            [&] { return ::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY); }));
        if (!fd && errno != ENOENT && errno != ESRCH && errno != ENXIO && errno != ENOTDIR)
            throw_os_error(errno, "opening " + path + ", where a process polls this queue");
        struct stat info;
        if (fd && (::fstat(fd.get(), &info) != 0 || !S_ISFIFO(info.st_mode) ||
                   info.st_ino != entry.inode))
            fd.reset();
        return fd;
    }

    std::vector<open_bell> open_;  // of other processes
    std::uint64_t own_ = 0;
    pid_t own_pid_ = 0;
    unique_fd own_fd_;
};

}  // namespace multiprocessing::detail
