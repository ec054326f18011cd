// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Managers: objects in a server process, which any number of processes use through proxies, as
/// Python's multiprocessing.Manager.
///
/// For what does not fit into shared memory: containers that grow, objects of any class, locks and
/// queues that are made while everything runs. A call is a message to the server and back: through
/// shared memory, or, to a BaseManager's server at a TCP address, through that. For numbers and
/// arrays sharedctypes.hpp is faster, for items queues.hpp.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/eventfd.h>
#include <sys/types.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/detail/manager/client.hpp>
#include <multiprocessing/detail/manager/container_proxies.hpp>
#include <multiprocessing/detail/manager/pool_proxy.hpp>
#include <multiprocessing/detail/manager/primitive_proxies.hpp>
#include <multiprocessing/detail/manager/proxy.hpp>
#include <multiprocessing/detail/manager/served.hpp>
#include <multiprocessing/detail/manager/server.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/errors.hpp>
#include <multiprocessing/process.hpp>

namespace multiprocessing {

/// How a Manager's server is made.
struct ManagerOptions {
    /// "": "SyncManager-1"...
    std::string name = {};
    /// Called once in the server, before it serves.
    std::function<void()> initializer = {};
    /// What it may use at most.
    Limits limits = {};
};

namespace detail {

/// Makes a condition with a lock of the same manager.
template <compiled When = compiled::when_used>
struct condition_thunk {
    using output = manager_call<When>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        out.enter();
        std::uint64_t lock = 0;
        decode_into(bytes, lock);
        auto object = manager_server<When>::here()->get(lock);
        if (object->type() != typeid(hosted_lock<When>))
            throw Error("Condition: the object that it was to be made with is no lock");
        hosted_lock<When>* const its = &static_cast<hosted<hosted_lock<When>>&>(*object).value;
        out.created(std::make_shared<hosted<hosted_condition<When>>>(
            std::in_place, std::shared_ptr<hosted_lock<When>>(std::move(object), its)));
    }
};

/// The server process, and what is made in it.
template <compiled When = compiled::when_used>
class manager_front {
public:
    explicit manager_front(ManagerOptions options = {}) {
        module_table<>::get();  // the server inherits it
        later<When, Listener> listener;
        contact_.address = listener.address();
        end_ = off_stdio(
            unique_fd(call("eventfd of a manager", [] { return ::eventfd(0, EFD_CLOEXEC); })));
        process_ = std::make_unique<later<When, Process>>(
            ProcessOptions{name_or(std::move(options.name)), true, options.limits},
            [initializer = std::move(options.initializer),
             told = end_.get()](later<When, Listener> serves) {
                if (initializer) initializer();
                // Never destroyed: threads use it until the process has ended.
                auto& server = *new manager_server<When>(serves.address());
                server.run(std::move(serves), told);
            },
            std::move(listener));
        process_->start();
        contact_.server = *process_->pid();
        session_ = client_session<When>::of(contact_);
    }
    manager_front(manager_front&&) noexcept = default;
    manager_front& operator=(manager_front&& other) noexcept {
        if (this != &other) {
            end();
            process_ = std::move(other.process_);
            contact_ = std::move(other.contact_);
            end_ = std::move(other.end_);
            session_ = std::move(other.session_);
        }
        return *this;
    }

    /// Makes a T of the arguments, in the server. T need not be Sendable nor copyable; the
    /// arguments are. Any process may, which has a copy of this object by fork.
    /// \throws what the constructor throws; EndOfFile if the server has ended
    template <class T, class... Args>
    Proxy<T> create(Args&&... args) {
        constexpr bool can = can_host<T, sent_as<Args>...>;
        static_assert(can,
                      "multiprocessing: the class can't be made of these arguments, which "
                      "reach its constructor as rvalues (a text as a std::string)");
        if constexpr (can)
            return make<Proxy<T>>(sent_as<Args>(std::forward<Args>(args))...);
        else
            return Proxy<T>();
    }

