// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Sockets that forked children don't keep.

#include <mutex>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/handover.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>

namespace multiprocessing::detail {

inline namespace abi_1 {

/// The sockets to other programs that this process has. They are opened, listed and closed under
/// process_identity::tables, which is held over a fork: so a child finds all that are open.
struct MP_EXPORT socket_table {
    struct entry {
        unique_fd fd;
        entry *next = nullptr, *previous = nullptr;
    };

    static socket_table& get() { return only_one<socket_table>::get(); }

    void add(entry& one) noexcept {
        one.next = first;
        if (first) first->previous = &one;
        first = &one;
    }
    void remove(entry& one) noexcept {
        if (one.next) one.next->previous = one.previous;
        (one.previous ? one.previous->next : first) = one.next;
    }

    entry* first = nullptr;  // under process_identity::tables

private:
    friend only_one<socket_table>;
    socket_table() {
        static constexpr fork_hooks hooks{
            .in_child =
                [] {
                    if (!handover::launching) close_all([](int) { return true; });
                },
            .settle =
                [] { close_all([](int fd) { return ::fcntl(fd, F_GETOWN) != ::getpid(); }); }};
        process_identity::get().hook(fork_hooks::sockets, hooks);
    }
    template <class F>
    static void close_all(F which) noexcept {
        const socket_table* const here = only_one<socket_table>::made;
        for (entry* one = here ? here->first : nullptr; one != nullptr; one = one->next)
            if (one->fd && which(one->fd.get())) one->fd.reset();
    }
};

}  // namespace abi_1

/// Owns a socket to another program from the moment when it exists. No forked process keeps that,
/// so that the other side sees the end once the owner has ended; but the child of a Process does
/// whose pid is in the open file (F_SETOWN).
class own_socket {
public:
    own_socket() = default;
    /// One that no fork was to close yet.
    own_socket(unique_fd socket)  // NOLINT: implicit
        : own_socket(open([&] { return std::move(socket); })) {}
    /// \param make  gives a unique_fd, under a lock. An empty one leaves errno
    template <class F>
    static own_socket open(F make) {
        socket_table& table = socket_table::get();
        own_socket made;
        made.entry_ = new socket_table::entry;
        const std::lock_guard lock(process_identity::get().tables);
        table.add(*made.entry_);  // first: make() may throw
        made.entry_->fd = make();
        return made;
    }
    own_socket(own_socket&& other) noexcept : entry_(std::exchange(other.entry_, nullptr)) {}
    own_socket& operator=(own_socket&& other) noexcept {
        std::swap(entry_, other.entry_);
        return *this;
    }
    ~own_socket() {
        if (!entry_) return;
        {
            const std::lock_guard lock(process_identity::get().tables);
            entry_->fd.reset();
            socket_table::get().remove(*entry_);
        }
        delete entry_;
    }

    int get() const noexcept { return entry_ ? entry_->fd.get() : -1; }
    explicit operator bool() const noexcept { return get() >= 0; }

private:
    socket_table::entry* entry_ = nullptr;  // its own; null: moved from
};

}  // namespace multiprocessing::detail
