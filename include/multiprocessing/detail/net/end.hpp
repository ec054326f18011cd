// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// One end of a connection, in one process: who owns it, what moves through it, when it is over.
/// link.hpp has what is shared, and its protocol.

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/single_threaded.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/detail/net/link.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/cpu.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/handover.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/detail/shm/loans.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// An end as bytes in a message, beside the handle of the region.
struct end_handle {
    std::uint32_t which;
    std::int32_t bell, out;  // descriptors of the process in the region's handle
    std::uint64_t owner;     // the word that the receiver is to replace
    std::uint64_t most;      // bytes of a message
};

/// When this process started, as start_time(); looked up once. An owner without it would be taken
/// for dead.
/// \throws OsError if it can't be found out: no descriptor is left, or there is no /proc
inline std::uint64_t own_start_time() {
    static std::atomic<std::uint64_t> known{0}, known_in{0};
    const std::uint64_t now = process_identity::get().generation.load(std::memory_order_relaxed);
    if (known_in.load(std::memory_order_acquire) == now)  // (A)
        return known.load(std::memory_order_relaxed);
    errno = 0;
    const std::uint64_t found = start_time(this_pid());
    if (found == 0)
        throw_os_error(errno != 0 ? errno : ENOENT,
                       "taking an end of a connection: reading /proc/<pid>/stat");
    known.store(found, std::memory_order_relaxed);
    known_in.store(now, std::memory_order_release);  // (A); any thread finds the same
    return found;
}

template <compiled When = compiled::when_used>
class end;

inline namespace abi_1 {

/// The ends of this process. Guarded by process_identity::tables, so a forked child has it whole.
///
/// So are the pipes: they are opened and closed under that lock, since the fork hook closes those
/// of the ends that are in the table, and no others (I3 of the link).
///
/// Lent: an end that was put into a message and then let go of is kept here until its receiver has
/// it (I2 of the link), or can't get it any more (I6; not known of what went through a queue or a
/// pool). Swept at each further use, and every look_again by those who sleep. At most 1,024 are
/// kept, and at most a quarter as many as this process may have descriptors: then the oldest is
/// closed.
template <compiled When = compiled::when_used>
class MP_EXPORT end_table {
public:
    static end_table& get() {  // never destroyed: static objects of the host may be connections
        return only_one<end_table>::get();
    }

    using guard = std::lock_guard<std::mutex>;
    static std::mutex& mutex() noexcept { return process_identity::get().tables; }

    void add(end<When>& one, const guard&);
    void remove(end<When>& one, const guard&) noexcept;
    void keep(std::unique_ptr<end<When>> lent);
    /// \return whether some are still kept
    bool sweep() noexcept;

private:
    friend only_one<end_table>;
    end_table();
    template <class F>
    static void for_each(F f);
    using ends = std::list<std::unique_ptr<end<When>>>;
    static void close(ends& undelivered) noexcept;

    end<When>* first_ = nullptr;
    ends lent_;
    std::atomic<std::size_t> kept_{0};  // its size, for a look without the lock
};

}  // namespace abi_1

/// Who gets what was sent through a connection, watched by its sender while ends lie in it, though
/// the sender may have closed its own end of it.
template <compiled When = compiled::when_used>
struct carrier {
    const std::shared_ptr<link<When>> of;
    const unsigned to;     // the end that receives
    const unique_fd bell;  // of the other one: hangs up with the receiver

    /// Whether it can't decode a message any more. What can't be found out now is a no.
    bool over() const noexcept try {
        const auto& side = of->shared().sides[to];
        for (;;) {
            std::uint64_t now = of->owner(to).load(std::memory_order_acquire);
            if ((now & owner_word::closed) != 0)
                return side.decoding.load(std::memory_order_acquire) == 0 || died(now);
            pollfd hung_up{bell.get(), 0, 0};
            poll_until(&hung_up, 1, deadline::at_once());
            if ((hung_up.revents & POLLHUP) == 0 && ((now & owner_word::taken) == 0 || !died(now)))
                return false;
            if (of->owner(to).compare_exchange_strong(now, now | owner_word::closed,
                                                      std::memory_order_seq_cst))
                return true;
        }
    } catch (...) {
        return false;
    }
    /// Whether the messages that end at that byte were taken, and those that were are decoded.
    bool done_with(std::uint64_t end_of_message) const noexcept {
        return of->ring(to).taken() >= end_of_message &&
               of->shared().sides[to].decoding.load(std::memory_order_acquire) == 0;
    }

private:
    static bool died(std::uint64_t word) {
        const pid_t pid = owner_word::pid(word);
        const unique_fd pidfd = open_pidfd(pid);
        if (!pidfd || wait_readable(pidfd.get(), deadline::at_once())) return true;
        const std::uint64_t started = (word & owner_word::taken) != 0 ? start_time(pid) : 0;
        return started != 0 && !owner_word::is_of(word, started);
    }
};

/// A message in a receiver's hand, which has not decoded it.
template <compiled When = compiled::when_used>
class reception {
public:
    reception() = default;
    reception(const reception&) = delete;
    reception& operator=(const reception&) = delete;
    ~reception() {
        if (from_ && by_ == this_pid())
            count().fetch_sub(1, std::memory_order_release);  // what was taken is seen to be
    }
    /// Before it is taken.
    void begin(const std::shared_ptr<link<When>>& from, unsigned which) noexcept {
        if (from_) return;
        from_ = from;
        which_ = which;
        by_ = this_pid();
        count().fetch_add(1, std::memory_order_relaxed);  // the commit publishes it
    }

private:
    std::atomic<std::uint32_t>& count() const noexcept {
        return from_->shared().sides[which_].decoding;
    }

