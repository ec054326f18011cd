// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Elements of one type in a region of their own: what arrays and values are handles of.

#include <algorithm>
#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <multiprocessing/detail/archive/fingerprint.hpp>
#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/shm/shared_object.hpp>

namespace multiprocessing::detail {

/// What every template over shared data says about its T.
template <class T>
constexpr void check_shareable() {
    static_assert(std::is_trivially_copyable_v<T>,
                  "multiprocessing: only a trivially copyable type can lie in shared memory: "
                  "others hold pointers into the process that made them (std::string, "
                  "std::vector). Take std::array, or send the object through a Queue.");
    static_assert(std::is_object_v<T> && !std::is_const_v<T> && !std::is_volatile_v<T>,
                  "multiprocessing: what lies in shared memory is an object without const or "
                  "volatile");
    static_assert(alignof(T) <= 4096, "multiprocessing: a page is aligned to 4096 bytes, not more");
}

/// A range whose elements make T; `Self` is none, since it is copied as a handle.
template <class Range, class T, class Self>
concept elements_for = !std::same_as<std::remove_cvref_t<Range>, Self> && requires(Range & range) {
    std::begin(range) != std::end(range);
    static_cast<T>(*std::begin(range));
};

/// Layout  64 bytes (or T's alignment) behind the region's header:
///     0 count  elements that follow
/// Writer  the maker, before anybody else sees the region. The elements are the user's plain
/// memory: no lock, no order between them; a kill leaves what was written.
template <std::size_t Alignment>
struct alignas(Alignment) elements_head {
    std::uint64_t count;
};

/// A handle of `size()` elements at `data()`, aligned to 64 bytes at least; or of none.
template <class T>
class shared_elements {
    using head = elements_head<std::max<std::size_t>(64, alignof(T))>;
    using object = shared_object<head, region_kind::shared_data>;

public:
    shared_elements() = default;

    /// Each is T(). Claims the memory (0.25 s a GiB): what is there can be used without SIGBUS.
    /// \param name  shown in /proc/<pid>/maps
    /// \throws OsError that names the sizes
    shared_elements(const char* name, std::size_t count) : shared_elements(name, count, zeroed{}) {
        if constexpr (!std::is_trivially_default_constructible_v<T>) {
            alignas(T) std::byte sample[sizeof(T)] = {};
            ::new (static_cast<void*>(sample)) T();
            if (std::any_of(sample, sample + sizeof(T), [](auto b) { return b != std::byte{0}; }))
                std::uninitialized_value_construct_n(data_, count);
        }
    }
    /// A copy of what the range holds.
    template <class Range>
    static shared_elements copy_of(const char* name, Range& range) {
        if constexpr (requires { std::size(range); }) {
            return filled(name, static_cast<std::size_t>(std::size(range)), range);
        } else {
            std::vector<T> all;
            for (auto it = std::begin(range); it != std::end(range); ++it)
                all.push_back(static_cast<T>(*it));
            return filled(name, all.size(), all);
        }
    }

    T* data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }

    template <class Archive>
    void save(Archive& archive) const {
        archive(static_cast<bool>(object_));
        if (object_) object_.save(archive);
    }
    /// \param what  "a SharedArray"
    template <class Archive>
    void load(Archive& archive, const char* what) {
        bool any = false;
        archive(any);
        shared_elements received;
        if (any) {
            received.object_.load(archive, what, fingerprint<shared_elements>());
            const std::uint64_t count = received.object_->count;
            if (count != received.object_.bytes_behind() / sizeof(T))
                throw Error(std::string("receiving ") + what + ": its size is damaged");
            received.point_to(static_cast<std::size_t>(count));
        }
        *this = std::move(received);
    }

    friend bool operator==(const shared_elements& a, const shared_elements& b) noexcept {
        return a.object_ == b.object_;
    }

private:
    struct zeroed {};

    shared_elements(const char* name, std::size_t count, zeroed) {
        check_shareable<T>();
        static constexpr std::size_t most =
            (std::numeric_limits<std::size_t>::max() / 2 - 4096) / sizeof(T);
        if (count > most)
            throw_os_error(ENOMEM, std::string("shared memory for ") + std::to_string(count) +
                                       " elements of " + std::to_string(sizeof(T)) + " bytes (" +
                                       name + ')');
        object_ = object::create(name, fingerprint<shared_elements>(), count * sizeof(T));
        object_->count = count;
        point_to(count);
    }
    template <class Range>
    static shared_elements filled(const char* name, std::size_t count, Range& range) {
        shared_elements made(name, count, zeroed{});
        auto it = std::begin(range);
        for (std::size_t i = 0; i < count; ++i, ++it)
            ::new (static_cast<void*>(made.data_ + i)) T(static_cast<T>(*it));
        return made;
    }
    void point_to(std::size_t count) noexcept {
        data_ = reinterpret_cast<T*>(object_.behind());
        size_ = count;
    }

    object object_;
    T* data_ = nullptr;  // both here, where loops over [] find them
    std::size_t size_ = 0;
};

}  // namespace multiprocessing::detail
