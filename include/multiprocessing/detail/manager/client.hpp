// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A manager's client: the connections of a process and its threads to a server, and references.
///
/// Each process has its own. What a forked child inherits it never uses, but for the addresses in
/// it: at the first use of a reference there the child counts it anew, over connections of its own.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <pthread.h>
#include <sys/types.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/detail/archive/exception.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/callable/descriptor.hpp>
#include <multiprocessing/detail/manager/caller.hpp>
#include <multiprocessing/detail/manager/served.hpp>
#include <multiprocessing/detail/manager/server.hpp>
#include <multiprocessing/detail/manager/wire.hpp>
#include <multiprocessing/detail/net/waitable.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/handover.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/detail/shm/loans.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// Where a server is.
struct manager_contact {
    Address address;  // of no other server, ever
    pid_t server = 0;
};

/// What a process has of one server. Any thread may use it.
template <compiled When = compiled::when_used>
class client_session : public std::enable_shared_from_this<client_session<When>> {
    struct channel {
        explicit channel(later<When, Connection<>> of) : wire(std::move(of)) {}
        manager_wire<When> wire;
        std::uint32_t number = 0;  // of the last request
    };

public:
    /// That of this process; connects if there is none.
    /// \throws EndOfFile if the server has ended
    static std::shared_ptr<client_session> of(const manager_contact& contact) {
        if (auto known = find(contact)) return known;
        const auto made = std::make_shared<client_session>(contact);
        made->open();
        const std::lock_guard lock(process_identity::get().tables);
        if (auto known = find_listed(contact)) return known;  // another thread was faster
        made->next_ = std::exchange(first_, made.get());
        return made;
    }
    /// Null if this process has none.
    static std::shared_ptr<client_session> find(const manager_contact& contact) noexcept {
        const std::lock_guard lock(process_identity::get().tables);
        return find_listed(contact);
    }

    explicit client_session(manager_contact contact) : contact_(std::move(contact)) {}
    client_session(const client_session&) = delete;
    client_session& operator=(const client_session&) = delete;
    ~client_session() {
        const std::lock_guard lock(process_identity::get().tables);
        for (client_session** at = &first_; *at != nullptr; at = &(*at)->next_)
            if (*at == this) {
                *at = next_;
                break;
            }
    }

    /// Asks the server and waits for its answer.
    /// \throws EndOfFile if it has ended, or ends meanwhile; what it answers with; what encoding
    ///     the arguments throws: it was not asked then
    template <class R, class... Args>
    R ask(manager_op what, std::uint64_t object, callable_ref callable, const Args&... args) try {
        channel& mine = of_this_thread();
        if (owes_.load(std::memory_order_relaxed)) {  // a guess
            const std::lock_guard lock(control_mutex_);
            post_notes();
        }
        const std::uint32_t number = ++mine.number;
        mine.wire.post(manager_request{static_cast<std::uint32_t>(what), number, object, callable},
                       args...);
        return answer<R>(mine.wire, number);
    } catch (const peer_gone&) {
        let_go();
        throw_ended(contact_);
    }

    /// Messages that it lent references for are on its account: so it stays, though this process
    /// may have no proxy left.
    void stay() {
        const std::lock_guard lock(control_mutex_);
        stays_ = this->shared_from_this();
    }
    /// The server has ended, or this process ends it.
    void let_go() noexcept {
        std::shared_ptr<client_session> last;  // goes after the lock; the caller has another one
        const std::lock_guard lock(control_mutex_);
        last.swap(stays_);
    }

    /// Tells the server, without an answer. Never blocks: while the server takes nothing, stopped
    /// perhaps, it is kept, and goes with a later one or a question. Never throws: what does not
    /// get there is lost with the server, or with this process's memory. \param heir  with the key:
    /// of bequeath
    void tell(manager_op what, std::uint64_t object, pid_t heir = 0,
              std::uint64_t key = 0) noexcept {
        try {
            const std::lock_guard lock(control_mutex_);
            notes_.push_back({what, object, heir, key});
            post_notes();
        } catch (...) {
        }
    }

    /// Made by this process.
    bool is_own() const noexcept {
        return generation_ == process_identity::get().generation.load(std::memory_order_relaxed);
    }

