// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A manager's server: objects, who refers to them, and the calls.
///
/// References. An object lives while its count is above 0. What is counted:
///     each reference of a client process (manager_reference), in its session: until the client
///         releases it, or its control connection is over, however the process ended;
///     a proxy in a message, by a token, on the account of its sender's session: until it is
///         received, or found not to be sent, or that session is over. From the server it is on
///         the account of the client that it answers. So a message that nobody receives keeps its
///         objects until its sender ends, and one that is received twice (a pool's retry) has
///         counted once;
///     a proxy that a Process is started with, for the child, by its pid and by the address of the
///         reference, which is the same in both: until the child has counted it itself, or ended;
///     each reference of the server itself: proxies inside of hosted objects. Two objects that
///         hold proxies of each other stay until the server ends.
///
/// Calls. One thread for each connection. A call names its function by the descriptor of a thunk
/// whose output is a manager_call: of all that the program can call by a message (tasks of pools,
/// for example) only these are accepted.
///
/// Destructors of objects are the user's: they may wait, and call proxies of this server. So the
/// undertaker runs them, a thread that nobody waits for but the end, which its creator bounds.
///
/// Kill table
///     K1  a client, anywhere: its control connection is over: its references, messages and
///         bequests go. Its channels are over: locks that its threads hold are abandoned, what
///         they wait for is given up, or passed on; a method that runs goes on to its end.
///     K2  a client after it asked for an object and before it knows: counted in its session
///         before the answer is sent, so K1.
///     K3  a client that has bequeathed, before its child counts: the bequest stands.
///     K4  a child before it counts what it inherited: its pidfd tells; the bequest goes.
///     K5  the server: all wires hang up; every call, those that wait included, ends with
///         EndOfFile. Nothing is on disk.
///     K6  the server's creator: the server is its daemon, and dies with it.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/types.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/detail/archive/exception.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/callable/descriptor.hpp>
#include <multiprocessing/detail/manager/caller.hpp>
#include <multiprocessing/detail/manager/wire.hpp>
#include <multiprocessing/detail/net/waitable.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/demangle.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/thread.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/detail/pool/supervisor.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// Objects of such a class look after themselves: they may be called by several threads at once.
template <class T>
concept concurrent = requires {
    typename T::mp_concurrent_tag;
}
|| requires { typename T::mp_handle_tag; };

/// An object that a server has.
class hosted_object {
public:
    explicit hosted_object(const std::type_info& type) : type_(type) {}
    hosted_object(const hosted_object&) = delete;
    hosted_object& operator=(const hosted_object&) = delete;
    virtual ~hosted_object() = default;

    const std::type_info& type() const noexcept { return type_; }
    /// Held over each call; null: none is.
    virtual std::mutex* turn() noexcept = 0;

    std::uint64_t references = 0;  // guarded by the server's mutex

private:
    const std::type_info& type_;
};

template <class T>
class hosted final : public hosted_object {
public:
    template <class... Args>
    explicit hosted(std::in_place_t, Args&&... args) requires std::is_constructible_v<T, Args...>
        : hosted_object(typeid(T)), value(std::forward<Args>(args)...) {}
    template <class... Args>
    explicit hosted(std::in_place_t,
                    Args&&... args) requires(!std::is_constructible_v<T, Args...>)  // an aggregate
        : hosted_object(typeid(T)), value{std::forward<Args>(args)...} {}

    std::mutex* turn() noexcept override {
        if constexpr (concurrent<T>)
            return nullptr;
        else
            return &turn_;
    }

    T value;

private:
    std::mutex turn_;
};

template <compiled = compiled::when_used>
class manager_server;

/// A call that is being answered: the output of all thunks of managers.
template <compiled When = compiled::when_used>
class manager_call {
public:
    manager_call(manager_server<When>& server, manager_caller<When>& caller,
                 manager_wire<When>& wire, std::uint32_t number, hosted_object* object)
        : server_(server), caller_(caller), wire_(wire), number_(number), object_(object) {}

    /// What a thunk does first. A plugin may have a copy of its own of what is once in a process;
    /// a thunk of that plugin has it look at the same server.
    void enter() const noexcept;

    /// \throws Error if the object is of another type: the message is forged
    template <class T>
    T& object() const {
        if (object_ == nullptr || object_->type() != typeid(T)) refuse(typeid(T));
        return static_cast<hosted<T>*>(object_)->value;
    }

