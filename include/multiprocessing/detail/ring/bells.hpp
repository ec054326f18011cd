// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Doorbells: what makes a ring's fileno() readable.

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/ring/layout.hpp>

namespace multiprocessing::detail {

/// This process's side of a ring's bells. All of it is used under the ring's put lock alone, which
/// guards the shared entries and, between the threads of a process, this object. A fork may copy it
/// half changed: `id` is what counts, and is written last.
///
/// A process that polls has a pipe of its own in a table of the ring, so the bell lives exactly as
/// long as somebody polls it. A putter rings each bell that is not rung and only then commits; the
/// getter that finds the ring empty drains them. Each other process opens a bell's pipe once, and
/// checks the inode: pids and descriptors are used again. Everybody, the owner included, has it
/// open for reading and writing: without a reader there is SIGPIPE, without a writer poll()
/// returns for a hang-up.
///
/// State of an entry: quiet -> unsure -> rung (by a putter), rung | unsure -> unsure -> quiet (when
/// drained). `unsure` says that a byte may be in the pipe or not:
/// K1  killed at `unsure`: the next putter rings, the next that finds the ring empty drains.
/// K2  killed while arming: the id is written last, so the entry is free.
/// K3  the poller dies: whoever can't open its pipe frees the entry; one who has it open looks
/// again
///     every 64th time, since a pipe that nobody else has takes bytes for ever.
class doorbells {
public:
    /// Arms this process's bell. \return its descriptor, readable while the ring is not empty
    /// \throws Error if too many processes poll this ring, or others could not open the pipe
    int arm(ring_shared& shared, bool empty) {
        if (armed() && shared.bells[own_index_].id.load(std::memory_order_relaxed) == own_)
            return open_[own_index_].fd.get();
        if (::access("/proc/self/fd", X_OK) != 0)
            throw_os_error(errno, "fileno of a queue needs /proc, where others find its pipe");
        if (::prctl(PR_GET_DUMPABLE) != 1)
            throw Error(
                "fileno: this process is not dumpable (it changed its user, or asked for it), so "
                "others can't open its pipe; prctl(PR_SET_DUMPABLE, 1), or wait in get()");
        own_ = 0;
        const std::size_t index = free_entry(shared);
        ring_bell& entry = shared.bells[index];
        const auto pipe = make_pipe(O_NONBLOCK);
        struct stat info;
        call("fstat of a pipe", [&] { return ::fstat(pipe.reader.get(), &info); });
        entry.inode = info.st_ino;
        entry.pid = this_pid();
        entry.started = start_time(entry.pid);
        entry.fd = pipe.reader.get();
        unique_fd both = open_path(entry);
        if (!both) throw Error("fileno: /proc of this process shows another process");
        entry.fd = both.get();
        if (!empty) call("write into a pipe", [&] { return ::write(both.get(), "", 1); });
        entry.rung.store(empty ? quiet : rung, std::memory_order_release);
        const std::uint64_t id = ++shared.last_bell;
        remember(index, id, std::move(both));
        own_index_ = index;
        own_pid_ = this_pid();
        own_ = id;
        ever_armed_.store(true, std::memory_order_relaxed);  // for this process's close()
        if (shared.bells_in_use.load(std::memory_order_relaxed) <= index)  // under the lock
            shared.bells_in_use.store(static_cast<std::uint32_t>(index) + 1,
                                      std::memory_order_release);
        entry.id.store(id, std::memory_order_release);  // K2
        return open_[index].fd.get();
    }

    /// Before a commit.
    /// \throws OsError if a bell can't be opened though its process lives: nothing is put then, for
    ///     that process would not hear of it
    void ring(ring_shared& shared) {
        for_each(shared, [&](std::size_t index, ring_bell& entry, std::uint64_t id) {
            if (entry.rung.load(std::memory_order_relaxed) == rung) return;
            if (id != own_ && ++changes_ % 64 == 0) remember(index, 0, {});  // K3
            const int fd = open(index, entry, id);
            if (fd < 0) return;
            entry.rung.store(unsure, std::memory_order_release);  // K1
            if (retry([&] { return ::write(fd, "", 1); }) == 1 || errno == EAGAIN)
                entry.rung.store(rung, std::memory_order_release);  // a full pipe is readable, too
        });
    }

