// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What arrays in shared memory have in common.

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>

namespace multiprocessing::detail {

[[noreturn, gnu::cold]] inline void throw_out_of_range(std::size_t index, std::size_t size) {
    throw std::out_of_range("at: index " + std::to_string(index) + " of an array of " +
                            std::to_string(size) + " elements");
}

/// Makes a contiguous range of T& of a handle, const or not.
/// \tparam Derived  has data() and size()
template <class Derived, class T>
class array_interface {
public:
    using element_type = T;
    using value_type = T;
    using iterator = T*;

    bool empty() const noexcept { return self().size() == 0; }
    T* begin() const noexcept { return self().data(); }
    T* end() const noexcept { return self().data() + self().size(); }
    std::span<T> span() const noexcept { return {self().data(), self().size()}; }

    T& operator[](std::size_t i) const noexcept { return self().data()[i]; }
    /// \throws std::out_of_range
    T& at(std::size_t i) const {
        if (i >= self().size()) throw_out_of_range(i, self().size());
        return self().data()[i];
    }

private:
    const Derived& self() const noexcept { return static_cast<const Derived&>(*this); }
};

}  // namespace multiprocessing::detail
