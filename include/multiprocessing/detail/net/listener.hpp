// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A listening socket, and those who log in at it.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/detail/net/address.hpp>
#include <multiprocessing/detail/net/end.hpp>
#include <multiprocessing/detail/net/login.hpp>
#include <multiprocessing/detail/net/own_socket.hpp>
#include <multiprocessing/detail/net/remote_end.hpp>
#include <multiprocessing/detail/net/stream.hpp>
#include <multiprocessing/detail/net/tcp.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/handover.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/detail/process/state.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

template <compiled When = compiled::when_used>
class listener;

inline namespace abi_1 {

/// The listeners of this process, whose locks are held over every fork: so a forked child finds
/// each of them whole. Guarded by process_identity::listeners.
template <compiled When = compiled::when_used>
class MP_EXPORT listener_table {
public:
    static listener_table& get() {  // never destroyed: as end_table
        return only_one<listener_table>::get();
    }

    void add(listener<When>& one);
    void remove(listener<When>& one) noexcept;

private:
    friend only_one<listener_table>;
    listener_table();
    template <class F>
    static void for_each(F f);

    std::vector<listener<When>*> listeners_;
};

}  // namespace abi_1

/// Any number of threads may accept at once; a forked process has the socket, too, and hears those
/// who come to it, but not those who came to its parent.
///
/// One process owns the socket: who made it, or the child that a Process gave it to. The open file
/// knows which (F_SETOWN), since all that have it share that; and it was the last to call listen(),
/// so clients know it, too (login.hpp). When the owner closes it, it ends in all of them, and who
/// was not accepted is dropped.
/// K1  the owner killed: who was not accepted finds that out by itself, and accepting those is in
///     vain. A process that accepts owns the socket then, at once if it waits. Of two that do so
///     together the first does not notice the death of the last, until it is called. While none
///     accepts, who comes is refused, and another listener may replace the file.
template <compiled When>
class listener {
public:
    listener(Address at, ListenerOptions options)
        : address_(at.empty() ? choose() : std::move(at)),
          is_tcp_(address_.is_tcp()),
          options_(std::move(options)) {
        check_transport("Listener", address_, options_.transport, options_.authkey);
        if (is_tcp_) {
            const Address wanted = address_;
            socket_ = listen_tcp(wanted, options_.backlog, address_);
        } else {
            socket_ = unix_socket(SOCK_NONBLOCK);
        }
        call("fcntl(F_SETOWN)", [&] { return ::fcntl(socket_.get(), F_SETOWN, ::getpid()); });
        make_set();  // first: what fails then leaves no file
        listed_.emplace(*this);
        if (is_tcp_) return;
        const unix_address where(address_);
        if (address_.is_abstract())
            bind_and_listen(where);
        else
            take_path(where);
    }
    listener(const listener&) = delete;
    listener& operator=(const listener&) = delete;
    ~listener() { close(); }

    const Address& address() const noexcept { return address_; }
    std::optional<later<When, Address>> last_accepted() {
        const std::lock_guard lock(mutex_);
        return last_accepted_;
    }

    /// Empty if the deadline came.
    /// \throws ClosedError after close(), also in another thread; OsError; AuthenticationError
    any_end<When> accept(deadline until) {
        for (;;) {
            std::shared_ptr<unique_fd> set;
            deadline next = until;
            {
                const std::lock_guard lock(mutex_);
                hear();
                if (!ready_.empty()) {
                    arrival one = std::move(ready_.front());
                    ready_.pop_front();
                    if (ready_.empty()) drain(some_);
                    last_accepted_ = one.from;
                    if (!one.refused.empty()) throw AuthenticationError(one.refused);
                    return std::move(one.made);
                }
                set = set_;
                if (!newcomers_.empty()) next = deadline::earlier(next, oldest_late());
            }
            if (until.passed()) return {};
            wait_readable(set->get(), next);
        }
    }

    /// Readable when accept() has something to do.
    int fileno() {
        const std::lock_guard lock(mutex_);
        require_open();
        require_set();
        return set_->get();
    }

    void close() noexcept {
        const std::lock_guard lock(mutex_);
        if (!socket_) return;
        if (some_) retry([&] { return ::eventfd_write(some_.get(), 1); });  // for other threads
        set_.reset();                                                       // theirs is a share
        newcomers_.clear();
        ready_.clear();
        owner_.reset();
        if (::fcntl(socket_.get(), F_GETOWN) == ::getpid()) {
            if (handover::heir != 0)
                ::fcntl(socket_.get(), F_SETOWN, handover::heir);
            else
                end_for_all();  // takes a descriptor: by now there is one, of set_
        }
        socket_.reset();
    }

