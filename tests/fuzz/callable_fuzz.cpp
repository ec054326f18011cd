// SPDX-License-Identifier: BSL-1.0
//
// Messages that name callables, whole and forged. The first byte says how the rest is used: as a
// message of its own, or as changes to a good one. Only a thunk of this program may ever run, and
// only with as many bytes as it asked for.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include <multiprocessing/detail/callable/descriptor.hpp>

using namespace multiprocessing;
using namespace multiprocessing::detail;

namespace {

struct calls {
    std::uint64_t sum = 0;
};

template <std::size_t N>
struct add_up {
    using output = calls;
    static constexpr std::size_t size = N;
    static void invoke(std::span<const std::byte> bytes, calls& out) {
        if (bytes.size() < N) std::abort();
        for (const std::byte b : bytes) out.sum += std::to_integer<std::uint64_t>(b);
    }
};

struct find_function {
    using output = calls;
    static constexpr std::size_t size = sizeof(place);
    static void invoke(std::span<const std::byte> bytes, calls& out) {
        place at;
        std::memcpy(&at, bytes.data(), sizeof at);
        // Found, not called: any code of the program may be named here.
        auto* const f = function_at<void (*)()>(at);
        out.sum += reinterpret_cast<const unsigned char*>(f)[0];  // it can be read
    }
};

void function() {}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const callable_ref good[] = {reference_to<add_up<0>>(), reference_to<add_up<1>>(),
                                        reference_to<add_up<100>>(), reference_to<find_function>()};
    static const place code = place_of(&function);
    if (size == 0) return 0;
    const std::uint8_t how = data[0];
    std::vector<std::byte> message;
    const auto append = [&](const void* from, std::size_t n) {
        const auto* const bytes = static_cast<const std::byte*>(from);
        message.insert(message.end(), bytes, bytes + n);
    };
    const std::uint8_t* rest = data + 1;
    std::size_t left = size - 1;
    if (how & 1) {
        append(&good[(how >> 1) & 3], sizeof(callable_ref));
        if (how & 8) append(&code, sizeof code);
        if (how & 16) {  // the input is added to it, byte by byte
            const std::size_t n = std::min(left, message.size());
            for (std::size_t i = 0; i < n; ++i)
                message[i] =
                    static_cast<std::byte>(std::to_integer<unsigned>(message[i]) + rest[i]);
            rest += n;
            left -= n;
        }
        if (how & 32) message.resize(std::min(message.size(), left));
    }
    append(rest, left);
    // A copy of the exact size, so that reading past its end is seen.
    const std::vector<std::byte> exact(message);
    calls out;
    try {
        call(exact, out);
    } catch (const UnknownCallable&) {
    }
    return 0;
}