    [[noreturn]] static void throw_ended(const manager_contact& contact) {
        throw EndOfFile("the server of this manager, process " + std::to_string(contact.server) +
                        ", has ended or was shut down, and its objects with it");
    }

private:
    /// Under process_identity::tables.
    static std::shared_ptr<client_session> find_listed(const manager_contact& contact) noexcept {
        for (client_session* s = first_; s != nullptr; s = s->next_)
            if (s->is_own() && s->contact_.address == contact.address)
                if (auto known = s->weak_from_this().lock()) return known;
        return nullptr;
    }

    /// The channels that a thread has. They go after its thread_local objects, whose destructors
    /// may call, too: a key's destructor is later, and is called again if one more is made.
    struct of_thread {
        struct entry {
            std::uint64_t serial;
            channel* open;
            std::weak_ptr<client_session> of;
        };
        std::vector<entry> entries;

        ~of_thread() {
            last_ = {};
            all_ = nullptr;
            for (const entry& each : entries)
                if (const auto session = each.of.lock()) session->drop(each.open);
        }

        static of_thread& get() {
            if (all_ == nullptr) {
                auto made = std::make_unique<of_thread>();
                const pthread_key_t key = only_one<thread_key>::get().key;
                if (const int result = ::pthread_setspecific(key, made.get()); result != 0)
                    throw_os_error(result, "pthread_setspecific");
                all_ = made.release();
            }
            return *all_;
        }
    };

    struct thread_key {
        thread_key() {
            const int result = ::pthread_key_create(&key, [](void* one) {
                const std::unique_ptr<of_thread> mine(static_cast<of_thread*>(one));
            });
            if (result != 0) throw_os_error(result, "pthread_key_create");
        }
        thread_key(const thread_key&) = delete;
        thread_key& operator=(const thread_key&) = delete;
        ~thread_key() { ::pthread_key_delete(key); }  // of one that came second

        pthread_key_t key{};
    };

    static later<When, Connection<>> connect(const manager_contact& contact) {
        try {
            return Client<When>(contact.address);
        } catch (const OsError& e) {
            const int code = e.code().value();
            if (code == ECONNREFUSED || code == ECONNRESET || code == EPIPE || code == ENOENT)
                throw peer_gone();
            throw;
        } catch (const EndOfFile&) {
            throw peer_gone();
        }
    }

    /// Under control_mutex_: those that there is room for. \throws peer_gone
    void post_notes() try {
        for (; !notes_.empty(); notes_.pop_front()) {
            const note& one = notes_.front();
            const manager_request front{static_cast<std::uint32_t>(one.what), 0, one.object, {}};
            if (!(one.heir != 0 ? control_->try_post(front, std::int32_t{one.heir}, one.key)
                                : control_->try_post(front)))
                break;
        }
        owes_.store(!notes_.empty(), std::memory_order_relaxed);  // a guess
    } catch (const peer_gone&) {
        notes_.clear();
        owes_.store(false, std::memory_order_relaxed);  // a guess
        throw;
    }

    /// \throws what was answered instead
    template <class R>
    R answer(manager_wire<When>& wire, std::uint32_t number) {
        for (;;) {
            receive_buffer<When> buffer;
            reception<When> in_hand;
            auto bytes = wire.take(buffer, in_hand);
            const auto head = take_head<manager_reply>(bytes);
            if (head.number != number) continue;  // of one that was not waited for to the end
            if (head.failed != 0)
                std::rethrow_exception(
                    decode_exception(decode<std::vector<std::byte>>(bytes), contact_.server));
            if constexpr (std::is_void_v<R>)
                return decode_into(bytes);
            else
                return decode<R>(bytes);
        }
    }

    void open() try {
        control_.emplace(connect(contact_));
        // A child of the server may keep its socket open behind it, so its word alone would do.
        server_ = open_pidfd(contact_.server);
        if (!server_) throw peer_gone();
        control_->post(
            manager_request{static_cast<std::uint32_t>(manager_op::open_session), 1, 0, {}},
            std::int32_t{this_pid()});
        const auto ready =
            wait({static_cast<later<When, Connection<>>&>(*control_), server_.get()});
        if (ready.front() != 0) throw peer_gone();
        number_ = answer<std::uint64_t>(*control_, 1);
    } catch (const peer_gone&) {
        throw_ended(contact_);
    }