    template <class K, class V>
    DictProxy<K, V> dict(const std::map<K, V>& items = {}) {
        return make<DictProxy<K, V>>(items);
    }
    template <class T>
    ListProxy<T> list(const std::vector<T>& items = {}) {
        return make<ListProxy<T>>(items);
    }
    template <class T>
    SetProxy<T> set(const std::set<T>& items = {}) {
        return make<SetProxy<T>>(items);
    }
    NamespaceProxy Namespace() { return make<NamespaceProxy>(); }

    template <class T>
    QueueProxy<T> Queue(std::size_t maxsize = 0) {
        return make<QueueProxy<T>>(maxsize);
    }
    template <class T>
    JoinableQueueProxy<T> JoinableQueue(std::size_t maxsize = 0) {
        return make<JoinableQueueProxy<T>>(maxsize);
    }
    LockProxy Lock() { return make<LockProxy>(false); }
    RLockProxy RLock() { return make<RLockProxy>(true); }
    SemaphoreProxy Semaphore(std::size_t units = 1) { return make<SemaphoreProxy>(units, false); }
    BoundedSemaphoreProxy BoundedSemaphore(std::size_t units = 1) {
        return make<BoundedSemaphoreProxy>(units, true);
    }
    /// With an RLock of its own.
    ConditionProxy Condition() { return make<ConditionProxy>(); }
    ConditionProxy Condition(const LockProxy& lock) { return condition_with(lock); }
    ConditionProxy Condition(const RLockProxy& lock) { return condition_with(lock); }
    EventProxy Event() { return make<EventProxy>(); }
    BarrierProxy Barrier(std::size_t parties, std::optional<duration> timeout = {}) {
        return make<BarrierProxy>(parties, timeout);
    }
    template <class T>
    ValueProxy<T> Value(const T& initial = T()) {
        return make<ValueProxy<T>>(std::vector<T>(1, initial));
    }
    template <class T>
    ArrayProxy<T> Array(std::size_t size) {
        return make<ArrayProxy<T>>(std::vector<T>(size));
    }
    template <class T>
    ArrayProxy<T> Array(std::initializer_list<T> elements) {
        return make<ArrayProxy<T>>(std::vector<T>(elements));
    }
    template <class T>
    ArrayProxy<T> Array(const std::vector<T>& elements) {
        return make<ArrayProxy<T>>(elements);
    }

    /// Workers that are children of the server. \param processes  0: cpu_count()
    PoolProxy Pool(std::size_t processes = 0) { return make<PoolProxy>(processes); }

    /// How many objects the server has.
    std::size_t number_of_objects() {
        return static_cast<std::size_t>(
            session()->template ask<std::uint64_t>(manager_op::count, 0, {}));
    }

    pid_t pid() const noexcept { return contact_.server; }
    const Address& address() const noexcept { return contact_.address; }

    /// Ends the server: calls that wait end with EndOfFile, objects that nobody calls are
    /// destroyed. After a second it is terminated, after another one killed. May be repeated.
    /// \throws ProcessError in a forked child: only who started the server may
    void shutdown() {
        if (!process_) return;
        if (process_->is_alive()) {
            retry([&] { return ::eventfd_write(end_.get(), 1); });
            process_->join(std::chrono::seconds(1));
        }
        process_.reset();  // terminates it, if it still runs
        end_.reset();
        if (session_) std::exchange(session_, nullptr)->let_go();
    }

    ~manager_front() { end(); }

private:
    template <class P, class... Args>
    P make(const Args&... args) {
        using T = typename P::hosted_type;
        (check_sendable<Args>(), ...);
        if constexpr ((sendable<Args> && ...))
            return made<P>(reference_to<create_thunk<T, Args...>>(), args...);
        else
            return P();
    }
    template <class P, class... Args>
    P made(callable_ref how, const Args&... args) {
        auto by = session();
        const auto object = by->template ask<std::uint64_t>(manager_op::create, 0, how, args...);
        return P(std::make_shared<manager_reference<When>>(contact_, object, std::move(by)));
    }
    ConditionProxy condition_with(const proxy_base<>& lock) {
        return made<ConditionProxy>(reference_to<condition_thunk<>>(), proxy_access::object(lock));
    }