    std::shared_ptr<link<When>> from_;
    unsigned which_ = 0;
    pid_t by_ = 0;
};

/// Threads: one may send while another receives, and close() ends what they wait for.
template <compiled When>
class end {
public:
    /// The two ends of a new link, both owned by this process.
    /// \param type  fingerprint of what it carries; 0: anything
    static std::pair<std::unique_ptr<end>, std::unique_ptr<end>> make_pair(std::uint64_t type,
                                                                           bool duplex) {
        end_table<When>::get().sweep();
        const auto made = link<When>::create(type, duplex);
        std::unique_ptr<end> ends[2];
        const guard lock(end_table<When>::mutex());
        unique_fd bells[2], outs[2];
        for (unsigned e : {0u, 1u}) {
            pipe_ends pipe = make_pipe(O_NONBLOCK);
            made->shared().sides[e].bell = inode_of(pipe.reader);
            // Open for reading, too: else a write that comes after the other end is gone raises
            // SIGPIPE.
            outs[e ^ 1] = open_pipe("/proc/self/fd/" + std::to_string(pipe.reader.get()), O_RDWR,
                                    made->shared().sides[e].bell);
            if (!outs[e ^ 1]) throw_os_error(errno, "a connection needs /proc: opening a pipe");
            bells[e] = std::move(pipe.reader);
        }
        const std::uint64_t word = owner_word::first(this_pid());
        for (unsigned e : {0u, 1u}) {
            made->owner(e).store(word, std::memory_order_relaxed);  // nobody else sees it yet
            ends[e].reset(new end(made, e, std::move(bells[e]), std::move(outs[e]), word, lock));
        }
        return {std::move(ends[0]), std::move(ends[1])};
    }

    /// Takes an end that this process received.
    /// \param pid  who lent it
    static std::unique_ptr<end> receive(std::shared_ptr<link<When>> from, end_handle handle,
                                        pid_t pid) {
        static constexpr const char* what = "receiving a Connection: ";
        if (handle.which > 1)
            throw SerializationError(std::string(what) + "the message is damaged");
        const std::string fds = "/proc/" + std::to_string(pid) + "/fd/";
        const unsigned e = handle.which;
        const std::uint64_t started = own_start_time();
        std::unique_ptr<end> made;
        {
            const guard lock(end_table<When>::mutex());
            unique_fd bell = open_pipe(fds + std::to_string(handle.bell), O_RDONLY,
                                       from->shared().sides[e].bell);
            unique_fd out;
            if (bell)
                out = open_pipe(fds + std::to_string(handle.out), O_RDWR,
                                from->shared().sides[e ^ 1].bell);
            if (!out) {
                if (errno == EMFILE || errno == ENFILE) throw_os_error(errno, what + fds);
                throw Error(std::string(what) + "it was closed, or its sender, process " +
                            std::to_string(pid) +
                            ", has ended; keep the sender until it was received");
            }
            made.reset(new end(from, e, std::move(bell), std::move(out), 0, lock));
        }
        made->limit(static_cast<std::size_t>(handle.most));
        made->become_owner(handle.owner, started);
        return made;
    }

    /// An end of a new link on its way to a stranger, who gets its descriptors: this process keeps
    /// none.
    class departure {
    public:
        /// \param to  whose end it is until somebody lets it arrive. \param started  0: not known
        departure(std::unique_ptr<end> of, pid_t to, std::uint64_t started) : end_(std::move(of)) {
            const std::uint64_t mine = end_->mine_.exchange(0, std::memory_order_relaxed);
            // relaxed: sent with the descriptors
            end_->link_->owner(end_->which_)
                .store(owner_word::took(mine, to, started), std::memory_order_relaxed);
        }
        region_id id() const noexcept { return end_->link_->memory().header().id; }
        std::uint64_t size() const noexcept { return end_->link_->memory().size(); }
        std::uint64_t owner() const noexcept {
            return end_->link_->owner(end_->which_).load(std::memory_order_relaxed);
        }
        /// For arrive(), in its order.
        std::array<int, 3> descriptors() const noexcept {
            return {end_->link_->memory().handle().fd, end_->bell_.get(), end_->out_.get()};
        }
        /// They are in the message: from now on they are the end's owner, as it were.
        void gone() noexcept {
            end_->link_->memory().note_lent();
            end_.reset();  // without close()
        }

    private:
        std::unique_ptr<end> end_;
    };
    /// \param from  for its pid, and what to check the file against
    /// \throws Error if they are not the descriptors of an end
    static std::unique_ptr<end> arrive(const region_handle& from, unique_fd file, unique_fd bell,
                                       unique_fd out, std::uint64_t owner) {
        auto opened = region_table<When>::template open<link<When>>(
            from, region_kind::connection, "a Connection", [&] {
                return region::adopt(
                    std::move(file), from, region_kind::connection,
                    "receiving a Connection from process " + std::to_string(from.pid) + ": ");
            });
        static constexpr unsigned which = 1;
        if (!is_pipe(bell, O_RDONLY, opened->shared().sides[which].bell) ||
            !is_pipe(out, O_RDWR, opened->shared().sides[which ^ 1].bell))
            throw Error("the descriptors of a Connection are not its own");
        std::unique_ptr<end> made;
        {
            const guard lock(end_table<When>::mutex());
            made.reset(new end(opened, which, std::move(bell), std::move(out), 0, lock));
        }
        const std::uint64_t next = owner_word::accepted(owner, this_pid());
        if ((owner & owner_word::closed) != 0 || !made->link_->owner(which).compare_exchange_strong(
                                                     owner, next, std::memory_order_seq_cst))
            throw Error("the end of a Connection belongs to somebody else, or is over");
        made->mine_.store(next, std::memory_order_relaxed);
        made->attach();
        return made;
    }