    channel& of_this_thread() {
        if (last_.serial == serial_) [[likely]]
            return *last_.open;
        if (all_ != nullptr)
            for (const auto& each : all_->entries)
                if (each.serial == serial_) return use(each.open);
        return use(open_channel());
    }
    channel& use(channel* one) noexcept {
        last_ = {serial_, one};
        return *one;
    }

    channel* open_channel() {
        auto made = std::make_unique<channel>(connect(contact_));
        made->wire.post(
            manager_request{static_cast<std::uint32_t>(manager_op::open_channel), 0, number_, {}});
        const auto ready =
            wait({static_cast<later<When, Connection<>>&>(made->wire), server_.get()});
        if (ready.front() != 0) throw peer_gone();
        answer<void>(made->wire, 0);
        auto& entries = of_thread::get().entries;
        std::erase_if(entries, [](const auto& each) { return each.of.expired(); });
        entries.reserve(entries.size() + 1);
        channel* const open = made.get();
        {
            const std::lock_guard lock(channels_mutex_);
            channels_.push_back(std::move(made));
        }
        entries.push_back({serial_, open, this->weak_from_this()});  // there is room
        return open;
    }
    /// Its thread ends.
    void drop(channel* one) noexcept {
        if (!is_own()) return;
        std::list<std::unique_ptr<channel>> dropped;
        const std::lock_guard lock(channels_mutex_);
        for (auto it = channels_.begin(); it != channels_.end(); ++it)
            if (it->get() == one) return dropped.splice(dropped.end(), channels_, it);
    }

    struct latest {
        std::uint64_t serial = 0;
        channel* open = nullptr;
    };
    static inline thread_local constinit latest last_;
    static inline thread_local constinit of_thread* all_ = nullptr;
    static inline constinit client_session* first_ = nullptr;  // under process_identity::tables
    static inline constinit std::atomic<std::uint64_t> serials_{0};

    const manager_contact contact_;
    const std::uint64_t generation_ =
        process_identity::get().generation.load(std::memory_order_relaxed);
    const std::uint64_t serial_ = serials_.fetch_add(1, std::memory_order_relaxed) + 1;  // unique
    unique_fd server_;          // its pidfd
    std::uint64_t number_ = 0;  // at the server
    client_session* next_ = nullptr;

    struct note {
        manager_op what;
        std::uint64_t object;
        pid_t heir;
        std::uint64_t key;
    };

    std::mutex control_mutex_;  // guards the next three
    std::optional<manager_wire<When>> control_;
    std::shared_ptr<client_session> stays_;  // itself
    std::deque<note> notes_;                 // not posted yet, in order
    std::atomic<bool> owes_{false};          // some of them
    std::mutex channels_mutex_;
    std::list<std::unique_ptr<channel>> channels_;
};

/// Refers to a hosted object. One for all the copies of a proxy in a process, which count once.
template <compiled When = compiled::when_used>
class manager_reference {
    using session = client_session<When>;

public:
    /// Of an object that the session has counted.
    manager_reference(manager_contact contact, std::uint64_t object, std::shared_ptr<session> by)
        : contact_(std::move(contact)), object_(object), session_(std::move(by)) {
        counted_in_.store(now(), std::memory_order_relaxed);  // nobody else has it yet
        ready_in_.store(now(), std::memory_order_relaxed);    // likewise
    }
    /// Of one in a message.
    manager_reference(manager_contact contact, std::uint64_t object, std::uint64_t token)
        : contact_(std::move(contact)), object_(object) {
        if (auto* const server = server_here()) {
            server->hold(object_, token);
            in_server_ = true;
        } else {
            session_ = session::of(contact_);
            session_->template ask<void>(manager_op::acquire, object_, {}, std::uint64_t{0}, token);
            ready_in_.store(now(), std::memory_order_relaxed);  // nobody else has it yet
        }
        counted_in_.store(now(), std::memory_order_relaxed);  // nobody else has it yet
    }
    manager_reference(const manager_reference&) = delete;
    manager_reference& operator=(const manager_reference&) = delete;
    ~manager_reference() {
        if (counted_in_.load(std::memory_order_relaxed) != now()) return;  // its parent's
        if (!in_server_)
            session_->tell(manager_op::release, object_);
        else if (auto* const server = server_here())
            server->let_go(object_);
    }

