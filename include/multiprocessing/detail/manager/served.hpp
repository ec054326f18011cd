// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Objects that are served to other programs, by the names of their types and methods.
///
/// Wire. A client asks over a connection and waits for the answer, so a call that blocks blocks
/// that connection alone; it opens as many as it has calls at a time, and keeps them. The first
/// question names an object and is answered with its number and its methods: names, signatures and
/// their fingerprints. Calls name both numbers and the fingerprint; the server checks all three. No
/// address of a function travels, and nothing is called that was not registered.
///
/// Owners. An object is made by the first call of it and lives as long as the server. A connection
/// belongs to the process that opened it; a forked child opens its own.
///
/// Kill table
///     K1  a client: its connections are over; a method that runs for it goes on to its end, and
///         its result is dropped.
///     K2  the server: all connections are over: calls end with EndOfFile.
///     K3  the server's creator: the server is its daemon, and dies with it.

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <poll.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/detail/archive/exception.hpp>
#include <multiprocessing/detail/archive/fingerprint.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/manager/server.hpp>
#include <multiprocessing/detail/manager/wire.hpp>
#include <multiprocessing/detail/net/waitable.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/thread.hpp>
#include <multiprocessing/detail/pool/supervisor.hpp>
#include <multiprocessing/detail/process/state.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

/// How objects are served.
struct ServeOptions {
    /// As ListenerOptions.
    std::optional<AuthKey> authkey = {};
    Transport transport = {};
    duration login_timeout = std::chrono::seconds(5);
    std::size_t max_message = std::size_t{64} << 20;
    duration unreachable_timeout = std::chrono::seconds(20);
    /// Beyond so many, who comes is turned away.
    std::size_t max_connections = 1000;
    /// After which a connection that asks nothing is closed; its client opens another one.
    duration idle_timeout = std::chrono::hours(1);
    /// Of the process; "": "Server-1"...
    std::string name = {};
};

namespace detail {

/// The front of a question.
struct served_question {
    static constexpr std::uint32_t describes = 1, calls = 2;

    std::uint32_t what;
    std::uint32_t object, method;  // numbers, of a call
    std::uint32_t reserved;
    std::uint64_t signature;  // its fingerprint
};
static_assert(sizeof(served_question) == 24 && std::is_trivially_copyable_v<served_question>);

struct served_answer {
    std::uint64_t failed;
};

struct method_description {
    std::string name, signature;
    std::uint64_t fingerprint = 0;
};
/// What a client learns of an object.
template <compiled When = compiled::when_used>
struct served_description {
    std::int32_t server = 0;  // its pid
    std::uint32_t object = 0;
    std::string type;
    std::vector<later<When, method_description>> methods;
};

/// A client can't be reached any more, or does not receive. Never leaves the library.
struct client_lost {
    std::string why;
};

/// Which is no error of the method that is answered for.
/// \throws client_lost; as manager_wire::post()
template <compiled When, class... Ts>
void post_answer(manager_wire<When>& to, const Ts&... values) {
    try {
        to.post(served_answer{0}, values...);
    } catch (const TimeoutError& e) {
        throw client_lost{e.what()};
    }
}

/// A call that is being answered.
template <compiled When = compiled::when_used>
struct served_call {
    manager_wire<When>& wire;
    hosted_object& object;

    template <class T, class F>
    void run(F f) const {
        using R = decltype(f(std::declval<T&>()));
        T& value = static_cast<hosted<T>&>(object).value;
        std::unique_lock<std::mutex> turn;
        if (std::mutex* const one = object.turn()) turn = std::unique_lock(*one);
        if constexpr (std::is_void_v<R>) {
            f(value);
            if (turn) turn.unlock();
            post_answer(wire);
        } else if constexpr (std::is_reference_v<R> &&
                             !std::is_copy_constructible_v<std::decay_t<R>>) {
            R result = f(value);
            post_answer(wire, std::as_const(result));  // within the object's turn
        } else {  // a copy: a client that does not read must not hold up the others
            const std::decay_t<R> result = f(value);
            if (turn) turn.unlock();
            post_answer(wire, result);
        }
    }
};

template <class Values, class R>
struct signature_of;
template <class R, class... D>
struct signature_of<std::tuple<D...>, R> {
    static constexpr std::string_view text = type_name<R(D...)>();
    static constexpr std::uint64_t fingerprint = fingerprint_of<R(D...)>;
};

/// Its address names a thunk in this program.
template <class Thunk>
inline constexpr char thunk_key = 0;

template <compiled When = compiled::when_used>
struct served_method {
    std::string name;
    std::string_view signature;
    std::uint64_t fingerprint;
    const void* key;
    void (*invoke)(std::span<const std::byte> arguments, const served_call<When>& out);
};

template <compiled When = compiled::when_used>
struct served_type {
    std::string name;
    std::string_view type;
    std::shared_ptr<hosted_object> (*make)();
    std::vector<served_method<When>> methods;
};

template <class Methods>
std::string offered_methods(const Methods& methods) {
    std::string text;
    for (const auto& each : methods)
        text += (text.empty() ? "" : "; ") + each.name + ": " + each.signature;
    return text.empty() ? "nothing" : text;
}

}  // namespace detail