    end(const end&) = delete;
    end& operator=(const end&) = delete;
    ~end() { free_all(); }

    /// Before it is used. \param bytes  a longer message is refused
    void limit(std::size_t bytes) noexcept { most_ = bytes; }

    /// Lets go of an end: closes it, or gives it to the child that this is for, or keeps it for the
    /// receiver of a message; none of it if it is not ours.
    static void let_go(std::unique_ptr<end> last) noexcept {
        if (!last) return;
        try {
            if (last->owns()) {
                if (handover::heir != 0)
                    last->give(handover::heir);
                else if (answer about; last->undelivered(about))
                    return end_table<When>::get().keep(std::move(last));
                else
                    last->take_back();
            }
            last->close();
            last.reset();
            end_table<When>::get().sweep();
        } catch (...) {  // no memory to keep it, or a lock that is out of order
            if (last) last->close();
        }
    }

    bool readable() const noexcept { return which_ == 0 || !simplex_; }
    bool writable() const noexcept { return which_ == 1 || !simplex_; }
    bool closed() const noexcept {
        return (users_.load(std::memory_order_acquire) & closed_bit) != 0;
    }

    /// Appends a message to what the other end receives. The pieces are read under a lock: no user
    /// code may run.
    /// \throws EndOfFile if the other end is closed, or found to be dead
    void send(pieces from, std::uint64_t fingerprint) {
        const use here(*this);
        require(writable(), "send", "receive");
        if (most_ != unlimited) require_short(from);
        look_after_other();
        if (!other_closed() && out().put(from, fingerprint, deadline::at_once())) [[likely]]
            return;
        send_later(from, fingerprint);
    }
    /// As send(), if there is room now. \return false if there is none
    bool try_send(pieces from, std::uint64_t fingerprint) {
        const use here(*this);
        require(writable(), "send", "receive");
        if (most_ != unlimited) require_short(from);
        look_after_other();
        if (other_closed()) throw_nobody_receives();
        return out().put(from, fingerprint, deadline::at_once());
    }

    /// Takes the oldest message, as ring::get().
    /// \param in_hand  lives until it is decoded
    /// \throws EndOfFile if there is none and the other end is closed or dead
    template <class Visit>
    [[gnu::always_inline]] void recv(Visit wanted, reception<When>& in_hand) {
        receive([&](std::uint64_t type, std::span<const std::byte> bytes) {
            if (shared().sides[which_].carries.load(std::memory_order_relaxed) != 0)
                in_hand.begin(link_, which_);
            require_not_long(bytes);
            wanted(type, bytes);
        });
    }
    /// The same of bytes, which nobody decodes: ends in them are not received.
    template <class Visit>
    [[gnu::always_inline]] void recv(Visit wanted) {
        receive([&](std::uint64_t type, std::span<const std::byte> bytes) {
            require_not_long(bytes);
            wanted(type, bytes);
        });
    }

    /// \return whether recv() would not block: false if the deadline came
    bool poll(deadline until) {
        const use here(*this);
        require(readable(), "poll", "send");
        if (!in().empty()) return true;
        if (!until.is_at_once() &&
            in().await(deadline::earlier(until, deadline::after(at_first)))) {
            saw_other();
            return true;
        }
        end_table<When>::get().sweep();
        for (;;) {
            in().quiet();  // first: it may take away what rang for a new owner (I5)
            if (other_gone()) return true;
            require_open();
            if (until.passed()) return false;
            if (!sleep(until)) return !in().empty() || other_gone();
            if (!in().empty()) {
                saw_other();
                return true;
            }
        }
    }

    int fileno() {
        const use here(*this);
        const int fd = [this] {
            const std::lock_guard lock(slow_);
            if (!epoll_) start_polling();
            return epoll_.get();
        }();
        watch_other();
        return fd;
    }

    /// The other end gets what was sent, and then the end of the file. May be repeated; and called
    /// while other threads wait here, which get a ClosedError.
    void close() noexcept {
        count_user(1);
        if ((users_.fetch_or(closed_bit, std::memory_order_seq_cst) & closed_bit) == 0) {
            std::uint64_t mine = mine_.load(std::memory_order_relaxed);
            if (mine != 0) {
                const auto mark = [&] {  // (A) what we put goes before
                    return link_->owner(which_).compare_exchange_strong(
                        mine, mine | owner_word::closed, std::memory_order_seq_cst);
                };
                try {
                    if (out().end(message_ring::putters, mark))
                        in().end(message_ring::getters, [] { return true; });
                } catch (...) {  // a lock that is out of order: the pipe hangs up, at least
                    mark();
                }
            }
            const std::lock_guard lock(slow_);
            if (wake_) retry([&] { return ::eventfd_write(wake_.get(), 1); });
        }
        leave();
    }

    /// As bytes of a message: what receive() takes.
    std::pair<later<When, region_handle>, end_handle> lend() {
        const use here(*this);
        const region_handle where = loans<When>::lend(*link_);
        lent_.fetch_add(1, std::memory_order_relaxed);  // a count
        loans<When>::watch(
            [](void* lent, bool sent, const void* by) noexcept {
                static_cast<end*>(lent)->lent_by(
                    sent ? static_cast<const std::shared_ptr<const carrier<When>>*>(by) : nullptr,
                    sent);
            },
            this);
        return {where,
                {which_, bell_.get(), out_.get(), mine_.load(std::memory_order_relaxed), most_}};
    }