    static std::string name_or(std::string name) {
        static constinit std::atomic<unsigned> made{0};
        if (!name.empty()) return name;
        return "SyncManager-" + std::to_string(made.fetch_add(1, std::memory_order_relaxed) + 1);
    }
    /// Of this process: a forked child has its own.
    std::shared_ptr<client_session<When>> session() const {
        if (!process_) client_session<When>::throw_ended(contact_);
        return session_->is_own() ? session_ : client_session<When>::of(contact_);
    }
    void end() noexcept {
        try {
            shutdown();
        } catch (...) {  // a forked copy: the server is its parent's
        }
    }

    manager_contact contact_;
    std::unique_ptr<later<When, Process>> process_;  // null: shut down
    unique_fd end_;  // an eventfd that the server inherits; rings for its end
    std::shared_ptr<client_session<When>> session_;
};

}  // namespace detail

/// A server process, and what makes objects in it. The objects live while a proxy refers to them,
/// and at most as long as the server: until shutdown(), the end of this object, or the end of the
/// process that made it, however that ends. Nothing of it is on disk.
///
/// The server has the memory of the moment when it was made, so the classes and plugins that it
/// is to know must be there then. It ignores SIGINT, and has the default for every other signal.
/// If it is killed, every call of a proxy throws EndOfFile.
///
/// Threads: any number may make objects at once; one may shut down, move or destroy it.
/// Processes: in a forked child it makes objects, too; shutdown() throws ProcessError there, and
/// the destructor does nothing.
using Manager = detail::manager_front<>;

namespace detail {

template <compiled When = compiled::when_used>
class any_proxy {
public:
    explicit any_proxy(std::shared_ptr<const served_reference<When>> of) noexcept
        : of_(std::move(of)) {}

    /// Calls a method by its name: `jobs.call<int>("add", x)`. The types of the arguments (a text
    /// is a std::string) and of the result are exactly those of the method.
    /// \throws Error, which names what is offered, if there is no such method; else as Proxy::call
    template <class R = void, class... Args>
    R call(std::string_view method, const Args&... args) const {
        return of_->template call<R, sent_as<Args>...>(method, sent_as<Args>(args)...);
    }
    /// Name of its class, as the server's program has it.
    const std::string& type() const noexcept { return of_->what().type; }

private:
    std::shared_ptr<const served_reference<When>> of_;
};

template <compiled When = compiled::when_used>
class remote_manager {
    using description = served_description<When>;
    using keys = std::vector<std::pair<const void*, later<When, std::string>>>;

public:
    /// \param known  what this program has of the classes
    remote_manager(Address address, ClientOptions options, registry<When> known)
        : client_(std::make_shared<served_client<When>>(std::move(address), std::move(options))),
          known_(std::make_shared<const registry<When>>(std::move(known))) {}

    /// \throws Error if the server has no object of that name, or this program did not register
    ///     it as a T, or the server as another class; EndOfFile, TimeoutError as its calls
    template <class T>
    Proxy<T> get(std::string_view name) const {
        description found = find(name);
        const std::string_view type = type_name<T>();
        for (const auto& known : registry_access::types(*known_)) {
            if (known.name != name) continue;
            if (known.type != type || found.type != type)
                throw Error("\"" + std::string(name) + "\" is a " + found.type +
                            ", and a proxy of " + std::string(type) + " was asked for");
            keys names;
            for (const auto& each : known.methods) names.emplace_back(each.key, each.name);
            return Proxy<T>(refer(std::move(found), std::move(names)));
        }
        throw Error("register_types() of this program has no \"" + std::string(name) +
                    "\"; get(name) without a class calls by name");
    }
    any_proxy<When> get(std::string_view name) const {
        return any_proxy<When>(refer(find(name), keys()));
    }

private:
    auto refer(description what, keys names) const {
        return std::make_shared<const served_reference<When>>(client_, std::move(what),
                                                              std::move(names));
    }
    description find(std::string_view name) const {
        return client_->template ask<description>({served_question::describes, 0, 0, 0, 0}, 0,
                                                  std::string(name));
    }