/// A method under a name: `mp::method<&JobTable::add>("add")`; an overloaded one by a cast to its
/// type. Also a data member (its value), or a function that takes a T& first.
template <auto Method>
struct named_method {
    std::string_view name;
};
template <auto Method>
constexpr named_method<Method> method(std::string_view name) noexcept {
    return {name};
}

namespace detail {

struct registry_access;

template <compiled When = compiled::when_used>
class registry {
public:
    /// One T for everybody, made without arguments at its first call, in the server.
    ///
    /// Calls of it take turns, so that T need not be safe for threads, unless it says `using
    /// mp_concurrent_tag = void;` or is one of this library's handles, such as a Queue.
    /// \throws Error if the name is taken
    template <class T, auto... Methods>
    registry& add(std::string_view name, named_method<Methods>... methods) {
        for (const auto& known : types_)
            if (known.name == name)
                throw Error("Registry: there is a \"" + known.name + "\" already");
        served_type<When> made{std::string(name),
                               type_name<T>(),
                               []() -> std::shared_ptr<hosted_object> {
                                   return std::make_shared<hosted<T>>(std::in_place);
                               },
                               {}};
        (made.methods.push_back(served<T>(methods)), ...);
        types_.push_back(std::move(made));
        return *this;
    }

private:
    friend struct registry_access;

    template <class T, auto Method>
    static served_method<When> served(named_method<Method> which) {
        using parts = method_parts<decltype(Method)>;
        static_assert(std::is_base_of_v<std::remove_const_t<typename parts::object>, T>,
                      "multiprocessing: this method is of another class");
        using values = typename parts::values;
        using signature = signature_of<values, typename parts::result>;
        return {std::string(which.name), signature::text, signature::fingerprint,
                &thunk_key<method_thunk<T, Method>>,
                [](std::span<const std::byte> bytes, const served_call<When>& out) {
                    values args;
                    std::apply([&](auto&... each) { decode_into(bytes, each...); }, args);
                    out.template run<T>([&](T& object) -> decltype(auto) {
                        return parts::call(Method, object, args);
                    });
                }};
    }

    std::vector<served_type<When>> types_;
};

}  // namespace detail

/// What a BaseManager serves: `static void register_types(mp::Registry&)` adds it.
using Registry = detail::registry<>;

namespace detail {

struct registry_access {
    template <compiled When>
    static const auto& types(const registry<When>& r) noexcept {
        return r.types_;
    }
};

template <compiled When = compiled::when_used>
class served_server {
    using wire_type = manager_wire<When>;

public:
    served_server(registry<When> types, ServeOptions options)
        : registry_(std::move(types)), options_(std::move(options)) {
        for (const served_type<When>& each : registry_access::types(registry_))
            objects_.push_back(std::make_unique<object>(each));
    }

    /// Serves until the other end of `control` is closed.
    void run(later<When, Listener> listener, later<When, Connection<>> control) {
        reset_signals();
        for (;;) try {
                const auto ready = wait({listener, control});
                if (ready.back() == 1) break;
                accept(listener);
            } catch (const std::exception& e) {  // no descriptors: wait for some to be free
                log_line(LogLevel::error, std::string("waiting for clients: ") + e.what());
                if (control.poll(std::chrono::milliseconds(10))) break;
            }
        listener.close();
        const std::lock_guard lock(mutex_);
        for (wire_type* one : wires_) one->close();
    }

private:
    struct object {
        explicit object(const served_type<When>& type_) : type(type_) {}
        const served_type<When>& type;
        std::mutex mutex;
        std::shared_ptr<hosted_object> made;  // under it; null: not yet

        hosted_object& get() {
            const std::lock_guard lock(mutex);
            if (!made) made = type.make();
            return *made;
        }
    };