    /// Answers with what f returns: a value after the object's turn, a reference within it.
    template <class F>
    void run(F f) {
        using R = decltype(f());
        std::unique_lock<std::mutex> turn;
        if (std::mutex* const one = object_->turn()) turn = std::unique_lock(*one);
        if constexpr (std::is_void_v<R>) {
            f();
            if (turn) turn.unlock();
            reply();
        } else if constexpr (std::is_reference_v<R>) {
            R result = f();
            reply(std::as_const(result));
        } else {
            const R result = f();
            if (turn) turn.unlock();
            reply(result);
        }
    }

    template <class... Ts>
    void reply(const Ts&... values) {
        wire_.post(manager_reply{number_, 0}, values...);
    }
    void fail(const std::exception_ptr& error) {
        wire_.post(manager_reply{number_, 1}, encode_exception(error));
    }

    /// Counts an object for the caller's session, and answers with its number.
    void created(std::shared_ptr<hosted_object> one);

private:
    [[noreturn]] void refuse(const std::type_info& wanted) const {
        throw Error("a call of a manager's object as " + demangled(wanted) + ", but it is " +
                    (object_ ? demangled(object_->type()) : std::string("none")));
    }

    manager_server<When>& server_;
    manager_caller<When>& caller_;
    manager_wire<When>& wire_;
    const std::uint32_t number_;
    hosted_object* const object_;
};

template <compiled When>
class manager_server {
    using session = manager_session<When>;
    using object_ptr = std::shared_ptr<hosted_object>;
    using objects = later<When, std::map<std::uint64_t, object_ptr>>;  // by number

public:
    /// \param address  its listener's
    explicit manager_server(Address address) : address_(std::move(address)) {}

    /// The server that this process is; null in all others, its forked children too.
    static manager_server* here() noexcept {
        return here_in_.load(std::memory_order_acquire) ==
                       process_identity::get().generation.load(std::memory_order_relaxed)
                   ? here_.load(std::memory_order_relaxed)
                   : nullptr;
    }
    void make_here() noexcept {
        const auto now = process_identity::get().generation.load(std::memory_order_relaxed);
        if (here_in_.load(std::memory_order_acquire) == now) return;
        here_.store(this, std::memory_order_relaxed);
        here_in_.store(now, std::memory_order_release);  // here_
    }
    const Address& address() const noexcept { return address_; }

