// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What the kernel says in small text files.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>

namespace multiprocessing::detail {

/// The first 4 KiB of a small text file of the kernel; empty if there is none.
inline std::string read_small_file(const std::string& path) {
    unique_fd fd(retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
    if (!fd) return {};
    std::array<char, 4096> text;
    const ssize_t size = retry([&] { return ::read(fd.get(), text.data(), text.size()); });
    return size > 0 ? std::string(text.data(), static_cast<std::size_t>(size)) : std::string();
}

/// Leading digits of `text` as a number; nothing for "max" and the like.
inline std::optional<std::uint64_t> leading_number(std::string_view text) {
    std::optional<std::uint64_t> value;
    for (const char c : text) {
        if (c < '0' || c > '9') break;
        value = 10 * value.value_or(0) + static_cast<std::uint64_t>(c - '0');
    }
    return value;
}

}  // namespace multiprocessing::detail