    /// When the ring is empty. A bell that can't be opened keeps its byte: one look too many for
    /// its process, which drains it.
    void hush(ring_shared& shared) noexcept {
        for_each(shared, [&](std::size_t index, ring_bell& entry, std::uint64_t id) {
            if (entry.rung.load(std::memory_order_relaxed) == quiet) return;
            try {
                const int fd = open(index, entry, id);
                if (fd < 0) return;
                entry.rung.store(unsure, std::memory_order_release);  // K1
                char bytes[64];
                while (retry([&] { return ::read(fd, bytes, sizeof bytes); }) > 0) {
                }
                entry.rung.store(quiet, std::memory_order_release);
            } catch (...) {  // as said
            }
        });
    }

    /// This process polls no more; one that polls now finds its descriptor readable for good.
    void disarm(ring_shared& shared) noexcept {
        if (!armed()) return;
        ring_bell& entry = shared.bells[own_index_];
        if (entry.id.load(std::memory_order_relaxed) == own_)
            entry.id.store(0, std::memory_order_release);
        retry([&] { return ::write(open_[own_index_].fd.get(), "", 1); });
        own_ = 0;
    }

    /// A hint that needs no lock.
    bool ever_armed() const noexcept { return ever_armed_.load(std::memory_order_relaxed); }

private:
    enum bell_state : std::uint32_t { quiet = 0, rung = 1, unsure = 2 };
    struct open_bell {
        std::uint64_t id = 0;  // 0: none
        unique_fd fd;
    };

    bool armed() const { return own_ != 0 && own_pid_ == this_pid(); }

    template <class F>
    static void for_each(ring_shared& shared, F f) {
        const std::size_t in_use = std::min<std::size_t>(
            shared.bells_in_use.load(std::memory_order_relaxed), ring_shared::most_bells);
        for (std::size_t i = 0; i < in_use; ++i)
            if (const auto id = shared.bells[i].id.load(std::memory_order_relaxed); id != 0)
                f(i, shared.bells[i], id);
    }

    static std::size_t free_entry(ring_shared& shared) {
        for (int round = 0; round < 2; ++round) {
            for (std::size_t i = 0; i < ring_shared::most_bells; ++i)
                if (shared.bells[i].id.load(std::memory_order_relaxed) == 0) return i;
            for (ring_bell& entry : shared.bells)  // K3
                if (is_gone(entry.pid, entry.started) || !open_path(entry))
                    entry.id.store(0, std::memory_order_release);
        }
        throw Error("fileno: " + std::to_string(ring_shared::most_bells) +
                    " processes poll this queue already; let one of them poll for the others");
    }

    /// The bell's descriptor here; -1 if its process or its pipe is gone, and the entry freed.
    int open(std::size_t index, ring_bell& entry, std::uint64_t id) {
        if (open_[index].id != id) {
            unique_fd fd = open_path(entry);
            if (!fd) {
                entry.id.store(0, std::memory_order_release);
                return -1;
            }
            remember(index, id, std::move(fd));
        }
        return open_[index].fd.get();
    }

    void remember(std::size_t index, std::uint64_t id, unique_fd fd) noexcept {
        open_bell& bell = open_[index];
        bell.id = 0;
        bell.fd.reset();
        bell.fd = std::move(fd);
        bell.id = id;
    }

    /// Empty if the process or its pipe is gone.
    static unique_fd open_path(const ring_bell& entry) {
        const std::string path =
            "/proc/" + std::to_string(entry.pid) + "/fd/" + std::to_string(entry.fd);
        unique_fd fd(retry(
            [&] { return ::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY); }));
        if (!fd) {
            const int error = errno;
            const bool no_proc = ::access("/proc/self/fd", X_OK) != 0;
            const bool missing = error == ENOENT || error == ENOTDIR || error == ESRCH ||
                                 error == ENXIO || error == EACCES || error == EPERM;
            // That of a process that was killed and not yet reaped belongs to root: EACCES.
            if (no_proc || !missing ||
                ((error == EACCES || error == EPERM) && !is_gone(entry.pid, entry.started)))
                throw_os_error(error, "opening " + path + ", where a process polls this queue");
            return {};
        }
        struct stat info;
        if (::fstat(fd.get(), &info) != 0 || !S_ISFIFO(info.st_mode) || info.st_ino != entry.inode)
            return {};
        return off_stdio(std::move(fd));
    }

    std::array<open_bell, ring_shared::most_bells> open_;  // by index of their entry
    std::atomic<bool> ever_armed_{false};
    unsigned changes_ = 0;
    std::uint64_t own_ = 0;  // id; 0: none. In a child its parent's, which it has open
    std::size_t own_index_ = 0;
    pid_t own_pid_ = 0;
};

}  // namespace multiprocessing::detail
