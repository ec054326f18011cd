// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Callables and items as bytes of a task, and the thunk that runs them in a worker.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <multiprocessing/detail/archive/exception.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/archive/sendable.hpp>
#include <multiprocessing/detail/callable/descriptor.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/cpu.hpp>
#include <multiprocessing/detail/pool/worker.hpp>
#include <multiprocessing/detail/process/arguments.hpp>

namespace multiprocessing {
namespace detail {

/// A pointer to member as it travels: the place of its code, or an offset in the table of virtual
/// functions (Itanium C++ ABI: {pointer or offset, adjustment}; which it is says the lowest bit of
/// the first, on aarch64 of the second word).
struct member_place {
    place code;
    std::int64_t first, second;
    bool is_virtual;
};

template <class F>
concept member_function = std::is_member_function_pointer_v<F>;

/// How a callable travels.
enum class travels { not_at_all, as_nothing, as_place, as_member, as_value };

template <class F>
constexpr travels how_it_travels() {
    if constexpr (function_pointer<F>)
        return travels::as_place;
    else if constexpr (member_function<F>)
        return travels::as_member;
    else if constexpr (stateless<F>)
        return travels::as_nothing;
    else if constexpr (std::is_class_v<F>) {
        if constexpr (Sendable<F>)
            return travels::as_value;
        else
            return travels::not_at_all;
    } else
        return travels::not_at_all;
}

struct nothing {};

template <class F>
auto pack_callable(const F& callable) {
    constexpr travels how = how_it_travels<F>();
    if constexpr (how == travels::as_place) {
        return place_of(callable);
    } else if constexpr (how == travels::as_member) {
        std::int64_t words[2] = {};
        static_assert(sizeof callable == sizeof words);
        std::memcpy(words, &callable, sizeof words);
        constexpr bool low_bit_first = member_tag_in_pointer;
        const bool is_virtual = ((low_bit_first ? words[0] : words[1]) & 1) != 0;
        member_place at{{}, words[0], words[1], is_virtual};
        if (!is_virtual) at.code = module_table<>::get().name_of(reinterpret_cast<void*>(words[0]));
        return at;
    } else if constexpr (how == travels::as_nothing) {
        return nothing{};
    } else {
        return std::cref(callable);
    }
}

/// What pack_callable's result is decoded as.
template <class F>
using packed_callable = std::conditional_t<
    how_it_travels<F>() == travels::as_place, place,
    std::conditional_t<how_it_travels<F>() == travels::as_member, member_place,
                       std::conditional_t<how_it_travels<F>() == travels::as_nothing, nothing, F>>>;

template <class F>
F unpack_callable(packed_callable<F>&& packed) {
    constexpr travels how = how_it_travels<F>();
    if constexpr (how == travels::as_place) {
        return function_at<F>(packed);
    } else if constexpr (how == travels::as_member) {
        std::int64_t words[2] = {packed.first, packed.second};
        if (!packed.is_virtual)
            words[0] = static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(
                module_table<>::get().find(packed.code, 1, place_kind::code)));
        F callable;
        std::memcpy(&callable, words, sizeof callable);
        return callable;
    } else if constexpr (how == travels::as_nothing) {
        return F{};
    } else {
        return std::move(packed);
    }
}

/// What a call that was refused returns: it goes with everything, so its error stays the only one.
struct refused_value {
    template <class T>
    operator T() const;
    template <class... Args>
    refused_value operator()(Args&&...) const;
};
/// Stands for what was not compiled, behind an error.
template <class T>
T refused_as();

template <class F, class... Args>
struct task_result {
    using type = refused_value;
};
template <class F, class... Args>
requires std::is_invocable_v<F&, argument_t<Args>...>
struct task_result<F, Args...> {
    using type = std::decay_t<std::invoke_result_t<F&, argument_t<Args>...>>;
};
template <class F, class... Args>
using task_result_t = typename task_result<F, Args...>::type;

/// The readable errors of Pool's functions: at most one, and whoever gets false compiles no
/// further. \return whether such a call can be made
template <class F, class... Args>
consteval bool check_call() {
    using R = task_result_t<F, Args...>;
    static_assert(
        how_it_travels<F>() != travels::not_at_all,
        "multiprocessing: this callable can't be sent to a pool's workers. They were "
        "started before it was made, and a captured reference would point into the wrong "
        "process. Ways out: a function or a lambda without captures; mp::bind(f, values...) "
        "for values to send along; a function object with a cereal serialize function; "
        "mp::map or mp::async, which fork at the call and take any callable.");
    if constexpr (how_it_travels<F>() == travels::not_at_all) {
        return false;
    } else if constexpr (!std::is_invocable_v<F&, argument_t<Args>...>) {
        static_assert(
            std::is_invocable_v<F&, argument_t<Args>...>,
            "multiprocessing: the callable does not take these arguments. Handles (Queue, "
            "Lock, Value...) arrive as lvalues, every other argument as an rvalue: take "
            "them by value, by const& or by &&.");
        return false;
    } else if constexpr (!(Sendable<Args> && ...)) {
        (check_sendable<Args>(), ...);
        return false;
    } else if constexpr (std::is_void_v<R> || Sendable<R>) {
        return !std::is_same_v<R, refused_value>;
    } else {
        check_sendable<R>();
        return false;
    }
}

// --- the bytes of a task: {64-bit length, callable}, then for each item {64-bit length, item}; of
// flat items, and of a single call's arguments, just their bytes

template <compiled = compiled::when_used>
void append(std::vector<std::byte>& to, pieces from, std::size_t size) {
    std::size_t at = to.size();
    to.resize(at + size);
    for (const auto& piece : from) {
        if (!piece.empty()) std::memcpy(to.data() + at, piece.data(), piece.size());
        at += piece.size();
    }
}
template <compiled = compiled::when_used>
void append_framed(std::vector<std::byte>& to, pieces from, std::size_t size) {
    const std::uint64_t length = size;
    const auto head = bytes_of(length);
    append(to, {&head, 1}, head.size());
    append(to, from, size);
}
/// Cuts a framed part off the front.
template <compiled = compiled::when_used>
std::span<const std::byte> take_framed(std::span<const std::byte>& from) {
    std::uint64_t length;
    if (from.size() < sizeof length) throw SerializationError("a task's message is cut short");
    std::memcpy(&length, from.data(), sizeof length);
    from = from.subspan(sizeof length);
    if (from.size() < length) throw SerializationError("a task's message is cut short");
    const auto part = from.first(length);
    from = from.subspan(length);
    return part;
}

template <class F>
void append_callable(std::vector<std::byte>& to, const F& callable) {
    const auto packed = pack_callable(callable);
    if constexpr (how_it_travels<F>() == travels::as_value) {
        const encoded bytes = encode(packed.get());
        append_framed(to, bytes.pieces(), bytes.size());
    } else {
        append_framed(to, {}, 0);
        const auto raw = bytes_of(packed);
        to.resize(to.size() - sizeof(std::uint64_t));
        append_framed(to, {&raw, 1}, raw.size());
    }
}

template <class F>
F take_callable(std::span<const std::byte>& from) {
    const auto part = take_framed(from);
    if constexpr (how_it_travels<F>() == travels::as_value) {
        return decode<F>(part);
    } else {
        packed_callable<F> packed;
        if (part.size() != sizeof packed)
            throw SerializationError("a task's callable is malformed");
        std::memcpy(&packed, part.data(), sizeof packed);
        return unpack_callable<F>(std::move(packed));
    }
}

/// Sends a result of type R.
template <class R>
void give(task_output<used_by<R>>& out, const R& value) {
    if constexpr (flat<R>) {
        out.flat(&value, sizeof value);
    } else {
        const encoded bytes = encode(value);
        out.value(bytes.pieces(), bytes.size());
    }
}

template <class Call>
void run_item(task_output<used_by<Call>>& out, Call call) {
    out.begin();
    try {
        if constexpr (std::is_void_v<decltype(call())>) {
            call();
            out.flat("", 0);
        } else {
            give<std::decay_t<decltype(call())>>(out, call());
        }
    } catch (...) {
        if (is_forced_unwind()) throw;  // pthread_exit: the worker ends
        out.exception(std::current_exception());
    }
}

/// Calls F with each item of a task: f(item).
template <class F, class Item>
struct map_thunk {
    using output = task_output<used_by<F>>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        F callable = take_callable<F>(bytes);
        while (out.left() != 0 && !out.retires())
            if constexpr (flat<Item>) {
                if (bytes.size() < sizeof(Item)) throw SerializationError("a task is cut short");
                const std::byte* at = bytes.data();
                bytes = bytes.subspan(sizeof(Item));
                run_item(out, [&]() -> decltype(auto) {
                    Item item;
                    std::memcpy(&item, at, sizeof item);
                    return std::invoke(callable, static_cast<argument_t<Item>>(item));
                });
            } else {
                const auto part = take_framed(bytes);
                run_item(out, [&]() -> decltype(auto) {
                    Item item = decode<Item>(part);
                    return std::invoke(callable, static_cast<argument_t<Item>>(item));
                });
            }
    }
};

