// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The members of an aggregate: how many, of which types, and each by reference.
///
/// Members are counted by `T{{}, {}, ...}`: one pair of braces initializes one member, an array
/// member too, so brace elision can't deceive the count. It asks that each member can be made
/// from {}; where only a default member initializer makes it, the count says so (`unclear`).

#include <cstddef>
#include <type_traits>

namespace multiprocessing::detail {

template <class... Ts>
struct type_list {};

/// What aggregate_size() returns for aggregates that can't be taken apart.
enum aggregate_trouble : int {
    trouble_base = -1,     ///< it has a base class, which structured bindings don't show
    trouble_union = -2,    ///< a member is a union, perhaps an anonymous one
    trouble_unclear = -3,  ///< a member can't be made from {}
    trouble_many = -4,     ///< more than 32 members
};

/// Converts to any base class of T and, as a member, to any union. Never defined.
template <class T>
struct base_or_union {
    template <class U>
    requires((std::is_base_of_v<U, T> && !std::is_same_v<U, T>) || std::is_union_v<U>) operator U()
        const;
};
template <class T>
struct any_base {
    template <class U>
    requires(std::is_base_of_v<U, T> && !std::is_same_v<U, T>) operator U() const;
};
template <class T>
struct any_value {
    template <class U>
    requires(!std::is_same_v<U, T>) operator U() const;
};
/// Converts to nothing. A member that takes this takes everything, and proves nothing.
struct no_value {};

/// How many members T has, or one of aggregate_trouble. T is an aggregate class that T{} makes.
// clang-format off
template <class T>
consteval int aggregate_size() {
#define MP_STEP(n, ...)                                                                    \
    if constexpr (requires { T{__VA_ARGS__ base_or_union<T>{}}; } &&                       \
                  !requires { T{__VA_ARGS__ no_value{}}; })                                \
        return n == 0 && requires { T{__VA_ARGS__ any_base<T>{}}; } ? int{trouble_base}     \
                                                                  : int{trouble_union};   \
    else if constexpr (!requires { T{__VA_ARGS__ {}}; })                                   \
        return requires { T{__VA_ARGS__ any_value<T>{}}; } ? int{trouble_unclear} : n;      \
    else
    MP_STEP(0, )
    MP_STEP(1, {},)
    MP_STEP(2, {}, {},)
    MP_STEP(3, {}, {}, {},)
    MP_STEP(4, {}, {}, {}, {},)
    MP_STEP(5, {}, {}, {}, {}, {},)
    MP_STEP(6, {}, {}, {}, {}, {}, {},)
    MP_STEP(7, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(8, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(9, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(10, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(11, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(12, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(13, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(14, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(15, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(16, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(17, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(18, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(19, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(20, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(21, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(22, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(23, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(24, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(25, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(26, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(27, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(28, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(29, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(30, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(31, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
    MP_STEP(32, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {},)
        return trouble_many;
#undef MP_STEP
}

/// Calls use(member...) with a reference to each of the N members.
template <int N, class T, class Use>
constexpr decltype(auto) with_members(T& value, Use&& use) {
#define MP_BIND(n, ...)                          \
    if constexpr (N == n) {                      \
        auto& [__VA_ARGS__] = value;             \
        return use(__VA_ARGS__);                 \
    } else
    if constexpr (N == 0) {
        return use();
    } else
    MP_BIND(1, m0)
    MP_BIND(2, m0, m1)
    MP_BIND(3, m0, m1, m2)
    MP_BIND(4, m0, m1, m2, m3)
    MP_BIND(5, m0, m1, m2, m3, m4)
    MP_BIND(6, m0, m1, m2, m3, m4, m5)
    MP_BIND(7, m0, m1, m2, m3, m4, m5, m6)
    MP_BIND(8, m0, m1, m2, m3, m4, m5, m6, m7)
    MP_BIND(9, m0, m1, m2, m3, m4, m5, m6, m7, m8)
    MP_BIND(10, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9)
    MP_BIND(11, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10)
    MP_BIND(12, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11)
    MP_BIND(13, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12)
    MP_BIND(14, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13)
    MP_BIND(15, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14)
    MP_BIND(16, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15)
    MP_BIND(17, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16)
    MP_BIND(18, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17)
    MP_BIND(19, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18)
    MP_BIND(20, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19)
    MP_BIND(21, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20)
    MP_BIND(22, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21)
    MP_BIND(23, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22)
    MP_BIND(24, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23)
    MP_BIND(25, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24)
    MP_BIND(26, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25)
    MP_BIND(27, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26)
    MP_BIND(28, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26, m27)
    MP_BIND(29, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26, m27, m28)
    MP_BIND(30, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26, m27, m28, m29)
    MP_BIND(31, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26, m27, m28, m29, m30)
    MP_BIND(32, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26, m27, m28, m29, m30, m31)
        static_assert(N <= 32);
#undef MP_BIND
}

/// The declared types of the N members, references and const included, as a type_list.
/// Called in decltype only.
template <int N, class T>
constexpr auto member_types(T& value) {
#define MP_UNPACK(...) __VA_ARGS__
#define MP_TYPES(n, names, ...)                        \
    if constexpr (N == n) {                            \
        [[maybe_unused]] auto& [MP_UNPACK names] = value; \
        return type_list<__VA_ARGS__>{};               \
    } else
    if constexpr (N == 0) {
        return type_list<>{};
    } else
    MP_TYPES(1, (m0), decltype(m0))
    MP_TYPES(2, (m0, m1), decltype(m0), decltype(m1))
    MP_TYPES(3, (m0, m1, m2), decltype(m0), decltype(m1), decltype(m2))
    MP_TYPES(4, (m0, m1, m2, m3), decltype(m0), decltype(m1), decltype(m2), decltype(m3))
    MP_TYPES(5, (m0, m1, m2, m3, m4), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4))
    MP_TYPES(6, (m0, m1, m2, m3, m4, m5), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5))
    MP_TYPES(7, (m0, m1, m2, m3, m4, m5, m6), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6))
    MP_TYPES(8, (m0, m1, m2, m3, m4, m5, m6, m7), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7))
    MP_TYPES(9, (m0, m1, m2, m3, m4, m5, m6, m7, m8), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8))
    MP_TYPES(10, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9))
    MP_TYPES(11, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10))
    MP_TYPES(12, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11))
    MP_TYPES(13, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12))
    MP_TYPES(14, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13))
    MP_TYPES(15, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14))
    MP_TYPES(16, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15))
    MP_TYPES(17, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16))
    MP_TYPES(18, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17))
    MP_TYPES(19, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18))
    MP_TYPES(20, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19))
    MP_TYPES(21, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20))
    MP_TYPES(22, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21))
    MP_TYPES(23, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21), decltype(m22))
    MP_TYPES(24, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21), decltype(m22), decltype(m23))
    MP_TYPES(25, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21), decltype(m22), decltype(m23), decltype(m24))
    MP_TYPES(26, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25))
    MP_TYPES(27, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25), decltype(m26))
    MP_TYPES(28, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26, m27), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25), decltype(m26), decltype(m27))
    MP_TYPES(29, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26, m27, m28), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25), decltype(m26), decltype(m27), decltype(m28))
    MP_TYPES(30, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26, m27, m28, m29), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25), decltype(m26), decltype(m27), decltype(m28), decltype(m29))
    MP_TYPES(31, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26, m27, m28, m29, m30), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25), decltype(m26), decltype(m27), decltype(m28), decltype(m29), decltype(m30))
    MP_TYPES(32, (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15, m16, m17, m18, m19, m20, m21, m22, m23, m24, m25, m26, m27, m28, m29, m30, m31), decltype(m0), decltype(m1), decltype(m2), decltype(m3), decltype(m4), decltype(m5), decltype(m6), decltype(m7), decltype(m8), decltype(m9), decltype(m10), decltype(m11), decltype(m12), decltype(m13), decltype(m14), decltype(m15), decltype(m16), decltype(m17), decltype(m18), decltype(m19), decltype(m20), decltype(m21), decltype(m22), decltype(m23), decltype(m24), decltype(m25), decltype(m26), decltype(m27), decltype(m28), decltype(m29), decltype(m30), decltype(m31))
        static_assert(N <= 32);
#undef MP_TYPES
#undef MP_UNPACK
}
// clang-format on

}  // namespace multiprocessing::detail
