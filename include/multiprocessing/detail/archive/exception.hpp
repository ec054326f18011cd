// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Exceptions as bytes: encode_exception() in the process that failed, decode_exception() in the
/// one that waits for it.
///
/// The exact dynamic type decides: a class derived from std::runtime_error that was not
/// registered arrives as a RemoteError with its name, never as a mere std::runtime_error. Types
/// are found by name, in a constant table and in a list filled before main; nothing is made on
/// first use (F3). std::filesystem::filesystem_error and std::future_error keep their type if a
/// file of the program includes their header before this one; for all others it is too large.

#include <algorithm>
#include <any>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <ios>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <typeinfo>
#include <utility>
#include <variant>
#include <vector>

#include <cxxabi.h>
#include <sys/types.h>

#include <multiprocessing/detail/archive/fingerprint.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/archive/registry.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/demangle.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// What travels. One struct for all types, so that a program compiles one encoder for it.
struct exception_state {
    std::string type = {};    // readable name
    bool whole = false;       // the rest is enough to make it again
    std::string text = {};    // what(), and what the exceptions inside of it say
    std::string detail = {};  // category of an error code; type of a RemoteError
    std::int32_t number = 0;  // error code, exit code
    std::int32_t pid = 0;
    std::vector<std::byte> bytes = {};  // what a registered type says; message of a BufferTooShort
};

/// A type of exception that can be made again.
struct exception_kind {
    std::string_view name;
    const std::type_info* type;
    /// Adds to type and text while the exception is being handled; null: they are enough.
    /// \return false if this one can't be made again
    bool (*save)(exception_state& to, std::string_view nested);
    /// Throws it.
    void (*raise)(exception_state& from);
};

/// Made from their text.
template <class T>
constexpr exception_kind with_text(std::string_view name) {
    return {name, &typeid(T), nullptr, [](exception_state& from) { throw T(from.text); }};
}
/// Made from nothing; a text of their own is lost.
template <class T>
constexpr exception_kind with_nothing(std::string_view name) {
    return {name, &typeid(T), nullptr, [](exception_state&) { throw T(); }};
}

/// what() without the words that the constructor adds to it: ": No such file or directory".
inline std::string without_message(std::string_view what, const std::string& message) {
    if (what == message) return {};
    if (what.ends_with(": " + message)) what.remove_suffix(message.size() + 2);
    return std::string(what);
}

inline const std::error_category* category_named(std::string_view name) {
    for (const auto* c :
         {&std::generic_category(), &std::system_category(), &std::iostream_category()})
        if (name == c->name()) return c;
    return nullptr;
}
inline bool save_code(exception_state& to, const std::error_code& code) {
    to.number = code.value();
    to.detail = code.category().name();
    const auto* c = category_named(to.detail);
    return c != nullptr && *c == code.category();  // categories of users are not known elsewhere
}
inline std::error_code saved_code(const exception_state& from) {
    const auto* c = category_named(from.detail);
    if (c == nullptr) throw SerializationError("an error category unknown here: " + from.detail);
    return {from.number, *c};
}
inline bool save_system_error(exception_state& to, std::string_view nested) {
    try {
        throw;
    } catch (const std::system_error& e) {
        to.text = without_message(e.what(), e.code().message()).append(nested);
        return save_code(to, e.code());
    }
}
inline void raise_system_error(exception_state& from) {
    if (from.text.empty()) throw std::system_error(saved_code(from));
    throw std::system_error(saved_code(from), from.text);
}
inline void raise_ios_failure(exception_state& from) {
    throw std::ios_base::failure(from.text, saved_code(from));
}
inline bool save_os_error(exception_state& to, std::string_view nested) {
    try {
        throw;
    } catch (const OsError& e) {
        to.number = e.code().value();
        to.text = without_message(e.what(), e.code().message()).append(nested);
        return true;
    }
}
inline void raise_os_error(exception_state& from) { throw OsError(from.number, from.text); }