    /// Before a message with an end in it is sent.
    std::shared_ptr<const carrier<When>> carries() {
        const use here(*this);
        const std::lock_guard lock(slow_);
        if (!carrier_) {
            unique_fd bell = off_stdio(unique_fd(call("fcntl(F_DUPFD_CLOEXEC) of a pipe", [&] {
                return ::fcntl(bell_.get(), F_DUPFD_CLOEXEC, 0);
            })));
            carrier_.reset(new carrier<When>{link_, which_ ^ 1, std::move(bell)});
        }
        shared().sides[which_ ^ 1].carries.store(1, std::memory_order_relaxed);  // put publishes it
        return carrier_;
    }

    // --- for wait()

    /// No system call.
    bool seems_ready() const noexcept { return !in().empty() || other_closed(); }
    /// The descriptors stay valid until this object ends, though it is closed meanwhile: then one
    /// of them is readable. \return false if the caller may sleep until one of the descriptors
    /// added is ready
    bool prepare(std::vector<later<When, pollfd>>& fds, deadline until) {
        const use here(*this);
        const int wake = wake_for_closing();
        if (wake >= 0) {
            const std::lock_guard lock(slow_);
            waited_for_ = true;
            if (closed()) throw_closed();
        }
        end_table<When>::get().sweep();
        if (!in().empty() || (!in().arm_line(until) && !until.passed()) || other_gone())
            return true;
        const std::lock_guard lock(slow_);
        for (const int fd : {bell_.get(), wake, other_pidfd_.get()})
            if (fd >= 0) fds.push_back({fd, POLLIN, 0});
        return false;
    }
    bool is_ready() {
        const use here(*this);
        return !in().empty() || other_gone();
    }

private:
    friend class abi_1::end_table<When>;

    using guard = typename end_table<When>::guard;

    static constexpr std::uint32_t closed_bit = std::uint32_t{1} << 31;
    static constexpr duration at_first = std::chrono::milliseconds(2);  // asleep in a futex
    static constexpr duration at_last = std::chrono::milliseconds(64);  // the same, for room
    static constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();
    static constexpr std::uint64_t fresh = 100'000;  // ticks: 25 to 100 us

    /// A call that is in here. Nothing is freed meanwhile.
    class use {
    public:
        explicit use(end& e) : end_(e) {
            if ((e.count_user(1) & closed_bit) != 0 || !e.has_owner_word()) [[unlikely]]
                e.enter();
        }
        use(const use&) = delete;
        use& operator=(const use&) = delete;
        ~use() { end_.leave(); }

    private:
        end& end_;
    };

    end(std::shared_ptr<link<When>> of, unsigned which, unique_fd bell, unique_fd out,
        std::uint64_t mine, const guard& lock)
        : link_(std::move(of)),
          in_(&link_->ring(which)),
          to_(&link_->ring(which ^ 1)),
          owner_(&link_->owner(which)),
          other_(&link_->owner(which ^ 1)),
          which_(which),
          simplex_(link_->shared().simplex != 0),
          mine_(mine),
          bell_(std::move(bell)),
          out_(std::move(out)) {
        if (mine != 0) attach();
        end_table<When>::get().add(*this, lock);
    }

    [[gnu::noinline]] void send_later(pieces from, std::uint64_t fingerprint) {
        for (duration slice = at_first;; slice = std::min(2 * slice, at_last)) {
            if (other_gone()) throw_nobody_receives();
            require_open();
            if (out().put(from, fingerprint, deadline::after(slice))) return;
        }
    }

    template <class Visit>
    [[gnu::always_inline]] void receive(Visit visit) {
        const use here(*this);
        require(readable(), "recv", "send");
        deadline until = deadline::at_once();
        waited so_far = waited::not_yet;
        while (!in().get(until, visit)) [[unlikely]] until = wait_for_message(so_far);
        if (so_far != waited::not_yet) {
            if (so_far == waited::for_the_last) return;
            saw_other();
        }
        if (in().line().polled.load(std::memory_order_relaxed)) watch_other_with_message();
    }
    /// Whether one who receives has waited; for_the_last: he knows that the other end is closed.
    enum class waited { not_yet, once, for_the_last };
    /// Nothing was there. \return until when to try again
    [[gnu::noinline]] deadline wait_for_message(waited& so_far) {
        if (so_far == waited::not_yet) {
            so_far = waited::once;
            return deadline::after(at_first);
        }
        if (so_far == waited::for_the_last)
            throw EndOfFile(
                "recv: the other end of this connection was closed, or its process ended, and "
                "everything that it sent was received");
        if (other_closed()) {  // (A) what it put before is here now
            so_far = waited::for_the_last;
        } else {
            require_open();
            sleep(deadline::never());
        }
        return deadline::at_once();
    }
    void require_not_long(std::span<const std::byte> message) const {
        if (message.size() > most_) [[unlikely]]
            throw_too_long(message.size());
    }

    link_shared& shared() const noexcept { return link_->shared(); }
    message_ring& in() const noexcept { return *in_; }
    message_ring& out() const noexcept { return *to_; }
    std::atomic<std::uint64_t>& other() const noexcept { return *other_; }