    // --- for wait()

    bool prepare(std::vector<later<When, pollfd>>& fds, deadline& next) {
        const std::lock_guard lock(mutex_);
        hear();
        if (!newcomers_.empty()) next = deadline::earlier(next, oldest_late());
        fds.push_back({set_->get(), POLLIN, 0});
        return !ready_.empty();
    }
    bool is_ready() {
        const std::lock_guard lock(mutex_);
        hear();
        return !ready_.empty();
    }

private:
    friend class abi_1::listener_table<When>;

    static constexpr std::size_t most_newcomers = 256;  // then the oldest is dropped
    static constexpr int most_at_once = 64;             // taken in by one hear()

    void require_open() const {
        if (!socket_) throw ClosedError("this Listener is closed");
    }

    static Address choose() {
        std::uint64_t number = 0;
        call("getrandom", [&] { return ::getrandom(&number, sizeof number, 0); });
        char text[64];
        std::snprintf(text, sizeof text, "@mp-%d-%016llx", int{::getpid()},
                      static_cast<unsigned long long>(number));
        return Address(text);
    }

    // ---- the address

    void bind_and_listen(const unix_address& where) {
        const std::string text = " to \"" + address_.to_string() + '"';
        call("Listener: bind" + text,
             [&] { return ::bind(socket_.get(), where.get(), where.size()); });
        listen();
    }
    int backlog() const noexcept { return std::max(options_.backlog, 1); }
    /// Clients will take this process for the one that listens.
    void listen() const {
        call("Listener: listen", [&] { return ::listen(socket_.get(), backlog()); });
    }

