// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The concepts of <ranges> that a pool asks for: that header is too large to be included for them.

#include <iterator>  // std::ranges::begin and so on, too
#include <type_traits>
#include <utility>

namespace multiprocessing::detail {

template <class Range>
using iterator_of = decltype(std::ranges::begin(std::declval<Range&>()));
template <class Range>
using sentinel_of = decltype(std::ranges::end(std::declval<Range&>()));
template <class Range>
using item_of = std::iter_value_t<iterator_of<Range>>;
template <class Range>
using item_reference_of = std::iter_reference_t<iterator_of<Range>>;

template <class Range>
concept input_range = std::input_iterator<iterator_of<Range>> && requires {
    typename sentinel_of<Range>;
};
template <class Range>
concept sized_range = input_range<Range> && requires(Range& range) {
    std::ranges::size(range);
};
template <class Range>
concept random_access_range = input_range<Range> && std::random_access_iterator<iterator_of<Range>>;

/// A container that was given away: its items may be moved out. A range without an allocator may be
/// a view of somebody else's.
template <class Range>
inline constexpr bool owns_items = requires {
    typename Range::allocator_type;
    requires std::is_same_v < decltype(*std::ranges::begin(std::declval<Range&>())), item_of<Range>
    & > ;
};

}  // namespace multiprocessing::detail
