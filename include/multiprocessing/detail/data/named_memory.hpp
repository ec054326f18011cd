// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A file in /dev/shm, mapped.

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <limits.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/mapped_region.hpp>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/memfd.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/detail/shm/claim.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// A named memory as bytes of a message. By its name first, else by a descriptor of its sender.
struct named_memory_handle {
    std::string name;
    std::uint64_t device, inode, size;
    std::int32_t pid, fd;
};

/// The file has no header: its bytes are the user's, also those of other programs (shm_open,
/// Python's SharedMemory).
///
/// N1  a name is there only with all its memory: the file is made without one, claimed, then linked
///     in one step that refuses a name that is taken.
/// K1  killed before the link: nothing stays, the kernel drops a file without a name. After it:
///     the name stays until somebody unlinks it.
/// K2  killed in unlink: the name is there or not; who has the memory mapped keeps it.
/// Not covered: another program of this user that cuts the file off (ftruncate): SIGBUS.
class named_memory {
public:
    static constexpr const char* directory = "/dev/shm";

    /// \throws Error for a name that can't be one; OsError if it is taken, if /dev/shm does not
    ///     have so much, or is read-only or absent
    static named_memory create(std::string_view name, std::uint64_t bytes) {
        const std::string path = path_of(name);
        const std::string creating = "creating " + quoted(name) + ": ";
        if (bytes == 0) throw Error(creating + "its size is 0 bytes; give it one at least");
        const std::string claiming =
            creating + "claiming " + std::to_string(bytes) + " bytes in /dev/shm";
        check_claim(bytes, claiming);
        unique_fd fd(retry(
            [] { return ::open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR); }));
        if (!fd) throw_os_error(errno, claiming + room());
        fd = off_stdio(std::move(fd));
        const int file = fd.get();
        call("fchmod in /dev/shm", [&] { return ::fchmod(file, S_IRUSR | S_IWUSR); });
        if (const int refused = claim(file, bytes)) throw_os_error(refused, claiming + room());
        named_memory made(std::string(path, std::string_view(directory).size() + 1), std::move(fd));
        const std::string self = "/proc/self/fd/" + std::to_string(file);
        if (retry([&] {
                return ::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW);
            }) != 0)  // N1
            throw_os_error(errno,
                           creating + (errno == EEXIST ? "there is one already; attach to it, or "
                                                         "unlink() what an earlier run left"
                                                       : "linking " + self + " to " + path));
        return made;
    }

    /// \throws OsError (ENOENT) if there is none; Error if it is no memory of this user's, or is
    ///     smaller than `least`
    static named_memory attach(std::string_view name, std::uint64_t least) {
        const std::string path = path_of(name);
        const std::string attaching = "attaching to " + quoted(name) + ": ";
        unique_fd fd = open(path);
        if (!fd)
            throw_os_error(
                errno, attaching + (errno == ENOENT ? "nobody has created it, or it was unlinked"
                                                    : "opening " + path));
        struct stat info;
        call("fstat in /dev/shm", [&] { return ::fstat(fd.get(), &info); });
        if (!S_ISREG(info.st_mode)) throw Error(attaching + path + " is no regular file");
        if (info.st_uid != ::geteuid())
            throw Error(attaching + path + " belongs to user " + std::to_string(info.st_uid) +
                        "; only the memory of this user is attached to");
        const auto size = static_cast<std::uint64_t>(info.st_size);
        if (size == 0 || size < least)
            throw Error(attaching + "it has " + std::to_string(size) + " bytes, and " +
                        std::to_string(least) + " are wanted; both sides must agree");
        // Others make theirs sparse.
        if (static_cast<std::uint64_t>(info.st_blocks) * 512 < size)
            if (const int refused = claim(fd.get(), size))
                throw_os_error(refused, attaching + "claiming its " + std::to_string(size) +
                                            " bytes in /dev/shm" + room());
        return named_memory(std::string(path, std::string_view(directory).size() + 1),
                            std::move(fd));
    }

    /// \throws Error if it was unlinked and its sender holds it no longer
    static named_memory open(const named_memory_handle& handle) {
        path_of(handle.name);  // is it a name?
        for (const std::string& path :
             {std::string(directory) + '/' + handle.name,
              "/proc/" + std::to_string(handle.pid) + "/fd/" + std::to_string(handle.fd)}) {
            // Looked at first: opening may have effects on what is no such file.
            struct stat info;
            if (retry([&] { return ::stat(path.c_str(), &info); }) != 0 || !is(handle, info))
                continue;
            const bool by_name = path.starts_with(directory);
            unique_fd fd = open(path, by_name ? O_NOFOLLOW : 0);
            if (!fd && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
                throw_os_error(errno, "receiving " + quoted(handle.name) + ": opening " + path);
            if (fd && ::fstat(fd.get(), &info) == 0 && is(handle, info))
                return named_memory(handle.name, std::move(fd));
        }
        throw Error("receiving " + quoted(handle.name) + " from process " +
                    std::to_string(handle.pid) +
                    ": it was unlinked, and its sender does not hold it any more; unlink it after "
                    "it was received");
    }

    /// Removes the name, if it still names this memory.
    /// \throws OsError (ENOENT) if not
    void unlink() const {
        const std::string path = std::string(directory) + '/' + name_;
        struct stat info;
        const bool mine =
            ::lstat(path.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_;
        if (!mine || ::unlink(path.c_str()) != 0)
            throw_os_error(mine ? errno : ENOENT, "unlinking " + quoted(name_));
    }

    const std::string& name() const noexcept { return name_; }
    std::byte* data() const noexcept { return static_cast<std::byte*>(mapping_.get_address()); }
    std::size_t size() const noexcept { return mapping_.get_size(); }

    named_memory_handle handle() const {
        return {name_, device_, inode_, size(), this_pid(), file_.fd()};
    }
    bool same_file(const named_memory& other) const noexcept {
        return device_ == other.device_ && inode_ == other.inode_;
    }

    /// A name that nobody has.
    static std::string new_name() {
        std::array<unsigned char, 8> random{};
        call("getrandom", [&] { return ::getrandom(random.data(), random.size(), 0); });
        std::string name = "mp_" + std::to_string(this_pid()) + '_';
        for (const unsigned char byte : random)
            for (const int shift : {4, 0}) name += "0123456789abcdef"[(byte >> shift) & 15];
        return name;
    }

private:
    named_memory(std::string name, unique_fd fd) : name_(std::move(name)), file_(std::move(fd)) {
        struct stat info;
        call("fstat in /dev/shm", [&] { return ::fstat(file_.fd(), &info); });
        device_ = info.st_dev;
        inode_ = info.st_ino;
        namespace bip = boost::interprocess;
        try {
            mapping_ = bip::mapped_region(file_, bip::read_write, 0,
                                          static_cast<std::size_t>(info.st_size));
        } catch (const bip::interprocess_exception& e) {
            throw_os_error(e.get_native_error(), "mapping the " + std::to_string(info.st_size) +
                                                     " bytes of " + quoted(name_));
        }
    }

    static std::string quoted(std::string_view name) {
        return "the shared memory \"" + std::string(name) + '"';
    }
    /// As shm_open takes it, with or without a slash in front.
    static std::string path_of(std::string_view name) {
        const std::string_view bare = name.starts_with('/') ? name.substr(1) : name;
        if (bare.empty() || bare.size() > NAME_MAX || bare == "." || bare == ".." ||
            bare.find('/') != bare.npos || bare.find('\0') != bare.npos)
            throw Error(quoted(name) + " can't be called so: a name has 1 to " +
                        std::to_string(NAME_MAX) +
                        " bytes, no slash but in front, and is not a dot");
        return std::string(directory) + '/' + std::string(bare);
    }
    static unique_fd open(const std::string& path, int flags = O_NOFOLLOW) {
        return off_stdio(unique_fd(retry([&] {
            return ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | flags);
        })));
    }
    static bool is(const named_memory_handle& handle, const struct stat& info) noexcept {
        return S_ISREG(info.st_mode) && info.st_dev == handle.device &&
               info.st_ino == handle.inode &&
               static_cast<std::uint64_t>(info.st_size) == handle.size && handle.size != 0;
    }
    static int claim(int fd, std::uint64_t bytes) {
        return claim_in_pieces(bytes, [&](std::uint64_t at, std::uint64_t n) {
            return retry([&] {
                       return ::fallocate(fd, 0, static_cast<off_t>(at), static_cast<off_t>(n));
                   }) == 0
                       ? 0
                       : errno;
        });
    }
    /// ", where ... of its ... bytes are free", keeping errno.
    static std::string room() {
        const int kept = errno;
        struct statvfs fs;
        std::string text;
        if (::statvfs(directory, &fs) == 0)
            text =
                ", where " + std::to_string(std::uint64_t{fs.f_bavail} * fs.f_frsize) + " of its " +
                std::to_string(std::uint64_t{fs.f_blocks} * fs.f_frsize) +
                " bytes are free; mount it larger and writable, or take a SharedArray, which does "
                "not lie there";
        errno = kept;
        return text;
    }

    std::string name_;
    memfd file_;
    std::uint64_t device_ = 0, inode_ = 0;
    boost::interprocess::mapped_region mapping_;
};

}  // namespace multiprocessing::detail