    /// Binds to a path, where the file of a listener that is gone may be. The directory is locked
    /// meanwhile: another one that starts now finds a socket that listens, or none.
    void take_path(const unix_address& where) {
        const std::string& path = address_.to_string();
        const auto slash = path.rfind('/');
        const std::string directory =
            slash == path.npos ? "." : path.substr(0, std::max<std::size_t>(slash, 1));
        const unique_fd locked(
            retry([&] { return ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
        // Without a lock if the directory can't be read, or somebody keeps it locked.
        for (int i = 0; locked && ::flock(locked.get(), LOCK_EX | LOCK_NB) != 0 && i < 1000; ++i)
            ::poll(nullptr, 0, 1);
        // The file gets the socket's mode, so there is no moment in which others may connect.
        call("fchmod of a socket", [&] { return ::fchmod(socket_.get(), S_IRUSR | S_IWUSR); });
        struct stat info;
        if (::lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) {
            const unique_fd probe = unix_socket(SOCK_NONBLOCK);
            const bool connected = ::connect(probe.get(), where.get(), where.size()) == 0;
            if (connected ? has_ended(peer_of(probe.get()).pid) : errno == ECONNREFUSED)
                ::unlink(path.c_str());  // nobody listens; bind() says what if it fails
        }
        bind_and_listen(where);
        call("stat of a new socket", [&] { return ::lstat(path.c_str(), &info); });
        inode_ = info.st_ino;
        device_ = info.st_dev;
    }

    // ---- those who come; under mutex_

    /// Of this process: a forked one must not change its parent's.
    void require_set() {
        if (set_) return;
        ready_.clear();  // they are the parent's
        make_set();
    }
    void make_set() {
        auto set = std::make_shared<unique_fd>(off_stdio(
            unique_fd(call("epoll_create1", [] { return ::epoll_create1(EPOLL_CLOEXEC); }))));
        unique_fd some = off_stdio(
            unique_fd(call("eventfd", [] { return ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); })));
        add(*set, socket_.get());
        add(*set, some.get());
        set_ = std::move(set);
        some_ = std::move(some);
    }
    static void add(const unique_fd& set, int fd, std::uint64_t number = 0) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = number;
        call("epoll_ctl", [&] { return ::epoll_ctl(set.get(), EPOLL_CTL_ADD, fd, &event); });
    }
    static void drain(const unique_fd& event) noexcept {
        eventfd_t n;
        retry([&] { return ::eventfd_read(event.get(), &n); });
    }

    /// Takes in some of those who connected and hears what they say, unless somebody is ready.
    /// Doesn't block.
    void hear() {
        require_open();
        require_set();
        if (made_by_ != this_pid()) see_to_owner();
        for (int i = 0; i < most_at_once && ready_.empty(); ++i) {
            unique_fd one(retry([&] {
                return ::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
            }));
            if (!one) {
                const int error = errno;
                if (error == EAGAIN || error == EINVAL) require_not_ended();
                if (error == EAGAIN) break;
                if (is_of_the_client(error)) continue;
                throw_os_error(error, "accept");
            }
            one = off_stdio(std::move(one));
            if (is_tcp_)
                tune(one.get(), options_.unreachable_timeout);
            else if (peer_of(one.get()).user != ::geteuid())
                continue;  // dropped
            newcomer<When> comes(open(std::move(one)), is_tcp_,
                                 deadline::after(options_.login_timeout));
            if (hear(comes)) continue;
            add(*set_, comes.fd(), ++comers_);
            newcomers_.emplace(comers_, std::move(comes));
            if (newcomers_.size() > most_newcomers) forget(newcomers_.begin());
        }
        while (!newcomers_.empty() && newcomers_.begin()->second.late()) forget(newcomers_.begin());
        epoll_event said[most_at_once];
        const int count = newcomers_.empty() || !ready_.empty() ? 0 : retry([&] {
            return ::epoll_wait(set_->get(), said, most_at_once, 0);
        });
        for (int i = 0; i < count && ready_.empty(); ++i) {
            const std::uint64_t number = said[i].data.u64;  // which may be misaligned
            const auto one = newcomers_.find(number);
            if (one != newcomers_.end() && hear(one->second)) forget(one);
        }
    }
    deadline oldest_late() const noexcept { return newcomers_.begin()->second.until(); }
    /// Errors of accept4() that are about one client, who is gone (accept(2)).
    static bool is_of_the_client(int error) noexcept {
        switch (error) {
            case ECONNABORTED:
            case ENETDOWN:
            case EPROTO:
            case ENOPROTOOPT:
            case EHOSTDOWN:
            case ENONET:
            case EHOSTUNREACH:
            case EOPNOTSUPP:
            case ENETUNREACH:
                return true;
            default:
                return false;
        }
    }
    std::unique_ptr<later<When, stream>> open(own_socket socket) const {
        const transport_kind* const kind = options_.transport.kind();
        return std::unique_ptr<later<When, stream>>(
            (kind ? kind : &plain_transport)
                ->open(std::move(socket), transport_kind::side::server,
                       options_.authkey ? &*options_.authkey : nullptr));
    }
    /// \return whether that one is done with
    bool hear(newcomer<When>& one) {
        arrival comes;
        try {
            switch (one.read(options_)) {
                case newcomer<When>::progress::waits:
                    return false;
                case newcomer<When>::progress::refused:
                    return true;
                case newcomer<When>::progress::complete:
                    break;
            }
            if (is_tcp_) {
                comes.from = peer_address_of(one.fd());
                stop_polling(one);  // its socket lives on
            }
            comes.made = one.arrive(options_);
            if (!comes.made.local && !comes.made.remote) return true;
        } catch (const AuthenticationError& e) {
            if (is_tcp_) comes.from = peer_address_of(one.fd());
            comes.refused = e.what();
        } catch (const TimeoutError&) {  // it can't be reached any more
            return true;
        } catch (const EndOfFile& e) {  // it is no Client, or what it says is damaged
            log_line_or_none(LogLevel::warning, [&] {
                return "a client was turned away" +
                       (is_tcp_ ? ", of " + peer_address_of(one.fd()).to_string() : "") + ": " +
                       e.what();
            });
            return true;
        }
        ready_.push_back(std::move(comes));
        retry([&] { return ::eventfd_write(some_.get(), 1); });
        return true;
    }
    /// In a process that did not make it: watches the owner, or becomes it (K1).
    void see_to_owner() {
        if (owner_ && !wait_readable(owner_.get(), deadline::at_once())) return;
        require_not_ended();
        for (;;) {
            const pid_t now = ::fcntl(socket_.get(), F_GETOWN);  // 0 once it was reaped
            if (owner_) ::epoll_ctl(set_->get(), EPOLL_CTL_DEL, owner_.get(), nullptr);
            owner_.reset();
            if (now == this_pid()) return;
            if (now != 0) owner_ = open_pidfd(now);
            if (owner_ && !wait_readable(owner_.get(), deadline::at_once()))
                return add(*set_, owner_.get());
            call("fcntl(F_SETOWN)", [&] { return ::fcntl(socket_.get(), F_SETOWN, ::getpid()); });
            listen();
        }
    }
    /// \param pid  0: in another PID namespace
    static bool has_ended(pid_t pid) {
        if (pid == 0) return false;
        const unique_fd pidfd = open_pidfd(pid);
        return !pidfd || wait_readable(pidfd.get(), deadline::at_once());
    }

    /// The owner may have closed it, while this process has it.
    void require_not_ended() const {
        if (made_by_ == this_pid()) return;
        pollfd one{socket_.get(), 0, 0};
        poll_until(&one, 1, deadline::at_once());
        if ((one.revents & POLLHUP) != 0)
            throw ClosedError("this Listener was closed by the process that made it");
    }
    /// In the owner.
    void end_for_all() noexcept {
        if (!is_tcp_ && !address_.is_abstract()) {
            struct stat now;
            const char* const path = address_.to_string().c_str();
            if (::lstat(path, &now) == 0 && now.st_ino == inode_ && now.st_dev == device_)
                ::unlink(path);  // else somebody else listens there by now
        }
        ::shutdown(socket_.get(), SHUT_RDWR);
        const auto drop_one = [&] {
            return unique_fd(retry([&] {
                return ::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
            }));
        };
        while (drop_one()) {  // nobody else can come
        }
    }
    /// In a forked child, with the lock that was held over the fork. Only closes descriptors: what
    /// the parent drops must hang up.
    void forked() noexcept {
        newcomers_.clear();
        set_.reset();
        some_.reset();
        owner_.reset();
    }
    /// In a child of this library: if it was given the socket, clients are to know.
    void settle() noexcept {
        const std::lock_guard lock(mutex_);
        if (socket_ && made_by_ != this_pid() && ::fcntl(socket_.get(), F_GETOWN) == this_pid())
            ::listen(socket_.get(), backlog());
    }
    void forget(typename std::map<std::uint64_t, newcomer<When>>::iterator one) noexcept {
        stop_polling(one->second);  // a child may have a copy
        newcomers_.erase(one);
    }
    void stop_polling(const newcomer<When>& one) noexcept {
        ::epoll_ctl(set_->get(), EPOLL_CTL_DEL, one.fd(), nullptr);  // no effect if it is not in
    }

    struct arrival {
        any_end<When> made;
        std::string refused;  // why, if it is not empty
        std::optional<later<When, Address>> from;
    };

    Address address_;  // fixed by the constructor
    const bool is_tcp_;
    const ListenerOptions options_;
    const pid_t made_by_ = this_pid();
    ino_t inode_ = 0;  // of the file, unless it is abstract
    dev_t device_ = 0;

    std::mutex mutex_;                // guards the rest; held over a fork
    unique_fd socket_;                // none: closed
    std::shared_ptr<unique_fd> set_;  // epoll: the socket, some_, the newcomers; null after a fork
    unique_fd some_;                  // readable while somebody is ready, or it is closed
    unique_fd owner_;                 // pidfd, in set_, of one who is not this process
    std::map<std::uint64_t, newcomer<When>> newcomers_;  // by their number: the oldest first
    std::uint64_t comers_ = 0;                           // the number of the last one
    std::deque<arrival> ready_;
    std::optional<later<When, Address>> last_accepted_;

    /// While it is in the table.
    struct listing {
        explicit listing(listener& one) : one_(one) { listener_table<When>::get().add(one); }
        listing(const listing&) = delete;
        listing& operator=(const listing&) = delete;
        ~listing() { listener_table<When>::get().remove(one_); }
        listener& one_;
    };
    std::optional<listing> listed_;
};

inline namespace abi_1 {

template <compiled When>
listener_table<When>::listener_table() {
    static constexpr fork_hooks hooks{
        .lock = [] { for_each([](listener<When>& one) { one.mutex_.lock(); }); },
        .unlock = [] { for_each([](listener<When>& one) { one.mutex_.unlock(); }); },
        .in_child =
            [] {
                for_each([](listener<When>& one) {
                    one.forked();
                    one.mutex_.unlock();
                });
            },
        .settle = [] { for_each([](listener<When>& one) { one.settle(); }); }};
    process_identity::get().hook(fork_hooks::listeners, hooks);
}

template <compiled When>
template <class F>
void listener_table<When>::for_each(F f) {
    if (const listener_table* const here = only_one<listener_table>::made)
        for (listener<When>* one : here->listeners_) f(*one);
}

template <compiled When>
void listener_table<When>::add(listener<When>& one) {
    const std::lock_guard lock(process_identity::get().listeners);
    listeners_.push_back(&one);
    handover::get().things.fetch_add(1, std::memory_order_relaxed);
}

template <compiled When>
void listener_table<When>::remove(listener<When>& one) noexcept {
    const std::lock_guard lock(process_identity::get().listeners);
    std::erase(listeners_, &one);
    handover::get().things.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace abi_1

}  // namespace multiprocessing::detail