    std::shared_ptr<served_client<When>> client_;
    std::shared_ptr<const registry<When>> known_;
};

template <compiled When = compiled::when_used>
class serving_process {
public:
    serving_process(Address address, ServeOptions options, registry<When> types) {
        ListenerOptions listens;
        listens.authkey = options.authkey;
        listens.transport = options.transport;
        listens.login_timeout = options.login_timeout;
        listens.max_message = options.max_message;
        listens.unreachable_timeout = options.unreachable_timeout;
        later<When, Listener> listener(std::move(address), std::move(listens));
        address_ = listener.address();
        later<When, Pipe<>> pipe;
        std::string name = options.name;
        if (name.empty()) {
            static constinit std::atomic<unsigned> made{0};
            name = "Server-" + std::to_string(made.fetch_add(1, std::memory_order_relaxed) + 1);
        }
        process_ = std::make_unique<later<When, Process>>(
            ProcessOptions{.name = std::move(name), .daemon = true},
            [types = std::move(types), options = std::move(options)](Listener serves,
                                                                     Connection<> control) mutable {
                // Never destroyed: threads use it until the process has ended.
                auto& server = *new served_server<When>(std::move(types), std::move(options));
                server.run(std::move(serves), std::move(control));
                ::_exit(0);
            },
            std::move(listener), std::move(pipe.second));
        process_->start();
        control_ = std::move(pipe.first);
    }
    serving_process(serving_process&&) noexcept = default;
    serving_process& operator=(serving_process&&) = delete;
    ~serving_process() {
        try {
            shutdown();
        } catch (...) {  // a forked copy: the server is its parent's
        }
    }

    /// For clients.
    const Address& address() const noexcept { return address_; }
    pid_t pid() const noexcept { return process_->pid().value_or(0); }

    /// Waits until the server has ended.
    void wait() { process_->join(); }
    /// \return whether it has
    bool wait(duration timeout) { return process_->join(timeout); }

    /// Ends it: calls in flight end with EndOfFile. After a second it is terminated, after another
    /// one killed. May be repeated.
    /// \throws ProcessError in a forked child
    void shutdown() {
        if (!process_ || !process_->is_alive()) return;
        control_.close();
        if (process_->join(std::chrono::seconds(1))) return;
        process_->terminate();
        if (process_->join(std::chrono::seconds(1))) return;
        process_->kill();
        process_->join();
    }

private:
    Address address_;
    later<When, Connection<>> control_;
    std::unique_ptr<later<When, Process>> process_;
};

}  // namespace detail

/// An object of another program, without its class: what remote.get("name") gives.
using AnyProxy = detail::any_proxy<>;

/// A server of another program, from outside: what BaseManager::connect() gives. A value: copies
/// share its connections.
///
/// Threads: any number may call at once, each over a connection of its own. Processes: a forked
/// child opens its own.
using RemoteManager = detail::remote_manager<>;

/// A process that serves objects: what BaseManager::serve() gives. It ends with this object, and
/// with the process that made it.
using ManagerServer = detail::serving_process<>;

/// Objects of a program that other programs call, on this host or another: derive from it, and say
/// what is served.
///
///     struct Jobs : mp::BaseManager<Jobs> {
///         static void register_types(mp::Registry& r) {
///             r.add<JobTable>("jobs", mp::method<&JobTable::add>("add"));
///         }
///     };
///
/// What is called, and with which types, is named in clear on the wire, in one little-endian form:
/// programs of different builds work together as long as the names and types are the same. Only
/// what is registered can be called.
template <class Derived>
class BaseManager {
    static constexpr detail::compiled when = detail::used_by<Derived>;

public:
    /// Starts a server process. \return a ManagerServer
    /// \throws as Listener's constructor; OsError if it can't be started
    static auto serve(Address address = {}, ServeOptions options = {}) {
        return detail::serving_process<when>(std::move(address), std::move(options), types());
    }
    /// \return a RemoteManager
    /// \throws as Client()
    static auto connect(Address address, ClientOptions options = {}) {
        return detail::remote_manager<when>(std::move(address), std::move(options), types());
    }

private:
    static auto types() {
        detail::registry<when> made;
        Derived::register_types(made);
        return made;
    }
};

}  // namespace multiprocessing
