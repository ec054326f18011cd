// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a type looks like to the archives: does it have functions of its own, is it an aggregate,
/// is it flat?

#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/archive/aggregate.hpp>
#include <multiprocessing/detail/archive/archives.hpp>
#include <multiprocessing/detail/archive/fingerprint.hpp>

namespace multiprocessing::detail {

/// T has a `serialize` for this archive, by cereal's rules: a member or found by ADL, perhaps
/// with a version.
template <class Archive, class T>
concept has_serialize = requires(Archive& ar, T& value) {
    cereal::access::member_serialize(ar, value);
}
|| requires(Archive& ar, T& value) { cereal::access::member_serialize(ar, value, 0); }
|| requires(Archive& ar, T& value) { CEREAL_SERIALIZE_FUNCTION_NAME(ar, value); }
|| requires(Archive& ar, T& value) { CEREAL_SERIALIZE_FUNCTION_NAME(ar, value, 0); };

template <class T>
concept has_save = requires(output_archive& ar, const T& value) {
    cereal::access::member_save(ar, value);
}
|| requires(output_archive& ar, const T& value) { cereal::access::member_save(ar, value, 0); }
|| requires(output_archive& ar, const T& value) { CEREAL_SAVE_FUNCTION_NAME(ar, value); }
|| requires(output_archive& ar, const T& value) { CEREAL_SAVE_FUNCTION_NAME(ar, value, 0); };

template <class T>
concept has_load = requires(input_archive& ar, T& value) {
    cereal::access::member_load(ar, value);
}
|| requires(input_archive& ar, T& value) { cereal::access::member_load(ar, value, 0); }
|| requires(input_archive& ar, T& value) { CEREAL_LOAD_FUNCTION_NAME(ar, value); }
|| requires(input_archive& ar, T& value) { CEREAL_LOAD_FUNCTION_NAME(ar, value, 0); };

/// Its partner, load_minimal, is cereal's to check.
template <class T>
concept has_save_minimal = requires(const output_archive& ar, const T& value) {
    cereal::access::member_save_minimal(ar, value);
}
|| requires(const output_archive& ar, const T& value) {
    cereal::access::member_save_minimal(ar, value, 0);
}
|| requires(const output_archive& ar, const T& value) {
    CEREAL_SAVE_MINIMAL_FUNCTION_NAME(ar, value);
}
|| requires(const output_archive& ar, const T& value) {
    CEREAL_SAVE_MINIMAL_FUNCTION_NAME(ar, value, 0);
};

template <class T>
concept complete = requires {
    sizeof(T);
};

template <class T>
consteval bool has_out_functions() {
    if constexpr (std::is_class_v<T> || std::is_union_v<T>)
        return has_serialize<output_archive, T> || has_save<T> || has_save_minimal<T>;
    else
        return false;
}
template <class T>
consteval bool has_in_functions() {
    if constexpr (std::is_class_v<T> || std::is_union_v<T>)
        return has_serialize<input_archive, T> || has_load<T> || has_save_minimal<T>;
    else
        return false;
}
/// Functions of the user, or of cereal, write or read a T.
template <class T>
inline constexpr bool out_functions = has_out_functions<T>();
template <class T>
inline constexpr bool in_functions = has_in_functions<T>();

enum class own_functions { none, half, all };

template <class T>
inline constexpr own_functions functions_of = out_functions<T>&& in_functions<T>
                                                  ? own_functions::all
                                                  : (out_functions<T> || in_functions<T>
                                                         ? own_functions::half
                                                         : own_functions::none);

/// How many members, or one of aggregate_trouble, or this: not an aggregate to be taken apart.
inline constexpr int not_an_aggregate = -10;

template <class T>
consteval int count_members() {
    if constexpr (!std::is_class_v<T> || !std::is_aggregate_v<T>)
        return not_an_aggregate;
    else if constexpr (
        requires { std::tuple_size<T>::value; } || !requires { T{}; })
        return not_an_aggregate;
    else
        return aggregate_size<T>();
}
template <class T>
inline constexpr int members_of = count_members<T>();

template <class T>
using members_list = decltype(member_types<members_of<T>>(std::declval<T&>()));

/// Classes of std that are their members' bytes, though not aggregates that could be taken apart.
template <class T>
inline constexpr bool flat_class = false;

/// std::complex and std::valarray are known by their names: their headers are too large to be
/// included for them. Only what looks like one is asked for its name.
template <class T>
concept complex_number = requires(const T& number) {
    number.real();
    number.imag();
}
&&type_name<T>().starts_with("std::complex<");
template <class T>
concept numeric_array = requires(const T& array) {
    array.cshift(0);
}
&&type_name<T>().starts_with("std::valarray<");

template <class T>
inline constexpr bool flat = false;

template <class... Ts>
consteval bool all_flat(type_list<Ts...>) {
    return (flat<Ts> && ...);
}

template <class T>
consteval bool is_flat() {
    if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T>)
        return true;
    else if constexpr (std::is_bounded_array_v<T>)
        return flat<std::remove_extent_t<T>>;
    else if constexpr (!std::is_class_v<T> || !std::is_trivially_copyable_v<T>)
        return false;
    else if constexpr (flat_class<T>)
        return true;
    else if constexpr (functions_of<T> != own_functions::none || members_of<T> <= 0)
        return false;
    else
        return all_flat(members_list<T>{});
}