inline bool save_too_short(exception_state& to, std::string_view) {
    try {
        throw;
    } catch (const BufferTooShort& e) {
        to.bytes = std::vector<std::byte>(e.message());
        return true;
    }
}
inline void raise_too_short(exception_state& from) {
    throw BufferTooShort(from.text, std::move(from.bytes));
}
inline bool save_remote(exception_state& to, std::string_view) {
    try {
        throw;
    } catch (const RemoteError& e) {
        to.detail = e.type();
        to.pid = e.worker_pid();
        return true;
    }
}
inline void raise_remote(exception_state& from) {
    throw RemoteError(from.detail, from.text, from.pid);
}
inline bool save_crash(exception_state& to, std::string_view) {
    try {
        throw;
    } catch (const WorkerCrashed& e) {
        to.number = e.exitcode();
        to.pid = e.worker_pid();
        return true;
    }
}
inline void raise_crash(exception_state& from) {
    throw WorkerCrashed(from.text, from.number, from.pid);
}

template <compiled = compiled::when_used>
inline constexpr exception_kind standard_exceptions[] = {
    with_text<std::runtime_error>("std::runtime_error"),
    with_text<std::logic_error>("std::logic_error"),
    with_text<std::invalid_argument>("std::invalid_argument"),
    with_text<std::out_of_range>("std::out_of_range"),
    with_text<std::domain_error>("std::domain_error"),
    with_text<std::length_error>("std::length_error"),
    with_text<std::range_error>("std::range_error"),
    with_text<std::overflow_error>("std::overflow_error"),
    with_text<std::underflow_error>("std::underflow_error"),
    {"std::system_error", &typeid(std::system_error), save_system_error, raise_system_error},
    {"std::ios_base::failure", &typeid(std::ios_base::failure), save_system_error,
     raise_ios_failure},
    with_nothing<std::exception>("std::exception"),
    with_nothing<std::bad_alloc>("std::bad_alloc"),
    with_nothing<std::bad_array_new_length>("std::bad_array_new_length"),
    with_nothing<std::bad_cast>("std::bad_cast"),
    with_nothing<std::bad_any_cast>("std::bad_any_cast"),
    with_nothing<std::bad_typeid>("std::bad_typeid"),
    with_nothing<std::bad_exception>("std::bad_exception"),
    with_nothing<std::bad_function_call>("std::bad_function_call"),
    with_nothing<std::bad_weak_ptr>("std::bad_weak_ptr"),
    with_nothing<std::bad_optional_access>("std::bad_optional_access"),
    with_nothing<std::bad_variant_access>("std::bad_variant_access"),
    with_text<Error>("multiprocessing::Error"),
    with_text<ProcessError>("multiprocessing::ProcessError"),
    with_text<ClosedError>("multiprocessing::ClosedError"),
    with_text<TimeoutError>("multiprocessing::TimeoutError"),
    with_text<QueueEmpty>("multiprocessing::QueueEmpty"),
    with_text<QueueFull>("multiprocessing::QueueFull"),
    with_text<EndOfFile>("multiprocessing::EndOfFile"),
    with_text<SerializationError>("multiprocessing::SerializationError"),
    with_text<UnknownCallable>("multiprocessing::UnknownCallable"),
    with_text<AbandonedLock>("multiprocessing::AbandonedLock"),
    with_text<BrokenBarrier>("multiprocessing::BrokenBarrier"),
    with_text<AuthenticationError>("multiprocessing::AuthenticationError"),
    with_text<TaskTimeout>("multiprocessing::TaskTimeout"),
    with_text<Cancelled>("multiprocessing::Cancelled"),
    with_text<PoolBroken>("multiprocessing::PoolBroken"),
    {"multiprocessing::BufferTooShort", &typeid(BufferTooShort), save_too_short, raise_too_short},
    {"multiprocessing::RemoteError", &typeid(RemoteError), save_remote, raise_remote},
    {"multiprocessing::WorkerCrashed", &typeid(WorkerCrashed), save_crash, raise_crash},
    {"multiprocessing::OsError", &typeid(OsError), save_os_error, raise_os_error},
};

template <class T>
std::vector<std::byte> to_bytes(const T& value) {
    const encoded message = encode(value);
    std::vector<std::byte> bytes(message.size());
    std::byte* at = bytes.data();
    for (const auto piece : message.pieces()) {
        std::memcpy(at, piece.data(), piece.size());
        at += piece.size();
    }
    return bytes;
}