    [[noreturn]] static void throw_closed() {
        throw ClosedError("this end of the connection is closed");
    }
    [[noreturn]] static void throw_nobody_receives() {
        throw EndOfFile(
            "send: the other end of this connection was closed, or its process ended; nobody can "
            "receive this");
    }
    void require_open() const {
        if (closed()) throw_closed();
    }
    static void require(bool can, const char* what, const char* other) {
        if (!can) [[unlikely]]
            throw_wrong_end(what, other);
    }
    [[noreturn, gnu::cold]] static void throw_wrong_end(const char* what, const char* other) {
        throw Error(std::string(what) + ": this end of a simplex pipe can only " + other +
                    "; use the other one, or Pipe(true)");
    }
    [[noreturn, gnu::cold]] void throw_too_long(std::size_t length) const {
        throw SerializationError("recv: a message of " + std::to_string(length) +
                                 " bytes is longer than max_message, " + std::to_string(most_) +
                                 "; it was dropped");
    }

    /// \return what users_ was
    std::uint32_t count_user(std::uint32_t more) noexcept {
        if (!__libc_single_threaded)
            // acq_rel: the last one frees what the others used.
            return users_.fetch_add(more, std::memory_order_acq_rel);
        const std::uint32_t before = users_.load(std::memory_order_relaxed);  // nobody else is here
        users_.store(before + more, std::memory_order_relaxed);
        return before;
    }

    void leave() noexcept {
        if (count_user(~std::uint32_t{0}) == (closed_bit | 1) &&
            !freed_.exchange(true, std::memory_order_relaxed))  // one frees; by that exchange
            free_all();
    }

    void free_all() noexcept {
        {
            const guard lock(end_table<When>::mutex());
            end_table<When>::get().remove(*this, lock);
            if (!link_) return;
            detach();
            out_.reset();
            epoll_.reset();
            if (!waited_for_)
                for (unique_fd* fd : {&bell_, &other_pidfd_, &wake_}) fd->reset();
        }
        carrier_.reset();
        link_.reset();
    }

    // ---- messages that it is in

    struct loan {
        std::shared_ptr<const carrier<When>> by;
        std::uint64_t end_of_message;  // or of a later one
    };
    /// Spares asking about the same carrier again.
    struct answer {
        const carrier<When>* about = nullptr;
        bool over = false;
    };
    static bool is_lost(const loan& one, answer& last) noexcept {
        if (one.by->done_with(one.end_of_message)) return true;
        if (last.about != one.by.get()) last = {one.by.get(), one.by->over()};
        return last.over;
    }

    void lent_by(const std::shared_ptr<const carrier<When>>* by, bool sent) noexcept {
        if (sent && (!by || !*by)) return;
        try {
            if (sent) {
                const std::lock_guard lock(slow_);
                const std::uint64_t now =
                    process_identity::get().generation.load(std::memory_order_relaxed);
                if (loans_of_ != now) loans_.clear();  // its parent's
                loans_of_ = now;
                answer last;
                if (loans_.size() >= 16)
                    std::erase_if(loans_, [&](const loan& l) { return is_lost(l, last); });
                loans_.push_back({*by, (*by)->of->ring((*by)->to).sent()});
            }
            lent_.fetch_sub(1, std::memory_order_relaxed);
        } catch (...) {  // no memory: as if it were in a queue
        }
    }
    /// Whether somebody may still receive it. Of an end that nobody uses.
    bool undelivered(answer& last) const noexcept {
        return lent_.load(std::memory_order_relaxed) > 0 ||
               (loans_of_ == process_identity::get().generation.load(std::memory_order_relaxed) &&
                !std::all_of(loans_.begin(), loans_.end(),
                             [&](const loan& l) { return is_lost(l, last); }));
    }
    /// Nobody has opened its region for those messages.
    void take_back() noexcept {
        if (loans_of_ != process_identity::get().generation.load(std::memory_order_relaxed)) return;
        for (std::size_t i = 0; i < loans_.size() && link_->memory().awaited(); ++i)
            region_table<When>::take_back(link_->memory().header().id);
    }

    // ---- who owns it

    bool owns() const noexcept { return !closed() && has_owner_word(); }
    bool has_owner_word() const noexcept {
        const std::uint64_t mine = mine_.load(std::memory_order_relaxed);
        return mine != 0 && owner_->load(std::memory_order_relaxed) == mine;
    }
    /// The first use in a process that inherited it, or one that comes too late.
    [[gnu::noinline]] void enter() {
        try {
            if (closed()) throw_closed();
            become_own();
        } catch (...) {
            leave();
            throw;
        }
    }

    /// In a process that inherited it: the first use takes it. \throws ClosedError
    void become_own() {
        const std::lock_guard lock(slow_);
        const std::uint64_t now = link_->owner(which_).load(std::memory_order_acquire);
        const std::uint64_t mine = mine_.load(std::memory_order_relaxed);
        if (mine != 0 && now == mine) return;  // another thread took it
        if (mine != 0 || now != inherited_) {
            const guard tables(end_table<When>::mutex());
            out_.reset();  // I3 of the link: sooner is better
            throw_taken(now);
        }
        const pid_t from = owner_word::pid(now);
        const std::uint64_t started = own_start_time();
        const bool opened = [&] {
            const guard tables(end_table<When>::mutex());
            out_ = open_pipe("/proc/" + std::to_string(from) + "/fd/" + std::to_string(out_number_),
                             O_RDWR, shared().sides[which_ ^ 1].bell);
            return bool(out_);
        }();
        if (!opened) {
            const int error = errno;
            if (error == EMFILE || error == ENFILE)
                throw_os_error(error, "taking over an inherited connection");
            throw ClosedError("this end of the connection belongs to process " +
                              std::to_string(from) +
                              ", which has ended or let go of it (or its /proc is closed to this "
                              "process): move it into the Process that is to have it");
        }
        try {
            become_owner(now, started);
        } catch (...) {
            const guard tables(end_table<When>::mutex());
            out_.reset();
            throw;
        }
    }

