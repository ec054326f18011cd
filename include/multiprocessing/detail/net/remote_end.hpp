// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// One end of a connection to a program on another host, or one that is reached as if it were.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <multiprocessing/detail/net/stream.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/handover.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/detail/ring/waiting.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// The first thing that each side says once it is logged in; 24 bytes, little-endian.
struct remote_hello {
    static constexpr std::uint64_t right_magic = 0x65746f6d65722d70;  // "p-remote"
    static constexpr std::uint32_t right_version = 1;

    std::uint64_t magic = right_magic;
    std::uint32_t version = right_version;
    std::uint32_t reserved = 0;
    std::uint64_t max_message = 0;  // bytes: the longest that who says it takes

    /// Empty if a program of this version said it.
    std::string what_is_wrong() const {
        if (magic != right_magic)
            return "the other side is no Listener or Client of multiprocessing";
        if (version != right_version)
            return "the other side speaks version " + std::to_string(version) +
                   " of the protocol, and this one version " + std::to_string(right_version);
        return {};
    }
    /// \throws Error
    void check() const {
        if (const std::string wrong = what_is_wrong(); !wrong.empty()) throw Error(wrong);
    }
};
static_assert(sizeof(remote_hello) == 24 && std::is_trivially_copyable_v<remote_hello>);

/// Goes before each message; 16 bytes, little-endian.
struct remote_header {
    std::uint64_t length;       // of the message, without this
    std::uint64_t fingerprint;  // of its type
};
static_assert(sizeof(remote_header) == 16 && std::is_trivially_copyable_v<remote_header>);
static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

template <compiled When = compiled::when_used>
class remote_end;

inline namespace abi_1 {

/// The remote ends of this process. Guarded by process_identity::tables.
template <compiled When = compiled::when_used>
class MP_EXPORT remote_table {
public:
    static remote_table& get() { return only_one<remote_table>::get(); }
    void add(remote_end<When>& one);
    void remove(remote_end<When>& one) noexcept;

private:
    friend only_one<remote_table>;
    remote_table();
    template <class F>
    static void for_each(F f) noexcept;

    std::vector<remote_end<When>*> ends_;
};

}  // namespace abi_1

/// Threads: one may send while another receives, and close() ends what they wait for.
///
/// Owner: the process that made it, or the child into whose arguments it was moved; the open file
/// knows which (F_SETOWN). No other forked process keeps the socket (own_socket.hpp), so if the
/// owner is killed the other side sees the end at once.
///
/// What a kill leaves: the kernel sends what was written and then the end of the file; of a message
/// that was half written the other side gets none, but an EndOfFile.
///
/// A message that has begun must go on: if nothing more of it comes for `silent`, from when this
/// side looked on, the other side is given up. Whoever waits is awake then, in whichever way, and
/// recv() tells.
template <compiled When>
class remote_end {
public:
    /// After the login.
    /// \param most    bytes of a message that this side takes; \param theirs  that the other takes
    /// \param silent  ends a connection whose other side stops in the middle of a message
    remote_end(std::unique_ptr<later<When, stream>> of, std::uint64_t most, std::uint64_t theirs,
               duration silent)
        : stream_(std::move(of)),
          fd_(stream_->fd()),
          most_(std::min(most, longest)),
          theirs_(std::min(theirs, longest)),
          silent_(silent) {
        set_owner(::getpid());
        remote_table<When>::get().add(*this);
    }
    remote_end(const remote_end&) = delete;
    remote_end& operator=(const remote_end&) = delete;
    ~remote_end() {
        if (handover::heir != 0 && stream_ && !closed())
            set_owner(handover::heir);
        else
            close();
        remote_table<When>::get().remove(*this);
    }

    bool readable() const noexcept { return true; }
    bool writable() const noexcept { return true; }
    bool closed() const noexcept { return closed_.load(std::memory_order_acquire); }

