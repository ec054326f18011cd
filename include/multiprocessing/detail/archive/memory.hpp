// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Values to bytes and back: encode() and decode().

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/archive/archives.hpp>
#include <multiprocessing/detail/archive/fingerprint.hpp>
#include <multiprocessing/detail/archive/sendable.hpp>
#include <multiprocessing/detail/archive/shape.hpp>
#include <multiprocessing/detail/archive/standard.hpp>

namespace multiprocessing::detail {

// --- cereal's wrappers, which functions of users and of cereal put around values

/// What archives do with a wrapper; primary: not a wrapper.
template <class T>
struct cereal_wrapper {};

template <class T>
concept wrapper = requires {
    typename cereal_wrapper<T>::is;
};

template <class T>
struct cereal_wrapper<cereal::NameValuePair<T>> {
    using is = void;
    static void put(message_writer& out, const cereal::NameValuePair<T>& pair) {
        out.put(pair.value);
    }
    static void get(message_reader& in, cereal::NameValuePair<T>& pair) { in.get(pair.value); }
};
template <class T>
struct cereal_wrapper<cereal::SizeTag<T>> {
    using is = void;
    static void put(message_writer& out, const cereal::SizeTag<T>& tag) {
        out.number(static_cast<std::uint64_t>(tag.size));
    }
    static void get(message_reader& in, cereal::SizeTag<T>& tag) {
        const auto n = in.template number<std::uint64_t>();
        // Eight to a byte, for a function that packs bits.
        if (n / 8 > in.left()) in.fail("a number of elements in it is larger than what follows");
        tag.size = static_cast<std::remove_reference_t<T>>(n);
    }
};
template <class T>
struct cereal_wrapper<cereal::BinaryData<T>> {
    using is = void;
    static void put(message_writer& out, const cereal::BinaryData<T>& data) {
        out.bytes(data.data, static_cast<std::size_t>(data.size));
    }
    static void get(message_reader& in, cereal::BinaryData<T>& data) {
        in.bytes(const_cast<void*>(static_cast<const void*>(data.data)),
                 static_cast<std::size_t>(data.size));
    }
};
template <class K, class V>
struct cereal_wrapper<cereal::MapItem<K, V>> {
    using is = void;
    static void put(message_writer& out, const cereal::MapItem<K, V>& item) {
        out.put(item.key);
        out.put(item.value);
    }
    static void get(message_reader& in, cereal::MapItem<K, V>& item) {
        in.get(item.key);
        in.get(item.value);
    }
};
template <class T>
struct cereal_wrapper<cereal::base_class<T>> {
    using is = void;
    static void put(message_writer& out, const cereal::base_class<T>& base) {
        if constexpr (flat<T> && members_of < T >> 0)
            with_members<members_of<T>>(std::as_const(*base.base_ptr),
                                        [&](const auto&... member) { (out.put(member), ...); });
        else
            out.put(*base.base_ptr);
    }
    // Member by member, not as one block: what would be padding at the end of a T may hold
    // members of the class derived from it.
    static void get(message_reader& in, cereal::base_class<T>& base) {
        if constexpr (flat<T> && members_of < T >> 0)
            with_members<members_of<T>>(*base.base_ptr,
                                        [&](auto&... member) { (in.get(member), ...); });
        else
            in.get(*base.base_ptr);
    }
};
/// These cereal keeps a table for.
template <class T>
inline constexpr bool cereals_own = false;
template <class T>
inline constexpr bool cereals_own<cereal::virtual_base_class<T>> = true;
template <class T>
inline constexpr bool cereals_own<cereal::DeferredData<T>> = true;

// --- every type finds its way

template <class T>
void message_writer::put(const T& value) {
    if constexpr (flat<T>) {
        if constexpr (sizeof(T) >= stays_in_place)
            own_bytes(std::addressof(value), sizeof(T));
        else
            std::memcpy(to_.grow(sizeof(T)), std::addressof(value), sizeof(T));
    } else if constexpr (wrapper<T>) {
        cereal_wrapper<T>::put(*this, value);
    } else if constexpr (standard<T>) {
        standard_type<T>::put(*this, value);
    } else if constexpr (std::is_array_v<T>) {
        for (const auto& element : value) put(element);
    } else if constexpr (out_functions<T> || cereals_own<T>) {
        const std::size_t before = size();
        nested([&] { archive().dispatch(value); });
        if (size() == before) number(std::uint8_t{0});  // I1
    } else if constexpr (std::is_empty_v<T>) {
        number(std::uint8_t{0});  // I1
    } else if constexpr (members_of<T> > 0) {
        nested([&] {
            with_members<members_of<T>>(value, [&](const auto&... member) { (put(member), ...); });
        });
    } else {
        check_part<T>();
    }
}

template <class T>
void message_reader::get(T& value) {
    if constexpr (flat<T>) {
        const std::byte* from = take(sizeof(T));
        // The one byte of an empty class may be another member's ([[no_unique_address]]).
        if constexpr (!std::is_empty_v<T>)
            std::memcpy(static_cast<void*>(std::addressof(value)), from, sizeof(T));
        if constexpr (has_bools<T>())
            if (!bools_are_valid(value)) fail("a bool in it is neither 0 nor 1");
    } else if constexpr (wrapper<T>) {
        cereal_wrapper<T>::get(*this, value);
    } else if constexpr (standard<T>) {
        standard_type<T>::get(*this, value);
    } else if constexpr (std::is_array_v<T>) {
        for (auto& element : value) get(element);
    } else if constexpr (in_functions<T> || cereals_own<T>) {
        const std::byte* before = at_;
        nested([&] { archive().dispatch(value); });
        if (at_ == before) take(1);  // I1
    } else if constexpr (std::is_empty_v<T>) {
        take(1);  // I1
    } else if constexpr (members_of<T> > 0) {
        nested([&] {
            with_members<members_of<T>>(value, [&](auto&... member) { (get(member), ...); });
        });
    } else {
        check_part<T>();
    }
}

template <class... Ts>
output_archive& output_archive::operator()(Ts&&... values) {
    (to_.put(values), ...);
    return *this;
}
template <class... Ts>
input_archive& input_archive::operator()(Ts&&... values) {
    (from_.get(values), ...);
    return *this;
}

// --- messages

/// For errors: "job", or "(int, job)" of several.
template <class... Ts>
std::string_view names_of() {
    if constexpr (sizeof...(Ts) == 1)
        return type_name<Ts...>();
    else
        return type_name<void(Ts...)>().substr(4);
}

/// The bytes of some values, as a list of pieces: parts of a buffer that belongs to the thread,
/// and large blocks that still are the values' own. So the values must outlive it unchanged, and
/// it must not leave its thread. Cost: no allocation once the thread has sent a few messages.
class encoded {
public:
    template <class... Ts>
    explicit encoded(std::in_place_t, const Ts&... values) : buffer_(kept_buffer::borrow()) {
        message_writer out(*buffer_, (decodes_in_place<Ts> && ...), &names_of<Ts...>);
        try {
            (out.put(values), ...);
        } catch (const cereal::Exception& e) {
            kept_buffer::give_back(buffer_);
            out.fail(e.what());
        } catch (...) {
            kept_buffer::give_back(buffer_);
            throw;
        }
        pieces_ = buffer_->gather();
    }
    encoded(encoded&& other) noexcept
        : buffer_(std::exchange(other.buffer_, nullptr)), pieces_(other.pieces_) {}
    encoded& operator=(encoded&&) = delete;
    ~encoded() { kept_buffer::give_back(buffer_); }

