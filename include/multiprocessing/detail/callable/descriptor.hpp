// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The identity of a function in every process of the program.
///
/// A thunk is a type whose static function takes the bytes of a message and calls something: Pool
/// makes one for each callable and its arguments. The type instantiates a constant, its descriptor,
/// and a message names that constant by its place: {build-id of the module, offset}. There is
/// nothing to register, and no name that two lambdas could share. The receiver calls only when the
/// place lies in memory that nothing can write to and holds a descriptor of the type that the
/// message names; everything else is UnknownCallable.

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include <multiprocessing/detail/callable/module.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/errors.hpp>

/// Each module keeps its own copy, so that a module's descriptors lie in that module. It has to be
/// said of the function that takes a descriptor's address too: unoptimised, that function would be
/// exported, and the program's copy, with the program's descriptor, would win in every library.
#define MP_HIDDEN __attribute__((visibility("hidden")))

namespace multiprocessing::detail {

/// The compiler's text for T. Equal for the same type in all parts of a program, but two types may
/// share it (two lambdas of one function, with g++): good for a check and for messages, never an
/// identity.
template <class T>
constexpr std::string_view type_text() {
    const std::string_view whole = __PRETTY_FUNCTION__;
    const std::size_t begin = whole.find("T = ") + 4;
    // g++ goes on with "; std::string_view = ...", clang++ ends here
    const std::size_t end = std::min(whole.rfind("; std::string_view"), whole.size() - 1);
    return whole.substr(begin, end - begin);
}

template <class T>
inline constexpr std::uint64_t type_hash = fnv1a(type_text<T>());

/// What can be called by name from another process.
/// \tparam T  has `using output = ...`, where its result goes, and
///            `static void invoke(std::span<const std::byte> bytes, output& out)`;
///            `static constexpr std::size_t size`, if any, is the least length of its bytes
template <class T>
concept thunk = requires(std::span<const std::byte> bytes, typename T::output& out) {
    { T::invoke(bytes, out) } -> std::same_as<void>;
};

/// The constant that a thunk type leaves in each module that uses it.
struct descriptor {
    static constexpr std::uint64_t right_magic = 0x3165'6c62'616c'6c61;  // "allable1"

    std::uint64_t magic;
    std::uint64_t type;    // hash of the thunk's text
    std::uint64_t output;  // hash of its output's text
    std::size_t size;      // the least number of bytes it takes
    void (*invoke)(std::span<const std::byte> bytes, void* output);
    std::string_view name;
};

/// A descriptor as it travels.
struct callable_ref {
    std::uint64_t module, offset, type;

    friend bool operator==(const callable_ref&, const callable_ref&) = default;
};
static_assert(sizeof(callable_ref) == 24 && std::is_trivially_copyable_v<callable_ref>);

template <thunk T>
void erased_invoke(std::span<const std::byte> bytes, void* output) {
    T::invoke(bytes, *static_cast<typename T::output*>(output));
}

template <thunk T>
constexpr std::size_t least_size() {
    if constexpr (requires { T::size; })
        return T::size;
    else
        return 0;
}

template <thunk T>
MP_HIDDEN inline constexpr descriptor descriptor_of{
    descriptor::right_magic, type_hash<T>,      type_hash<typename T::output>,
    least_size<T>(),         &erased_invoke<T>, type_text<T>()};

/// Names a thunk for other processes of the program. Cost: a search of the module table.
template <thunk T>
MP_HIDDEN callable_ref reference_to() {
    const descriptor& d = descriptor_of<T>;
    const place at = module_table<>::get().name_of(&d);
    return {at.module, at.offset, d.type};
}

/// Reads a word of a module's constants, be it of an object or between two: AddressSanitizer would
/// object to the latter.
__attribute__((no_sanitize("address"))) inline std::uint64_t word_at(const std::uint64_t* at) {
    return *at;
}

/// The descriptor that a reference names, checked.
/// \throws UnknownCallable if this process has no such descriptor
template <compiled = compiled::when_used>
const descriptor& resolve(callable_ref ref) {
    const auto refuse = [&](const char* what) {
        throw UnknownCallable(std::string("a message names a callable that is not there (") + what +
                              "): it is malformed, or of another build of the program");
    };
    const void* const at = module_table<>::get().find({ref.module, ref.offset}, sizeof(descriptor),
                                                      place_kind::constant);
    if (reinterpret_cast<std::uintptr_t>(at) % alignof(descriptor) != 0) refuse("misaligned");
    const auto& d = *static_cast<const descriptor*>(at);
    if (word_at(&d.magic) != descriptor::right_magic) refuse("no descriptor at its place");
    if (word_at(&d.type) != ref.type) refuse("another type at its place");
    return d;
}

/// Calls what the front of a message names, with the rest of the message.
/// \throws UnknownCallable if that can't be called here, and whatever the thunk throws
template <class Output>
void call(std::span<const std::byte> message, Output& out) {
    callable_ref ref;
    if (message.size() < sizeof ref)
        throw UnknownCallable("a message of " + std::to_string(message.size()) +
                              " bytes is too short to name a callable: it is malformed");
    std::memcpy(&ref, message.data(), sizeof ref);
    const descriptor& d = resolve(ref);
    const auto bytes = message.subspan(sizeof ref);
    if (d.output != type_hash<Output>)
        throw UnknownCallable(std::string(d.name) + " does not answer with " +
                              std::string(type_text<Output>()) + ": the message is malformed");
    if (bytes.size() < d.size)
        throw UnknownCallable(std::string(d.name) + " takes at least " + std::to_string(d.size) +
                              " bytes, the message has " + std::to_string(bytes.size()) +
                              ": it is malformed");
    d.invoke(bytes, &out);
}

/// A callable that its type says all of: a lambda without captures, an empty function object. Its
/// thunk makes a new one.
template <class F>
concept stateless = std::is_empty_v<F> && std::default_initializable<F>;

/// A pointer to a function, known at run time: it travels as the place of its code, beside the
/// reference to a thunk that has the pointer's type.
template <class F>
concept function_pointer = std::is_pointer_v<F> && std::is_function_v<std::remove_pointer_t<F>>;

/// Names the function for other processes of the program.
template <function_pointer F>
place place_of(F function) {
    return module_table<>::get().name_of(reinterpret_cast<const void*>(function));
}

/// The function that a place names. That it has the type F is for the thunk to know: the code
/// itself can't tell.
/// \throws UnknownCallable if no code of this process is there
template <function_pointer F>
F function_at(place at) {
    return reinterpret_cast<F>(
        const_cast<void*>(module_table<>::get().find(at, 1, place_kind::code)));
}

}  // namespace multiprocessing::detail
