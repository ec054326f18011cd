// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/detail/pool/board.hpp>
#include <multiprocessing/detail/pool/ring_back.hpp>
#include <multiprocessing/detail/pool/worker.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "support/catch.hpp"

using namespace multiprocessing::detail;

namespace {

template <class T>
void add(std::vector<std::byte>& to, const T& value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    to.insert(to.end(), bytes.begin(), bytes.end());
}

std::string text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

TEST_CASE("unpack_task: a message cut short anywhere, or of another number, is refused", "[pool]") {
    const pool_board board(1);
    const callable_ref callable{1, 2, 3};
    for (const std::uint32_t how : {0u, packed_task::timed}) {
        std::vector<std::byte> message;
        add(message, packed_task{7, 8, 9, how});
        if (how != 0) add(message, std::int64_t{55});
        add(message, callable);
        const std::size_t head = message.size();
        add(message, std::uint64_t{0x6162636465666768});
        task_header task{};
        const auto parts = unpack_task(board, message, task);
        REQUIRE(parts);
        CHECK(task.index == 7);
        CHECK(task.generation == 8);
        CHECK(task.items == 9);
        CHECK(task.timeout == (how != 0 ? 55 : 0));
        CHECK(task.callable == callable);
        CHECK((*parts)[0].empty());
        CHECK(text((*parts)[1]) == "hgfedcba");
        for (std::size_t size = 0; size < head; ++size)
            CHECK_FALSE(unpack_task(board, std::span(message).first(size), task));
    }
    std::vector<std::byte> forged;
    add(forged, packed_task{7, 8, 9, pool_board::most_callables + 1});
    task_header task{};
    CHECK_FALSE(unpack_task(board, forged, task));
    forged.clear();
    add(forged, packed_task{pool_board::most_tasks, 8, 9, 1});
    CHECK_FALSE(unpack_task(board, forged, task));
}

TEST_CASE("known_callables: a number stands for a callable and the bytes behind it", "[pool]") {
    const pool_board board(1);
    known_callables known;
    int numbered = 0;
    for (int round = 0; round < 2; ++round)
        for (std::uint64_t i = 0; i < 1000; ++i) {
            const std::string front = "front of " + std::to_string(i);
            const callable_ref callable{i, i * 64, i};
            const std::uint32_t number =
                known.number(board, callable, std::as_bytes(std::span(front)));
            REQUIRE(number <= pool_board::most_callables);
            if (number == 0) continue;
            ++numbered;
            std::vector<std::byte> message;
            add(message, packed_task{1, 2, 3, number});
            task_header task{};
            const auto parts = unpack_task(board, message, task);
            REQUIRE(parts);
            CHECK(task.callable == callable);
            CHECK(text((*parts)[0]) == front);
            CHECK((*parts)[1].empty());
        }
    CHECK(numbered >= 2);
    CHECK(numbered <= static_cast<int>(2 * pool_board::most_callables));
    const std::vector<std::byte> large(sizeof(known_callable::front) + 1);
    CHECK(known.number(board, {1, 2, 3}, large) == 0);
    // What something else wrote there is not believed.
    board.callable(0).size = ~std::uint32_t{0};
    std::vector<std::byte> message;
    add(message, packed_task{1, 2, 3, 1});
    task_header task{};
    const auto parts = unpack_task(board, message, task);
    REQUIRE(parts);
    CHECK((*parts)[0].size() == sizeof(known_callable::front));
}
