// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Buffered streams over a fork: what is buffered is printed once.
///
/// fflush(nullptr) waits for every stream's lock. While another thread sits in a read of stdin it
/// never returns, and then fork() hangs too, in every thread (both were measured). So streams that
/// somebody holds are left alone here: their bytes are printed by the process that holds them.

#include <cstdio>
#include <iostream>
#include <utility>

#include <fcntl.h>
#include <stdio_ext.h>
#include <unistd.h>

#if __has_include(<ext/stdio_sync_filebuf.h>)
#include <ext/stdio_filebuf.h>
#include <ext/stdio_sync_filebuf.h>
#endif

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/process/logging.hpp>

// All open streams. In glibc's library, no longer in its headers.
extern "C" {
FILE* _IO_iter_begin() noexcept;
FILE* _IO_iter_end() noexcept;
FILE* _IO_iter_next(FILE*) noexcept;
FILE* _IO_iter_file(FILE*) noexcept;
void _IO_list_lock() noexcept;
void _IO_list_unlock() noexcept;
}

namespace multiprocessing::detail {

template <class F>
void for_each_stream(F f) noexcept {
    ::_IO_list_lock();
    for (FILE* at = ::_IO_iter_begin(); at != ::_IO_iter_end(); at = ::_IO_iter_next(at))
        f(::_IO_iter_file(at));
    ::_IO_list_unlock();
}

/// Whether the buffer is only a face of a C stream, which is flushed as such.
template <class Char>
bool is_face_of_stdio([[maybe_unused]] std::basic_streambuf<Char>* buffer) noexcept {
#if __has_include(<ext/stdio_sync_filebuf.h>)
    return dynamic_cast<__gnu_cxx::stdio_sync_filebuf<Char>*>(buffer) != nullptr;
#else
    return false;
#endif
}

template <class... Streams>
void flush_iostreams(Streams&... streams) noexcept {
    const auto flush = [](auto* buffer) {
        if (buffer == nullptr || is_face_of_stdio(buffer)) return;
        try {
            buffer->pubsync();
        } catch (...) {  // of a buffer that the program put there
        }
    };
    (flush(streams.rdbuf()), ...);
}

/// Before a fork, and at the end of a child. A broken pipe is no matter.
inline void flush_streams() noexcept {
    flush_iostreams(std::cout, std::cerr, std::clog, std::wcout, std::wcerr, std::wclog);
    for_each_stream([](FILE* stream) {
        if (::ftrylockfile(stream) != 0) return;
        if (::__fpending(stream) > 0) {
            const no_sigpipe guard;
            ::fflush_unlocked(stream);
        }
        ::funlockfile(stream);
    });
}

/// First thing in a child: what could not be flushed before the fork is the parent's to print.
inline void purge_streams() noexcept {
    for_each_stream([](FILE* stream) {
        if (::__fpending(stream) > 0) ::__fpurge(stream);
    });
}

/// As Python: a child reads nothing from stdin. What was read ahead of it is the parent's to use.
/// Without a /dev/null (a bare chroot) it is the end of a pipe.
inline void empty_stdin() noexcept {
    int fd = retry([] { return ::open("/dev/null", O_RDONLY); });
    if (fd < 0) {
        int ends[2];
        if (::pipe(ends) == 0) {
            ::close(ends[1]);
            fd = ends[0];
        }
    }
    if (fd > STDIN_FILENO) {
        ::dup2(fd, STDIN_FILENO);
        ::close(fd);
    } else if (fd < 0) {
        ::close(STDIN_FILENO);
    }
    ::__fpurge(stdin);
#if __has_include(<ext/stdio_sync_filebuf.h>)
    if (auto* own = dynamic_cast<__gnu_cxx::stdio_filebuf<char>*>(std::cin.rdbuf())) {
        for (auto left = own->in_avail(); left > 0; --left) own->sbumpc();
    }
#endif
}

}  // namespace multiprocessing::detail
