// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Proxy: a hosted object, from outside; and how objects are made.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/archive/sendable.hpp>
#include <multiprocessing/detail/callable/descriptor.hpp>
#include <multiprocessing/detail/manager/client.hpp>
#include <multiprocessing/detail/manager/server.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/pool/calls.hpp>

namespace multiprocessing {
namespace detail {

/// Can be taken from a message: the parameters of a method.
template <class... D>
consteval bool all_sendable(std::tuple<D...>*) {
    (check_sendable<D>(), ...);
    return (sendable<D> && ...);
}
template <class R>
consteval bool can_return() {
    if constexpr (std::is_void_v<R>) {
        return true;
    } else {
        check_sendable<R>();
        return sendable<R>;
    }
}

/// A proxy with the calls.
template <class T>
class proxy_of : public proxy_base<> {
public:
    using hosted_type = T;

    proxy_of() = default;
    explicit proxy_of(std::shared_ptr<manager_reference<>> of) noexcept
        : proxy_base<>(std::move(of)) {}
    explicit proxy_of(std::shared_ptr<const served_reference<>> of) noexcept
        : proxy_base<>(std::move(of)) {}

protected:
    ~proxy_of() = default;

    template <auto Method, class... Args>
    auto call(Args&&... args) const {
        using parts = method_parts<decltype(Method)>;
        constexpr bool known = requires { typename parts::object; };
        static_assert(known,
                      "multiprocessing: call<&T::method> takes a pointer to a member of the "
                      "hosted class, or to a function that takes the object (T&) first");
        if constexpr (known) {
            constexpr bool ours = std::is_base_of_v<std::remove_const_t<typename parts::object>, T>;
            static_assert(ours,
                          "multiprocessing: this method is of another class than the proxy's");
            if constexpr (ours)
                return call_with<method_thunk<T, Method>, typename parts::result>(
                    static_cast<typename parts::values*>(nullptr), std::forward<Args>(args)...);
        } else {
            return refused_value();
        }
    }

private:
    template <class Thunk, class R, class... D, class... Args>
    R call_with(std::tuple<D...>* types, Args&&... args) const {
        if constexpr (!all_sendable(decltype(types){}) || !can_return<R>()) {
            return refused_as<R>();
        } else {
            constexpr bool fit = fits<std::tuple<D...>, Args...>();
            static_assert(fit, "multiprocessing: the method does not take these arguments");
            if constexpr (fit)
                return send<Thunk, R, D...>(std::forward<Args>(args)...);
            else
                return refused_as<R>();
        }
    }
    /// Converts to what the method takes; what is of that type already is not copied.
    template <class Thunk, class R, class... D>
    R send(const D&... args) const {
        return this->template ask<Thunk, R>(args...);
    }
    template <class Values, class... Args>
    static consteval bool fits() {
        if constexpr (std::tuple_size_v<Values> != sizeof...(Args))
            return false;
        else
            return []<class... D>(std::tuple<D...>*) {
                return ((std::is_same_v<std::remove_cvref_t<Args>, D> ||
                         std::is_convertible_v<Args, D>)&&...);
            }(static_cast<Values*>(nullptr));
    }
};

/// `d[k]` of a proxy that has at() and set(), on the left or on the right: each use is a call.
template <class P, class Key, class T>
class proxied_item {
public:
    proxied_item(P of, Key key) : of_(std::move(of)), key_(std::move(key)) {}
    const proxied_item& operator=(const T& value) const {
        of_.set(key_, value);
        return *this;
    }
    const proxied_item& operator=(const proxied_item& other) const { return *this = T(other); }
    /// \throws std::out_of_range
    operator T() const { return of_.at(key_); }  // NOLINT: implicit
    friend bool operator==(const proxied_item& a, const T& b) { return T(a) == b; }

private:
    P of_;
    Key key_;
};

/// As it is sent to a constructor: a text as std::string.
template <class Arg>
using sent_as = std::conditional_t<std::is_convertible_v<Arg, const char*> &&
                                       !std::is_class_v<std::decay_t<Arg>>,
                                   std::string, std::decay_t<Arg>>;

template <class T, class... Args>
inline constexpr bool can_host = std::is_constructible_v<T, argument_t<Args>...> ||
                                 (std::is_aggregate_v<T> &&
                                  requires { T{std::declval<argument_t<Args>>()...}; });

}  // namespace detail

/// An object of type T in a manager's server. A value: copies are of the same object, in any
/// process that it was sent to or that was forked, and keep it alive: the last one gone frees it.
/// (That of a BaseManager's connect() can't be sent, and its object lives as long as its server.)
///
/// Threads: any number may call at once. Each has a connection of its own, so a call that blocks
/// blocks no other; but calls of one object take turns, so that T need not be safe for threads,
/// unless T says `using mp_concurrent_tag = void;`.
/// If the caller is killed: a method that runs goes on to its end. If the server has ended, every
/// call throws EndOfFile, at once.
///
/// A proxy in a message counts on its own until it is received, or its sender ends: then the
/// object is gone if no other proxy was there. A child that only inherited a proxy counts it at its
/// first use; one that was given it as an argument of its Process has it from the start.
template <class T>
class Proxy : public detail::proxy_of<T> {
public:
    /// Of no object: every call throws Error.
    Proxy() = default;
    using detail::proxy_of<T>::proxy_of;

    /// Calls a method: `counter.call<&Counter::add>(5)`; an overloaded one by a cast to its type.
    /// Arguments and result travel, so both are Sendable: references become copies, what a method
    /// changes in its arguments stays in the server. Also a member (its value), or a function that
    /// takes a T& first.
    /// \throws what the method throws, as Pool::apply; EndOfFile if the server has ended, or does
    ///     meanwhile; UnknownCallable if the method is in a plugin that the server has not;
    ///     SerializationError
    template <auto Method, class... Args>
    auto call(Args&&... args) const {
        return detail::proxy_of<T>::template call<Method>(std::forward<Args>(args)...);
    }

    /// A copy of the object. T is Sendable.
    T get() const {
        detail::check_sendable<T>();
        if constexpr (detail::sendable<T>)
            return this->template ask<detail::copy_thunk<T>, T>();
        else
            return detail::refused_as<T>();
    }
};

}  // namespace multiprocessing
