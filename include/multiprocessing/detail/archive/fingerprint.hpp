// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The name of a type in a message: readable for people, 64 bits for messages.
///
/// Names are put together from the parts of a type, so that g++ and clang++ agree on
/// "std::map<std::string, std::vector<job>>"; only the plain name of a class comes from the
/// compiler. A fingerprint is the hash of the name and of nothing else: two types of one name (in
/// the unnamed namespaces of two files) have one fingerprint, and so do two versions of a class.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <ratio>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/archive/registry.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

template <class T>
constexpr std::string_view pretty_function() {
    return __PRETTY_FUNCTION__;
}

/// The compiler's own name for T.
template <class T>
constexpr std::string_view compilers_name() {
    constexpr std::string_view sample = pretty_function<double>();
    constexpr std::size_t before = sample.find("double");
    constexpr std::size_t after = sample.size() - before - std::string_view("double").size();
    std::string_view name = pretty_function<T>();
    name.remove_prefix(before);
    name.remove_suffix(after);
    return name;
}

/// Where the template arguments at the end of a name begin; its size if there are none.
constexpr std::size_t arguments_at(std::string_view name) {
    if (!name.ends_with('>')) return name.size();
    std::size_t depth = 0;
    for (std::size_t i = name.size(); i-- > 0;) {
        if (name[i] == '>') ++depth;
        if (name[i] == '<' && --depth == 0) return i;
    }
    return name.size();
}

/// Writes a compiler's name without what only one compiler says.
template <class Sink>
constexpr void write_normalized(Sink&& sink, std::string_view name) {
    constexpr std::string_view dropped[] = {"__cxx11::", "__1::", "_V2::"};
    constexpr std::string_view unnamed[] = {"{anonymous}", "(anonymous namespace)"};
    while (!name.empty()) {
        std::size_t skip = 0;
        for (const auto d : dropped)
            if (name.starts_with(d)) skip = d.size();
        for (const auto u : unnamed)
            if (name.starts_with(u)) {
                sink("(unnamed)");
                skip = u.size();
            }
        if (skip == 0) {  // up to the next character that one of them begins with
            do ++skip;
            while (skip < name.size() && name[skip] != '_' && name[skip] != '{' &&
                   name[skip] != '(');
            sink(name.substr(0, skip));
        }
        name.remove_prefix(skip);
    }
}

template <class Sink>
constexpr void write_number(Sink& sink, std::uintmax_t n) {
    if (n >= 10) write_number(sink, n / 10);
    sink(std::string_view("0123456789").substr(n % 10, 1));
}

template <class T, class Sink>
constexpr void write_name(Sink& sink);

/// Template arguments of std that are not worth a word where they have their default.
template <class T>
inline constexpr bool unsaid = false;
template <class T>
inline constexpr bool unsaid<std::allocator<T>> = true;
template <class T>
inline constexpr bool unsaid<std::char_traits<T>> = true;
template <class T>
inline constexpr bool unsaid<std::default_delete<T>> = true;
template <class T>
inline constexpr bool unsaid<std::hash<T>> = true;
template <class T>
inline constexpr bool unsaid<std::less<T>> = !std::is_void_v<T>;
template <class T>
inline constexpr bool unsaid<std::equal_to<T>> = !std::is_void_v<T>;

template <class... Ts, class Sink>
constexpr void write_names(Sink& sink, bool may_be_unsaid) {
    bool first = true;
    [[maybe_unused]] const auto one = [&]<class T>(std::type_identity<T>) {
        if (may_be_unsaid && unsaid<T>) return;
        if (!first) sink(", ");
        first = false;
        write_name<T>(sink);
    };
    (one(std::type_identity<Ts>{}), ...);
}

/// Names of classes; the specializations take templates apart.
template <class T>
struct class_name {
    template <class Sink>
    static constexpr void write(Sink& sink) {
        write_normalized(sink, compilers_name<T>());
    }
};
template <template <class...> class Template, class... Ts>
struct class_name<Template<Ts...>> {
    template <class Sink>
    static constexpr void write(Sink& sink) {
        constexpr std::string_view all = compilers_name<Template<Ts...>>();
        write_normalized(sink, all.substr(0, arguments_at(all)));
        sink("<");
        write_names<Ts...>(sink, all.starts_with("std::"));
        sink(">");
    }
};
template <template <class, std::size_t> class Template, class T, std::size_t N>
struct class_name<Template<T, N>> {
    template <class Sink>
    static constexpr void write(Sink& sink) {
        constexpr std::string_view all = compilers_name<Template<T, N>>();
        write_normalized(sink, all.substr(0, arguments_at(all)));
        sink("<");
        write_name<T>(sink);
        sink(", ");
        write_number(sink, N);
        sink(">");
    }
};
template <template <std::size_t> class Template, std::size_t N>
struct class_name<Template<N>> {
    template <class Sink>
    static constexpr void write(Sink& sink) {
        constexpr std::string_view all = compilers_name<Template<N>>();
        write_normalized(sink, all.substr(0, arguments_at(all)));
        sink("<");
        write_number(sink, N);
        sink(">");
    }
};
template <std::intmax_t N, std::intmax_t D>
struct class_name<std::ratio<N, D>> {
    template <class Sink>
    static constexpr void write(Sink& sink) {
        sink("std::ratio<");
        if (N < 0) sink("-");
        write_number(sink, N < 0 ? std::uintmax_t{0} - static_cast<std::uintmax_t>(N)
                                 : static_cast<std::uintmax_t>(N));
        sink(", ");
        write_number(sink, static_cast<std::uintmax_t>(D));
        sink(">");
    }
};
template <>
struct class_name<std::string> {
    template <class Sink>
    static constexpr void write(Sink& sink) {
        sink("std::string");
    }
};
template <class R, class... Args>
struct class_name<R(Args...)> {
    template <class Sink>
    static constexpr void write(Sink& sink) {
        write_name<R>(sink);
        sink("(");
        write_names<Args...>(sink, false);
        sink(")");
    }
};

