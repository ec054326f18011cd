// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Values and arrays that processes share: Value, Array, and RawValue, RawArray without a lock.
///
/// All are handles: copy one, capture it, pass it to a Process or to a task of a Pool, or put it
/// inside a message: every holder sees the same memory, which is anonymous and gone with its last
/// user, however that ends. One that is received must be opened by its receiver before its last
/// holder elsewhere ends; else decoding throws an Error. A moved-from object is still one.
///
/// `v.value() += 1` is not atomic, as in Python. Value and Array are locks themselves:
///
///     { std::lock_guard guard(hits);  hits.value() += 1; }
///
/// If a process is killed under the lock, each next acquire(), lock() and so on throws
/// AbandonedLock, since the value may be half written, until somebody calls recover().
/// For single numbers std::atomic_ref needs no lock: `std::atomic_ref(raw.value()).fetch_add(1)`.
///
/// A T is trivially copyable: numbers, enums, std::array, structs of these; std::complex too.
/// Memory is claimed when an object is made: an OsError then, never SIGBUS later.

#include <array>
#include <chrono>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/data/array_interface.hpp>
#include <multiprocessing/detail/data/guarded_elements.hpp>
#include <multiprocessing/detail/data/shared_elements.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/sync/lockable.hpp>
#include <multiprocessing/errors.hpp>
#include <multiprocessing/synchronize.hpp>

namespace multiprocessing {

namespace detail {

/// What Value and Array have of their lock: acquire(), release(), recover(), locked(), get_lock(),
/// and the standard's lock(), try_lock(), try_lock_for(), try_lock_until(), unlock(): an RLock, as
/// synchronize.hpp describes it.
template <class Derived, class T>
class guarded : public lockable<Derived> {
public:
    using mp_handle_tag = void;

    /// \throws ProcessError if this thread does not hold the lock
    void release() const { elements_.lock().release(); }
    /// Takes the lock although its holder died: put right what that may have half written.
    void recover() const { elements_.lock().recover(); }
    /// \return false if the timeout ended first
    template <class Rep, class Period>
    bool recover(std::chrono::duration<Rep, Period> timeout) const {
        return elements_.lock().recover(timeout);
    }
    bool locked() const noexcept { return elements_.lock().locked(); }

    RLock& get_lock() noexcept { return elements_.lock(); }
    const RLock& get_lock() const noexcept { return elements_.lock(); }

    /// The same object? (Not: the same value.)
    friend bool operator==(const Derived& a, const Derived& b) noexcept {
        return a.elements_ == b.elements_;
    }

    /// For messages.
    template <class Archive>
    void save(Archive& archive) const {
        elements_.save(archive);
    }
    template <class Archive>
    void load(Archive& archive) {
        elements_.load(archive, Derived::what_);
    }

protected:
    explicit guarded(guarded_elements<T> elements) : elements_(std::move(elements)) {}
    guarded(const guarded&) = default;
    guarded& operator=(const guarded&) = default;
    ~guarded() = default;

    guarded_elements<T> elements_;

private:
    friend lockable<Derived>;
    bool take(deadline until) const { return elements_.lock().acquire_until(until); }
    void give() const { elements_.lock().release(); }
};

}  // namespace detail

/// One T in shared memory, with a lock.
template <class T>
class Value : public detail::guarded<Value<T>, T> {
    using base = detail::guarded<Value<T>, T>;

public:
    using value_type = T;

    /// T(): zero.
    /// \throws OsError if the kernel refuses the shared memory or its descriptor
    Value() requires std::is_default_constructible_v<T> : base({"mp:Value", 1}) {}
    explicit Value(const T& initial) : base(own_lock(std::array<T, 1>{initial})) {}
    /// With a lock that guards other things, too.
    Value(const T& initial, const RLock& lock) : base({alone(std::array<T, 1>{initial}), lock}) {}

    /// The value itself. Reading or writing it takes no lock.
    T& value() const noexcept { return *this->elements_.data(); }
    void value(const T& to) const noexcept { value() = to; }
    T& get_obj() const noexcept { return value(); }

private:
    friend base;
    static constexpr const char* what_ = "a Value";