    const manager_contact& contact() const noexcept { return contact_; }
    std::uint64_t object() const noexcept { return object_; }

    /// For calls.
    session& use() {
        if (ready_in_.load(std::memory_order_acquire) != now()) [[unlikely]]  // (A)
            adopt();
        return *session_;
    }

    /// For a message. \return a token
    std::uint64_t lend() {
        if (auto* const server = server_here()) {
            if (const auto* caller = manager_caller<When>::current())
                return server->lend(caller->session(), object_);
        }
        session& by = use();
        const auto token = by.template ask<std::uint64_t>(manager_op::lend, object_, {});
        by.stay();
        return token;
    }
    /// The message was not sent.
    void take_back(std::uint64_t token) noexcept {
        if (auto* const server = server_here())
            server->take_back(token);
        else if (session_ && session_->is_own())
            session_->tell(manager_op::take_back, token);
    }

    /// To a child of this process, which has a copy of it.
    void bequeath(pid_t heir) noexcept {
        try {
            use().tell(manager_op::bequeath, object_, heir, key());
        } catch (...) {  // the server has ended
        }
    }

    /// In this process, for all copies: what waits in the object ends, and later calls throw.
    void close() {
        session& by = use();
        closed_in_.store(now(), std::memory_order_relaxed);  // a flag
        try {  // answered: a reference that is received later is open
            by.template ask<void>(manager_op::close, object_, {});
        } catch (const EndOfFile&) {  // nothing waits there any more
        }
    }
    void require_open() const {
        if (closed_in_.load(std::memory_order_relaxed) == now())
            throw ClosedError("this object of a manager was closed in this process");
    }

private:
    static std::uint64_t now() noexcept {
        return process_identity::get().generation.load(std::memory_order_relaxed);
    }
    manager_server<When>* server_here() const noexcept {
        auto* const server = manager_server<When>::here();
        return server != nullptr && server->address() == contact_.address ? server : nullptr;
    }
    std::uint64_t key() const noexcept { return reinterpret_cast<std::uintptr_t>(this); }

    /// Counts it, in a child that inherited it; connects, in the server.
    void adopt() {
        auto mine = session::of(contact_);
        const bool counts = counted_in_.load(std::memory_order_relaxed) != now();  // checked below
        if (counts)
            mine->template ask<void>(manager_op::acquire, object_, {}, key(), std::uint64_t{0});
        std::shared_ptr<session> old;
        {
            const std::lock_guard lock(process_identity::get().tables);  // whole over a fork
            if (ready_in_.load(std::memory_order_relaxed) != now()) {
                old = std::exchange(session_, mine);
                if (counts) in_server_ = false;
                counted_in_.store(now(), std::memory_order_relaxed);  // under the lock
                ready_in_.store(now(), std::memory_order_release);    // (A) session_
                return;
            }
        }
        if (counts) mine->tell(manager_op::release, object_);  // another thread was faster
    }

    const manager_contact contact_;
    const std::uint64_t object_;
    std::shared_ptr<session> session_;  // null in the server, until it calls the object
    bool in_server_ = false;            // counted by the server itself
    // Generations of the process:
    std::atomic<std::uint64_t> counted_in_{0};  // that has a count at the server
    std::atomic<std::uint64_t> ready_in_{0};    // whose session_ it is
    std::atomic<std::uint64_t> closed_in_{0};   // where it was closed
};

/// What proxies are made of: a value, whose copies share one reference.
template <compiled When = compiled::when_used>
class proxy_base {
public:
    using mp_handle_tag = void;

    proxy_base() = default;
    proxy_base(const proxy_base&) = default;
    proxy_base(proxy_base&&) noexcept = default;
    proxy_base& operator=(const proxy_base&) = default;
    proxy_base& operator=(proxy_base&&) noexcept = default;

