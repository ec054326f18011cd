// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Memory that processes share: SharedArray, ShareableList, SharedMemory.
///
/// All of them are handles: capture one, pass it to a Process or to a task of a Pool, or put it
/// inside a message; every holder sees the same bytes, nothing is copied. One that is received must
/// be opened by its receiver before its last holder elsewhere ends; else decoding throws an Error.
///
/// Their memory is claimed when they are made (0.25 s a GiB): what there is not is an OsError then,
/// never a SIGBUS later. At the limit of a cgroup the kernel kills instead.
/// SharedArray and ShareableList are anonymous: not limited by /dev/shm, gone with their last user,
/// however that ends. SharedMemory has a name and lives until unlink().
///
/// No class here locks. What a process was writing when it was killed is half written, but for the
/// elements of a ShareableList; take a Lock (its next holder learns of the death), an Array, or
/// std::atomic_ref on the elements.

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/data/array_interface.hpp>
#include <multiprocessing/detail/data/list_slot.hpp>
#include <multiprocessing/detail/data/named_memory.hpp>
#include <multiprocessing/detail/data/shared_elements.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

/// An array of fixed size that processes share: sending 8 GB costs what sending 8 bytes costs.
///
/// Span-like: a contiguous range of T&, also of a const handle. A process that receives it maps it
/// and faults its pages in as it touches them; it lets go with its last handle. To keep it mapped
/// from task to task keep a handle, in worker_local() or by a capture made before the Pool.
/// \tparam T  trivially copyable
template <class T>
class SharedArray : public detail::array_interface<SharedArray<T>, T> {
public:
    using mp_handle_tag = void;

    /// No elements, no memory.
    SharedArray() { detail::check_shareable<T>(); }
    /// \param size  elements, each T(): zero
    /// \throws OsError if the kernel refuses the memory or its descriptor, or has not so much; it
    ///     names the sizes
    explicit SharedArray(std::size_t size) requires std::is_default_constructible_v<T>
        : elements_("mp:SharedArray", size) {}
    SharedArray(std::initializer_list<T> elements)
        : elements_(detail::shared_elements<T>::copy_of("mp:SharedArray", elements)) {}
    /// A copy of what a range holds.
    template <class Range>
    requires detail::elements_for<Range, T, SharedArray>
    explicit SharedArray(Range&& range)
        : elements_(detail::shared_elements<T>::copy_of("mp:SharedArray", range)) {}

    /// Aligned to 64 bytes.
    T* data() const noexcept { return elements_.data(); }
    std::size_t size() const noexcept { return elements_.size(); }

    /// The same array? (Not: the same values.)
    friend bool operator==(const SharedArray& a, const SharedArray& b) noexcept {
        return a.elements_ == b.elements_;
    }

    /// For messages.
    template <class Archive>
    void save(Archive& archive) const {
        elements_.save(archive);
    }
    template <class Archive>
    void load(Archive& archive) {
        elements_.load(archive, "a SharedArray");
    }

private:
    detail::shared_elements<T> elements_;
};

/// A list of fixed length whose elements have types of their own: what Python calls by this name.
///
/// A text has the room that its first value was given: that, rounded up to the next multiple of 8
/// that is larger. Unlike in Python the type of an element can't change, and its update is one
/// step: if a process is killed in set(), the element has its old value or its new one.
/// Processes: any number may get() at once, and one may set() an element meanwhile. Several may
/// set() the same element at once if it is no text and has up to 8 bytes; otherwise they must take
/// turns (Lock), or the value may be a mixture.
/// \tparam Ts  std::string, or trivially copyable
template <class... Ts>
class ShareableList {
    static constexpr std::size_t count_ = sizeof...(Ts);
    static_assert(count_ > 0, "multiprocessing: a ShareableList has one element at least");

    template <std::size_t I>
    using element = std::tuple_element_t<I, std::tuple<Ts...>>;
    template <std::size_t I>
    using argument =
        std::conditional_t<std::is_same_v<element<I>, std::string>, std::string_view, element<I>>;

public:
    using mp_handle_tag = void;