/// Registered types: what their serialize function says.
template <class T>
struct exception_functions {
    static bool save(exception_state& to, std::string_view) {
        try {
            throw;
        } catch (const T& e) {
            to.bytes = to_bytes(e);
            return true;
        }
    }
    static void raise(exception_state& from) { throw decode<T>(from.bytes); }
};

/// A type that MP_REGISTER_EXCEPTION names.
struct MP_EXPORT registered_exception {
    explicit registered_exception(const exception_kind& kind_) noexcept;
    registered_exception(const registered_exception&) = delete;
    registered_exception& operator=(const registered_exception&) = delete;
    ~registered_exception();

    exception_kind kind;
    std::atomic<registered_exception*> next{nullptr};
};

MP_EXPORT inline constinit static_list<registered_exception> registered_exceptions;

inline registered_exception::registered_exception(const exception_kind& kind_) noexcept
    : kind(kind_) {
    registered_exceptions.push(*this);
}
inline registered_exception::~registered_exception() { registered_exceptions.unlink(*this); }

template <class T>
struct exception_entry {
    static inline registered_exception entry{{type_name<T>(), &typeid(T),
                                              &exception_functions<T>::save,
                                              &exception_functions<T>::raise}};
};

/// Makes exception_entry<T>::entry, before main.
template <class T>
bool know_exception() {
    static_cast<void>(&exception_entry<T>::entry);
    return true;
}
template <class T>
bool register_exception() {
    check_sendable<T>();
    if constexpr (sendable<T>) return know_exception<T>();
    return false;
}

template <class Fits>
const exception_kind* find_exception(Fits fits) {
    for (const auto& kind : standard_exceptions<>)
        if (fits(kind)) return &kind;
    const auto* found =
        registered_exceptions.find([&](const registered_exception& r) { return fits(r.kind); });
    return found != nullptr ? &found->kind : nullptr;
}

// --- transport

/// Readable name of a type at run time.
inline std::string name_of(const std::type_info& type) {
    std::string text;
    const auto sink = [&](std::string_view part) { text += part; };
    write_normalized(sink, demangled(type));
    return text;
}

/// The type that was given to std::throw_with_nested, or the type itself.
inline const std::type_info& outer_type(const std::type_info& type) {
    // An internal class of the library, derived from that type and from std::nested_exception.
    if (!name_of(type).starts_with("std::_Nested_exception<")) return type;
    const auto* bases = dynamic_cast<const abi::__vmi_class_type_info*>(&type);
    if (bases == nullptr || bases->__base_count == 0) return type;
    return *bases->__base_info[0].__base_type;
}

/// what() of the exception that is being handled, of any type.
inline std::string current_text() {
    try {
        throw;
    } catch (const std::exception& e) {
        const char* text = e.what();
        return text != nullptr ? text : "(its what() is null)";
    } catch (const std::string& text) {
        return text;
    } catch (const char* text) {
        return text != nullptr ? text : "(null)";
    } catch (...) {
        const std::type_info* type = abi::__cxa_current_exception_type();
        return "an exception of type " + (type != nullptr ? name_of(*type) : "unknown");
    }
}

/// What the exceptions inside of the one that is being handled say: ": inner: innermost".
inline std::string nested_text(int deepest = 16) {
    try {
        throw;
    } catch (const std::nested_exception& e) {
        if (e.nested_ptr() == nullptr || deepest == 0) return {};
        try {
            e.rethrow_nested();
        } catch (...) {
            return ": " + current_text() + nested_text(deepest - 1);
        }
    } catch (...) {
    }
    return {};
}