/// Calls f(a, b, c) with the arguments that the bytes are.
template <class... Args, class F>
void run_call(F& callable, std::span<const std::byte> bytes, task_output<used_by<F>>& out) {
    run_item(out, [&]() -> decltype(auto) {
        std::tuple<Args...> item;
        std::apply([&](auto&... each) { decode_into(bytes, each...); }, item);
        return std::apply(
            [&](auto&... each) -> decltype(auto) {
                return std::invoke(callable, static_cast<argument_t<Args>>(each)...);
            },
            item);
    });
}

/// Calls F once: f(a, b, c). The item is not framed.
template <class F, class... Args>
struct call_thunk {
    using output = task_output<used_by<F>>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        F callable = take_callable<F>(bytes);
        run_call<Args...>(callable, bytes, out);
    }
};

/// Calls F with the elements of each item: f(a, b, c).
template <class F, class... Args>
struct star_thunk {
    using output = task_output<used_by<F>>;
    static void invoke(std::span<const std::byte> bytes, output& out) {
        F callable = take_callable<F>(bytes);
        while (out.left() != 0 && !out.retires())
            run_call<Args...>(callable, take_framed(bytes), out);
    }
};

/// The bytes of items from the n-th on, with the callable in front, of `whole`.
/// \param item_size  of flat items; 0: framed
template <compiled = compiled::when_used>
std::vector<std::byte> cut_rest(std::span<const std::byte> whole, std::uint32_t n,
                                std::size_t item_size) {
    std::span<const std::byte> behind = whole;
    take_framed(behind);
    const auto front = whole.first(whole.size() - behind.size());
    if (item_size != 0)
        behind = behind.subspan(n * item_size);
    else
        for (; n != 0; --n) take_framed(behind);
    const std::span<const std::byte> left[] = {front, behind};
    std::vector<std::byte> rest;
    append(rest, {left, 2}, front.size() + behind.size());
    return rest;
}

/// A result as it came home.
struct result_frame {
    frame kind;
    std::span<const std::byte> bytes;
    std::size_t size;  // with its head; 0: malformed
};
template <compiled = compiled::when_used>
result_frame read_frame(std::span<const std::byte> from, std::size_t flat_size) noexcept {
    if (from.empty()) return {};
    const auto kind = static_cast<frame>(from[0]);
    if (kind == frame::flat) {
        if (from.size() < 1 + flat_size) return {};
        return {kind, from.subspan(1, flat_size), 1 + flat_size};
    }
    std::uint64_t length = 0;
    constexpr std::size_t head = 1 + sizeof length;
    if ((kind != frame::value && kind != frame::exception) || from.size() < head) return {};
    std::memcpy(&length, from.data() + 1, sizeof length);
    if (from.size() - head < length) return {};
    return {kind, from.subspan(head, length), head + length};
}
/// \throws the exception that came instead of a value, and SerializationError
template <compiled = compiled::when_used>
void require_value(const result_frame& got, pid_t worker) {
    if (got.size == 0) throw SerializationError("the result of a task is malformed");
    if (got.kind == frame::exception) std::rethrow_exception(decode_exception(got.bytes, worker));
}

}  // namespace detail
}  // namespace multiprocessing