    [[noreturn]] static void throw_taken(std::uint64_t now) {
        const pid_t owner = owner_word::pid(now);
        if (owner == this_pid()) throw_closed();
        throw ClosedError("this end of the connection was taken over by process " +
                          std::to_string(owner) +
                          ((now & owner_word::closed) != 0 ? ", which closed it or ended" : ""));
    }

    /// I5 of the link. \param from  the word to replace
    void become_owner(std::uint64_t from, std::uint64_t started) {
        const std::uint64_t next = owner_word::took(from, this_pid(), started);
        std::uint64_t now = from;
        attach();
        const bool done = (from & owner_word::closed) == 0 && out().ring_line_and([&] {
            return link_->owner(which_).compare_exchange_strong(now, next,
                                                                std::memory_order_seq_cst);
        });
        if (!done) {
            detach();
            throw_taken(now);
        }
        mine_.store(next, std::memory_order_relaxed);
    }

    /// To a child that has inherited the pipe.
    void give(pid_t heir) {
        std::uint64_t mine = mine_.load(std::memory_order_relaxed);
        const bool taken = (mine & owner_word::taken) != 0;
        const std::uint64_t next = owner_word::given(mine, heir, taken ? start_time(heir) : 0);
        const auto exchange = [&] {
            return link_->owner(which_).compare_exchange_strong(mine, next,
                                                                std::memory_order_seq_cst);
        };
        if (taken)
            out().ring_line_and(exchange);
        else
            exchange();
        mine_.store(0, std::memory_order_relaxed);
        inherited_ = 0;
    }

    void attach() noexcept {
        in().line().in.store(bell_.get(), std::memory_order_relaxed);
        out().line().out.store(out_.get(), std::memory_order_relaxed);
        out_number_ = out_.get();
    }
    void detach() noexcept {  // unless an end that came back has attached itself
        int mine = bell_.get();
        if (in().line().in.compare_exchange_strong(mine, -1, std::memory_order_relaxed) && epoll_)
            in().line().polled.store(false, std::memory_order_relaxed);
        mine = out_.get();
        out().line().out.compare_exchange_strong(mine, -1, std::memory_order_relaxed);
    }

    /// In a forked child: the end is its parent's. \param keeps_pipe  until settle()
    void forked(bool keeps_pipe) noexcept {
        if (const std::uint64_t mine = mine_.exchange(0, std::memory_order_relaxed))
            inherited_ = mine;
        users_.fetch_and(closed_bit, std::memory_order_relaxed);  // the other threads are gone
        new (&slow_) std::mutex;
        lent_.store(0, std::memory_order_relaxed);
        if (!link_) return;
        if (epoll_) in().line().polled.store(false, std::memory_order_relaxed);
        epoll_.reset();
        wake_.reset();
        waited_for_ = owes_look_ = false;
        if (!keeps_pipe) drop_pipe();
    }
    /// In a child of this library: K3, K4 of the link.
    void settle() noexcept {
        if (!link_ || mine_.load(std::memory_order_relaxed) != 0) return;
        const std::uint64_t now = link_->owner(which_).load(std::memory_order_acquire);
        if (owner_word::pid(now) == this_pid() && (now & owner_word::closed) == 0)
            mine_.store(now, std::memory_order_relaxed);
        else
            drop_pipe();
    }
    void drop_pipe() noexcept {
        int mine = out_.get();
        out().line().out.compare_exchange_strong(mine, -1, std::memory_order_relaxed);
        out_.reset();
    }

    // ---- whether the other end is there

    bool other_closed() const noexcept {
        return (other().load(std::memory_order_acquire) & owner_word::closed) != 0;  // (A)
    }

    /// I4 of the link. At least one system call, unless it is closed.
    bool other_gone() {
        for (;;) {
            std::uint64_t now = other().load(std::memory_order_acquire);
            if ((now & owner_word::closed) != 0) return stay_readable();
            pollfd bell{bell_.get(), 0, 0};
            poll_until(&bell, 1, deadline::at_once());
            bool gone = (bell.revents & POLLHUP) != 0;
            if (!gone && (now & owner_word::taken) != 0) gone = owner_died(now);
            if (!gone) {
                if ((now & owner_word::taken) == 0 && watched_.load(std::memory_order_relaxed) != 0)
                    forget_owner();
                return false;
            }
            if (other().compare_exchange_strong(now, now | owner_word::closed,
                                                std::memory_order_seq_cst)) {
                end_table<When>::get().sweep();  // of what we sent to it
                return stay_readable();
            }
        }
    }

