// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// How the types of the standard library are written and read.

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include <multiprocessing/detail/archive/shape.hpp>

namespace multiprocessing::detail {

/// The specializations have
///     parts      the types of which a T is made, all of which must be Sendable
///     plain      no code of the user runs while a T is read, but for that of its parts
///     put, get
template <class T>
struct standard_type {};

template <class T>
concept standard = requires {
    typename standard_type<T>::parts;
};

template <class A>
inline constexpr bool std_allocator = false;
template <class T>
inline constexpr bool std_allocator<std::allocator<T>> = true;

/// Ordering, hashing and comparing a K is the standard library's own business. (Not so for enums
/// and classes, which may have operators of their own.)
template <class K>
inline constexpr bool plain_key = std::is_arithmetic_v<K>;
template <class C, class Tr, class A>
inline constexpr bool plain_key<std::basic_string<C, Tr, A>> = std_allocator<A>;
template <class A, class B>
inline constexpr bool plain_key<std::pair<A, B>> = plain_key<A>&& plain_key<B>;
template <class... Ts>
inline constexpr bool plain_key<std::tuple<Ts...>> = (plain_key<Ts> && ...);
template <class T, std::size_t N>
inline constexpr bool plain_key<std::array<T, N>> = plain_key<T>;
template <class T, class A>
inline constexpr bool plain_key<std::vector<T, A>> = plain_key<T>&& std_allocator<A>;

template <class F>
inline constexpr bool plain_order = false;
template <class K>
inline constexpr bool plain_order<std::less<K>> = true;
template <class K>
inline constexpr bool plain_order<std::greater<K>> = true;

template <class F>
inline constexpr bool plain_hash = false;
template <class K>
inline constexpr bool plain_hash<std::hash<K>> = !std::is_class_v<K> || plain_key<K>;
template <class F>
inline constexpr bool plain_equal = false;
template <class K>
inline constexpr bool plain_equal<std::equal_to<K>> = true;

// --- ranges of flat values, one after the other in memory

/// Flat values at an address that is not aligned for them.
template <class T>
class unaligned_iterator {
public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using pointer = const T*;
    using reference = T;

    unaligned_iterator() = default;
    explicit unaligned_iterator(const std::byte* at) : at_(at) {}
    T operator*() const {
        T value;
        std::memcpy(&value, at_, sizeof value);
        return value;
    }
    unaligned_iterator& operator++() {
        at_ += sizeof(T);
        return *this;
    }
    unaligned_iterator operator++(int) {
        auto old = *this;
        ++*this;
        return old;
    }
    bool operator==(const unaligned_iterator&) const = default;

private:
    const std::byte* at_ = nullptr;
};

/// Replaces the contents of a vector or string by n flat values of the message.
template <class Range>
void get_flat(message_reader& in, Range& range) {
    using value_type = typename Range::value_type;
    const std::size_t n = in.count(sizeof(value_type));
    const std::byte* from = in.take(n * sizeof(value_type));
    if (n == 0) return range.clear();
    if constexpr (std::is_trivial_v<value_type> && !has_bools<value_type>()) {
        // assign() fills new memory with the values at once; resize() would zero it before.
        const auto* first = reinterpret_cast<const value_type*>(from);
        if constexpr (alignof(value_type) == 1) {
            range.assign(first, first + n);
        } else if (reinterpret_cast<std::uintptr_t>(from) % alignof(value_type) == 0) {
            range.assign(first, first + n);
        } else {
            range.assign(unaligned_iterator<value_type>(from),
                         unaligned_iterator<value_type>(from + n * sizeof(value_type)));
        }
    } else {
        range.resize(n);
        std::memcpy(static_cast<void*>(range.data()), from, n * sizeof(value_type));
        if constexpr (has_bools<value_type>())
            for (const auto& value : range)
                if (!bools_are_valid(value)) in.fail("a bool in it is neither 0 nor 1");
    }
}

template <class T, class A>
struct standard_type<std::vector<T, A>> {
    using parts = type_list<T>;
    static constexpr bool plain = std_allocator<A>;

