// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Buffered streams over a fork: what is buffered is printed once.
///
/// fflush(nullptr) waits for every stream's lock. While another thread sits in a read of stdin it
/// never returns, and then fork() hangs too, in every thread (both were measured). So streams that
/// somebody holds are left alone here: their bytes are printed by the process that holds them.

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <iostream>
#include <streambuf>
#include <string_view>
#include <typeinfo>
#include <utility>

#include <fcntl.h>
#include <stdio_ext.h>
#include <unistd.h>

#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#endif

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/process/early.hpp>
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

/// Whether nobody else can be in the middle of anything. May say no without need.
inline bool single_threaded() noexcept {
#if __has_include(<sys/single_threaded.h>)
    return __libc_single_threaded;
#else
    return false;
#endif
}

/// With one thread no lock is touched: after a fork each page that is written costs a copy.
template <class F>
void for_each_stream(F f) noexcept {
    const bool locks = !single_threaded();
    if (locks) ::_IO_list_lock();
    for (FILE* at = ::_IO_iter_begin(); at != ::_IO_iter_end(); at = ::_IO_iter_next(at))
        f(::_IO_iter_file(at));
    if (locks) ::_IO_list_unlock();
}

/// Whether the buffer is of a class template of libstdc++, whose headers are too large to be
/// included for it. Never so with another library.
/// \param mangled  how the class's name begins
template <class Char>
bool is_made_of(std::basic_streambuf<Char>* buffer, std::string_view mangled) noexcept {
    return buffer != nullptr && std::string_view(typeid(*buffer).name()).starts_with(mangled);
}
/// Whether the buffer is only a face of a C stream, which is flushed as such.
template <class Char>
bool is_face_of_stdio(std::basic_streambuf<Char>* buffer) noexcept {
    return is_made_of(buffer, "N9__gnu_cxx18stdio_sync_filebufI");
}

template <class Char>
void flush_buffer(std::basic_streambuf<Char>* buffer, std::atomic<void*>& known_face) noexcept {
    if (buffer == nullptr || buffer == known_face.load(std::memory_order_relaxed)) return;  // I1
    if (is_face_of_stdio(buffer)) {
        known_face.store(buffer, std::memory_order_relaxed);
        return;
    }
    try {
        buffer->pubsync();
    } catch (...) {  // of a buffer that the program put there
    }
}

/// I1  known[i] is a buffer of stream i that needs no flush, or null; any thread finds the same.
template <class... Streams>
void flush_iostreams(Streams&... streams) noexcept {
    static constinit std::atomic<void*> known[sizeof...(Streams)] = {};
    std::size_t i = 0;
    (flush_buffer(streams.rdbuf(), known[i++]), ...);
}

/// Before a fork, and at the end of a child. A broken pipe is no matter.
/// \return false if text is left that could not be written, or that another thread holds
inline bool flush_streams() noexcept {
    flush_iostreams(std::cout, std::cerr, std::clog, std::wcout, std::wcerr, std::wclog);
    const bool locks = !single_threaded();
    bool empty = !locks;  // others may write at once
    for_each_stream([&](FILE* stream) {
        if (locks && ::ftrylockfile(stream) != 0) return;
        if (::__fpending(stream) > 0) {
            const no_sigpipe guard;
            if (::fflush_unlocked(stream) != 0) empty = false;
        }
        if (locks) ::funlockfile(stream);
    });
    return empty;
}

/// In a child: what could not be flushed before the fork is the parent's to print.
inline void purge_streams() noexcept {
    for_each_stream([](FILE* stream) {
        if (::__fpending(stream) > 0) ::__fpurge(stream);
    });
}

/// Whether something may have been read ahead of stdin.
inline bool has_read_stdin() noexcept {
    return ::__fbufsize(stdin) > 0 || !is_face_of_stdio(std::cin.rdbuf());
}

/// As Python: a child reads nothing from stdin. What was read ahead of it is the parent's to use.
/// Without a /dev/null (a bare chroot) it is the end of a pipe.
inline void empty_stdin(bool has_read) noexcept {
    int fd = retry([] { return early<::open>("/dev/null", O_RDONLY); });
    if (fd < 0) {
        int ends[2];
        if (::pipe(ends) == 0) {
            ::close(ends[1]);
            fd = ends[0];
        }
    }
    if (fd > STDIN_FILENO) {
        early<::dup2>(fd, STDIN_FILENO);
        ::close(fd);
    } else if (fd < 0) {
        ::close(STDIN_FILENO);
    }
    if (!has_read) return;
    ::__fpurge(stdin);
    std::streambuf* const buffer = std::cin.rdbuf();
    if (is_made_of(buffer, "N9__gnu_cxx13stdio_filebufI"))
        for (auto left = buffer->in_avail(); left > 0; --left) buffer->sbumpc();
}

}  // namespace multiprocessing::detail