    /// It is over: so is what made the descriptor readable, perhaps, but that must stay so.
    bool stay_readable() {
        if (!in().line().polled.load(std::memory_order_relaxed)) return true;
        const std::lock_guard lock(slow_);
        if (!epoll_) return true;
        epoll_event event{};
        event.events = EPOLLOUT;  // to that pipe we can always write
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, out_.get(), &event);  // or it was before
        return true;
    }

    /// Of the other end, if it was taken. Keeps its pidfd, which those who sleep here poll, too.
    bool owner_died(std::uint64_t word) {
        const std::lock_guard lock(slow_);
        if (watched_.load(std::memory_order_relaxed) != word) {
            const pid_t pid = owner_word::pid(word);
            unique_fd pidfd = open_pidfd(pid);
            // Opened first: what is compared then is what the descriptor names.
            if (pidfd && !wait_readable(pidfd.get(), deadline::at_once())) {
                errno = 0;
                const std::uint64_t started = start_time(pid);
                const int error = errno != 0 ? errno : ENOENT;
                if (started == 0 && !wait_readable(pidfd.get(), deadline::at_once()))
                    throw_os_error(error, "finding out whether process " + std::to_string(pid) +
                                              ", which has the other end of this connection, "
                                              "lives: reading /proc/<pid>/stat");
                if (started != 0 && !owner_word::is_of(word, started)) pidfd.reset();
            }
            watch(word, std::move(pidfd));
        }
        return !other_pidfd_ || wait_readable(other_pidfd_.get(), deadline::at_once());
    }

    /// It was accepted: who listened may die.
    void forget_owner() {
        const std::lock_guard lock(slow_);
        watch(0, {});
    }

    /// Under slow_. \param word  the owner that this is the pidfd of; 0: one whose pipe will do
    void watch(std::uint64_t word, unique_fd pidfd) {
        if (epoll_) {
            if (other_pidfd_)  // a child may have a copy, so to close it is not enough
                ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, other_pidfd_.get(), nullptr);
            if (pidfd) add_to(epoll_, pidfd);
        }
        other_pidfd_.reset();
        other_pidfd_ = std::move(pidfd);
        watched_.store(word, std::memory_order_relaxed);  // under the lock, but for a look
        if (std::exchange(owes_look_, false) && epoll_ && !other_closed())
            ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, out_.get(), nullptr);
    }

    void start_polling() {
        unique_fd set = off_stdio(
            unique_fd(call("epoll_create1", [] { return ::epoll_create1(EPOLL_CLOEXEC); })));
        add_to(set, bell_);
        if (other_pidfd_) add_to(set, other_pidfd_);
        in().poll_line([&] {
            const std::string path = "/proc/self/fd/" + std::to_string(bell_.get());
            const unique_fd self(call("fileno of a connection: opening " + path, [&] {
                return ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
            }));
            call("writing into a pipe", [&] { return ::write(self.get(), "", 1); });
        });
        epoll_ = std::move(set);
    }

    /// After the line was armed, for one who polls: what rang may have been a new owner (I5).
    void watch_other() {
        if (!in().line().polled.load(std::memory_order_relaxed)) return;
        const std::uint64_t now = other().load(std::memory_order_acquire);
        const std::uint64_t to_watch = (now & owner_word::taken) != 0 ? now : 0;
        if ((now & owner_word::closed) != 0 || watched_.load(std::memory_order_relaxed) != to_watch)
            other_gone();
    }

    /// As watch_other(), with a message in hand that an error would lose. Without descriptors to
    /// look, the one that is polled stays readable, so that the next call looks again.
    void watch_other_with_message() noexcept {
        try {
            watch_other();
        } catch (...) {
            {
                const std::lock_guard lock(slow_);
                owes_look_ = true;
            }
            stay_readable();
        }
    }

    /// It has just sent: who waited got a message. (One that was there may be of a dead sender.)
    /// relaxed: a guess.
    void saw_other() noexcept { looked_.store(ticks(), std::memory_order_relaxed); }

    /// Before a send: whether the other end lives is asked now and then, and always if it was not
    /// seen alive lately. Else no system call: it takes what is sent, or sends itself.
    void look_after_other() {
        // All relaxed: guesses.
        const std::uint64_t now = ticks();
        const std::uint64_t since = now - looked_.load(std::memory_order_relaxed);
        if (since < fresh) return;
        const std::uint64_t taken = out().taken();
        const bool takes = taken != taken_.load(std::memory_order_relaxed);
        looked_.store(now, std::memory_order_relaxed);
        taken_.store(taken, std::memory_order_relaxed);
        if (!takes || since >= 2 * fresh) other_gone();
    }

    /// What close() makes readable; -1 if no other thread is there that could. A look at closed()
    /// must follow.
    int wake_for_closing() {
        if (__libc_single_threaded) return -1;
        const std::lock_guard lock(slow_);
        if (!wake_)
            wake_ = off_stdio(unique_fd(
                call("eventfd", [] { return ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); })));
        return wake_.get();
    }

    /// Until a message may be there or the other end may be gone.
    /// \return false if the deadline came
    bool sleep(deadline until) {
        const int wake = wake_for_closing();
        if (closed()) return true;
        if (!in().arm_line(until) || other_gone()) return !until.passed();
        int pidfd;
        {
            const std::lock_guard lock(slow_);
            pidfd = other_pidfd_.get();
        }
        pollfd fds[] = {{bell_.get(), POLLIN, 0}, {wake, POLLIN, 0}, {pidfd, POLLIN, 0}};
        // An end that we wait for may be among those kept.
        const bool keeps = end_table<When>::get().sweep();
        const deadline next = keeps ? deadline::earlier(until, deadline::after(look_again)) : until;
        return poll_until(fds, std::size(fds), next) > 0 ||
               !until.passed();  // a negative descriptor is none
    }

    static void add_to(const unique_fd& set, const unique_fd& fd) {
        epoll_event event{};
        event.events = EPOLLIN;
        call("epoll_ctl", [&] { return ::epoll_ctl(set.get(), EPOLL_CTL_ADD, fd.get(), &event); });
    }

    void require_short(pieces from) const {
        std::uint64_t length = 0;
        for (const auto& piece : from) length += piece.size();
        if (length > most_)
            throw Error("send: a message of " + std::to_string(length) +
                        " bytes is longer than max_message, " + std::to_string(most_));
    }

    static bool is_pipe(const unique_fd& fd, int mode, std::uint64_t inode) noexcept {
        struct stat info;
        return fd && ::fstat(fd.get(), &info) == 0 && S_ISFIFO(info.st_mode) &&
               info.st_ino == inode && (::fcntl(fd.get(), F_GETFL) & O_ACCMODE) == mode;
    }
    static std::uint64_t inode_of(const unique_fd& fd) {
        struct stat info;
        call("fstat of a pipe", [&] { return ::fstat(fd.get(), &info); });
        return info.st_ino;
    }
    /// Empty, with errno, if the pipe is not there.
    static unique_fd open_pipe(const std::string& path, int mode, std::uint64_t inode) {
        struct stat info;  // looked at first: opening may have effects on what is no pipe
        if (retry([&] { return ::stat(path.c_str(), &info); }) != 0) return {};
        const auto right = [&] { return S_ISFIFO(info.st_mode) && info.st_ino == inode; };
        errno = ENOENT;
        if (!right()) return {};
        unique_fd fd(
            retry([&] { return ::open(path.c_str(), mode | O_NONBLOCK | O_CLOEXEC | O_NOCTTY); }));
        if (!fd) return {};
        if (::fstat(fd.get(), &info) != 0 || !right()) {
            errno = ENOENT;
            return {};
        }
        return off_stdio(std::move(fd));
    }

    std::shared_ptr<link<When>> link_;  // null: freed
    message_ring *const in_, *const to_;
    std::atomic<std::uint64_t>*const owner_, *const other_;  // words
    const unsigned which_;
    const bool simplex_;
    std::atomic<std::uint64_t> mine_;  // the owner's word, if it is ours; 0: it is not
    std::uint64_t inherited_ = 0;      // what it was in the process that this one was forked from
    unique_fd bell_, out_;             // read end of our pipe; the other end's, also for writing
    int out_number_ = -1;              // of out_ in the owner, though it was closed here
    std::size_t most_ = unlimited;     // bytes of a message
    std::atomic<std::uint32_t> users_{0};  // calls that are in here; the highest bit: closed
    std::atomic<bool> freed_{false};
    std::atomic<std::uint32_t> lent_{0};  // in so many messages that can't be watched
    std::atomic<std::uint64_t> looked_{0}, taken_{0};

    std::mutex slow_;  // guards the rest
    unique_fd epoll_;  // what fileno() gave
    unique_fd wake_;   // of those who sleep here while others might close it
    unique_fd other_pidfd_;
    std::shared_ptr<const carrier<When>> carrier_;  // once it carried an end
    std::vector<loan> loans_;                       // the messages that it is in
    std::uint64_t loans_of_ = 0;                    // the generation of the process that sent them
    bool waited_for_ = false;                       // by a wait(), which may poll what it was given
    bool owes_look_ = false;  // the set is readable only so that somebody comes and looks
    std::atomic<std::uint64_t> watched_{0};  // the owner's word that the pidfd was opened for

    // tables
    end *next_ = nullptr, *previous_ = nullptr;
    bool listed_ = false;
};

