// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Elements and the lock that guards them, behind Value and Array.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <multiprocessing/detail/archive/fingerprint.hpp>
#include <multiprocessing/detail/data/shared_elements.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/errors.hpp>
#include <multiprocessing/synchronize.hpp>

namespace multiprocessing::detail {

/// An RLock with elements behind its state, or without.
template <compiled = compiled::when_used>
class element_lock : public RLock {
public:
    explicit element_lock(std::size_t behind) : RLock(behind) {}
    explicit element_lock(const RLock& other) : RLock(other) {}

    bool acquire_until(deadline until) const { return state().acquire_again(until); }
    std::byte* behind() const noexcept { return shared_.behind(); }
    std::size_t bytes_behind() const noexcept { return shared_.bytes_behind(); }

    /// From the start of the region, which is that of a page, to behind().
    static constexpr std::size_t behind_at = object::offset + sizeof(recursive_lock);
};

/// A handle of elements and their lock. Both lie in one region, so that they cost one descriptor:
/// the lock's state, then, aligned, an elements_head and the elements. With a lock of somebody
/// else's the elements have a region of their own.
template <class T>
class guarded_elements {
    using head = elements_head_of<T>;
    static constexpr std::size_t padding =
        alignof(head) - 1 - (element_lock<>::behind_at + alignof(head) - 1) % alignof(head);
    static constexpr std::size_t before = padding + sizeof(head);

public:
    /// Each is T().
    guarded_elements(const char* name, std::size_t count) : guarded_elements(name, count, own{}) {
        make_elements(data_, count);
    }
    template <class Range>
    static guarded_elements copy_of(const char* name, Range& range) {
        return with_size<T>(range, [&](auto& sized, std::size_t count) {
            guarded_elements made(name, count, own{});
            make_elements_from(made.data_, count, sized);
            return made;
        });
    }
    guarded_elements(shared_elements<T> elements, const RLock& lock)
        : lock_(lock), elements_(std::move(elements)) {
        point_to_elements();
    }

    T* data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    element_lock<>& lock() noexcept { return lock_; }
    const element_lock<>& lock() const noexcept { return lock_; }

    template <class Archive>
    void save(Archive& archive) const {
        lock_.save(archive);
        archive(separate_);
        if (separate_) elements_.save(archive);
    }
    template <class Archive>
    void load(Archive& archive, const char* what) {
        guarded_elements received = *this;
        received.read(archive, what);
        *this = received;  // all of it or nothing
    }

    friend bool operator==(const guarded_elements& a, const guarded_elements& b) noexcept {
        return a.separate_ == b.separate_ &&
               (a.separate_ ? a.elements_ == b.elements_ : a.lock_ == b.lock_);
    }

private:
    struct own {};

    guarded_elements(const char* name, std::size_t count, own)
        : lock_(before + bytes_of_elements<T>(name, count)) {
        check_shareable<T>();
        head_behind() = {count, fingerprint<shared_elements<T>>()};
        data_ = elements_behind();
        size_ = count;
    }
    template <class Archive>
    void read(Archive& archive, const char* what) {
        lock_.load(archive);
        archive(separate_);
        if (separate_) {
            elements_.load(archive, what);
            point_to_elements();
            return;
        }
        elements_ = {};
        const std::size_t behind = lock_.bytes_behind();
        if (behind < before) throw Error(std::string("receiving ") + what + ": it is none");
        data_ = elements_behind();
        size_ = head_behind().checked_count(fingerprint<shared_elements<T>>(), behind - before,
                                            sizeof(T), what);
    }
    head& head_behind() const noexcept {
        return *reinterpret_cast<head*>(lock_.behind() + padding);
    }
    T* elements_behind() const noexcept { return reinterpret_cast<T*>(lock_.behind() + before); }
    void point_to_elements() noexcept {
        separate_ = true;
        data_ = elements_.data();
        size_ = elements_.size();
    }

    element_lock<> lock_;
    shared_elements<T> elements_;  // if separate_
    bool separate_ = false;
    T* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace multiprocessing::detail