    /// Of the same object?
    friend bool operator==(const proxy_base& a, const proxy_base& b) noexcept {
        if (a.served_ || b.served_) return a.served_ == b.served_;
        return a.reference_ == b.reference_ ||
               (a.reference_ && b.reference_ && a.reference_->object() == b.reference_->object() &&
                a.reference_->contact().address == b.reference_->contact().address);
    }

    /// For messages.
    template <class Archive>
    void save(Archive& archive) const {
        if (served_)
            throw Error(
                "a proxy of an object of another program can't be sent; connect() where it is "
                "needed");
        archive(object_number());
        if (!reference_) return;
        const std::uint64_t token = lend();
        archive(reference_->contact().address.to_string(),
                std::int32_t{reference_->contact().server}, token);
    }
    template <class Archive>
    void load(Archive& archive) {
        std::uint64_t object = 0, token = 0;
        std::string address;
        std::int32_t server = 0;
        archive(object);
        std::shared_ptr<manager_reference<When>> received;
        if (object != 0) {
            archive(address, server, token);
            received = std::make_shared<manager_reference<When>>(
                manager_contact{Address(std::move(address)), server}, object, token);
        }
        let_go();
        reference_ = std::move(received);
        served_.reset();
    }

protected:
    explicit proxy_base(std::shared_ptr<manager_reference<When>> of) noexcept
        : reference_(std::move(of)) {}
    explicit proxy_base(std::shared_ptr<const served_reference<When>> of) noexcept
        : served_(std::move(of)) {}
    ~proxy_base() { let_go(); }

    manager_reference<When>& reference() const {
        if (!reference_) throw Error("this proxy refers to no object: it was made by default");
        return *reference_;
    }
    /// Runs a thunk of the server.
    template <class Thunk, class R, class... Args>
    R ask(const Args&... args) const {
        if (served_) return served_->template call<R>(&thunk_key<Thunk>, args...);
        manager_reference<When>& to = reference();
        return to.use().template ask<R>(manager_op::call, to.object(), reference_to<Thunk>(),
                                        args...);
    }

    /// Runs a thunk that makes an object. \return a reference to that
    template <class Thunk, class... Args>
    std::shared_ptr<manager_reference<When>> ask_for(const Args&... args) const {
        return make<Thunk>(manager_op::call, reference().object(), args...);
    }
    template <class Thunk, class... Args>
    std::shared_ptr<manager_reference<When>> ask_to_create(const Args&... args) const {
        return make<Thunk>(manager_op::create, 0, args...);
    }

private:
    friend struct proxy_access;

    std::uint64_t object_number() const noexcept { return reference_ ? reference_->object() : 0; }

    template <class Thunk, class... Args>
    std::shared_ptr<manager_reference<When>> make(manager_op how, std::uint64_t object,
                                                  const Args&... args) const {
        manager_reference<When>& to = reference();
        auto by = to.use().shared_from_this();
        const auto made =
            by->template ask<std::uint64_t>(how, object, reference_to<Thunk>(), args...);
        return std::make_shared<manager_reference<When>>(to.contact(), made, std::move(by));
    }

    void let_go() noexcept {
        if (handover::heir != 0 && reference_) reference_->bequeath(handover::heir);
    }

    std::uint64_t lend() const {
        struct loan {
            std::shared_ptr<manager_reference<When>> of;
            std::uint64_t token;
        };
        auto one = std::make_unique<loan>(loan{reference_, reference_->lend()});
        const std::uint64_t token = one->token;
        if (loans<When>::watch(
                [](void* lent, bool sent, const void*) noexcept {
                    const std::unique_ptr<loan> mine(static_cast<loan*>(lent));
                    if (!sent) mine->of->take_back(mine->token);
                },
                one.get()))
            static_cast<void>(one.release());
        return token;
    }

    std::shared_ptr<manager_reference<When>> reference_;
    std::shared_ptr<const served_reference<When>> served_;  // else: of another program's object
};

/// For the manager itself.
struct proxy_access {
    template <compiled When>
    static std::uint64_t object(const proxy_base<When>& of) {
        return of.reference().object();
    }
};

}  // namespace multiprocessing::detail