    static detail::guarded_elements<T> own_lock(const std::array<T, 1>& one) {
        return detail::guarded_elements<T>::copy_of("mp:Value", one);
    }
    static detail::shared_elements<T> alone(const std::array<T, 1>& one) {
        return detail::shared_elements<T>::copy_of("mp:Value", one);
    }
};

/// A fixed number of T in shared memory, with a lock for all of them. Span-like: a contiguous range
/// of T&, also of a const handle; what reads and writes elements takes no lock.
template <class T>
class Array : public detail::guarded<Array<T>, T>, public detail::array_interface<Array<T>, T> {
    using base = detail::guarded<Array<T>, T>;

public:
    Array() : Array(std::initializer_list<T>{}) {}
    /// \param size  elements, each T(): zero
    /// \throws OsError if the kernel refuses the shared memory or its descriptor, or has not so
    ///     much; it names the sizes
    explicit Array(std::size_t size) requires std::is_default_constructible_v<T>
        : base({"mp:Array", size}) {}
    Array(std::initializer_list<T> elements)
        : base(detail::guarded_elements<T>::copy_of("mp:Array", elements)) {}
    /// A copy of what a range holds.
    template <class Range>
    requires detail::elements_for<Range, T, Array>
    explicit Array(Range&& range) : base(detail::guarded_elements<T>::copy_of("mp:Array", range)) {}
    /// With a lock that guards other things, too.
    Array(std::size_t size, const RLock& lock) requires std::is_default_constructible_v<T>
        : base({detail::shared_elements<T>("mp:Array", size), lock}) {}
    template <class Range>
    requires detail::elements_for<Range, T, Array> Array(Range&& range, const RLock& lock)
        : base({detail::shared_elements<T>::copy_of("mp:Array", range), lock}) {}

    T* data() const noexcept { return this->elements_.data(); }
    std::size_t size() const noexcept { return this->elements_.size(); }
    std::span<T> get_obj() const noexcept { return this->span(); }

private:
    friend base;
    static constexpr const char* what_ = "an Array";
};

/// One T in shared memory.
template <class T>
class RawValue {
public:
    using value_type = T;
    using mp_handle_tag = void;

    /// T(): zero.
    /// \throws OsError if the kernel refuses the shared memory or its descriptor
    RawValue() requires std::is_default_constructible_v<T> : elements_("mp:RawValue", 1) {}
    explicit RawValue(const T& initial) {
        const std::array<T, 1> one{initial};
        elements_ = detail::shared_elements<T>::copy_of("mp:RawValue", one);
    }
    RawValue(const RawValue&) = default;
    RawValue& operator=(const RawValue&) = default;
    ~RawValue() = default;

    T& value() const noexcept { return *elements_.data(); }
    void value(const T& to) const noexcept { value() = to; }

    /// The same object?
    friend bool operator==(const RawValue& a, const RawValue& b) noexcept {
        return a.elements_ == b.elements_;
    }
    template <class Archive>
    void save(Archive& archive) const {
        elements_.save(archive);
    }
    template <class Archive>
    void load(Archive& archive) {
        detail::shared_elements<T> received;
        received.load(archive, "a RawValue");
        if (received.size() != 1) throw Error("receiving a RawValue: the memory holds an array");
        elements_ = std::move(received);
    }

private:
    detail::shared_elements<T> elements_;
};

/// A fixed number of T in shared memory, without a lock. (SharedArray under the name that Python
/// gives it; a default-constructed one has no elements and no memory.)
template <class T>
class RawArray : public detail::array_interface<RawArray<T>, T> {
public:
    using mp_handle_tag = void;

    RawArray() = default;
    /// \param size  elements, each T(): zero
    /// \throws OsError as Array
    explicit RawArray(std::size_t size) requires std::is_default_constructible_v<T>
        : elements_("mp:RawArray", size) {}
    RawArray(std::initializer_list<T> elements)
        : elements_(detail::shared_elements<T>::copy_of("mp:RawArray", elements)) {}
    template <class Range>
    requires detail::elements_for<Range, T, RawArray>
    explicit RawArray(Range&& range)
        : elements_(detail::shared_elements<T>::copy_of("mp:RawArray", range)) {}
    RawArray(const RawArray&) = default;
    RawArray& operator=(const RawArray&) = default;
    ~RawArray() = default;

    T* data() const noexcept { return elements_.data(); }
    std::size_t size() const noexcept { return elements_.size(); }

    /// The same array?
    friend bool operator==(const RawArray& a, const RawArray& b) noexcept {
        return a.elements_ == b.elements_;
    }
    template <class Archive>
    void save(Archive& archive) const {
        elements_.save(archive);
    }
    template <class Archive>
    void load(Archive& archive) {
        elements_.load(archive, "a RawArray");
    }

private:
    detail::shared_elements<T> elements_;
};

}  // namespace multiprocessing
