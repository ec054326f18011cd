// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// One mapping of one anonymous shared file.

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/mapped_region.hpp>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/cgroup.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/memfd.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/shm/header.hpp>

namespace multiprocessing::detail {

/// A region as bytes in a message: enough for another process of the same user to open it.
struct region_handle {
    region_id id;
    std::uint64_t size;
    std::int32_t pid;  // a process that has the file open
    std::int32_t fd;   // under this number
};

/// Half of the memory that this process may use (RAM or a cgroup's limit), no more than 64 GiB.
inline std::uint64_t half_of_memory() {
    static constexpr std::uint64_t least = std::uint64_t{64} << 20, most = std::uint64_t{64} << 30;
    static std::atomic<std::uint64_t> known{0};  // any thread finds the same
    std::uint64_t bytes = known.load(std::memory_order_relaxed);
    if (bytes != 0) return bytes;
    bytes = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
            static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    for_each_cgroup("memory", [&](const std::string& group, bool is_v2) {
        const auto limit = leading_number(
            read_small_file(group + (is_v2 ? "/memory.max" : "/memory.limit_in_bytes")));
        if (limit) bytes = std::min(bytes, *limit);
    });
    bytes = std::clamp(bytes / 2, least, most);
    known.store(bytes, std::memory_order_relaxed);
    return bytes;
}

/// Bytes that a growing region may reach at most. The file is sparse: this is address space. It
/// counts for RLIMIT_FSIZE all the same, with SIGXFSZ for those who don't look first.
inline std::uint64_t largest_region() {
    static constexpr std::uint64_t headers = std::uint64_t{4} << 20;
    rlimit files{};
    ::getrlimit(RLIMIT_FSIZE, &files);
    const std::uint64_t most = files.rlim_cur < headers ? 0 : files.rlim_cur - headers;
    return std::min<std::uint64_t>(half_of_memory(), most);
}

/// Owns the mapping and the file. Movable; the mapped bytes stay where they are.
class region {
public:
    /// A new region, all zero behind its header.
    /// \param name  for ps and /proc/<pid>/maps
    static region create(const char* name, region_kind kind, std::uint64_t type,
                         std::uint64_t bytes) {
        region made(memfd::create(name, bytes), bytes);
        region_header& h = made.header();
        for (std::size_t have = 0; have < sizeof h.id;)
            have += static_cast<std::size_t>(call("getrandom", [&] {
                return ::getrandom(reinterpret_cast<char*>(&h.id) + have, sizeof h.id - have, 0);
            }));
        h.magic = region_header::right_magic;
        h.version = region_header::right_version;
        h.word_size = sizeof(void*);
        h.kind = kind;
        h.size = bytes;
        h.pid_namespace = this_pid_namespace();
        h.type = type;
        return made;
    }

    /// Opens a region that another process holds.
    /// \param what  what is received, for errors: "a Queue"
    /// \throws Error if its last holder has ended, if /proc is closed to us, or if what is found
    ///     there is another thing than the handle says
    static region open(const region_handle& handle, region_kind kind, const char* what) {
        const std::string path =
            "/proc/" + std::to_string(handle.pid) + "/fd/" + std::to_string(handle.fd);
        struct stat info;  // looked at first: opening may have effects on what is no such file
        unique_fd fd;
        if (retry([&] { return ::stat(path.c_str(), &info); }) == 0 && S_ISREG(info.st_mode))
            fd = off_stdio(unique_fd(retry(
                [&] { return ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); })));
        const int refused = fd ? 0 : errno;
        const std::string receiving =
            std::string("receiving ") + what + " from process " + std::to_string(handle.pid) + ": ";
        if (refused == EMFILE || refused == ENFILE || refused == ENOMEM)
            throw_os_error(refused, receiving + "opening " + path);
        // That of a process that was killed and not yet reaped belongs to root: EACCES, too.
        if ((refused == EACCES || refused == EPERM) && !is_gone(handle.pid, start_time(handle.pid)))
            throw Error(receiving + "the kernel does not let this process open " + path +
                        " (another user, or the sender is not dumpable or has more capabilities); "
                        "make the object before the fork instead");
        if (!fd && ::access("/proc/self/fd", X_OK) != 0)
            throw Error(receiving + "/proc is not mounted here, so " + path +
                        " cannot be opened; make the object before the fork instead");
        return adopt(std::move(fd), handle, kind, receiving);
    }