    void accept(later<When, Listener>& listener) {
        try {
            auto wire = std::make_shared<wire_type>(listener.accept(duration::zero()));
            if (!enlist(*wire))
                return log_line(LogLevel::warning,
                                "too many connections: one more was turned away");
            try {
                thread([this, wire] { serve(*wire); }).detach();
            } catch (...) {
                forget(*wire);
                throw;
            }
        } catch (const AuthenticationError& e) {
            const auto from = listener.last_accepted();
            log_line(LogLevel::warning, "a client was refused" +
                                            (from ? ", of " + from->to_string() : std::string()) +
                                            ": " + e.what());
        } catch (const TimeoutError&) {      // one that was no client
        } catch (const std::exception& e) {  // no descriptors, no threads: wait for some to end
            log_line(LogLevel::error, std::string("accepting a client: ") + e.what());
            ::poll(nullptr, 0, 10);
        }
    }
    bool enlist(wire_type& wire) {
        const std::lock_guard lock(mutex_);
        if (wires_.size() >= options_.max_connections) return false;
        wires_.push_back(&wire);
        return true;
    }
    void forget(wire_type& wire) noexcept {
        const std::lock_guard lock(mutex_);
        std::erase(wires_, &wire);
    }

    void serve(wire_type& wire) {
        struct at_return {
            served_server& of;
            wire_type& wire;
            ~at_return() {
                of.forget(wire);
                wire.close();
            }
        } at_end{*this, wire};
        try {
            while (wire.poll(options_.idle_timeout)) {
                receive_buffer<When> buffer;
                reception<When> in_hand;
                auto bytes = wire.take(buffer, in_hand);
                const auto head = take_head<served_question>(bytes);
                try {
                    answer(wire, head, bytes);
                } catch (const peer_gone&) {
                    throw;
                } catch (const client_lost&) {
                    throw;
                } catch (...) {
                    const std::exception_ptr error = std::current_exception();
                    if (error == nullptr) throw;  // pthread_exit in a method
                    wire.post(served_answer{1}, encode_exception(error));
                }
            }
        } catch (const peer_gone&) {
        } catch (const client_lost& lost) {
            log_end(lost.why.c_str());
        } catch (const std::exception& e) {
            log_end(e.what());
        }
    }
    static void log_end(const char* why) noexcept {
        log_line_or_none(LogLevel::warning,
                         [&] { return std::string("a connection was closed: ") + why; });
    }

    void answer(wire_type& wire, const served_question& head, std::span<const std::byte> bytes) {
        if (head.what == served_question::describes)
            return post_answer(wire, describe(decode<std::string>(bytes)));
        if (head.what != served_question::calls || head.object >= objects_.size() ||
            head.method >= objects_[head.object]->type.methods.size())
            throw Error("this server has no such object or method");
        object& one = *objects_[head.object];
        const served_method<When>& method = one.type.methods[head.method];
        if (method.fingerprint != head.signature)
            throw Error("\"" + one.type.name + "\" offers " + method.name + ": " +
                        std::string(method.signature) + ", and was called as something else");
        method.invoke(bytes, served_call<When>{wire, one.get()});
    }
    served_description<When> describe(const std::string& name) const {
        std::string names;
        for (std::size_t i = 0; i < objects_.size(); ++i) {
            const served_type<When>& type = objects_[i]->type;
            names += (names.empty() ? "\"" : ", \"") + type.name + '"';
            if (type.name != name) continue;
            served_description<When> found{
                ::getpid(), static_cast<std::uint32_t>(i), std::string(type.type), {}};
            for (const auto& each : type.methods)
                found.methods.push_back({each.name, std::string(each.signature), each.fingerprint});
            return found;
        }
        throw Error("this server has no \"" + name + "\"; it has " +
                    (names.empty() ? "nothing" : names));
    }

    const registry<When> registry_;
    const ServeOptions options_;
    std::vector<std::unique_ptr<object>> objects_;
    std::mutex mutex_;  // guards the rest
    std::vector<wire_type*> wires_;
};

/// The connections of this process to a server of another program. Any thread may use it.
template <compiled When = compiled::when_used>
class served_client {
    using wire_ptr = std::unique_ptr<manager_wire<When>>;

public:
    served_client(Address address, ClientOptions options)
        : address_(std::move(address)), options_(std::move(options)) {
        give_back(std::make_unique<manager_wire<When>>(Client<When>(address_, options_)));
    }