    /// Serves until it is told to shut down.
    /// \param told  a descriptor that can be read then
    void run(later<When, Listener> listener, int told) {
        reset_signals();
        rlimit files{};
        if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {  // it has four for each connection
            files.rlim_cur = files.rlim_max;
            ::setrlimit(RLIMIT_NOFILE, &files);
        }
        bell_ = off_stdio(unique_fd(
            call("eventfd of a manager", [] { return ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); })));
        make_here();
        thread([this] { bury_the_dead(); }).detach();
        while (!ends_.load(std::memory_order_acquire)) look(listener, told);
        listener.close();
        end();
    }

    // --- references

    /// \throws Error if the object is gone
    void acquire(session& by, std::uint64_t object, std::uint64_t key, std::uint64_t token) {
        graveyard dropped(*this);
        const std::lock_guard lock(mutex_);
        hosted_object& one = find(object);
        if (!by.over) {
            ++one.references;
            ++by.references[object];
            by.reopen(object);
        }
        if (token != 0) forget_token(token, dropped);
        if (key != 0) {
            by.adopted.insert({object, key});
            if (const auto heir = bequests_.find(by.pid); heir != bequests_.end()) {
                if (heir->second.references.erase({object, key}) != 0) drop(object, dropped);
                if (heir->second.references.empty()) bequests_.erase(heir);
            }
        }
    }
    void release(session& by, std::uint64_t object) {
        graveyard dropped(*this);
        const std::lock_guard lock(mutex_);
        const auto found = by.references.find(object);
        if (found == by.references.end()) return;
        if (--found->second == 0) {
            by.references.erase(found);
            by.reopen(object);
        }
        drop(object, dropped);
    }
    std::uint64_t lend(session& by, std::uint64_t object) {
        const std::lock_guard lock(mutex_);
        hosted_object& one = find(object);
        if (by.over) throw peer_gone();
        ++one.references;
        const std::uint64_t token = ++last_token_;
        lent_.emplace(token, loan{object, by.number});
        by.lent.insert(token);
        return token;
    }
    void take_back(std::uint64_t token) {
        graveyard dropped(*this);
        const std::lock_guard lock(mutex_);
        forget_token(token, dropped);
    }
    void bequeath(session& by, std::uint64_t object, pid_t pid, std::uint64_t key) {
        unique_fd pidfd = open_pidfd(pid);
        if (!pidfd) return;
        const std::lock_guard lock(mutex_);
        if (by.over || !objects_.contains(object)) return;
        for (const auto& [number, each] : sessions_)
            if (each->pid == pid && each->adopted.contains({object, key})) return;
        bequest& to = bequests_[pid];
        if (!to.references.insert({object, key}).second) return;
        if (!to.pidfd) {
            to.pidfd = std::move(pidfd);
            ring();
        }
        ++find(object).references;
    }

    // References of the server itself.
    void hold(std::uint64_t object) {
        const std::lock_guard lock(mutex_);
        ++find(object).references;
    }
    /// What was received: it counts from now on instead of the token.
    void hold(std::uint64_t object, std::uint64_t token) {
        graveyard dropped(*this);
        const std::lock_guard lock(mutex_);
        ++find(object).references;
        forget_token(token, dropped);
    }
    void let_go(std::uint64_t object) noexcept {
        graveyard dropped(*this);
        const std::lock_guard lock(mutex_);
        drop(object, dropped);
    }

    std::uint64_t add(session& by, object_ptr one) {
        const std::lock_guard lock(mutex_);
        if (by.over) throw peer_gone();
        const std::uint64_t number = ++last_object_;
        one->references = 1;
        ++by.references[number];
        objects_.emplace(number, std::move(one));
        return number;
    }
    /// \throws Error if it is gone
    object_ptr get(std::uint64_t object) const {
        const std::lock_guard lock(mutex_);
        const auto found = objects_.find(object);
        if (found == objects_.end()) throw_gone(object);
        return found->second;
    }
    std::uint64_t count() const {
        const std::lock_guard lock(mutex_);
        return objects_.size();
    }

