// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Which types can be sent to another process, and if not, why not.

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>

#include <multiprocessing/detail/archive/shape.hpp>
#include <multiprocessing/detail/archive/standard.hpp>

namespace multiprocessing::detail {

/// Why a type can't be sent. explain() has a sentence for each.
enum class refused {
    no,
    raw_pointer,
    reference,
    view,
    constant,
    incomplete,
    not_an_object,
    an_array,
    a_union,
    base_class,
    many_members,
    unclear_member,
    no_functions,
    half_functions,
    no_default_constructor,
    immovable,
    pointer_to_array,
    own_deleter,
    cereals_pointer,
};

/// The answer of inspect(), as a type: the reason, and the part that it is about.
template <refused Why, class Culprit>
struct verdict {
    static constexpr refused why = Why;
    using culprit = Culprit;
};
using accepted = verdict<refused::no, void>;

template <class T>
inline constexpr bool is_view = false;
template <class C, class Tr>
inline constexpr bool is_view<std::basic_string_view<C, Tr>> = true;
template <class T, std::size_t N>
inline constexpr bool is_view<std::span<T, N>> = true;
template <class T>
inline constexpr bool is_view<std::initializer_list<T>> = true;
template <class T>
inline constexpr bool is_view<std::reference_wrapper<T>> = true;

template <class P>
struct smart_pointer {
    static constexpr bool is = false;
};
template <class T, class D>
struct smart_pointer<std::unique_ptr<T, D>> {
    static constexpr bool is = true, own_deleter = !std::is_same_v<D, std::default_delete<T>>;
    using object = T;
};
template <class T>
struct smart_pointer<std::shared_ptr<T>> {
    static constexpr bool is = true, own_deleter = false;
    using object = T;
};
template <class T>
struct smart_pointer<std::weak_ptr<T>> : smart_pointer<std::shared_ptr<T>> {};

template <bool Made, class T, class... Seen>
consteval auto inspect();

template <bool Made, class... Seen>
consteval auto inspect_all(type_list<>) {
    return accepted{};
}
template <bool Made, class... Seen, class T, class... Ts>
consteval auto inspect_all(type_list<T, Ts...>) {
    using first = decltype(inspect<Made, T, Seen...>());
    if constexpr (first::why != refused::no)
        return first{};
    else
        return inspect_all<Made, Seen...>(type_list<Ts...>{});
}

/// \pre smart_pointer<P>::is
template <class P, class... Seen>
consteval auto inspect_pointer() {
    using T = typename smart_pointer<P>::object;
    if constexpr (std::is_array_v<T>)
        return verdict<refused::pointer_to_array, P>{};
    else if constexpr (smart_pointer<P>::own_deleter)
        return verdict<refused::own_deleter, P>{};
    else if constexpr (!complete<T>)
        return verdict<refused::incomplete, T>{};
    else if constexpr (standard<P>)
        return inspect_all<true, Seen...>(typename standard_type<P>::parts{});
    else if constexpr (!std::is_abstract_v<T> &&
                       (!std::is_class_v<T> || functions_of<T> != own_functions::all ||
                        !(std::is_default_constructible_v<T> ||
                          cereal::traits::has_load_and_construct<T, input_archive>::value)))
        return inspect<true, T, Seen...>();
    else if constexpr (functions_of<P> == own_functions::all)
        return accepted{};  // an abstract class cereal finds by the name it was registered with
    else
        return verdict<refused::cereals_pointer, P>{};
}

/// Can a T be a part of a message?
/// \tparam Made  the reader makes it: it is not a member of something that was made
/// \tparam Seen  the aggregates that T is inside of; one within itself is not looked at again
template <bool Made, class T, class... Seen>
consteval auto inspect() {
    if constexpr (std::is_reference_v<T>)
        return verdict<refused::reference, T>{};
    else if constexpr (std::is_pointer_v<T> || std::is_member_pointer_v<T> ||
                       std::is_null_pointer_v<T>)
        return verdict<refused::raw_pointer, T>{};
    else if constexpr (!std::is_object_v<T>)
        return verdict<refused::not_an_object, T>{};
    else if constexpr (std::is_const_v<T> || std::is_volatile_v<T>)
        return verdict<refused::constant, T>{};
    else if constexpr (!complete<T>)
        return verdict<refused::incomplete, T>{};
    else if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T>)
        return accepted{};
    else if constexpr (std::is_array_v<T>)
        return inspect<Made, std::remove_extent_t<T>, Seen...>();
    else if constexpr (is_view<T>)
        return verdict<refused::view, T>{};
    else if constexpr ((std::is_same_v<T, Seen> || ...) || (flat_class<T> && flat<T>))
        return accepted{};
    else if constexpr (smart_pointer<T>::is)
        return inspect_pointer<T, Seen...>();
    else if constexpr (standard<T>)
        return inspect_all<true, Seen...>(typename standard_type<T>::parts{});
    else if constexpr (functions_of<T> == own_functions::half)
        return verdict<refused::half_functions, T>{};
    else if constexpr (std::is_union_v<T> && functions_of<T> == own_functions::none)
        return verdict<refused::a_union, T>{};
    else if constexpr (Made && !std::is_default_constructible_v<T>)
        return verdict<refused::no_default_constructor, T>{};
    else if constexpr (functions_of<T> == own_functions::all || std::is_empty_v<T>)
        return accepted{};
    else if constexpr (members_of<T> >= 0)
        return inspect_all<false, T, Seen...>(members_list<T>{});
    else if constexpr (members_of<T> == trouble_base)
        return verdict<refused::base_class, T>{};
    else if constexpr (members_of<T> == trouble_union)
        return verdict<refused::a_union, T>{};
    else if constexpr (members_of<T> == trouble_many)
        return verdict<refused::many_members, T>{};
    else if constexpr (members_of<T> == trouble_unclear)
        return verdict<refused::unclear_member, T>{};
    else
        return verdict<refused::no_functions, T>{};
}

