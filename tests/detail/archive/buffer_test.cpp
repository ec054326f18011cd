// SPDX-License-Identifier: BSL-1.0
#include <atomic>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include <multiprocessing/detail/archive/buffer.hpp>
#include <multiprocessing/detail/archive/memory.hpp>

#include "support/catch.hpp"

namespace {

namespace mp = multiprocessing;
using mp::detail::decode_into;
using mp::detail::encode;

template <class... Ts>
std::vector<std::byte> message_of(const Ts&... values) {
    const auto message = encode(values...);
    std::vector<std::byte> all;
    for (const auto piece : message.pieces()) all.insert(all.end(), piece.begin(), piece.end());
    return all;
}

}  // namespace

TEST_CASE("archive: threads have buffers of their own", "[archive][threads]") {
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([t, &wrong] {
            for (int i = 0; i < 200; ++i) {
                const std::string text(static_cast<std::size_t>(i * 100),
                                       static_cast<char>('a' + t));
                std::string back;
                int number = -1;
                decode_into(message_of(text, t), back, number);
                if (back != text || number != t) ++wrong;
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
}

TEST_CASE("archive: a buffer that grew is not kept for ever", "[archive]") {
    using mp::detail::kept_buffer;
    const std::vector<std::string> large(30000, std::string(100, 'x'));
    CHECK(message_of(large).size() > 3'000'000);
    const auto* grown = kept_buffer::buffer;
    CHECK(grown != nullptr);
    for (int i = 0; i < 70; ++i) CHECK(message_of(i).size() == 4);
    std::vector<std::string> larger(200000, std::string(100, 'x'));
    CHECK(message_of(larger).size() > 16 << 20);
    CHECK(kept_buffer::buffer == nullptr);
}