    static void put(message_writer& out, const std::vector<T, A>& vector) {
        out.count(vector.size());
        if constexpr (flat<T>)
            out.own_bytes(vector.data(), vector.size() * sizeof(T));
        else
            for (const auto& element : vector) out.put(element);
    }
    static void get(message_reader& in, std::vector<T, A>& vector) {
        if constexpr (flat<T>) {
            get_flat(in, vector);
        } else {
            const std::size_t n = in.count();
            vector.clear();
            vector.reserve(in.worth_reserving(n, sizeof(T)));
            for (std::size_t i = 0; i < n; ++i) in.get(vector.emplace_back());
        }
    }
};

template <class A>
struct standard_type<std::vector<bool, A>> {
    using parts = type_list<bool>;
    static constexpr bool plain = std_allocator<A>;

    static void put(message_writer& out, const std::vector<bool, A>& vector) {
        out.count(vector.size());
        for (std::size_t i = 0; i < vector.size();) {
            std::uint8_t byte = 0;
            for (unsigned bit = 0; bit < 8 && i < vector.size(); ++bit, ++i)
                byte = static_cast<std::uint8_t>(byte | (vector[i] ? 1u << bit : 0u));
            out.number(byte);
        }
    }
    static void get(message_reader& in, std::vector<bool, A>& vector) {
        const auto n = in.template number<std::uint64_t>();
        if (n / 8 > in.left()) in.fail("a number of elements in it is larger than what follows");
        const std::byte* from = in.take(static_cast<std::size_t>(n / 8 + (n % 8 != 0)));
        vector.resize(static_cast<std::size_t>(n));
        for (std::size_t i = 0; i < vector.size(); ++i)
            vector[i] = (static_cast<unsigned>(from[i / 8]) >> (i % 8) & 1u) != 0;
    }
};

template <class C, class Tr, class A>
struct standard_type<std::basic_string<C, Tr, A>> {
    using parts = type_list<C>;
    static constexpr bool plain = std_allocator<A> && std::is_same_v<Tr, std::char_traits<C>>;

    static void put(message_writer& out, const std::basic_string<C, Tr, A>& string) {
        out.count(string.size());
        out.own_bytes(string.data(), string.size() * sizeof(C));
    }
    static void get(message_reader& in, std::basic_string<C, Tr, A>& string) {
        get_flat(in, string);
    }
};

template <class Array>
requires numeric_array<Array>
struct standard_type<Array> {
    using T = typename Array::value_type;
    using parts = type_list<T>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const Array& values) {
        out.count(values.size());
        if constexpr (flat<T>) {
            if (values.size() != 0) out.own_bytes(&values[0], values.size() * sizeof(T));
        } else {
            for (std::size_t i = 0; i < values.size(); ++i) out.put(values[i]);
        }
    }
    static void get(message_reader& in, Array& values) {
        if constexpr (flat<T>) {
            std::vector<T> flat_values;
            get_flat(in, flat_values);
            if (flat_values.empty())
                values.resize(0);
            else
                values = Array(flat_values.data(), flat_values.size());
        } else {
            std::vector<T> elements;  // grows with what is really there
            in.get(elements);
            values.resize(elements.size());
            for (std::size_t i = 0; i < elements.size(); ++i) values[i] = std::move(elements[i]);
        }
    }
};

template <class T, std::size_t N>
struct standard_type<std::array<T, N>> {  // of flat elements: flat itself, and not here
    using parts = type_list<T>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const std::array<T, N>& array) {
        if constexpr (N == 0) out.number(std::uint8_t{0});  // I1
        for (const auto& element : array) out.put(element);
    }
    static void get(message_reader& in, std::array<T, N>& array) {
        if constexpr (N == 0) in.take(1);
        for (auto& element : array) in.get(element);
    }
};

// --- maps

template <class Map, bool Plain>
struct standard_map {
    using parts = type_list<typename Map::key_type, typename Map::mapped_type>;
    static constexpr bool plain = Plain && std_allocator<typename Map::allocator_type>;