/// Can a T be a message?
template <class T>
consteval auto inspect_message() {
    using verdict_on_parts = decltype(inspect<true, T>());
    if constexpr (verdict_on_parts::why != refused::no)
        return verdict_on_parts{};
    else if constexpr (std::is_array_v<T>)
        return verdict<refused::an_array, T>{};
    else if constexpr (!std::is_default_constructible_v<T>)
        return verdict<refused::no_default_constructor, T>{};
    else if constexpr (!std::is_move_constructible_v<T>)
        return verdict<refused::immovable, T>{};
    else
        return accepted{};
}

template <class T>
inline constexpr bool sendable = decltype(inspect_message<T>())::why == refused::no;

template <class T, class... Seen>
consteval bool in_place();

template <class... Seen, class... Ts>
consteval bool all_in_place(type_list<Ts...>) {
    return (in_place<Ts, Seen...>() && ...);
}

/// \pre inspect() accepts T
template <class T, class... Seen>
consteval bool in_place() {
    if constexpr (!std::is_class_v<T> && !std::is_union_v<T>)
        return !std::is_array_v<T> || in_place<std::remove_all_extents_t<T>, Seen...>();
    else if constexpr ((std::is_same_v<T, Seen> || ...))
        return true;
    else if constexpr (standard<T>)
        return standard_type<T>::plain && all_in_place<Seen...>(typename standard_type<T>::parts{});
    else if constexpr (flat_class<T> && flat<T>)
        return true;
    else if constexpr (functions_of<T> != own_functions::none)
        return false;
    else if constexpr (members_of<T> > 0)
        // A default member initializer that calls something shows in noexcept, as a rule.
        return std::is_nothrow_default_constructible_v<T> &&
               all_in_place<T, Seen...>(members_list<T>{});
    else
        return std::is_trivially_default_constructible_v<T>;
}

/// Writing and reading a T runs no code of the user (F8): arithmetic types, enums, standard
/// containers and strings, and aggregates of these. A user's noexcept function in a default
/// member initializer, or destructor of an aggregate, escapes this test.
template <class T>
inline constexpr bool decodes_in_place = false;
template <class T>
requires sendable<T>
inline constexpr bool decodes_in_place<T> = in_place<T>();

