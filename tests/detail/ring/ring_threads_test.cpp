// SPDX-License-Identifier: BSL-1.0

/// \file
/// The ring between threads over one mapping: ThreadSanitizer sees no race between processes.

#include "support/catch.hpp"

#include <atomic>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "small_ring.hpp"

using namespace test;

namespace {

struct note {
    int putter, number;
    std::size_t words;
};

/// `putters` threads put, `getters` get; each message whole, each putter's in order, none lost.
void exchange(detail::ring_limits limits, int putters, int getters, int messages) {
    const auto ring = make_ring(limits, 64);
    ring->patience = std::chrono::milliseconds(2);
    std::atomic<long> bad{0}, got{0}, sum{0};
    std::atomic<int> left{putters};
    // False when the deadline came or, for want of a maxsize, all segments are full.
    const auto put_note = [&](std::vector<int>& words, note n, deadline until) {
        std::memcpy(words.data(), &n, sizeof n);
        const std::array parts{
            std::as_bytes(std::span(words).first(2)),
            std::as_bytes(std::span(words).subspan(2, n.words - 2)),
        };
        try {
            return ring->put(parts, type_of_strings, until);
        } catch (const OsError& e) {
            if (e.code() != std::errc::not_enough_memory) throw;
            std::this_thread::yield();
            return false;
        }
    };
    std::vector<std::thread> threads;
    for (int p = 0; p < putters; ++p)
        threads.emplace_back([&, p] {
            std::vector<int> words(4096);
            for (int k = 0; k < messages; ++k) {
                const std::size_t size =
                    static_cast<std::size_t>(4 + (k * 7 + p) % 50 + (k % 97 == 0 ? 3000 : 0));
                for (std::size_t i = 4; i < size; ++i) words[i] = k * 31 + static_cast<int>(i);
                while (!put_note(words, {p, k, size},
                                 k % 3 ? soon() : deadline::after(std::chrono::milliseconds(1)))) {
                }
                (void)ring->qsize();
            }
            if (--left == 0)
                for (int i = 0; i < getters; ++i)
                    while (!put_note(words, {-1, 0, 4}, soon())) {
                    }
        });
    for (int g = 0; g < getters; ++g)
        threads.emplace_back([&] {
            std::vector<int> words, last(static_cast<std::size_t>(putters), -1);
            const auto copy = [&](std::uint64_t, std::span<const std::byte> bytes) {
                words.resize(bytes.size() / sizeof(int));
                std::memcpy(words.data(), bytes.data(), bytes.size());
            };
            for (int i = 0;; ++i) {
                if (!ring->get(i % 3 ? soon() : deadline::after(std::chrono::milliseconds(1)),
                               copy))
                    continue;
                note n;
                std::memcpy(&n, words.data(), sizeof n);
                if (n.putter == -1) break;
                int& before = last[static_cast<std::size_t>(n.putter)];
                if (words.size() != n.words || n.number <= before) ++bad;
                before = n.number;
                for (std::size_t w = 4; w < words.size(); ++w)
                    bad += words[w] != n.number * 31 + static_cast<int>(w);
                ++got;
                sum += n.number;
                if (!ring->task_done()) ++bad;
            }
        });
    for (auto& t : threads) t.join();
    CHECK(bad == 0);
    CHECK(got == long{messages} * putters);
    CHECK(sum == long{messages} * (messages - 1) / 2 * putters);
    CHECK(ring->qsize() == 0);
}

}  // namespace

TEST_CASE("ring: one thread puts, one gets", "[ring][threads]") { exchange({}, 1, 1, 5000); }
TEST_CASE("ring: three threads put, two get", "[ring][threads]") { exchange({}, 3, 2, 3000); }
TEST_CASE("ring: threads wait for maxsize", "[ring][threads]") {
    exchange({.maxsize = 3}, 3, 3, 2000);
}
TEST_CASE("ring: threads wait for a window", "[ring][threads]") {
    exchange({.window = 8192}, 2, 3, 2000);
}

TEST_CASE("ring: threads join what others report done", "[ring][threads]") {
    const auto ring = make_ring();
    std::atomic<int> joined{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 500; ++i) put(*ring, "x");
    for (int i = 0; i < 2; ++i) threads.emplace_back([&] { joined += ring->join(soon()); });
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&] {
            while (try_get(*ring)) ring->task_done();
        });
    for (auto& t : threads) t.join();
    CHECK(joined == 2);
}

TEST_CASE("ring: threads arm, ring and hush one bell", "[ring][bells][threads]") {
    const auto ring = make_ring();
    std::atomic<int> got{0};
    constexpr int messages = 2000;
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&] {
            for (int k = 0; k < messages / 2; ++k) put(*ring, "x");
        });
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&] {
            while (got < messages) {
                // Another may take the last message, so not for ever.
                detail::wait_readable(ring->fileno(),
                                      deadline::after(std::chrono::milliseconds(10)));
                while (try_get(*ring)) ++got;
            }
        });
    for (auto& t : threads) t.join();
    CHECK(got == messages);
    CHECK(!try_get(*ring));
    CHECK(!readable(ring->fileno()));
}

TEST_CASE("ring: close() from another thread ends those that wait", "[ring][threads]") {
    for (int round = 0; round < 20; ++round) {
        const auto ring = make_ring({.maxsize = 1});
        ring->patience = std::chrono::milliseconds(5);
        put(*ring, "x");
        std::atomic<int> closed{0}, started{0};
        const auto waits = [&](auto f) {
            return std::thread([&closed, &started, f] {
                ++started;
                try {
                    for (;;) f();
                } catch (const ClosedError&) {
                    ++closed;
                }
            });
        };
        std::vector<std::thread> threads;
        threads.push_back(waits([&] { put(*ring, "y", soon()); }));
        threads.push_back(waits([&] { put(*ring, "z", soon()); }));
        threads.push_back(waits([&] { ring->join(soon()); }));
        threads.push_back(waits([&] { ring->fileno(); }));
        threads.push_back(waits([&] { (void)ring->qsize(); }));
        while (started < 5) std::this_thread::yield();
        ring->close();
        for (auto& t : threads) t.join();
        CHECK(closed == 5);
    }
}

TEST_CASE("ring: the last handle goes while others of its region come", "[ring][threads]") {
    const auto ring = make_ring();
    const detail::region_handle handle = handle_of(*ring);
    std::atomic<int> failures{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
        threads.emplace_back([&] {
            for (int i = 0; i < 200; ++i) {
                const auto mine = small_ring::open(handle, "a ring");
                failures += mine != ring;
            }
        });
    for (auto& t : threads) t.join();
    CHECK(failures == 0);
}