/// An exception as bytes.
/// \throws std::bad_alloc, and nothing else: an exception that can't be told of becomes a
///         RemoteError that says so
template <compiled = compiled::when_used>
std::vector<std::byte> encode_exception(const std::exception_ptr& exception) {
    exception_state state{.type = "no exception", .text = "an empty std::exception_ptr"};
    if (exception != nullptr) try {
            std::rethrow_exception(exception);
        } catch (...) {
            const std::type_info* thrown = abi::__cxa_current_exception_type();
            const std::type_info& type = thrown != nullptr ? outer_type(*thrown) : typeid(void);
            state.type = name_of(type);
            // The library throws a class derived from ios_base::failure, for an older ABI's sake.
            if (state.type == "std::__ios_failure") state.type = "std::ios_base::failure";
            const std::string nested = nested_text();
            state.text = current_text() + nested;
            const exception_kind* kind = find_exception(
                [&](const exception_kind& k) { return *k.type == type || k.name == state.type; });
            if (kind != nullptr) try {
                    exception_state saved = state;
                    saved.type = kind->name;
                    saved.whole = true;
                    if (kind->save == nullptr || kind->save(saved, nested))
                        state = std::move(saved);
                } catch (const std::bad_alloc&) {
                    throw;
                } catch (...) {
                    state.text += " (its serialize function threw: " + current_text() + ")";
                }
        }
    return to_bytes(state);
}

/// The exception of encode_exception(); a RemoteError if this process does not know its type, a
/// SerializationError if the bytes are damaged.
/// \param pid  the process that threw
template <compiled = compiled::when_used>
std::exception_ptr decode_exception(std::span<const std::byte> bytes, pid_t pid) {
    try {
        auto state = decode<exception_state>(bytes);
        const exception_kind* kind = nullptr;
        if (state.whole)
            kind = find_exception([&](const exception_kind& k) { return k.name == state.type; });
        if (kind != nullptr) try {
                kind->raise(state);
            } catch (...) {
                const std::type_info* made = abi::__cxa_current_exception_type();
                if (made != nullptr && *made == *kind->type) return std::current_exception();
                state.text += " (it could not be rebuilt: " + current_text() + ")";
            }
        throw RemoteError(std::move(state.type), state.text, pid);
    } catch (...) {
        return std::current_exception();
    }
}

}  // namespace multiprocessing::detail

#define MP_JOIN_(a, b) a##b
#define MP_JOIN(a, b) MP_JOIN_(a, b)

/// Lets exceptions of this type keep their type on their way between processes. At namespace
/// scope, in a header or in any source file of the program; more than once does no harm. The type
/// is Sendable; nothing else is asked of it.
#define MP_REGISTER_EXCEPTION(...)                                                      \
    [[maybe_unused]] static const bool MP_JOIN(mp_registered_exception_, __COUNTER__) = \
        ::multiprocessing::detail::register_exception<__VA_ARGS__>()

#ifdef _GLIBCXX_FILESYSTEM
namespace multiprocessing::detail {
template <>
struct exception_functions<std::filesystem::filesystem_error> {
    using error = std::filesystem::filesystem_error;
    using path = std::filesystem::path;

    static bool save(exception_state& to, std::string_view) {
        try {
            throw;
        } catch (const error& e) {
            // what() is "filesystem error: TEXT: MESSAGE [path] [path]"; TEXT alone is given back.
            to.text = e.what();
            if (to.text.starts_with("filesystem error: ")) to.text.erase(0, 18);
            to.text.resize(std::min(to.text.size(), to.text.find(": " + e.code().message())));
            to.bytes = to_bytes(std::pair<path, path>(e.path1(), e.path2()));
            return save_code(to, e.code());
        }
    }
    static void raise(exception_state& from) {
        const auto [first, second] = decode<std::pair<path, path>>(from.bytes);
        if (first.empty()) throw error(from.text, saved_code(from));
        if (second.empty()) throw error(from.text, first, saved_code(from));
        throw error(from.text, first, second, saved_code(from));
    }
};
[[maybe_unused]] static const bool knows_filesystem_error =
    know_exception<std::filesystem::filesystem_error>();
}  // namespace multiprocessing::detail
#endif

#ifdef _GLIBCXX_FUTURE
namespace multiprocessing::detail {
template <>
struct exception_functions<std::future_error> {
    static bool save(exception_state& to, std::string_view) {
        try {
            throw;
        } catch (const std::future_error& e) {
            to.number = e.code().value();
            return e.code().category() == std::future_category();
        }
    }
    static void raise(exception_state& from) {
        throw std::future_error(static_cast<std::future_errc>(from.number));
    }
};
[[maybe_unused]] static const bool knows_future_error = know_exception<std::future_error>();
}  // namespace multiprocessing::detail
#endif