/// Says in one line why `Sent` can't be sent. `Culprit` is the type that it is about.
template <class Sent, refused Why, class Culprit>
constexpr void explain() {
    static_assert(Why != refused::raw_pointer,
                  "multiprocessing: this type can't be sent because it holds a raw pointer, which "
                  "means nothing in another process; hold the object itself or a std::unique_ptr "
                  "or std::shared_ptr to it, or give the class a serialize function");
    static_assert(Why != refused::reference,
                  "multiprocessing: this type can't be sent because it holds a reference, which "
                  "means nothing in another process; hold the object itself, or give the class a "
                  "serialize function");
    static_assert(Why != refused::view,
                  "multiprocessing: this type can't be sent because it holds a view (std::span, "
                  "std::string_view, std::reference_wrapper), which points into memory of this "
                  "process; hold a std::vector or std::string, or give the class a serialize "
                  "function");
    static_assert(Why != refused::constant,
                  "multiprocessing: this type can't be sent because it holds something const or "
                  "volatile, which the receiver could not fill in; drop the const, or give the "
                  "class a serialize function");
    static_assert(Why != refused::incomplete,
                  "multiprocessing: this type can't be sent because it is, or holds, a class that "
                  "is only declared here; include its definition before this use");
    static_assert(Why != refused::not_an_object,
                  "multiprocessing: void and functions can't be sent; send a value");
    static_assert(Why != refused::an_array,
                  "multiprocessing: a C array can't be sent because functions can't return it; "
                  "use std::array, or make it a member of a struct");
    static_assert(Why != refused::a_union,
                  "multiprocessing: this type can't be sent because it is or holds a union, of "
                  "which nobody knows the active member; use std::variant, or give the class a "
                  "serialize function");
    static_assert(Why != refused::base_class,
                  "multiprocessing: this type can't be sent because it is an aggregate with a "
                  "base class, which can't be taken apart; make the base a member, or give the "
                  "class a serialize function");
    static_assert(Why != refused::many_members,
                  "multiprocessing: this type can't be sent because it is an aggregate of more "
                  "than 32 members; give it a serialize function");
    static_assert(Why != refused::unclear_member,
                  "multiprocessing: this type can't be sent because a member of it can't be made "
                  "from {}, so that its members can't be counted; give it a serialize function");
    static_assert(Why != refused::no_functions,
                  "multiprocessing: this type can't be sent because it is, or holds, a class "
                  "without a serialize function that is no aggregate either; give it a serialize "
                  "function (template <class Archive> void serialize(Archive& ar) { ar(a, b); })");
    static_assert(Why != refused::half_functions,
                  "multiprocessing: this type can't be sent because it has a save function and no "
                  "load function, or the reverse; give it both, or one serialize function");
    static_assert(Why != refused::no_default_constructor,
                  "multiprocessing: this type can't be sent because it is, or holds, a class that "
                  "can't be default-constructed: the receiver makes one first and then fills it "
                  "in; give it a default constructor");
    static_assert(Why != refused::immovable,
                  "multiprocessing: this type can't be sent because it can't be moved, so that it "
                  "can't be returned to the receiver; send a std::unique_ptr to it");
    static_assert(Why != refused::pointer_to_array,
                  "multiprocessing: this type can't be sent because it holds a smart pointer to "
                  "an array, which doesn't know its length; use std::vector");
    static_assert(Why != refused::own_deleter,
                  "multiprocessing: this type can't be sent because it holds a std::unique_ptr "
                  "with a deleter of its own, for which the receiver could not make the object; "
                  "give the class a serialize function");
    static_assert(Why != refused::cereals_pointer,
                  "multiprocessing: this type can't be sent because it holds a smart pointer to "
                  "a class with virtual functions or with load_and_construct, which is cereal's to "
                  "read and write; include <cereal/types/polymorphic.hpp> before this use");
}

/// The first thing that every template of the API says about its T. If T can't be sent, this is
/// the only error: encode() and decode() are silent then.
template <class T>
constexpr void check_sendable() {
    using verdict_on = decltype(inspect_message<T>());
    explain<T, verdict_on::why, typename verdict_on::culprit>();
}

/// The same for a value that a serialize function hands to its archive.
template <class T>
constexpr void check_part() {
    using verdict_on = decltype(inspect<false, T>());
    explain<T, verdict_on::why, typename verdict_on::culprit>();
}

}  // namespace multiprocessing::detail

namespace multiprocessing {

/// A type whose values can be sent to other processes: default-constructible, movable, and
/// - arithmetic or an enum,
/// - a type of the standard library that owns what it holds, of Sendable types,
/// - a class with a `serialize` function, or `save` and `load`, as the cereal library defines
///   them, or
/// - an aggregate of up to 32 Sendable members, arrays among them; it needs no function.
/// Pointers, references and views are not: they mean nothing in another process.
/// Asking is safe for any type; ask where it is complete.
template <class T>
concept Sendable = detail::sendable<T>;

}  // namespace multiprocessing
