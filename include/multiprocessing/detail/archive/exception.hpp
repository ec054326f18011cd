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

#include <any>
#include <atomic>
#include <cstddef>
#include <cstdlib>
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
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <variant>
#include <vector>

#include <cxxabi.h>
#include <sys/types.h>

#include <multiprocessing/detail/archive/fingerprint.hpp>
#include <multiprocessing/detail/archive/memory.hpp>
#include <multiprocessing/detail/archive/registry.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

template <class... Ts>
std::vector<std::byte> to_bytes(const Ts&... values) {
    const encoded message = encode(values...);
    std::vector<std::byte> bytes;
    bytes.reserve(message.size());
    for (const auto piece : message.pieces()) bytes.insert(bytes.end(), piece.begin(), piece.end());
    return bytes;
}

template <class... Ts>
std::tuple<Ts...> from_bytes(std::span<const std::byte> bytes) {
    std::tuple<Ts...> values;
    std::apply([&](auto&... value) { decode_into(bytes, value...); }, values);
    return values;
}

// --- what each type consists of
//     save(e, nested)   its bytes; `nested` is what the exceptions inside of it say, to be told
//                       with its own text; nothing if this one can't be rebuilt
//     load(bytes)       the same exception

/// Registered types: what their serialize function says.
template <class T>
struct exception_parts {
    static std::optional<std::vector<std::byte>> save(const T& e, std::string_view) {
        return to_bytes(e);
    }
    static std::exception_ptr load(std::span<const std::byte> bytes) {
        T exception = decode<T>(bytes);
        try {
            throw std::move(exception);  // make_exception_ptr() would ask for a copy
        } catch (...) {
            return std::current_exception();
        }
    }
};

/// Made from their text.
template <class T>
requires std::is_base_of_v<std::logic_error, T> || std::is_base_of_v<std::runtime_error, T>
struct text_parts {
    static std::optional<std::vector<std::byte>> save(const T& e, std::string_view nested) {
        return to_bytes(e.what() + std::string(nested));
    }
    static std::exception_ptr load(std::span<const std::byte> bytes) {
        return std::make_exception_ptr(T(decode<std::string>(bytes)));
    }
};

/// Made from nothing; a text of their own is lost.
template <class T>
struct no_parts {
    static std::optional<std::vector<std::byte>> save(const T&, std::string_view) {
        return std::vector<std::byte>();
    }
    static std::exception_ptr load(std::span<const std::byte>) {
        return std::make_exception_ptr(T());
    }
};

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

/// Made from an error code and a text. Categories of users are not known elsewhere.
template <class T>
struct code_parts {
    static std::optional<std::vector<std::byte>> save(const T& e, std::string_view nested) {
        const std::error_code& code = e.code();
        if (const auto* c = category_named(code.category().name());
            c == nullptr || *c != code.category())
            return std::nullopt;
        return to_bytes(code.value(), std::string(code.category().name()),
                        without_message(e.what(), code.message()) + std::string(nested));
    }
    static std::exception_ptr load(std::span<const std::byte> bytes) {
        auto [value, category, text] = from_bytes<int, std::string, std::string>(bytes);
        const auto* c = category_named(category);
        if (c == nullptr) throw SerializationError("an error category unknown here: " + category);
        if constexpr (std::is_same_v<T, std::system_error>) {
            if (text.empty()) return std::make_exception_ptr(T(value, *c));
            return std::make_exception_ptr(T(value, *c, text));
        } else {
            return std::make_exception_ptr(T(text, std::error_code(value, *c)));
        }
    }
};
template <>
struct exception_parts<std::system_error> : code_parts<std::system_error> {};
template <>
struct exception_parts<std::ios_base::failure> : code_parts<std::ios_base::failure> {};