    static void put(message_writer& out, const Map& map) {
        out.count(map.size());
        for (const auto& [key, value] : map) {
            out.put(key);
            out.put(value);
        }
    }
    static void get(message_reader& in, Map& map) {
        map.clear();
        std::size_t n = in.count(2);
        if constexpr (requires { map.reserve(n); }) map.reserve(n);
        for (; n > 0; --n) {
            typename Map::key_type key = typename Map::key_type();
            in.get(key);
            typename Map::mapped_type value = typename Map::mapped_type();
            in.get(value);
            map.emplace_hint(map.end(), std::move(key), std::move(value));
        }
    }
};
template <class K, class F>
inline constexpr bool ordered = plain_key<K>&& plain_order<F>;
template <class K, class H, class E>
inline constexpr bool hashed = plain_key<K>&& plain_hash<H>&& plain_equal<E>;

template <class K, class V, class F, class A>
struct standard_type<std::map<K, V, F, A>> : standard_map<std::map<K, V, F, A>, ordered<K, F>> {};
template <class K, class V, class F, class A>
struct standard_type<std::multimap<K, V, F, A>>
    : standard_map<std::multimap<K, V, F, A>, ordered<K, F>> {};
template <class K, class V, class H, class E, class A>
struct standard_type<std::unordered_map<K, V, H, E, A>>
    : standard_map<std::unordered_map<K, V, H, E, A>, hashed<K, H, E>> {};
template <class K, class V, class H, class E, class A>
struct standard_type<std::unordered_multimap<K, V, H, E, A>>
    : standard_map<std::unordered_multimap<K, V, H, E, A>, hashed<K, H, E>> {};

// --- known by their names: headers that are too large to be included for them

/// Which class template of std a type is made of, of those that are known by name.
enum class by_name {
    none,
    deque,
    list,
    forward_list,
    set,
    hash_set,
    bitset,
    queue,
    priority_queue
};

consteval by_name kind_named(std::string_view name) {
    if (!name.starts_with("std::")) return by_name::none;
    name = name.substr(0, name.find('<'));
    name.remove_prefix(name.rfind("::") + 2);  // libraries have inner namespaces
    if (name == "deque") return by_name::deque;
    if (name == "list") return by_name::list;
    if (name == "forward_list") return by_name::forward_list;
    if (name == "set" || name == "multiset") return by_name::set;
    if (name == "unordered_set" || name == "unordered_multiset") return by_name::hash_set;
    if (name == "bitset") return by_name::bitset;
    if (name == "queue" || name == "stack") return by_name::queue;
    if (name == "priority_queue") return by_name::priority_queue;
    return by_name::none;
}
/// Only what looks like one of them is asked for its name.
template <class T>
consteval by_name find_kind() {
    if constexpr (std::is_class_v<T> && (
                                            requires { typename T::value_type; } ||
                                            requires(const T& bits) { bits.test(0); }))
        return kind_named(compilers_name<T>());
    else
        return by_name::none;
}
template <class T>
inline constexpr by_name kind_of = find_kind<T>();

template <class T, by_name Kind>
struct named_type;

template <class T>
requires(kind_of<T> != by_name::none) struct standard_type<T> : named_type<T, kind_of<T>> {
};

template <class Sequence>
struct named_sequence {
    using parts = type_list<typename Sequence::value_type>;
    static constexpr bool plain = std_allocator<typename Sequence::allocator_type>;

    static void put(message_writer& out, const Sequence& sequence) {
        out.count(sequence.size());
        for (const auto& element : sequence) out.put(element);
    }
    static void get(message_reader& in, Sequence& sequence) {
        sequence.clear();
        for (std::size_t n = in.count(); n > 0; --n) in.get(sequence.emplace_back());
    }
};
template <class T>
struct named_type<T, by_name::deque> : named_sequence<T> {};
template <class T>
struct named_type<T, by_name::list> : named_sequence<T> {};

template <class List>
struct named_type<List, by_name::forward_list> {
    using parts = type_list<typename List::value_type>;
    static constexpr bool plain = std_allocator<typename List::allocator_type>;

    static void put(message_writer& out, const List& list) {
        out.count(static_cast<std::size_t>(std::distance(list.begin(), list.end())));
        for (const auto& element : list) out.put(element);
    }
    static void get(message_reader& in, List& list) {
        list.clear();
        auto last = list.before_begin();
        for (std::size_t n = in.count(); n > 0; --n) {
            last = list.emplace_after(last);
            in.get(*last);
        }
    }
};

template <class Set, bool Plain>
struct named_set {
    using parts = type_list<typename Set::key_type>;
    static constexpr bool plain = Plain && std_allocator<typename Set::allocator_type>;

