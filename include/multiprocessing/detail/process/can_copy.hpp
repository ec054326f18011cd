// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Whether a value can really be copied: std::is_copy_constructible believes what a
/// std::vector<std::unique_ptr<int>> declares, and to try it does not compile.

#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include <multiprocessing/detail/archive/shape.hpp>

namespace multiprocessing::detail {

template <class T, class... Seen>
consteval bool can_copy();

template <class... Seen>
struct copying {
    template <class... Ts>
    static consteval bool all_of(type_list<Ts...>) {
        return (can_copy<std::remove_cv_t<Ts>, Seen...>() && ...);
    }
    template <template <class...> class Of, class... Ts>
    static consteval bool parts_of(std::type_identity<Of<Ts...>>) {
        return all_of(type_list<Ts...>());
    }
};

template <class T>
inline constexpr bool is_sum_or_product = false;
template <class... Ts>
inline constexpr bool is_sum_or_product<std::tuple<Ts...>> = true;
template <class... Ts>
inline constexpr bool is_sum_or_product<std::variant<Ts...>> = true;
template <class A, class B>
inline constexpr bool is_sum_or_product<std::pair<A, B>> = true;

/// \tparam Seen  types that T is part of: a tree's node has a vector of nodes
template <class T, class... Seen>
consteval bool can_copy() {
    using inside = copying<T, Seen...>;
    if constexpr ((std::is_same_v<T, Seen> || ...))
        return true;
    else if constexpr (!std::is_copy_constructible_v<T>)
        return false;
    else if constexpr (!std::is_class_v<T> || std::is_trivially_copyable_v<T>)
        return true;
    else if constexpr (is_sum_or_product<T>)
        return inside::parts_of(std::type_identity<T>());
    else if constexpr (requires { typename T::value_type; })
        return inside::all_of(type_list<typename T::value_type>());
    else if constexpr (members_of<T> > 0)
        return inside::all_of(members_list<T>());
    else
        return true;
}

}  // namespace multiprocessing::detail
