// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// bind: a callable that carries values to the workers. worker_local: a value in each of them.

#include <cstdint>
#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/pool/calls.hpp>

namespace multiprocessing {
namespace detail {

/// Calls `callable(bound..., args...)`.
template <class F, class... Bound>
class bound_call {
public:
    bound_call() = default;
    bound_call(F callable, Bound... bound)
        : callable_(std::move(callable)), bound_(std::move(bound)...) {}

    template <class... Args>
    requires std::is_invocable_v<F&, Bound&..., Args...>
    decltype(auto) operator()(Args&&... args) {
        return std::apply(
            [&](Bound&... bound) -> decltype(auto) {
                return std::invoke(callable_, bound..., std::forward<Args>(args)...);
            },
            bound_);
    }

    template <class Archive>
    void save(Archive& archive) const {
        const auto packed = pack_callable(callable_);
        if constexpr (how_it_travels<F>() == travels::as_value)
            archive(packed.get());
        else
            archive(packed);
        archive(bound_);
    }
    template <class Archive>
    void load(Archive& archive) {
        packed_callable<F> packed{};
        archive(packed, bound_);
        callable_ = unpack_callable<F>(std::move(packed));
    }

private:
    [[no_unique_address]] F callable_{};
    std::tuple<Bound...> bound_;
};

}  // namespace detail

/// A callable with values in front, for a Pool: the values are serialized with it. They reach
/// `callable` as lvalues, copies of the worker's own.
template <class F, class... Bound>
auto bind(F callable, Bound... bound) {
    constexpr bool travels = detail::how_it_travels<F>() != detail::travels::not_at_all;
    static_assert(travels,
                  "multiprocessing: bind takes a function, a lambda without captures or a "
                  "serializable function object; give what it captures as bound values instead");
    if constexpr (!travels) {
        return detail::refused_value();
    } else if constexpr (!(Sendable<Bound> && ...)) {
        (detail::check_sendable<Bound>(), ...);
        return detail::refused_value();
    } else {
        return detail::bound_call<F, Bound...>(std::move(callable), std::move(bound)...);
    }
}

/// The T of this worker, made at its first use here and destroyed with it. For what is costly to
/// make and cannot be sent: a connection, a model, a random generator. In a ThreadPool: of the
/// thread.
template <class T>
T& worker_local() {
    static thread_local std::unique_ptr<T> value;
    static thread_local std::uint64_t made_in = 0;  // generation of the process: a child's copy is
    const std::uint64_t here =                      // not its own
        detail::process_identity::get().generation.load(std::memory_order_relaxed);
    if (!value || made_in != here) {
        static_cast<void>(value.release());
        value = std::make_unique<T>();
        made_in = here;
    }
    return *value;
}

}  // namespace multiprocessing