    /// \throws EndOfFile if the other side has ended; ClosedError; TimeoutError if it can't be
    ///     reached any more; Error if the message is longer than the other side takes
    void send(std::span<const std::span<const std::byte>> message, std::uint64_t fingerprint) {
        remote_header header{0, fingerprint};
        for (const auto& piece : message) header.length += piece.size();
        if (header.length > theirs_)
            throw Error("send: a message of " + std::to_string(header.length) +
                        " bytes is longer than the other side's max_message, " +
                        std::to_string(theirs_));
        require_own();  // before the lock, too: a thread of the parent may have it for ever
        const std::lock_guard lock(send_);
        require_own();
        out_.reserve(record);  // what fails later would leave half a message
        // Small ones, and the beginning of large ones, go at once.
        out_.resize(sizeof header);
        std::memcpy(out_.data(), &header, sizeof header);
        for (std::span<const std::byte> piece : message) {
            const auto gathered = piece.first(std::min(piece.size(), record - out_.size()));
            out_.insert(out_.end(), gathered.begin(), gathered.end());
            piece = piece.subspan(gathered.size());
            if (piece.empty()) continue;
            write_all(out_);
            out_.clear();
            write_all(piece.first(piece.size() / record * record));
            piece = piece.subspan(piece.size() / record * record);
            out_.assign(piece.begin(), piece.end());
        }
        if (!out_.empty()) write_all(out_);
    }

    /// \param in_hand  any: nothing that is lent comes this way
    template <class Visit, class Reception>
    void recv(Visit visit, Reception&) {
        recv(std::move(visit));
    }
    /// \throws EndOfFile if nothing is there and the other side has ended; ClosedError; Error if it
    ///     announces a message that is longer than max_message: the connection is closed then
    template <class Visit>
    void recv(Visit visit) {
        require_own();  // as in send()
        const std::lock_guard lock(receive_);
        require_own();
        if (!look(deadline::never())) throw_over();
        struct taken {  // even if the visitor throws
            remote_end& of;
            const std::size_t size;
            ~taken() { of.drop(size); }
        };
        const remote_header header = first_header();
        const taken one{*this, sizeof header + static_cast<std::size_t>(header.length)};
        visit(header.fingerprint,
              std::span<const std::byte>(in_).subspan(begin_ + sizeof header,
                                                      static_cast<std::size_t>(header.length)));
    }

    /// \return whether recv() would not block: false if the deadline came
    bool poll(deadline until) {
        require_own();  // as in send()
        const std::lock_guard lock(receive_);
        require_own();
        return look(until) || over_;
    }

