// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The elements of a ShareableList.

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include <multiprocessing/detail/data/shared_elements.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

using list_word = std::atomic<std::uint64_t>;
static_assert(list_word::is_always_lock_free && sizeof(list_word) == 8);

/// Layout  of a list: this, then a slot for each element, one behind the other
///     0 capacity  bytes that each element can hold; never changes
template <std::size_t N>
struct alignas(64) list_head {
    std::uint32_t capacity[N];
};

/// Bytes of an element without texts; 0: it depends on its first value.
template <class T>
inline constexpr std::uint32_t fixed_capacity = sizeof(T);
template <>
inline constexpr std::uint32_t fixed_capacity<std::string> = 0;

template <class T>
constexpr void check_list_element() {
    if constexpr (!std::is_same_v<T, std::string>) check_shareable<T>();
}

template <class T>
std::uint32_t list_capacity(const T& initial) {
    if constexpr (std::is_same_v<T, std::string>) {
        if (initial.size() > UINT32_MAX - 8)
            throw Error("ShareableList: a text of " + std::to_string(initial.size()) +
                        " bytes is too long for an element; use a SharedArray<char>");
        return static_cast<std::uint32_t>(initial.size() / 8 * 8 + 8);
    } else {
        return fixed_capacity<T>;
    }
}

/// Layout  (8-byte words)
///     0      version  how often it was set; copy (version & 1) is the value
///     1      copy 0   length in bytes, then the bytes
///     1 + n  copy 1
/// Writers  one at a time, by agreement of the users; more than one mix their bytes.
/// I1  a copy is written only while the other one is the value.
/// Commit  the release store of version + 1 (A). A reader that finds the version as it was before
///     it copied (B) has a copy that nobody wrote to: a writer comes to that copy after its
///     predecessor's commit, its words are stored with release (C) and loaded with acquire (D), so
///     who has seen one of them sees that commit.
/// K1  killed before (A): nothing happened; the next writer writes over the half copy.
/// K2  killed after: set.
/// Lengths are checked when read: a mixture may say anything.
class list_slot {
public:
    list_slot(list_word* words, std::uint32_t capacity) noexcept
        : words_(words), capacity_(capacity) {}

    static constexpr std::uint64_t words(std::uint32_t capacity) noexcept {
        return 1 + 2 * copy_words(capacity);
    }
    std::uint32_t capacity() const noexcept { return capacity_; }

    /// \pre sizeof(T), or the text, fits the capacity
    template <class T>
    void set(const T& value) const noexcept {
        write(&value, sizeof(T));
    }
    void set_text(std::string_view text) const noexcept { write(text.data(), text.size()); }

    template <class T>
    T get() const {
        if constexpr (std::is_same_v<T, std::string>) {
            std::string text;
            read([&](std::size_t length) {
                text.resize(length);
                return text.data();
            });
            return text;
        } else {
            alignas(T) std::array<std::byte, sizeof(T)> bytes{};
            read([&](std::size_t) { return bytes.data(); });
            return std::bit_cast<T>(bytes);
        }
    }

private:
    static constexpr std::uint64_t copy_words(std::uint32_t capacity) noexcept {
        return 1 + (std::uint64_t{capacity} + 7) / 8;
    }
    list_word* copy(std::uint64_t version) const noexcept {
        return words_ + 1 + (version & 1) * copy_words(capacity_);
    }

    void write(const void* from, std::size_t length) const noexcept {
        const std::uint64_t version = words_->load(std::memory_order_acquire);  // (A) of the last
        list_word* to = copy(version + 1);
        to++->store(length, std::memory_order_release);  // (C)
        const auto* bytes = static_cast<const std::byte*>(from);
        for (std::size_t at = 0; at < length; at += 8) {
            std::uint64_t word = 0;
            std::memcpy(&word, bytes + at, std::min<std::size_t>(8, length - at));
            to++->store(word, std::memory_order_release);  // (C)
        }
        words_->store(version + 1, std::memory_order_release);  // (A)
    }

    /// \param room_for  where to write so many bytes; called once a try
    template <class RoomFor>
    void read(RoomFor room_for) const {
        for (;;) {
            const std::uint64_t version =
                words_->load(std::memory_order_acquire);  // pairs with (A)
            const list_word* from = copy(version);
            const std::uint64_t said = from++->load(std::memory_order_acquire);  // (D)
            const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(said, capacity_));
            auto* to = room_for(length);
            for (std::size_t at = 0; at < length; at += 8) {
                const std::uint64_t word = from++->load(std::memory_order_acquire);  // (D)
                std::memcpy(to + at, &word, std::min<std::size_t>(8, length - at));
            }
            // (B) Relaxed: the loads (D) keep it behind them.
            if (words_->load(std::memory_order_relaxed) == version) return;
        }
    }

    list_word* words_;
    std::uint32_t capacity_;
};

}  // namespace multiprocessing::detail