inline namespace abi_1 {

template <compiled When>
end_table<When>::end_table() {
    static constexpr fork_hooks hooks{
        .in_child =
            [] {
                handover::heir = 0;  // of what its parent was dropping just then
                for_each([](end<When>& one) { one.forked(handover::launching); });
            },
        .settle = [] { for_each([](end<When>& one) { one.settle(); }); }};
    process_identity::get().hook(fork_hooks::connections, hooks);
}

template <compiled When>
template <class F>
void end_table<When>::for_each(F f) {
    const end_table* const here = only_one<end_table>::made;
    for (end<When>* one = here ? here->first_ : nullptr; one != nullptr; one = one->next_) f(*one);
}

template <compiled When>
void end_table<When>::add(end<When>& one, const guard&) {
    one.next_ = first_;
    if (first_) first_->previous_ = &one;
    first_ = &one;
    one.listed_ = true;
    handover::get().things.fetch_add(1, std::memory_order_relaxed);
}

template <compiled When>
void end_table<When>::remove(end<When>& one, const guard&) noexcept {
    if (!std::exchange(one.listed_, false)) return;
    if (one.next_) one.next_->previous_ = one.previous_;
    (one.previous_ ? one.previous_->next_ : first_) = one.next_;
    handover::get().things.fetch_sub(1, std::memory_order_relaxed);
}

template <compiled When>
void end_table<When>::keep(std::unique_ptr<end<When>> lent) {
    rlimit descriptors{};
    ::getrlimit(RLIMIT_NOFILE, &descriptors);
    const std::size_t most = std::min<std::size_t>(1024, descriptors.rlim_cur / 4);
    ends dropped, kept;  // both go after the lock
    kept.push_back(std::move(lent));
    {
        const guard lock(mutex());
        lent_.splice(lent_.end(), kept);
        while (lent_.size() > most) dropped.splice(dropped.end(), lent_, lent_.begin());
        kept_.store(lent_.size(), std::memory_order_relaxed);
    }
    close(dropped);
}

template <compiled When>
bool end_table<When>::sweep() noexcept {
    while (kept_.load(std::memory_order_relaxed) != 0) {
        ends dropped;  // goes after the lock
        typename end<When>::answer about;
        {
            const guard lock(mutex());
            for (auto it = lent_.begin(); it != lent_.end();) {
                const auto here = it++;
                if (!(*here)->owns() || !(*here)->undelivered(about))
                    dropped.splice(dropped.end(), lent_, here);
            }
            kept_.store(lent_.size(), std::memory_order_relaxed);
        }
        if (dropped.empty()) return true;
        close(dropped);  // what lies in them may be lost now, too
    }
    return false;
}

template <compiled When>
void end_table<When>::close(ends& undelivered) noexcept {
    for (const auto& one : undelivered) {
        if (one->owns()) one->take_back();
        one->close();
    }
}

}  // namespace abi_1

}  // namespace multiprocessing::detail