    /// Readable when there is something to do: when a part of a message came, too, which poll()
    /// takes in; and when the other side is given up.
    int fileno() {
        require_own();  // as in send()
        const std::lock_guard lock(receive_);
        require_own();
        if (!set_) {
            unique_fd set = off_stdio(
                unique_fd(call("epoll_create1", [] { return ::epoll_create1(EPOLL_CLOEXEC); })));
            unique_fd bell = off_stdio(unique_fd(
                call("eventfd", [] { return ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); })));
            unique_fd timer = off_stdio(unique_fd(call(
                "timerfd_create", [] { return ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC); })));
            epoll_event event{};
            event.events = EPOLLIN;
            for (const int fd : {fd_, bell.get(), timer.get()})
                call("epoll_ctl",
                     [&] { return ::epoll_ctl(set.get(), EPOLL_CTL_ADD, fd, &event); });
            set_ = std::move(set);
            bell_ = std::move(bell);
            timer_ = std::move(timer);
        }
        refresh();
        return set_.get();
    }

    /// Waits until what was sent is on its way, a second at most, and while the other side sends,
    /// until it has it: what it sends, and nobody receives, would make the kernel take that back.
    void close() noexcept {
        if (closed_.exchange(true, std::memory_order_acq_rel)) return;
        if (!is_own()) return;  // in a forked process it is another's business
        if (waiting_.load(std::memory_order_seq_cst) != 0) ::shutdown(fd_, SHUT_RD);  // they end
        const std::lock_guard lock(io_);
        stream_->end();
        ::shutdown(fd_, SHUT_WR);
        int left = 0;
        bool other_sends = false;
        for (const deadline until = deadline::after(linger); !until.passed();) {
            const ssize_t dropped = ::recv(fd_, nullptr, kept, MSG_TRUNC | MSG_DONTWAIT);
            if (dropped == 0 || (dropped < 0 && errno != EAGAIN)) break;
            other_sends = other_sends || dropped > 0;
            const unsigned long what = other_sends ? SIOCOUTQ : SIOCOUTQNSD;
            if (::ioctl(fd_, what, &left) != 0 || left == 0) break;
            if (dropped < 0) ::poll(nullptr, 0, 1);
        }
        ::shutdown(fd_, SHUT_RDWR);
    }

    // --- for wait()

    bool prepare(std::vector<later<When, pollfd>>& fds, deadline& next) {
        require_own();  // as in send()
        const std::lock_guard lock(receive_);
        require_own();
        if (look(deadline::at_once()) || over_) return true;
        next = deadline::earlier(next, stalled_);
        fds.push_back({fd_, static_cast<short>(awaits_write_ ? POLLOUT : POLLIN), 0});
        return false;
    }
    bool is_ready() { return poll(deadline::at_once()); }