private:
    struct loan {
        std::uint64_t object, session;
    };
    struct bequest {
        unique_fd pidfd;
        std::set<std::pair<std::uint64_t, std::uint64_t>> references;  // {object, key}
    };

    /// Objects that nobody refers to: the undertaker's after the lock.
    class graveyard {
    public:
        explicit graveyard(manager_server& of) : of_(of) {}
        graveyard(const graveyard&) = delete;
        graveyard& operator=(const graveyard&) = delete;
        ~graveyard() {
            if (dead_.empty()) return;
            const std::lock_guard lock(of_.burial_mutex_);
            of_.dead_.merge(dead_);
            of_.burial_.notify_all();
        }
        /// Without an allocation: it may be in a destructor that an object comes here.
        void add(typename objects::node_type one) noexcept { dead_.insert(std::move(one)); }
        void add(objects all) noexcept { dead_.merge(all); }

    private:
        manager_server& of_;
        objects dead_;
    };

    [[noreturn]] static void throw_gone(std::uint64_t object) {
        throw Error("object " + std::to_string(object) +
                    " of a manager is gone: the last proxy that was counted went before this one "
                    "was received, or first used in a forked process; keep one until then");
    }
    // The rest under mutex_.
    hosted_object& find(std::uint64_t object) const {
        const auto found = objects_.find(object);
        if (found == objects_.end()) throw_gone(object);
        return *found->second;
    }
    void drop(std::uint64_t object, graveyard& dropped, std::uint64_t count = 1) {
        const auto found = objects_.find(object);
        if (found == objects_.end()) return;
        if ((found->second->references -= count) != 0) return;
        dropped.add(objects_.extract(found));
    }
    void forget_token(std::uint64_t token, graveyard& dropped) {
        const auto found = lent_.find(token);
        if (found == lent_.end()) return;
        const loan one = found->second;
        lent_.erase(found);
        if (const auto by = sessions_.find(one.session); by != sessions_.end())
            by->second->lent.erase(token);
        drop(one.object, dropped);
    }
    void end_session(session& one) noexcept {
        graveyard dropped(*this);
        const std::lock_guard lock(mutex_);
        one.over = true;
        for (const std::uint64_t token : std::exchange(one.lent, {})) {
            drop(lent_.at(token).object, dropped);
            lent_.erase(token);
        }
        for (const auto& [object, count] : std::exchange(one.references, {}))
            drop(object, dropped, count);
        sessions_.erase(one.number);
    }

    // --- the undertaker

    /// One after the other: each may hold proxies of the next.
    [[noreturn]] void bury_the_dead() {
        std::unique_lock lock(burial_mutex_);
        for (;;) {
            burial_.wait(lock, [&] { return !dead_.empty(); });
            auto one = dead_.extract(dead_.begin());
            buries_ = true;
            lock.unlock();
            one = {};
            lock.lock();
            buries_ = false;
            if (dead_.empty()) burial_.notify_all();
        }
    }
    void wait_for_undertaker() {
        std::unique_lock lock(burial_mutex_);
        burial_.wait(lock, [&] { return dead_.empty() && !buries_; });
    }

    // --- the main thread

    void ring() noexcept {
        retry([&] { return ::eventfd_write(bell_.get(), 1); });
    }

    void look(later<When, Listener>& listener, int told) {
        std::vector<later<When, Waitable>> things{listener, bell_.get(), told};
        std::vector<pid_t> heirs;
        {
            const std::lock_guard lock(mutex_);
            for (const auto& [pid, each] : bequests_) {
                things.emplace_back(each.pidfd.get());
                heirs.push_back(pid);
            }
        }
        // A pidfd may be closed meanwhile, by an heir that has counted all: looked at again then.
        std::vector<std::size_t> ready;
        try {
            ready = wait(things, duration(std::chrono::hours(1000)));
        } catch (const OsError&) {
        }
        for (const std::size_t i : ready) {
            if (i == 0) {
                accept(listener);
            } else if (i == 1) {
                eventfd_t count;
                retry([&] { return ::eventfd_read(bell_.get(), &count); });
            } else if (i == 2) {
                const std::lock_guard lock(mutex_);
                ends_.store(true, std::memory_order_release);
            } else {
                disinherit(heirs[i - 3]);
            }
        }
    }
    void disinherit(pid_t pid) {
        graveyard dropped(*this);
        const std::lock_guard lock(mutex_);
        const auto found = bequests_.find(pid);
        // Another one may have its pid, or its descriptor, by now.
        if (found == bequests_.end() ||
            !wait_readable(found->second.pidfd.get(), deadline::at_once()))
            return;
        for (const auto& [object, key] : found->second.references) drop(object, dropped);
        bequests_.erase(found);
    }
    void accept(later<When, Listener>& listener) {
        try {
            auto wire = std::make_shared<manager_wire<When>>(listener.accept(duration::zero()));
            thread([this, wire] { serve(*wire); }).detach();
        } catch (const TimeoutError&) {    // one that was no client
        } catch (const std::exception&) {  // no descriptors, no threads: wait for some to end
            ::poll(nullptr, 0, 10);
        }
    }
    /// Calls in flight end with the wires. Objects that nobody uses are destroyed; the process
    /// ends under the others, and under a destructor that does not return, by its creator.
    void end() {
        {
            const std::lock_guard lock(mutex_);
            for (manager_wire<When>* one : wires_) one->close();
        }
        {
            graveyard dropped(*this);
            const std::lock_guard lock(mutex_);
            dropped.add(std::move(objects_));
            objects_.clear();
        }
        wait_for_undertaker();
    }

    // --- a thread of each connection

    /// Never throws, but pthread_exit in a method passes through.
    void serve(manager_wire<When>& wire) {
        struct at_return {
            manager_server& of;
            manager_wire<When>& wire;
            ~at_return() {
                {
                    const std::lock_guard lock(of.mutex_);
                    std::erase(of.wires_, &wire);
                }
                wire.close();
            }
        } at_end{*this, wire};
        try {
            {
                const std::lock_guard lock(mutex_);
                wires_.push_back(&wire);
                if (ends_.load(std::memory_order_relaxed)) wire.close();  // under the lock
            }
            // From now on it has the descriptors that it sleeps on: a session must not end, nor a
            // lock be abandoned, for want of one.
            wait({static_cast<later<When, Connection<>>&>(wire)}, duration::zero());
            receive_buffer<When> buffer;
            reception<When> in_hand;
            auto bytes = wire.take(buffer, in_hand);
            const auto head = take_head<manager_request>(bytes);
            if (head.op == static_cast<std::uint32_t>(manager_op::open_session))
                serve_control(wire, head, decode<std::int32_t>(bytes));
            else if (head.op == static_cast<std::uint32_t>(manager_op::open_channel))
                serve_channel(wire, head);
        } catch (const peer_gone&) {
        } catch (const std::exception&) {  // a stranger, or no memory: the client gets EndOfFile
        }
    }

    void serve_control(manager_wire<When>& wire, const manager_request& first, pid_t pid) {
        std::shared_ptr<session> mine;
        {
            const std::lock_guard lock(mutex_);
            const std::uint64_t number = ++last_session_;
            mine = std::make_shared<session>(number, pid);
            sessions_.emplace(number, mine);
        }
        struct at_return {
            manager_server& of;
            session& one;
            ~at_return() { of.end_session(one); }
        } at_end{*this, *mine};
        wire.post(manager_reply{first.number, 0}, mine->number);
        for (;;) {
            receive_buffer<When> buffer;
            reception<When> in_hand;
            auto bytes = wire.take(buffer, in_hand);
            const auto head = take_head<manager_request>(bytes);
            try {
                note(*mine, head, bytes);
            } catch (const std::exception&) {  // no memory, no descriptor: that one stays
            }
        }
    }
    void note(session& by, const manager_request& head, std::span<const std::byte> bytes) {
        switch (static_cast<manager_op>(head.op)) {
            case manager_op::release:
                return release(by, head.object);
            case manager_op::take_back:
                return take_back(head.object);
            case manager_op::bequeath: {
                std::int32_t pid = 0;
                std::uint64_t key = 0;
                decode_into(bytes, pid, key);
                return bequeath(by, head.object, pid, key);
            }
            default:
                throw peer_gone();
        }
    }

    void serve_channel(manager_wire<When>& wire, const manager_request& first) {
        std::shared_ptr<session> of;
        std::uint64_t number;
        {
            const std::lock_guard lock(mutex_);
            const auto found = sessions_.find(first.object);
            if (found == sessions_.end()) return;
            of = found->second;
            number = ++last_caller_;
        }
        manager_caller<When> me(wire, *of, number);
        struct at_return {
            manager_caller<When>& of;
            ~at_return() { of.abandon_all(); }
        } at_end{me};
        wire.post(manager_reply{first.number, 0});
        for (;;) {
            receive_buffer<When> buffer;
            reception<When> in_hand;
            auto bytes = wire.take(buffer, in_hand);
            const auto head = take_head<manager_request>(bytes);
            try {
                answer(me, wire, head, bytes);
            } catch (const peer_gone&) {
                throw;
            } catch (...) {
                if (is_forced_unwind()) throw;  // pthread_exit in a method
                manager_call<When>(*this, me, wire, head.number, nullptr)
                    .fail(std::current_exception());
            }
            me.object.reset();
        }
    }

    void answer(manager_caller<When>& me, manager_wire<When>& wire, const manager_request& head,
                std::span<const std::byte> bytes) {
        session& by = me.session();
        const auto reply = [&](const auto&... values) {
            wire.post(manager_reply{head.number, 0}, values...);
        };
        switch (static_cast<manager_op>(head.op)) {
            case manager_op::call: {
                object_ptr object = get(head.object);
                manager_call<When> out(*this, me, wire, head.number, object.get());
                me.begin(std::move(object), head.object);
                return invoke(head.callable, bytes, out);
            }
            case manager_op::create: {
                manager_call<When> out(*this, me, wire, head.number, nullptr);
                me.begin(nullptr, 0);
                return invoke(head.callable, bytes, out);
            }
            case manager_op::acquire: {
                std::uint64_t key = 0, token = 0;
                decode_into(bytes, key, token);
                acquire(by, head.object, key, token);
                return reply();
            }
            case manager_op::lend:
                return reply(lend(by, head.object));
            case manager_op::close:
                by.close(head.object);
                return reply();
            case manager_op::count:
                return reply(count());
            default:
                throw peer_gone();
        }
    }
    static void invoke(callable_ref ref, std::span<const std::byte> bytes,
                       manager_call<When>& out) {
        const descriptor& d = resolve(ref);
        if (d.output != type_hash<manager_call<When>>)
            throw UnknownCallable(std::string(d.name) + " is no call of a manager's object");
        d.invoke(bytes, &out);
    }

    static inline constinit std::atomic<manager_server*> here_{nullptr};
    static inline constinit std::atomic<std::uint64_t> here_in_{0};  // generation of the process

    const Address address_;
    unique_fd bell_;  // rings for the main thread
    std::atomic<bool> ends_{false};

    std::mutex burial_mutex_;  // taken under mutex_ or without; guards the next two
    objects dead_;
    bool buries_ = false;
    condition burial_;

    mutable std::mutex mutex_;  // guards the rest
    objects objects_;
    std::map<std::uint64_t, std::shared_ptr<session>> sessions_;
    std::map<std::uint64_t, loan> lent_;  // by token
    std::map<pid_t, bequest> bequests_;
    std::vector<manager_wire<When>*> wires_;
    std::uint64_t last_object_ = 0, last_session_ = 0, last_token_ = 0, last_caller_ = 0;
};

