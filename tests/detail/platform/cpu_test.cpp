// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

#include <multiprocessing/detail/platform/cpu.hpp>

using multiprocessing::detail::copy_message;

TEST_CASE("copy_message: every byte and no other, of any length and place", "[platform][cpu]") {
    constexpr std::size_t mebi = std::size_t{1} << 20, around = 64;
    std::vector<std::byte> from(9 * mebi + around);
    for (std::size_t i = 0; i < from.size(); ++i)
        from[i] = static_cast<std::byte>(1 + i * 2654435761u % 251);
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, mebi / 4, mebi + 77, 6 * mebi - 1, 6 * mebi, 6 * mebi + 1,
          6 * mebi + 63, 9 * mebi + 5})
        for (const std::size_t shift : {0u, 1u, 8u, 15u, 31u}) {
            CAPTURE(size, shift);
            std::vector<std::byte> to(size + around, std::byte{0});
            const std::byte* const source = from.data() + (shift * 3 + 1) % 16;
            copy_message(to.data() + shift, source, size);
            const auto begin = to.begin() + static_cast<std::ptrdiff_t>(shift);
            const auto end = begin + static_cast<std::ptrdiff_t>(size);
            const auto untouched = [](std::byte b) { return b == std::byte{0}; };
            CHECK(std::all_of(to.begin(), begin, untouched));
            CHECK(std::equal(begin, end, source));
            CHECK(std::all_of(end, to.end(), untouched));
        }
}