private:
    friend class abi_1::remote_table<When>;

    /// Bytes of a message: with its header it has a size that memory may have.
    static constexpr std::uint64_t longest =
        std::numeric_limits<std::ptrdiff_t>::max() - sizeof(remote_header);
    static constexpr duration linger = std::chrono::seconds(1);
    static constexpr std::size_t record = 16384;               // bytes: the longest of TLS
    static constexpr std::size_t at_most = 4 * record;         // of room_
    static constexpr std::size_t kept = std::size_t{1} << 20;  // bytes of room after a message

    // ---- the owner

    void set_owner(pid_t pid) noexcept { ::fcntl(fd_, F_SETOWN, pid); }
    bool is_own() const noexcept { return stream_ && ::fcntl(fd_, F_GETOWN) == ::getpid(); }
    /// Without a system call: before user code runs, a child has let go of what it was not given.
    void require_own() const {
        if (closed()) throw ClosedError("this end of the connection is closed");
        if (!stream_)
            throw ClosedError(
                "this end of the connection belongs to another process; one to "
                "another host goes to a child only with the arguments of its Process");
    }
    /// In a forked child. \param launching  it may be given this
    void forked(bool launching) noexcept {
        if (!launching) let_go();
    }
    /// In a child of a Process, which has what it was given.
    void settle() noexcept {
        if (!is_own()) let_go();
    }
    /// Another process has it: nothing is said to the other side.
    void let_go() noexcept {
        closed_.store(true, std::memory_order_release);
        stream_.reset();
        set_.reset();
        bell_.reset();
        timer_.reset();
    }

    // ---- bytes

    void write_all(std::span<const std::byte> bytes) {
        while (!bytes.empty()) {
            std::size_t size = 0;
            switch (step([&] { return stream_->write(bytes, size); })) {
                case stream::progress::done:
                    bytes = bytes.subspan(size);
                    break;
                case stream::progress::awaits_read:
                    await(POLLIN, deadline::never());
                    break;
                case stream::progress::awaits_write:
                    await(POLLOUT, deadline::never());
                    break;
                case stream::progress::ended:
                    throw EndOfFile(
                        "send: the other side of this connection closed it, or has ended");
            }
            if (closed()) throw ClosedError("this end of the connection is closed");
        }
    }
    template <class F>
    auto step(F f) {
        const std::lock_guard lock(io_);
        return f();
    }
    /// Awake for a while: on one host an answer comes sooner than an idle core wakes up.
    bool await(int event, deadline until) {
        waiting_.fetch_add(1, std::memory_order_seq_cst);  // before closed() is looked at
        pollfd one{fd_, static_cast<short>(event), 0};
        const auto ready_now = [&] { return closed() || ::poll(&one, 1, 0) > 0; };
        bool ready = !until.is_at_once() && spin_(0, ready_now);
        if (!ready) {
            spin_.sleeps();
            ready = closed() || poll_until(&one, 1, until) > 0;
        }
        waiting_.fetch_sub(1, std::memory_order_relaxed);  // a count
        return ready;
    }
    /// Nothing more is heard from the other side, nor said.
    void give_up() noexcept {
        over_ = true;
        ::shutdown(fd_, SHUT_RDWR);
    }

    std::size_t buffered() const noexcept { return end_ - begin_; }
    remote_header first_header() const noexcept {
        remote_header header;
        std::memcpy(&header, in_.data() + begin_, sizeof header);
        return header;
    }
    /// Bytes of the first message that is not whole, as announced; 0: that has not come.
    std::uint64_t announced() const noexcept {
        return buffered() < sizeof(remote_header) ? 0 : first_header().length;
    }
    /// Bytes that must be buffered before the first message is whole. It is not too long.
    std::size_t wanted() const noexcept {
        return sizeof(remote_header) + static_cast<std::size_t>(announced());
    }
    bool too_long() const noexcept { return announced() > most_; }
    bool whole() const noexcept {
        return buffered() >= sizeof(remote_header) && !too_long() && buffered() >= wanted();
    }
    /// Whether the other side has to go on.
    bool in_message() {
        return buffered() != 0 || step([&] { return stream_ && stream_->holds_part(); });
    }

    /// Room behind what is buffered. It grows with what came, not with what was announced.
    std::span<std::byte> room() {
        if (begin_ != 0 && in_.size() - end_ < room_) {
            std::memmove(in_.data(), in_.data() + begin_, buffered());
            end_ -= begin_;
            begin_ = 0;
        }
        if (in_.size() - end_ < room_) {
            const std::size_t more = std::max(room_, std::min(buffered(), wanted() - buffered()));
            in_.resize(end_ + more);
        }
        return std::span(in_).subspan(end_);
    }
    void drop(std::size_t bytes) noexcept {
        begin_ += bytes;
        if (begin_ == end_) {
            begin_ = end_ = 0;
            if (in_.size() > kept) {
                in_.clear();
                in_.shrink_to_fit();
            }
        }
        refresh();
    }

    /// \return whether a whole message is buffered; if not, it is over_, or the deadline came
    bool await_message(deadline until) {
        while (!whole()) {
            if (over_) return false;
            if (closed()) throw ClosedError("this end of the connection is closed");
            if (too_long()) {
                give_up();
                return false;
            }
            const auto to = room();
            std::size_t size = 0;
            auto result = stream::progress::ended;
            try {
                result = step([&] { return stream_->read(to, size); });
            } catch (const Error&) {
                failure_ = std::current_exception();
            }
            awaits_write_ = result == stream::progress::awaits_write;
            if (result == stream::progress::done) {
                end_ += size;
                if (size == to.size()) room_ = at_most;
                stalled_ = deadline::never();
                continue;
            }
            if (result == stream::progress::ended) {
                over_ = true;
                return false;
            }
            if (!in_message())
                stalled_ = deadline::never();
            else if (stalled_.is_never())
                stalled_ = deadline::after(silent_);
            if (stalled_.passed()) {
                failure_ = std::make_exception_ptr(
                    EndOfFile("recv: the other side stopped in the middle of a message; the "
                              "connection was closed"));
                give_up();
                return false;
            }
            if (until.passed()) return false;
            await(awaits_write_ ? POLLOUT : POLLIN, deadline::earlier(until, stalled_));
        }
        return true;
    }
    [[noreturn]] void throw_over() {
        if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
        if (too_long()) {
            closed_.store(true, std::memory_order_release);
            throw Error("recv: the other side announced a message of " +
                        std::to_string(announced()) + " bytes, and max_message is " +
                        std::to_string(most_) + "; the connection was closed");
        }
        throw EndOfFile(!in_message()
                            ? "recv: the other side of this connection closed it, or has ended; "
                              "what came before that was received"
                            : "recv: the other side of this connection ended in the middle of a "
                              "message");
    }

    /// await_message(), and what fileno() gave shows it.
    bool look(deadline until) {
        const bool got = await_message(until);
        show(got || over_);
        return got;
    }
    void refresh() noexcept {
        if (!bell_) return;
        try {
            look(deadline::at_once());
        } catch (...) {  // the next call tells
            show(true);
        }
    }
    /// Makes what fileno() gave readable while recv() would not block, for poll() knows no buffer;
    /// and when the other side is to be given up.
    void show(bool ready) noexcept {
        if (!bell_) return;
        eventfd_t n;
        if (std::exchange(shown_, ready) != ready)
            retry([&] {
                return ready ? ::eventfd_write(bell_.get(), 1) : ::eventfd_read(bell_.get(), &n);
            });
        const deadline next = ready ? deadline::never() : stalled_;
        if (std::exchange(timed_, next) == next) return;
        itimerspec at{};
        if (!next.is_never()) at.it_value = next.absolute();
        ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &at, nullptr);
    }

    std::unique_ptr<later<When, stream>> stream_;  // null: another process has it
    const int fd_;
    const std::uint64_t most_, theirs_;
    const duration silent_;
    spinner spin_{std::chrono::microseconds(50)};
    std::atomic<bool> closed_{false};
    std::atomic<int> waiting_{0};  // calls that wait for the socket

    std::mutex send_;                          // held by who sends
    std::vector<later<When, std::byte>> out_;  // under send_

    std::mutex receive_;                      // held by who receives; guards these:
    std::vector<later<When, std::byte>> in_;  // [begin_, end_) was read
    std::size_t begin_ = 0, end_ = 0;
    std::size_t room_ = record;   // bytes to make room for, at least
    bool over_ = false;           // nothing will follow
    std::exception_ptr failure_;  // why, once; null: the other side ended, or said too much
    bool awaits_write_ = false;   // the stream, before it can read
    deadline stalled_ = deadline::never();  // when the other side is given up, in a message
    // fileno(): the socket; what says that something is buffered; and when it is to be given up
    unique_fd set_, bell_, timer_;
    bool shown_ = false;                  // by the bell
    deadline timed_ = deadline::never();  // what the timer is set to

    std::mutex io_;  // guards the stream; never held while waiting
};

inline namespace abi_1 {

template <compiled When>
remote_table<When>::remote_table() {
    static constexpr fork_hooks hooks{
        .in_child =
            [] { for_each([](remote_end<When>& one) { one.forked(handover::launching); }); },
        .settle = [] { for_each([](remote_end<When>& one) { one.settle(); }); }};
    process_identity::get().hook(fork_hooks::remote_connections, hooks);
}

template <compiled When>
template <class F>
void remote_table<When>::for_each(F f) noexcept {
    if (const remote_table* const here = only_one<remote_table>::made)
        for (remote_end<When>* one : here->ends_) f(*one);
}

template <compiled When>
void remote_table<When>::add(remote_end<When>& one) {
    const std::lock_guard lock(process_identity::get().tables);
    ends_.push_back(&one);
    handover::get().things.fetch_add(1, std::memory_order_relaxed);
}

template <compiled When>
void remote_table<When>::remove(remote_end<When>& one) noexcept {
    const std::lock_guard lock(process_identity::get().tables);
    std::erase(ends_, &one);
    handover::get().things.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace abi_1

}  // namespace multiprocessing::detail
