// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A callable with its arguments, kept until it is called once, in another process.

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

namespace multiprocessing::detail {

/// Handles name an object that lies in shared memory (Queue, Lock, Value...). They say so by a
/// nested `using mp_handle_tag = void;`.
template <class T>
inline constexpr bool is_handle = requires {
    typename std::remove_cvref_t<T>::mp_handle_tag;
};

/// How a kept argument of (decayed) type T reaches the callable: a handle as an lvalue, so that
/// both `Queue<int>` and `Queue<int>&` take it; anything else as an rvalue, as std::thread does.
template <class T>
struct argument {
    using type = std::conditional_t<is_handle<T>, T&, T&&>;
};
template <class T>
struct argument<std::reference_wrapper<T>> {
    using type = T&;
};
template <class T>
using argument_t = typename argument<T>::type;

template <class F, class... Args>
inline constexpr bool is_callable =
    std::is_invocable_v<std::decay_t<F>, argument_t<std::decay_t<Args>>...>;

template <class F, class... Args>
using call_result_t = std::invoke_result_t<std::decay_t<F>, argument_t<std::decay_t<Args>>...>;

/// One readable error; the caller goes on only if is_callable, so that no others follow.
template <class F, class... Args>
constexpr void check_callable() {
    static_assert(is_callable<F, Args...>,
                  "multiprocessing: the callable does not take these arguments. It is called once, "
                  "in the child, with copies of its own: handles (Queue, Lock, Value...) arrive as "
                  "lvalues, std::ref(x) as x&, every other argument as an rvalue. So take them by "
                  "value, by const& or by &&.");
}

/// What is kept: decayed copies. Called once.
template <class F, class... Args>
requires is_callable<F, Args...>
class packed_call {
public:
    using result = call_result_t<F, Args...>;

    template <class G, class... As>
    explicit packed_call(std::in_place_t, G&& callable, As&&... args)
        : callable_(std::forward<G>(callable)), args_(std::forward<As>(args)...) {}

    result operator()() { return call(std::index_sequence_for<Args...>()); }

private:
    template <std::size_t... I>
    result call(std::index_sequence<I...>) {
        return std::invoke(std::move(callable_),
                           static_cast<argument_t<std::decay_t<Args>>>(std::get<I>(args_))...);
    }

    std::decay_t<F> callable_;
    std::tuple<std::decay_t<Args>...> args_;
};

}  // namespace multiprocessing::detail