template <compiled When>
void manager_call<When>::enter() const noexcept {
    caller_.make_current();
    server_.make_here();
}
template <compiled When>
void manager_call<When>::created(std::shared_ptr<hosted_object> one) {
    reply(server_.add(caller_.session(), std::move(one)));
}

// --- what can be called

/// Makes a T of arguments.
template <class T, class... Args>
struct create_thunk {
    using output = manager_call<>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        out.enter();
        std::tuple<Args...> args;
        std::apply([&](auto&... each) { decode_into(bytes, each...); }, args);
        out.created(std::apply(
            [](Args&... each) {
                return std::make_shared<hosted<T>>(std::in_place,
                                                   static_cast<argument_t<Args>>(each)...);
            },
            args));
    }
};

/// Copies a T out.
template <class T>
struct copy_thunk {
    using output = manager_call<>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        out.enter();
        decode_into(bytes);
        T& object = out.template object<T>();
        out.run([&]() -> const T& { return object; });
    }
};

template <class R, class... Params>
struct call_parts {
    using result = std::decay_t<R>;
    using values = std::tuple<std::decay_t<Params>...>;
    template <class F, class T>
    static R call(F function, T& object, values& args) {
        return std::apply(
            [&](auto&... each) -> R {
                return std::invoke(function, object, static_cast<Params&&>(each)...);
            },
            args);
    }
};