/// Flat: all of T's meaning is in its bytes, and no user code has a say. Such values, and ranges
/// of them, are copied as one block, padding included (which may hold anything: the message
/// stays among processes of one user).
template <class T>
requires complete<T>
inline constexpr bool flat<T> = is_flat<T>();
template <class T>
inline constexpr bool flat<const T> = false;
template <class T>
inline constexpr bool flat<volatile T> = false;
template <class T>
inline constexpr bool flat<const volatile T> = false;

template <class T, std::size_t N>
inline constexpr bool flat_class<std::array<T, N>> = N > 0 && flat<T>;
template <class T>
requires complex_number<T>
inline constexpr bool flat_class<T> = std::is_arithmetic_v<typename T::value_type>;
template <class Rep, class Period>
inline constexpr bool flat_class<std::chrono::duration<Rep, Period>> = flat<Rep>;
template <class Clock, class Duration>
inline constexpr bool flat_class<std::chrono::time_point<Clock, Duration>> = flat<Duration>;

/// Some of T's bytes are bools, for which only two values are valid.
template <class T>
consteval bool has_bools();

template <class... Ts>
consteval bool any_bools(type_list<Ts...>) {
    return (has_bools<Ts>() || ...);
}
template <class T>
consteval bool has_bools() {
    if constexpr (std::is_same_v<T, bool>)
        return true;
    else if constexpr (std::is_array_v<T>)
        return has_bools<std::remove_extent_t<T>>();
    else if constexpr (flat_class<T> && requires { std::tuple_size<T>::value; })
        return has_bools<typename T::value_type>();
    else if constexpr (std::is_class_v<T> && !flat_class<T>)
        return any_bools(members_list<T>{});
    else
        return false;
}

/// All bools in a flat value are 0 or 1.
template <class T>
bool bools_are_valid(const T& value) {
    if constexpr (!has_bools<T>()) {
        return true;
    } else if constexpr (std::is_same_v<T, bool>) {
        unsigned char byte = 0;
        std::memcpy(&byte, &value, 1);
        return byte <= 1;
    } else if constexpr (std::is_array_v<T> || flat_class<T>) {
        for (const auto& element : value)
            if (!bools_are_valid(element)) return false;
        return true;
    } else {
        return with_members<members_of<T>>(
            value, [](const auto&... member) { return (bools_are_valid(member) && ...); });
    }
}

}  // namespace multiprocessing::detail
