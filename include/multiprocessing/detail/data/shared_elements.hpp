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

/// What a range holds, in a form that knows its size: the range itself, or a vector.
template <class T, class Range, class F>
auto with_size(Range& range, F f) {
    if constexpr (requires { std::size(range); }) {
        return f(range, static_cast<std::size_t>(std::size(range)));
    } else {
        std::vector<T> all;
        for (auto it = std::begin(range); it != std::end(range); ++it)
            all.push_back(static_cast<T>(*it));
        return f(all, all.size());
    }
}

/// Makes zeroed memory hold `count` times T().
template <class T>
void make_elements(T* at, std::size_t count) {
    if constexpr (!std::is_trivially_default_constructible_v<T>) {
        alignas(T) std::byte sample[sizeof(T)] = {};
        ::new (static_cast<void*>(sample)) T();
        // Where T() is zero the pages stay untouched.
        if (std::any_of(sample, sample + sizeof(T), [](auto b) { return b != std::byte{0}; }))
            std::uninitialized_value_construct_n(at, count);
    }
}
template <class T, class Range>
void make_elements_from(T* at, std::size_t count, Range& range) {
    auto it = std::begin(range);
    for (std::size_t i = 0; i < count; ++i, ++it)
        ::new (static_cast<void*>(at + i)) T(static_cast<T>(*it));
}

/// Layout  64 bytes (or T's alignment) in front of the elements
///     0 count  elements that follow
///     8 type   fingerprint of shared_elements<T>
/// Writer  the maker, before anybody else sees the region. The elements are the user's plain
/// memory: no order between them; a kill leaves what was written.
template <std::size_t Alignment>
struct alignas(Alignment) elements_head {
    std::uint64_t count, type;

    /// \throws Error if it does not say that `bytes` hold elements of this type
    std::size_t checked_count(std::uint64_t expected_type, std::size_t bytes, std::size_t size,
                              const char* what) const {
        const std::uint64_t copy = count;
        if (type != expected_type || copy > bytes / size)
            throw Error(std::string("receiving ") + what +
                        ": the memory holds elements of another type or number");
        return static_cast<std::size_t>(copy);
    }
};
template <class T>
using elements_head_of = elements_head<std::max<std::size_t>(64, alignof(T))>;

/// Bytes of so many elements. \throws OsError (ENOMEM) if no number can say it
template <class T>
std::size_t bytes_of_elements(const char* name, std::size_t count) {
    static constexpr std::size_t most =
        (std::numeric_limits<std::size_t>::max() / 2 - 16384) / sizeof(T);
    if (count > most)
        throw_os_error(ENOMEM, std::string("claiming shared memory for ") + std::to_string(count) +
                                   " elements of " + std::to_string(sizeof(T)) + " bytes (" + name +
                                   ')');
    return count * sizeof(T);
}

/// A handle of `size()` elements at `data()`, aligned to 64 bytes at least; or of none.
template <class T>
class shared_elements {
    using object = shared_object<elements_head_of<T>, region_kind::shared_data>;

public:
    shared_elements() = default;

    /// Each is T(). Claims the memory (0.25 s a GiB): what is there can be used without SIGBUS.
    /// \param name  shown in /proc/<pid>/maps
    /// \throws OsError that names the sizes
    shared_elements(const char* name, std::size_t count) : shared_elements(name, count, zeroed{}) {
        make_elements(data_, count);
    }
    /// A copy of what the range holds.
    template <class Range>
    static shared_elements copy_of(const char* name, Range& range) {
        return with_size<T>(range, [&](auto& sized, std::size_t count) {
            shared_elements made(name, count, zeroed{});
            make_elements_from(made.data_, count, sized);
            return made;
        });
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
            constexpr std::uint64_t type = fingerprint<shared_elements>();
            received.object_.load(archive, what, type);
            received.point_to(received.object_->checked_count(type, received.object_.bytes_behind(),
                                                              sizeof(T), what));
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
        constexpr std::uint64_t type = fingerprint<shared_elements>();
        object_ = object::create(name, type, bytes_of_elements<T>(name, count));
        object_->count = count;
        object_->type = type;
        point_to(count);
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