template <class F>
struct function_parts;
template <class R, class... A>
struct function_parts<R(A...)> : call_parts<R, A...> {};
template <class R, class... A>
struct function_parts<R(A...) const> : call_parts<R, A...> {};
template <class R, class... A>
struct function_parts<R(A...)&> : call_parts<R, A...> {};
template <class R, class... A>
struct function_parts<R(A...) const&> : call_parts<R, A...> {};
template <class R, class... A>
struct function_parts<R(A...) noexcept> : call_parts<R, A...> {};
template <class R, class... A>
struct function_parts<R(A...) const noexcept> : call_parts<R, A...> {};
template <class R, class... A>
struct function_parts<R(A...)& noexcept> : call_parts<R, A...> {};
template <class R, class... A>
struct function_parts<R(A...) const& noexcept> : call_parts<R, A...> {};

/// What a method is called with, for pointers to member functions, to data members (a copy of it),
/// and to functions that take the object first.
template <class M>
struct method_parts {};
template <class F, class C>
requires std::is_function_v<F>
struct method_parts<F C::*> : function_parts<F> {
    using object = C;
};
template <class V, class C>
requires(!std::is_function_v<V>) struct method_parts<V C::*> : call_parts<const V&> {
    using object = C;
};
template <class R, class C, class... A>
struct method_parts<R (*)(C&, A...)> : call_parts<R, A...> {
    using object = C;
};
template <class R, class C, class... A>
struct method_parts<R (*)(C&, A...) noexcept> : call_parts<R, A...> {
    using object = C;
};

template <class T, auto Method>
struct method_thunk {
    using output = manager_call<>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        out.enter();
        using parts = method_parts<decltype(Method)>;
        typename parts::values args;
        std::apply([&](auto&... each) { decode_into(bytes, each...); }, args);
        T& object = out.template object<T>();
        out.run([&]() -> decltype(auto) { return parts::call(Method, object, args); });
    }
};

}  // namespace multiprocessing::detail