    static void put(message_writer& out, const Set& set) {
        out.count(set.size());
        for (const auto& key : set) out.put(key);
    }
    static void get(message_reader& in, Set& set) {
        set.clear();
        std::size_t n = in.count();
        if constexpr (requires { set.reserve(n); }) set.reserve(n);
        for (; n > 0; --n) {
            typename Set::key_type key = typename Set::key_type();
            in.get(key);
            set.insert(set.end(), std::move(key));
        }
    }
};
template <class T>
struct named_type<T, by_name::set>
    : named_set<T, ordered<typename T::key_type, typename T::key_compare>> {};
template <class T>
struct named_type<T, by_name::hash_set>
    : named_set<T, hashed<typename T::key_type, typename T::hasher, typename T::key_equal>> {};

// Not flat: the unused bits of the last word must stay 0.
template <class Bits>
struct named_type<Bits, by_name::bitset> {
    static constexpr std::size_t N = Bits().size();
    using parts = type_list<>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const Bits& bits) {
        if constexpr (N == 0) out.number(std::uint8_t{0});  // I1
        for (std::size_t i = 0; i < N;) {
            std::uint8_t byte = 0;
            for (unsigned bit = 0; bit < 8 && i < N; ++bit, ++i)
                byte = static_cast<std::uint8_t>(byte | (bits[i] ? 1u << bit : 0u));
            out.number(byte);
        }
    }
    static void get(message_reader& in, Bits& bits) {
        if constexpr (N == 0) in.take(1);
        const std::byte* from = in.take((N + 7) / 8);
        for (std::size_t i = 0; i < N; ++i)
            bits[i] = (static_cast<unsigned>(from[i / 8]) >> (i % 8) & 1u) != 0;
    }
};

/// std::queue, std::stack: their container, which is protected.
template <class Queue>
struct named_type<Queue, by_name::queue> {
    using container = typename Queue::container_type;
    using parts = type_list<container>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const Queue& queue) { out.put(queue.*opened::items()); }
    static void get(message_reader& in, Queue& queue) { in.get(queue.*opened::items()); }

private:
    struct opened : Queue {
        static auto items() { return &opened::c; }
    };
};
/// The order is part of it, unless its type says all.
template <class Queue>
struct named_type<Queue, by_name::priority_queue> {
    using container = typename Queue::container_type;
    using order = typename Queue::value_compare;
    using parts = std::conditional_t<std::is_empty_v<order>, type_list<container>,
                                     type_list<container, order>>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const Queue& queue) {
        out.put(queue.*opened::items());
        if constexpr (!std::is_empty_v<order>) out.put(queue.*opened::compare());
    }
    static void get(message_reader& in, Queue& queue) {
        in.get(queue.*opened::items());
        if constexpr (!std::is_empty_v<order>) in.get(queue.*opened::compare());
    }

private:
    struct opened : Queue {
        static auto items() { return &opened::c; }
        static auto compare() { return &opened::comp; }
    };
};

// --- products and sums

template <class A, class B>
struct standard_type<std::pair<A, B>> {
    using parts = type_list<A, B>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const std::pair<A, B>& pair) {
        out.put(pair.first);
        out.put(pair.second);
    }
    static void get(message_reader& in, std::pair<A, B>& pair) {
        in.get(pair.first);
        in.get(pair.second);
    }
};

template <class... Ts>
struct standard_type<std::tuple<Ts...>> {
    using parts = type_list<Ts...>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const std::tuple<Ts...>& tuple) {
        if constexpr (sizeof...(Ts) == 0) out.number(std::uint8_t{0});  // I1
        std::apply([&](const auto&... element) { (out.put(element), ...); }, tuple);
    }
    static void get(message_reader& in, std::tuple<Ts...>& tuple) {
        if constexpr (sizeof...(Ts) == 0) in.take(1);
        std::apply([&](auto&... element) { (in.get(element), ...); }, tuple);
    }
};

template <class T>
struct standard_type<std::optional<T>> {
    using parts = type_list<T>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const std::optional<T>& optional) {
        out.number(static_cast<std::uint8_t>(optional.has_value()));
        if (optional) out.put(*optional);
    }
    static void get(message_reader& in, std::optional<T>& optional) {
        if (in.flag())
            in.get(optional.emplace());
        else
            optional.reset();
    }
};