    /// The gather list, in the order of the message.
    std::span<const std::span<const std::byte>> pieces() const noexcept { return pieces_; }
    /// Bytes of the whole message.
    std::size_t size() const noexcept { return buffer_->size(); }

private:
    message_buffer* buffer_;
    std::span<const std::span<const std::byte>> pieces_;
};

/// Encodes the values, one after the other.
/// \throws SerializationError if a value has no encoding: a variant without value, a class that
///         cereal was not told of, nesting deeper than max_depth; and what users' functions throw
template <class... Ts>
[[nodiscard]] encoded encode(const Ts&... values) {
    (check_sendable<Ts>(), ...);
    if constexpr ((sendable<Ts> && ...))
        return encoded(std::in_place, values...);
    else
        return encoded(std::in_place);
}

/// Reads values of encode() into objects that are there. After an exception they hold anything.
/// \throws SerializationError, which names the types, unless the message is exactly these values;
///         std::bad_alloc; what users' functions throw
template <class... Ts>
void decode_into(std::span<const std::byte> message, Ts&... values) {
    message_reader in(message, &names_of<Ts...>);
    try {
        (in.get(values), ...);
    } catch (const cereal::Exception& e) {
        in.fail(e.what());
    }
    in.end();
}

/// Reads one value. \throws as decode_into()
template <class T>
[[nodiscard]] T decode(std::span<const std::byte> message) {
    check_sendable<T>();
    if constexpr (sendable<T>) {
        if constexpr (flat<T>) {
            T value;  // all of it is overwritten
            decode_into(message, value);
            return value;
        } else {
            T value = T();
            decode_into(message, value);
            return value;
        }
    } else {
        throw SerializationError("this type can't be received");
    }
}

}  // namespace multiprocessing::detail