    /// \throws EndOfFile if the server has ended, or does meanwhile; TimeoutError if its host can't
    ///     be reached; what it answers with
    template <class R, class... Args>
    R ask(const served_question& head, std::int32_t server, const Args&... args) {
        wire_ptr wire = take();
        try {
            wire->post(head, args...);
            receive_buffer<When> buffer;
            reception<When> in_hand;
            auto bytes = wire->take(buffer, in_hand);
            const auto front = take_head<served_answer>(bytes);
            struct at_return {
                served_client& of;
                wire_ptr& wire;
                ~at_return() { of.give_back(std::move(wire)); }
            } at_end{*this, wire};
            if (front.failed != 0)
                std::rethrow_exception(
                    decode_exception(decode<std::vector<std::byte>>(bytes), server));
            if constexpr (std::is_void_v<R>)
                return decode_into(bytes);
            else
                return decode<R>(bytes);
        } catch (const peer_gone&) {
            throw EndOfFile("the server at \"" + address_.to_string() +
                            "\" has ended, or closed the connection");
        }
    }

    const Address& address() const noexcept { return address_; }

private:
    /// One that nobody uses.
    wire_ptr take() {
        for (;;) {
            wire_ptr one;
            std::vector<wire_ptr> inherited;  // which go after the lock
            {
                const std::lock_guard lock(process_identity::get().tables);
                inherited = let_go_of_inherited();
                if (idle_.empty()) break;
                one = std::move(idle_.back());
                idle_.pop_back();
            }
            try {
                if (!one->poll()) return one;  // else the server closed it meanwhile
            } catch (const peer_gone&) {
            } catch (const Error&) {
            }
        }
        try {
            return std::make_unique<manager_wire<When>>(Client<When>(address_, options_));
        } catch (const OsError& e) {
            const int code = e.code().value();
            if (code == ECONNREFUSED || code == ENOENT || code == ECONNRESET)
                throw EndOfFile("the server at \"" + address_.to_string() + "\" has ended (" +
                                e.what() + ')');
            throw;
        }
    }
    void give_back(wire_ptr one) noexcept try {
        std::vector<wire_ptr> inherited;
        const std::lock_guard lock(process_identity::get().tables);
        inherited = let_go_of_inherited();
        idle_.push_back(std::move(one));
    } catch (...) {  // no memory to keep it: it is closed
    }
    /// In a forked child they are its parent's.
    std::vector<wire_ptr> let_go_of_inherited() noexcept {
        const auto now = process_identity::get().generation.load(std::memory_order_relaxed);
        std::vector<wire_ptr> inherited;
        if (std::exchange(generation_, now) != now) inherited.swap(idle_);
        return inherited;
    }

    const Address address_;
    const ClientOptions options_;
    // Under process_identity::tables: whole over a fork.
    std::vector<wire_ptr> idle_;
    std::uint64_t generation_ = process_identity::get().generation.load(std::memory_order_relaxed);
};

/// An object of a server of another program.
template <compiled When = compiled::when_used>
class served_reference {
public:
    /// \param keys  names of methods by the keys of this program's thunks
    served_reference(std::shared_ptr<served_client<When>> by, served_description<When> what,
                     std::vector<std::pair<const void*, later<When, std::string>>> keys)
        : by_(std::move(by)), what_(std::move(what)), keys_(std::move(keys)) {}

    template <class R, class... D>
    R call(std::string_view name, const D&... args) const {
        using signature = signature_of<std::tuple<D...>, R>;
        for (std::size_t i = 0; i < what_.methods.size(); ++i) {
            if (what_.methods[i].name != name) continue;
            if (what_.methods[i].fingerprint != signature::fingerprint) break;
            return by_->template ask<R>({served_question::calls, what_.object,
                                         static_cast<std::uint32_t>(i), 0, signature::fingerprint},
                                        what_.server, args...);
        }
        refuse(std::string(name) + ": " + std::string(signature::text));
    }
    template <class R, class... D>
    R call(const void* key, const D&... args) const {
        for (const auto& [known, name] : keys_)
            if (known == key) return call<R>(std::string_view(name), args...);
        refuse("what was called");
    }
    const served_description<When>& what() const noexcept { return what_; }

private:
    [[noreturn]] void refuse(const std::string& wanted) const {
        throw Error("the object of type " + what_.type + " at \"" + by_->address().to_string() +
                    "\" does not offer " + wanted + "; it offers " +
                    offered_methods(what_.methods));
    }

    const std::shared_ptr<served_client<When>> by_;
    const served_description<When> what_;
    const std::vector<std::pair<const void*, later<When, std::string>>> keys_;
};

}  // namespace detail
}  // namespace multiprocessing