    /// Names no list: only to be assigned or received. Everything else throws Error.
    ShareableList() = default;
    /// \throws OsError if the kernel refuses the memory or its descriptor
    explicit(count_ == 1) ShareableList(const Ts&... initial) {
        (detail::check_list_element<Ts>(), ...);
        const std::array<std::uint32_t, count_> capacities{detail::list_capacity(initial)...};
        std::uint64_t words = 0;
        for (const std::uint32_t capacity : capacities) words += detail::list_slot::words(capacity);
        object_ = object::create("mp:ShareableList", detail::fingerprint<ShareableList>(),
                                 static_cast<std::size_t>(words) * 8);
        for (std::size_t i = 0; i < count_; ++i) object_->capacity[i] = capacities[i];
        find_slots();
        set_all(std::index_sequence_for<Ts...>{}, initial...);
    }

    static constexpr std::size_t size() noexcept { return count_; }

    /// A copy of element I.
    template <std::size_t I>
    element<I> get() const {
        static_assert(I < count_, "multiprocessing: the ShareableList is not so long");
        return slot(I).template get<element<I>>();
    }
    /// \throws Error if a text is longer than its room; it names both sizes
    template <std::size_t I>
    void set(const argument<I>& value) const {
        static_assert(I < count_, "multiprocessing: the ShareableList is not so long");
        if constexpr (std::is_same_v<element<I>, std::string>) {
            const std::size_t room = slot(I).capacity();
            if (value.size() > room)
                throw Error("ShareableList: a text of " + std::to_string(value.size()) +
                            " bytes does not fit element " + std::to_string(I) + ", which has " +
                            std::to_string(room) + "; make the list with a longer text there");
            slot(I).set_text(value);
        } else {
            slot(I).set(value);
        }
    }
    /// The most bytes that element I can hold.
    template <std::size_t I>
    std::size_t capacity() const {
        return slot(I).capacity();
    }
    /// All elements; each is whole, but they may be of different instants.
    std::tuple<Ts...> values() const { return values(std::index_sequence_for<Ts...>{}); }

    /// How many elements of V's type have this value.
    template <class V>
    std::size_t count(const V& value) const {
        std::size_t found = 0;
        look_for(value, std::index_sequence_for<Ts...>{},
                 [&](std::size_t) { return ++found, false; });
        return found;
    }
    /// The first of them.
    /// \throws Error if there is none
    template <class V>
    std::size_t index(const V& value) const {
        std::size_t at = count_;
        look_for(value, std::index_sequence_for<Ts...>{},
                 [&](std::size_t i) { return at = i, true; });
        if (at == count_) throw Error("ShareableList::index: no element has this value");
        return at;
    }

    /// The same list?
    friend bool operator==(const ShareableList& a, const ShareableList& b) noexcept {
        return a.object_ == b.object_;
    }

    /// For messages.
    template <class Archive>
    void save(Archive& archive) const {
        archive(static_cast<bool>(object_));
        if (object_) object_.save(archive);
    }
    template <class Archive>
    void load(Archive& archive) {
        bool any = false;
        archive(any);
        ShareableList received;
        if (any) {
            received.object_.load(archive, "a ShareableList", detail::fingerprint<ShareableList>());
            received.find_slots();
        }
        *this = std::move(received);
    }

private:
    using object =
        detail::shared_object<detail::list_head<count_>, detail::region_kind::shared_data>;

    /// Copies the capacities out of shared memory and checks that the slots lie in the region.
    void find_slots() {
        static constexpr std::array<std::uint32_t, count_> fixed{detail::fixed_capacity<Ts>...};
        std::uint64_t at = 0;
        for (std::size_t i = 0; i < count_; ++i) {
            const std::uint32_t capacity = object_->capacity[i];
            slots_[i] = {at, capacity};
            at += detail::list_slot::words(capacity);
            if ((fixed[i] != 0 && capacity != fixed[i]) || at * 8 > object_.bytes_behind())
                throw Error("receiving a ShareableList: the sizes of its elements are damaged");
        }
    }
    detail::list_slot slot(std::size_t i) const {
        if (!object_)
            throw Error(
                "ShareableList: made by its default constructor it names no list; assign "
                "or receive one");
        return {reinterpret_cast<detail::list_word*>(object_.behind()) + slots_[i].at,
                slots_[i].capacity};
    }
    template <std::size_t... I>
    void set_all(std::index_sequence<I...>, const Ts&... initial) {
        (set<I>(initial), ...);
    }
    template <std::size_t... I>
    std::tuple<Ts...> values(std::index_sequence<I...>) const {
        return {get<I>()...};
    }
    template <class V, std::size_t... I, class Found>
    void look_for(const V& value, std::index_sequence<I...>, Found found) const {
        static_cast<void>((equals<I>(value, found) || ...));
    }
    template <std::size_t I, class V, class Found>
    bool equals(const V& value, Found& found) const {
        if constexpr (std::is_same_v<element<I>, V> ||
                      (std::is_same_v<element<I>, std::string> &&
                       std::is_convertible_v<const V&, std::string_view>))
            return get<I>() == value && found(I);
        else
            return false;
    }