    /// Opens a region by its file.
    /// \param receiving  for errors: "receiving a Queue: "
    /// \throws Error as open()
    static region adopt(unique_fd fd, const region_handle& handle, region_kind kind,
                        const std::string& receiving) {
        struct stat info;
        const bool right = fd && ::fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode) &&
                           static_cast<std::uint64_t>(info.st_size) == handle.size &&
                           handle.size >= sizeof(region_header) && sealed(fd.get());
        if (!right) throw Error(receiving + gone);
        region opened(memfd(std::move(fd)), handle.size);
        const region_header& h = opened.header();
        if (h.magic != region_header::right_magic || h.id != handle.id)
            throw Error(receiving + gone);
        if (h.version != region_header::right_version || h.word_size != sizeof(void*))
            throw Error(receiving + "it was made by another version of this library (layout " +
                        std::to_string(h.version) + ", here " +
                        std::to_string(region_header::right_version) +
                        ") or a program of another " + "word size; build both programs alike");
        if (h.kind != kind || h.size != handle.size)
            throw Error(receiving + "the shared memory holds another kind of object");
        const std::uint64_t here = this_pid_namespace();
        if (h.pid_namespace != 0 && here != 0 && h.pid_namespace != here)
            throw Error(receiving +
                        "it was made in another PID namespace, where its locks can't "
                        "be shared; run both processes in one");
        return opened;
    }

    /// Bytes [offset, offset + bytes) of this region, which must outlive it. It owns nothing.
    region part(std::uint64_t offset, std::uint64_t bytes) const noexcept {
        region piece;
        piece.fd_ = fd_;
        piece.inode_ = inode_;
        piece.data_ = data_ + offset;
        piece.size_ = bytes;
        piece.offset_ = offset_ + offset;
        return piece;
    }

    std::byte* data() const noexcept { return data_; }
    std::uint64_t size() const noexcept { return size_; }
    region_header& header() const noexcept { return *reinterpret_cast<region_header*>(data()); }
    const memfd& file() const noexcept { return file_; }

    /// Gives memory to [offset, offset + bytes) of the file.
    /// \return 0 or an errno value
    int allocate(std::uint64_t offset, std::uint64_t bytes) const noexcept {
        struct stat now;  // a host that closes all descriptors may have opened a file of its own
        if (::fstat(fd_, &now) != 0 || now.st_ino != inode_) return EBADF;
        const int result = retry([&] {
            return ::fallocate(fd_, 0, static_cast<off_t>(offset_ + offset),
                               static_cast<off_t>(bytes));
        });
        return result == 0 ? 0 : errno;
    }
    /// Takes the memory of [offset, offset + bytes) back; the bytes read as zero then.
    void punch(std::uint64_t offset, std::uint64_t bytes) const noexcept {
        retry([&] { return ::madvise(data() + offset, bytes, MADV_REMOVE); });
    }

    /// For a message; region_table counts it.
    region_handle handle() const noexcept { return {header().id, size(), this_pid(), fd_}; }
    void note_lent() const noexcept {
        header().lent.fetch_add(1, std::memory_order_relaxed);  // a count; nothing crosses with it
    }
    void note_not_lent() const noexcept {
        header().lent.fetch_sub(1, std::memory_order_relaxed);  // as above
    }
    void note_opened() const noexcept {
        header().opened.fetch_add(1, std::memory_order_relaxed);  // as above
    }
    /// Some handle may still be on its way: the file must stay open.
    bool awaited() const noexcept {
        return static_cast<std::int32_t>(header().lent.load(std::memory_order_relaxed) -
                                         header().opened.load(std::memory_order_relaxed)) > 0;
    }

private:
    static constexpr const char* gone =
        "its last holder ended before it was received (or closed it); keep the sender, or a copy "
        "of the object, until it was";

    static bool sealed(int fd) noexcept {
        const int seals = ::fcntl(fd, F_GET_SEALS);
        return seals != -1 && (seals & F_SEAL_SHRINK) != 0;
    }

    region() = default;  // for part()
    region(memfd file, std::uint64_t bytes) : file_(std::move(file)) {
        namespace bip = boost::interprocess;
        try {
            mapping_ =
                bip::mapped_region(file_, bip::read_write, 0, static_cast<std::size_t>(bytes));
        } catch (const bip::interprocess_exception& e) {
            throw_os_error(e.get_native_error(),
                           "mapping " + std::to_string(bytes) + " bytes of shared memory");
        }
        data_ = static_cast<std::byte*>(mapping_.get_address());
        size_ = mapping_.get_size();
        fd_ = file_.fd();
        ::madvise(data_, size_, MADV_DONTDUMP);  // or be it dumped
        struct stat info;
        call("fstat of a memfd", [&] { return ::fstat(fd_, &info); });
        inode_ = info.st_ino;
    }

    memfd file_;  // this and the mapping are none in a part
    boost::interprocess::mapped_region mapping_;
    std::byte* data_ = nullptr;
    std::uint64_t size_ = 0;
    std::uint64_t offset_ = 0;  // in the file
    int fd_ = -1;
    std::uint64_t inode_ = 0;
};

}  // namespace multiprocessing::detail