template <class... Ts>
struct standard_type<std::variant<Ts...>> {
    using parts = type_list<Ts...>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const std::variant<Ts...>& variant) {
        if (variant.valueless_by_exception()) out.fail("a std::variant in it has no value");
        out.number(static_cast<std::uint16_t>(variant.index()));
        std::visit([&](const auto& value) { out.put(value); }, variant);
    }
    static void get(message_reader& in, std::variant<Ts...>& variant) {
        const auto index = in.template number<std::uint16_t>();
        const bool found = [&]<std::size_t... I>(std::index_sequence<I...>) {
            return ((I == index && (in.get(variant.template emplace<I>()), true)) || ...);
        }
        (std::index_sequence_for<Ts...>{});
        if (!found) in.fail("a std::variant in it has no such alternative");
    }
};
template <>
struct standard_type<std::monostate> {
    using parts = type_list<>;
    static constexpr bool plain = true;
    static void put(message_writer& out, std::monostate) { out.number(std::uint8_t{0}); }  // I1
    static void get(message_reader& in, std::monostate&) { in.take(1); }
};

// --- pointers that own

/// Objects that we can make ourselves. The others are cereal's: classes with virtual functions
/// (CEREAL_REGISTER_TYPE) and classes with load_and_construct.
template <class T>
concept makeable = complete<T> && std::is_object_v<T> && !std::is_array_v<T> &&
                   !std::is_polymorphic_v<T> && std::is_default_constructible_v<T>;

template <class T>
requires makeable<T>
struct standard_type<std::unique_ptr<T>> {
    using parts = type_list<std::remove_const_t<T>>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const std::unique_ptr<T>& pointer) {
        out.number(static_cast<std::uint8_t>(pointer != nullptr));
        if (pointer) out.put(*pointer);
    }
    static void get(message_reader& in, std::unique_ptr<T>& pointer) {
        pointer.reset();
        if (!in.flag()) return;
        auto object = std::make_unique<std::remove_const_t<T>>();
        in.get(*object);
        pointer = std::move(object);
    }
};

/// An object that several pointers of one message share is sent once and shared again.
template <class T>
requires makeable<T>
struct standard_type<std::shared_ptr<T>> {
    using object = std::remove_const_t<T>;
    using parts = type_list<object>;
    static constexpr bool plain = true;

    static void put(message_writer& out, const std::shared_ptr<T>& pointer) {
        if (!pointer) return out.number(std::uint32_t{0});
        const auto [number, is_new] = out.share(pointer);
        out.number(number);
        if (is_new) out.put(*pointer);
    }
    static void get(message_reader& in, std::shared_ptr<T>& pointer) {
        pointer.reset();
        const auto number = in.template number<std::uint32_t>();
        if (number == 0) return;
        pointer = in.template shared<object>(number);
        if (pointer) return;
        auto made = std::make_shared<object>();
        in.share(made);
        in.get(*made);
        pointer = std::move(made);
    }
};
template <class T>
requires makeable<T>
struct standard_type<std::weak_ptr<T>> : standard_type<std::shared_ptr<T>> {
    using strong = standard_type<std::shared_ptr<T>>;

    static void put(message_writer& out, const std::weak_ptr<T>& pointer) {
        strong::put(out, pointer.lock());
    }
    static void get(message_reader& in, std::weak_ptr<T>& pointer) {
        std::shared_ptr<T> shared;
        strong::get(in, shared);
        pointer = shared;
    }
};

// --- std::filesystem::path, known by its looks: <filesystem> is too large to be included for it

template <class T>
concept path_like = requires(const T& path) {
    requires std::is_same_v<typename T::string_type, std::string>;
    T::preferred_separator;
    { path.native() } -> std::same_as<const std::string&>;
    path.lexically_normal();
};
template <class T>
requires std::is_class_v<T> && path_like<T>
struct standard_type<T> {
    using parts = type_list<>;
    static constexpr bool plain = true;
    static void put(message_writer& out, const T& path) { out.put(path.native()); }
    static void get(message_reader& in, T& path) {
        std::string text;
        in.get(text);
        path = T(std::move(text));
    }
};

}  // namespace multiprocessing::detail