    struct place {
        std::uint64_t at = 0;  // word
        std::uint32_t capacity = 0;
    };
    object object_;
    std::array<place, count_> slots_{};
};
template <class... As>
ShareableList(As...) -> ShareableList<
    std::conditional_t<std::is_convertible_v<As, std::string_view>, std::string, As>...>;

/// A block of bytes with a name, in /dev/shm: for programs that know no more of each other. It is
/// there until somebody calls unlink(), also when all its users have ended or were killed; unlike
/// Python, which removes it with the first process that ends. shm_open() and Python's SharedMemory
/// find it under the same name, and it finds theirs.
///
/// Only its owner may open it (0600). A name is there with all its memory or not at all.
/// Copies share one mapping; it goes with the last. As an argument or in a message it finds the
/// same memory also if that was unlinked meanwhile, while its sender holds it.
class SharedMemory {
public:
    using mp_handle_tag = void;

    /// Closed: to be assigned or received.
    SharedMemory() = default;

    /// Zeroed bytes under a name that is not taken.
    /// \param name  1 to 255 bytes without a slash, or with one in front
    /// \throws OsError if the name is taken (EEXIST), or if /dev/shm is too small (ENOSPC),
    ///     read-only or absent: it names both sizes. Error if the name or the size can't be
    template <detail::compiled = detail::compiled::when_used>
    static SharedMemory create(std::string_view name, std::size_t bytes) {
        return SharedMemory(detail::named_memory::create(name, bytes));
    }
    /// The same under a name made up: name() tells it.
    template <detail::compiled = detail::compiled::when_used>
    static SharedMemory create(std::size_t bytes) {
        return create(detail::named_memory::new_name(), bytes);
    }

    /// The whole memory of this name.
    /// \param at_least  bytes that it must have
    /// \throws OsError (ENOENT) if there is none; Error if it is smaller, or another user's
    template <detail::compiled = detail::compiled::when_used>
    static SharedMemory attach(std::string_view name, std::size_t at_least = 1) {
        return SharedMemory(detail::named_memory::attach(name, at_least));
    }

    /// \throws ClosedError
    std::span<std::byte> buf() const { return {open().data(), open().size()}; }
    /// Without a slash. Empty if it was never opened.
    const std::string& name() const noexcept { return name_; }
    std::size_t size() const noexcept { return size_; }

    /// Lets go, with this handle. The last one of a process unmaps the memory: spans into it are
    /// invalid then. The name stays.
    void close() noexcept { memory_.reset(); }

    /// Removes the name. Those who have the memory keep it; when the last of them ends, it is gone.
    /// \throws OsError (ENOENT) if it is removed already, also if the name is another memory's now;
    ///     ClosedError after close()
    void unlink() const { open().unlink(); }

    /// The same memory?
    friend bool operator==(const SharedMemory& a, const SharedMemory& b) noexcept {
        return a.memory_ == b.memory_ ||
               (a.memory_ && b.memory_ && a.memory_->same_file(*b.memory_));
    }

    /// For messages.
    template <class Archive>
    void save(Archive& archive) const {
        detail::named_memory_handle handle = open().handle();
        archive(handle.name, handle.device, handle.inode, handle.size, handle.pid, handle.fd);
    }
    template <class Archive>
    void load(Archive& archive) {
        detail::named_memory_handle handle{};
        archive(handle.name, handle.device, handle.inode, handle.size, handle.pid, handle.fd);
        *this = SharedMemory(detail::named_memory::open(handle));
    }

private:
    template <detail::compiled = detail::compiled::when_used>
    explicit SharedMemory(detail::named_memory memory)
        : memory_(std::make_shared<const detail::named_memory>(std::move(memory))),
          name_(memory_->name()),
          size_(memory_->size()) {}

    const detail::named_memory& open() const {
        if (!memory_)
            throw ClosedError(name_.empty() ? "SharedMemory: it was never opened"
                                            : "SharedMemory \"" + name_ + "\": used after close()");
        return *memory_;
    }

    std::shared_ptr<const detail::named_memory> memory_;
    std::string name_;
    std::size_t size_ = 0;
};

}  // namespace multiprocessing
