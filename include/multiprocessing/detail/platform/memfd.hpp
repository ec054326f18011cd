// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Anonymous shared files, in the form that Boost.Interprocess maps.

#include <cstddef>
#include <cstdint>
#include <utility>

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <boost/interprocess/detail/os_file_functions.hpp>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>

namespace multiprocessing::detail {

/// A sparse file in memory: not limited by /dev/shm, gone with its last user, for its owner only,
/// sealed against shrinking, so that no mapped page of it ever raises SIGBUS for being cut off.
class memfd {
public:
    memfd() = default;
    /// Takes over a descriptor of such a file.
    explicit memfd(unique_fd fd) noexcept : fd_(std::move(fd)) {}

    /// \param name  shown in /proc/<pid>/maps, "mp:Queue"
    static memfd create(const char* name, std::uint64_t bytes) {
        memfd file(off_stdio(unique_fd(call("memfd_create", [&] {
            return ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        }))));
        const int fd = file.fd();
        call("fchmod of a memfd", [&] { return ::fchmod(fd, S_IRUSR | S_IWUSR); });
        call("ftruncate of a memfd", [&] { return ::ftruncate(fd, static_cast<off_t>(bytes)); });
        call("sealing a memfd", [&] { return ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK); });
        return file;
    }

    int fd() const noexcept { return fd_.get(); }

    /// What boost::interprocess::mapped_region asks of a memory mappable.
    boost::interprocess::mapping_handle_t get_mapping_handle() const noexcept {
        return boost::interprocess::ipcdetail::mapping_handle_from_file_handle(fd());
    }

private:
    unique_fd fd_;
};

}  // namespace multiprocessing::detail