template <class T>
constexpr std::string_view arithmetic_name() {
    if constexpr (std::is_same_v<T, short>) return "short";
    if constexpr (std::is_same_v<T, unsigned short>) return "unsigned short";
    if constexpr (std::is_same_v<T, unsigned>) return "unsigned int";
    if constexpr (std::is_same_v<T, long>) return "long";
    if constexpr (std::is_same_v<T, unsigned long>) return "unsigned long";
    if constexpr (std::is_same_v<T, long long>) return "long long";
    if constexpr (std::is_same_v<T, unsigned long long>) return "unsigned long long";
    return compilers_name<T>();
}

/// Gives the sink the readable name of T, bit by bit.
template <class T, class Sink>
constexpr void write_name(Sink& sink) {
    if constexpr (std::is_const_v<T> && !std::is_array_v<T>) {
        sink("const ");
        write_name<std::remove_const_t<T>>(sink);
    } else if constexpr (std::is_volatile_v<T> && !std::is_array_v<T>) {
        sink("volatile ");
        write_name<std::remove_volatile_t<T>>(sink);
    } else if constexpr (std::is_lvalue_reference_v<T>) {
        write_name<std::remove_reference_t<T>>(sink);
        sink("&");
    } else if constexpr (std::is_rvalue_reference_v<T>) {
        write_name<std::remove_reference_t<T>>(sink);
        sink("&&");
    } else if constexpr (std::is_pointer_v<T>) {
        write_name<std::remove_pointer_t<T>>(sink);
        sink("*");
    } else if constexpr (std::is_array_v<T>) {
        write_name<std::remove_all_extents_t<T>>(sink);
        [&]<std::size_t... I>(std::index_sequence<I...>) {
            ((sink("["), write_number(sink, std::extent_v<T, I>), sink("]")), ...);
        }
        (std::make_index_sequence<std::rank_v<T>>{});
    } else if constexpr (std::is_arithmetic_v<T>) {
        sink(arithmetic_name<T>());
    } else {
        class_name<T>::write(sink);
    }
}

struct name_length {
    std::size_t size = 0;
    constexpr void operator()(std::string_view part) { size += part.size(); }
};
struct name_text {
    char* to;
    constexpr void operator()(std::string_view part) {
        for (const char c : part) *to++ = c;
    }
};

template <class T>
consteval auto make_type_name() {
    constexpr std::size_t size = [] {
        name_length length;
        write_name<T>(length);
        return length.size;
    }();
    std::array<char, size + 1> text{};
    name_text to{text.data()};
    write_name<T>(to);
    return text;
}

template <class T>
inline constexpr auto type_name_text = make_type_name<T>();

/// The readable name of T: "std::vector<int>".
template <class T>
constexpr std::string_view type_name() {
    return {type_name_text<T>.data(), type_name_text<T>.size() - 1};
}

/// FNV-1a of a name, mixed once more so that similar names differ in all bits; never 0.
constexpr std::uint64_t hash_name(std::string_view name) {
    std::uint64_t h = 0xcbf29ce484222325u;
    for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    return h == 0 ? 1 : h;
}

/// A type that some file of this program uses in a message.
struct MP_EXPORT known_type {
    known_type(std::uint64_t fingerprint_, std::string_view name_) noexcept;
    known_type(const known_type&) = delete;
    known_type& operator=(const known_type&) = delete;
    ~known_type();

    std::uint64_t fingerprint;
    std::string_view name;
    std::atomic<known_type*> next{nullptr};
};

MP_EXPORT inline constinit static_list<known_type> known_types;

inline known_type::known_type(std::uint64_t fingerprint_, std::string_view name_) noexcept
    : fingerprint(fingerprint_), name(name_) {
    known_types.push(*this);
}
inline known_type::~known_type() { known_types.unlink(*this); }

template <class T>
inline constexpr std::uint64_t fingerprint_of = hash_name(type_name<T>());

template <class T>
struct known_type_entry {
    static inline known_type entry{fingerprint_of<T>, type_name<T>()};
};

/// The fingerprint of T, in every process of the program. To name it in code is to make it known:
/// name_of() finds it from before main on.
template <class T>
constexpr std::uint64_t fingerprint() {
    static_cast<void>(&known_type_entry<T>::entry);
    return fingerprint_of<T>;
}

/// The name of the type with this fingerprint, if this program has it in any message.
inline std::string name_of(std::uint64_t fingerprint) {
    const known_type* known =
        known_types.find([=](const known_type& k) { return k.fingerprint == fingerprint; });
    if (known != nullptr) return std::string(known->name);
    std::string text = "a type unknown here (fingerprint 0x";
    for (int shift = 60; shift >= 0; shift -= 4)
        text += "0123456789abcdef"[(fingerprint >> shift) & 15];
    return text + ")";
}

/// \param expected  name of the type that the receiver asked for
/// \param received  fingerprint in the message
/// \param where     the public call, "Queue::get"
/// \throws SerializationError always
[[noreturn]] inline void throw_type_mismatch(std::string_view expected, std::uint64_t received,
                                             std::string_view where) {
    throw SerializationError(std::string(where) + ": the message holds " + name_of(received) +
                             ", and " + std::string(expected) +
                             " was asked for; receive it as the type that was sent");
}

}  // namespace multiprocessing::detail