template <>
struct exception_parts<OsError> {
    static std::optional<std::vector<std::byte>> save(const OsError& e, std::string_view nested) {
        return to_bytes(e.code().value(),
                        without_message(e.what(), e.code().message()) + std::string(nested));
    }
    static std::exception_ptr load(std::span<const std::byte> bytes) {
        auto [code, text] = from_bytes<int, std::string>(bytes);
        return std::make_exception_ptr(OsError(code, text));
    }
};
template <>
struct exception_parts<BufferTooShort> {
    static std::optional<std::vector<std::byte>> save(const BufferTooShort& e,
                                                      std::string_view nested) {
        return to_bytes(e.what() + std::string(nested), e.message());
    }
    static std::exception_ptr load(std::span<const std::byte> bytes) {
        auto [text, message] = from_bytes<std::string, std::vector<std::byte>>(bytes);
        return std::make_exception_ptr(BufferTooShort(text, std::move(message)));
    }
};
template <>
struct exception_parts<RemoteError> {
    static std::optional<std::vector<std::byte>> save(const RemoteError& e,
                                                      std::string_view nested) {
        return to_bytes(e.type(), e.what() + std::string(nested), e.worker_pid());
    }
    static std::exception_ptr load(std::span<const std::byte> bytes) {
        auto [type, text, pid] = from_bytes<std::string, std::string, pid_t>(bytes);
        return std::make_exception_ptr(RemoteError(std::move(type), text, pid));
    }
};
template <>
struct exception_parts<WorkerCrashed> {
    static std::optional<std::vector<std::byte>> save(const WorkerCrashed& e,
                                                      std::string_view nested) {
        return to_bytes(e.what() + std::string(nested), e.exitcode(), e.worker_pid());
    }
    static std::exception_ptr load(std::span<const std::byte> bytes) {
        auto [text, exitcode, pid] = from_bytes<std::string, int, pid_t>(bytes);
        return std::make_exception_ptr(WorkerCrashed(text, exitcode, pid));
    }
};

// --- the types that are known

/// A type of exception that can be rebuilt from bytes.
struct exception_kind {
    std::string_view name;
    const std::type_info* type;
    /// Called while the exception is being handled.
    std::optional<std::vector<std::byte>> (*save)(std::string_view nested);
    std::exception_ptr (*load)(std::span<const std::byte> bytes);
};

template <class T, class Parts>
constexpr exception_kind make_exception_kind() {
    return {type_name<T>(), &typeid(T),
            [](std::string_view nested) -> std::optional<std::vector<std::byte>> {
                try {
                    throw;
                } catch (const T& e) {
                    return Parts::save(e, nested);
                }
            },
            &Parts::load};
}
template <class T>
inline constexpr exception_kind with_text = make_exception_kind<T, text_parts<T>>();
template <class T>
inline constexpr exception_kind with_nothing = make_exception_kind<T, no_parts<T>>();
template <class T>
inline constexpr exception_kind with_parts = make_exception_kind<T, exception_parts<T>>();

inline constexpr exception_kind standard_exceptions[] = {
    with_text<std::runtime_error>,
    with_text<std::logic_error>,
    with_text<std::invalid_argument>,
    with_text<std::out_of_range>,
    with_text<std::domain_error>,
    with_text<std::length_error>,
    with_text<std::range_error>,
    with_text<std::overflow_error>,
    with_text<std::underflow_error>,
    with_parts<std::system_error>,
    with_parts<std::ios_base::failure>,
    with_nothing<std::exception>,
    with_nothing<std::bad_alloc>,
    with_nothing<std::bad_array_new_length>,
    with_nothing<std::bad_cast>,
    with_nothing<std::bad_any_cast>,
    with_nothing<std::bad_typeid>,
    with_nothing<std::bad_exception>,
    with_nothing<std::bad_function_call>,
    with_nothing<std::bad_weak_ptr>,
    with_nothing<std::bad_optional_access>,
    with_nothing<std::bad_variant_access>,
    with_text<Error>,
    with_text<ProcessError>,
    with_text<ClosedError>,
    with_text<TimeoutError>,
    with_text<QueueEmpty>,
    with_text<QueueFull>,
    with_text<EndOfFile>,
    with_parts<BufferTooShort>,
    with_text<SerializationError>,
    with_text<UnknownCallable>,
    with_text<AbandonedLock>,
    with_text<BrokenBarrier>,
    with_text<AuthenticationError>,
    with_parts<RemoteError>,
    with_parts<WorkerCrashed>,
    with_text<TaskTimeout>,
    with_text<Cancelled>,
    with_text<PoolBroken>,
    with_parts<OsError>,
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
    static inline registered_exception entry{with_parts<T>};
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
    for (const auto& kind : standard_exceptions)
        if (fits(kind)) return &kind;
    const auto* found =
        registered_exceptions.find([&](const registered_exception& r) { return fits(r.kind); });
    return found != nullptr ? &found->kind : nullptr;
}

// --- transport

/// Readable name of a type at run time.
inline std::string demangled(const std::type_info& type) {
    const std::unique_ptr<char, void (*)(void*)> name(
        abi::__cxa_demangle(type.name(), nullptr, nullptr, nullptr), &std::free);
    std::string text;
    const auto sink = [&](std::string_view part) { text += part; };
    write_normalized(sink, name ? name.get() : type.name());
    return text;
}

