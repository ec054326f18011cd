// SPDX-License-Identifier: BSL-1.0

/// \file
/// What goes into a pool's calls, and where it comes out: ranges of every kind, items that can't be
/// sent, order, what is begun and what is not.

#include <multiprocessing/pool.hpp>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/child.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

namespace {

int square(int x) { return x * x; }

std::vector<int> numbers(int n) {
    std::vector<int> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

struct point {
    int x = 0, y = 0;
    int sum() const { return x + y; }
};

/// One with the value 13 can't be sent.
struct unlucky {
    int value = 0;
    template <class Archive>
    void save(Archive& archive) const {
        if (value == 13) throw std::domain_error("thirteen");
        archive(value);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(value);
    }
};
int value_of(const unlucky& u) { return u.value; }
std::vector<unlucky> unluckies(int n) {
    std::vector<unlucky> all;
    for (int i = 0; i < n; ++i) all.push_back({i});
    return all;
}

/// Numbers from 0, read once; throws instead of the one given.
struct failing_range {
    int fails_at;
    struct iterator {
        using value_type = int;
        using difference_type = std::ptrdiff_t;
        int at, fails_at;
        int operator*() const {
            if (at == fails_at) throw std::out_of_range("read");
            return at;
        }
        iterator& operator++() {
            ++at;
            return *this;
        }
        void operator++(int) { ++at; }
        bool operator==(std::default_sentinel_t) const { return at > 1000; }
    };
    iterator begin() const { return {0, fails_at}; }
    std::default_sentinel_t end() const { return {}; }
};

/// Two vectors side by side: its reference is a tuple of references, as that of std::views::zip.
struct zipped {
    std::vector<int>& numbers;
    std::vector<bool>& flags;
    struct iterator {
        using value_type = std::tuple<int, bool>;
        using difference_type = std::ptrdiff_t;
        zipped* of;
        std::size_t at;
        std::tuple<int&, std::vector<bool>::reference> operator*() const {
            return {of->numbers[at], of->flags[at]};
        }
        iterator& operator++() {
            ++at;
            return *this;
        }
        void operator++(int) { ++at; }
        bool operator==(std::default_sentinel_t) const { return at == of->numbers.size(); }
    };
    iterator begin() { return {this, 0}; }
    std::default_sentinel_t end() { return {}; }
};
/// Its reference only stands for a pair.
struct squares_of {
    int count;
    struct stands_for {
        int i;
        operator std::pair<int, std::string>() const { return {i, std::to_string(i * i)}; }
    };
    struct iterator {
        using value_type = std::pair<int, std::string>;
        using difference_type = std::ptrdiff_t;
        int at, count;
        stands_for operator*() const { return {at}; }
        iterator& operator++() {
            ++at;
            return *this;
        }
        void operator++(int) { ++at; }
        bool operator==(std::default_sentinel_t) const { return at == count; }
    };
    iterator begin() const { return {0, count}; }
    std::default_sentinel_t end() const { return {}; }
};

struct counts {
    std::atomic<int> begun, failed, go;
};
counts& seen = test::shared_memory<counts>();

}  // namespace

TEST_CASE("Pool: map and imap take items that can only be moved, or read once, or are none",
          "[pool][imap]") {
    mp::Pool pool(2);
    const auto value = [](std::unique_ptr<int> p) { return *p; };
    const auto owned = [] {
        std::vector<std::unique_ptr<int>> all;
        for (int i = 0; i < 20; ++i) all.push_back(std::make_unique<int>(i));
        return all;
    };
    CHECK(pool.map(value, owned()) == numbers(20));
    CHECK(pool.map_async(value, owned()).get() == numbers(20));
    std::vector<int> got;
    for (const int one : pool.imap(value, owned())) got.push_back(one);
    CHECK(got == numbers(20));

    const auto made = pool.map([](int i) { return std::make_unique<int>(i); }, numbers(5));
    for (int i = 0; i < 5; ++i) CHECK(*made[static_cast<std::size_t>(i)] == i);
    for (auto&& one : pool.imap([](int i) { return std::make_unique<int>(i); }, numbers(3)))
        CHECK(*one < 3);

    struct words {
        std::istringstream text{"1 2 3 4 5"};
        auto begin() { return std::istream_iterator<int>(text); }
        auto end() { return std::istream_iterator<int>(); }
    };
    CHECK(pool.map(square, words()) == std::vector<int>{1, 4, 9, 16, 25});
    CHECK(pool.map_async(square, words()).get().size() == 5);
    int sum = 0;
    for (const int one : pool.imap(square, words())) sum += one;
    for (const int one : pool.imap_unordered(square, words())) sum += one;
    CHECK(sum == 110);

    const std::vector<int> none;
    for (const int one : pool.imap(square, none)) CHECK(one < 0);
    for (const int one : pool.imap_unordered(square, none)) CHECK(one < 0);
    CHECK(pool.starmap([](int a, int b) { return a + b; }, std::vector<std::pair<int, int>>{})
              .empty());
    CHECK(pool.map_async(square, none).get().empty());

    CHECK(pool.map(&point::sum, std::vector<point>{{1, 2}, {3, 4}}) == std::vector<int>{3, 7});
    CHECK(pool.starmap([](std::unique_ptr<int> p, int n) { return *p + n; },
                       [] {
                           std::vector<std::tuple<std::unique_ptr<int>, int>> all;
                           all.emplace_back(std::make_unique<int>(4), 5);
                           return all;
                       }()) == std::vector<int>{9});
}

TEST_CASE("Pool: the tuples of starmap may come as proxies", "[pool]") {
    mp::Pool pool(2);
    std::vector<int> some{1, 2, 3};
    std::vector<bool> flags{true, false, true};
    const auto pick = [](int a, bool b) { return b ? a : -a; };
    const std::vector<int> expected{1, -2, 3};
    CHECK(pool.starmap(pick, zipped{some, flags}) == expected);
    CHECK(pool.starmap_async(pick, zipped{some, flags}).get() == expected);
    CHECK(pool.starmap([](int i, const std::string& s) { return std::to_string(i) + s; },
                       squares_of{4}) == std::vector<std::string>{"00", "11", "24", "39"});
}

TEST_CASE("Pool: an argument that can't be sent fails alone", "[pool][error]") {
    mp::Pool pool(2);
    CHECK_THROWS_AS(pool.apply(value_of, unlucky{13}), std::domain_error);
    CHECK_THROWS_AS(pool.apply_async(value_of, unlucky{13}), std::domain_error);
    for (const std::size_t chunksize : {0u, 1u, 4u, 50u}) {
        int right = 0, failed = 0, index = 0;
        auto results = pool.imap(value_of, unluckies(20), {.chunksize = chunksize});
        for (auto it = results.begin(); it != results.end(); ++it, ++index) try {
                right += *it == index;
            } catch (const std::domain_error&) {
                CHECK(index == 13);
                ++failed;
            }
        CHECK(right == 19);
        CHECK(failed == 1);
        right = failed = 0;
        auto any = pool.imap_unordered(value_of, unluckies(20), {.chunksize = chunksize});
        for (auto it = any.begin(); it != any.end(); ++it) try {
                right += *it < 20;
            } catch (const std::domain_error&) {
                ++failed;
            }
        CHECK(right == 19);
        CHECK(failed == 1);
        CHECK_THROWS_AS(pool.map(value_of, unluckies(20), {.chunksize = chunksize}),
                        std::domain_error);
        CHECK_THROWS_AS(pool.map_async(value_of, unluckies(20), {.chunksize = chunksize}).get(),
                        std::domain_error);
    }
    CHECK(pool.map(value_of, unluckies(13)).size() == 13);
    CHECK(pool.apply(square, 3) == 9);
}

TEST_CASE("Pool: what a range fails with comes behind the items before it", "[pool][imap]") {
    mp::Pool pool(2);
    for (const std::size_t chunksize : {1u, 4u, 50u}) {
        auto results = pool.imap(square, failing_range{7}, {.chunksize = chunksize});
        int index = 0, failed = 0;
        for (auto it = results.begin(); it != results.end(); ++it) try {
                const int got = *it;
                CHECK(got == index * index);
                ++index;
            } catch (const std::out_of_range& e) {
                CHECK(std::string(e.what()) == "read");
                ++failed;
            }
        CHECK(index == 7);
        CHECK(failed == 1);
        CHECK_THROWS_AS(pool.map(square, failing_range{7}, {.chunksize = chunksize}),
                        std::out_of_range);
    }
    CHECK(pool.apply(square, 3) == 9);
}

TEST_CASE("Pool: map's failure is that of the lowest index, if others fail long before it",
          "[pool][error]") {
    mp::Pool pool(2);
    for (const std::size_t chunksize : {1u, 2u}) {
        seen.failed = 0;
        try {
            pool.map(
                [](int i) {
                    if (i == 3) {
                        test::eventually([] { return seen.failed != 0; });
                        test::pause_briefly(20ms);
                        throw std::runtime_error("3");
                    }
                    if (i > 5) {
                        ++seen.failed;
                        throw std::runtime_error(std::to_string(i));
                    }
                    return i;
                },
                numbers(100), {.chunksize = chunksize});
            FAIL("no exception");
        } catch (const std::runtime_error& e) {
            CHECK(std::string(e.what()) == "3");
        }
    }
    // Not even if the other was never sent.
    try {
        pool.map(
            [](const unlucky& u) {
                if (u.value == 3) throw std::runtime_error("3");
                return u.value;
            },
            unluckies(20), {.chunksize = 20});
        FAIL("no exception");
    } catch (const std::runtime_error& e) {
        CHECK(std::string(e.what()) == "3");
    }
}

TEST_CASE("Pool: behind a failure map begins nothing more", "[pool][error]") {
    mp::Pool pool(2);
    seen.begun = seen.failed = 0;
    CHECK_THROWS_AS(pool.map(
                        [](int i) {
                            ++seen.begun;
                            if (i == 5) {
                                ++seen.failed;
                                throw std::runtime_error("5");
                            }
                            if (i > 5) {
                                test::eventually([] { return seen.failed != 0; });
                                test::pause_briefly(1ms);
                            }
                            return i;
                        },
                        numbers(10'000), {.chunksize = 1}),
                    std::runtime_error);
    CHECK(seen.begun < 5000);
}

TEST_CASE("Pool: of an imap that is left nothing more is begun", "[pool][imap]") {
    for (const bool ordered : {true, false}) {
        seen.begun = seen.go = 0;
        mp::Pool pool(2);
        const auto stays = [](int i) {
            ++seen.begun;
            if (i != 0) test::eventually([] { return seen.go != 0; });
            return i;
        };
        if (ordered) {
            auto results = pool.imap(stays, numbers(1000), {.buffersize = 500});
            CHECK(*results.begin() == 0);
        } else {
            auto results = pool.imap_unordered(stays, numbers(1000), {.buffersize = 500});
            CHECK(*results.begin() == 0);
        }
        seen.go = 1;
        pool.close();
        pool.join();
        CHECK(seen.begun <= 3);
    }
}

TEST_CASE("Pool: results are the same to the last bit for any workers and chunks", "[pool]") {
    const auto wave = [](double x) {
        double sum = 0;
        for (int k = 1; k < 50; ++k) sum += std::sin(x * k) / k;
        return sum;
    };
    std::vector<double> in;
    for (int i = 0; i < 2000; ++i) in.push_back(i * 0.001);
    std::vector<double> expected;
    for (const double x : in) expected.push_back(wave(x));
    const auto same = [&](const std::vector<double>& got) {
        return got.size() == expected.size() &&
               std::memcmp(got.data(), expected.data(), got.size() * sizeof(double)) == 0;
    };
    for (const std::size_t workers : {1u, 2u, 3u}) {
        mp::Pool pool(workers);
        mp::ThreadPool threads(workers);
        for (const std::size_t chunksize : {0u, 1u, 13u, 5000u}) {
            CHECK(same(pool.map(wave, in, {.chunksize = chunksize})));
            CHECK(same(threads.map(wave, in, {.chunksize = chunksize})));
            std::vector<double> got;
            for (const double one : pool.imap(wave, in, {.chunksize = chunksize}))
                got.push_back(one);
            CHECK(same(got));
        }
    }
}