/// The type that was given to std::throw_with_nested, or the type itself.
inline const std::type_info& outer_type(const std::type_info& type) {
    // An internal class of the library, derived from that type and from std::nested_exception.
    if (!demangled(type).starts_with("std::_Nested_exception<")) return type;
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
        return "an exception of type " + (type != nullptr ? demangled(*type) : "unknown");
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
inline std::vector<std::byte> encode_exception(const std::exception_ptr& exception) {
    std::string name = "no exception", text = "an empty std::exception_ptr";
    std::vector<std::byte> parts;
    bool whole = false;
    if (exception != nullptr) try {
            std::rethrow_exception(exception);
        } catch (...) {
            const std::type_info* thrown = abi::__cxa_current_exception_type();
            const std::type_info& type = thrown != nullptr ? outer_type(*thrown) : typeid(void);
            name = demangled(type);
            // The library throws a class derived from ios_base::failure, for an older ABI's sake.
            if (name == "std::__ios_failure") name = type_name<std::ios_base::failure>();
            const std::string nested = nested_text();
            text = current_text() + nested;
            const exception_kind* kind = find_exception(
                [&](const exception_kind& k) { return *k.type == type || k.name == name; });
            if (kind != nullptr) try {
                    if (auto saved = kind->save(nested)) {
                        parts = std::move(*saved);
                        whole = true;
                        name = kind->name;
                    }
                } catch (const std::bad_alloc&) {
                    throw;
                } catch (...) {
                    text += " (its serialize function threw: " + current_text() + ")";
                }
        }
    return to_bytes(whole, name, text, parts);
}

/// The exception of encode_exception(); a RemoteError if this process does not know its type, a
/// SerializationError if the bytes are damaged.
/// \param pid  the process that threw
inline std::exception_ptr decode_exception(std::span<const std::byte> bytes, pid_t pid) {
    try {
        auto [whole, name, text, parts] =
            from_bytes<bool, std::string, std::string, std::vector<std::byte>>(bytes);
        if (whole) {
            const auto* kind =
                find_exception([&n = name](const exception_kind& k) { return k.name == n; });
            if (kind != nullptr) try {
                    return kind->load(parts);
                } catch (const std::bad_alloc&) {
                    throw;
                } catch (...) {
                    text += " (it could not be rebuilt: " + current_text() + ")";
                }
        }
        return std::make_exception_ptr(RemoteError(std::move(name), text, pid));
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
struct exception_parts<std::filesystem::filesystem_error> {
    using error = std::filesystem::filesystem_error;
    static std::optional<std::vector<std::byte>> save(const error& e, std::string_view) {
        // what() is "filesystem error: TEXT: MESSAGE [path] [path]"; TEXT alone can be given back.
        std::string_view text = e.what();
        if (constexpr std::string_view before = "filesystem error: "; text.starts_with(before))
            text.remove_prefix(before.size());
        text = text.substr(0, text.find(": " + e.code().message()));
        if (category_named(e.code().category().name()) == nullptr) return std::nullopt;
        return to_bytes(std::string(text), e.path1(), e.path2(), e.code().value(),
                        std::string(e.code().category().name()));
    }
    static std::exception_ptr load(std::span<const std::byte> bytes) {
        using path = std::filesystem::path;
        auto [text, path1, path2, code, name] =
            from_bytes<std::string, path, path, int, std::string>(bytes);
        const auto* category = category_named(name);
        if (category == nullptr)
            throw SerializationError("an error category unknown here: " + name);
        const std::error_code error_code(code, *category);
        if (path1.empty()) return std::make_exception_ptr(error(text, error_code));
        if (path2.empty()) return std::make_exception_ptr(error(text, path1, error_code));
        return std::make_exception_ptr(error(text, path1, path2, error_code));
    }
};
[[maybe_unused]] static const bool knows_filesystem_error =
    know_exception<std::filesystem::filesystem_error>();
}  // namespace multiprocessing::detail
#endif

#ifdef _GLIBCXX_FUTURE
namespace multiprocessing::detail {
template <>
struct exception_parts<std::future_error> {
    static std::optional<std::vector<std::byte>> save(const std::future_error& e,
                                                      std::string_view) {
        if (e.code().category() != std::future_category()) return std::nullopt;
        return to_bytes(e.code().value());
    }
    static std::exception_ptr load(std::span<const std::byte> bytes) {
        return std::make_exception_ptr(
            std::future_error(static_cast<std::future_errc>(decode<int>(bytes))));
    }
};
[[maybe_unused]] static const bool knows_future_error = know_exception<std::future_error>();
}  // namespace multiprocessing::detail
#endif
