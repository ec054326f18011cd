// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/sharedctypes.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <complex>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <mutex>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/pool.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

namespace {

struct account {
    long balance = 0;
    std::array<long, 30> history{};
};

struct parcel {
    mp::Value<int> value;
    mp::Array<double> array;
    mp::RawValue<account> raw;
    mp::RawArray<char> text;
};

void add(mp::Value<int>& value, int times) {
    for (int i = 0; i < times; ++i) {
        const std::lock_guard guard(value);
        value.value() += 1;
    }
}
int bump(mp::Value<int> value) {
    const std::lock_guard guard(value);
    return ++value.value();
}
double total(const mp::Array<double>& a) { return std::accumulate(a.begin(), a.end(), 0.0); }
int open_parcel(parcel& p) {
    p.value.value() += 1;
    p.array[0] = 2.5;
    p.raw.value().balance = -7;
    p.text[2] = 'z';
    return static_cast<int>(p.array.size());
}
int open_const_parcel(const parcel& p) {
    parcel same = p;
    return open_parcel(same);
}

int code_of(const std::function<void()>& f) {
    try {
        f();
    } catch (const mp::OsError& e) {
        return e.code().value();
    }
    return 0;
}
std::size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    std::size_t lines = 0;
    for (std::string line; std::getline(maps, line);) ++lines;
    return lines;
}

}  // namespace

TEST_CASE("Value: is zero, or what it was made from", "[value]") {
    CHECK(mp::Value<int>().value() == 0);
    CHECK(mp::Value<double>{2.5}.value() == 2.5);
    mp::Value<account> a({10, {}});
    CHECK(a.value().balance == 10);
    CHECK(a.get_obj().history[29] == 0);
    a.value({11, {}});
    CHECK(a.value().balance == 11);
    CHECK(mp::Value<std::complex<double>>().value() == 0.0);
    CHECK(mp::RawValue<long>().value() == 0);
    CHECK(mp::RawValue<long>(3).value() == 3);
    struct alignas(128) wide {
        char c;
    };
    const mp::Value<wide> w;
    CHECK(reinterpret_cast<std::uintptr_t>(&w.value()) % 128 == 0);
}

TEST_CASE("Value: is a lock of its own, as an RLock", "[value]") {
    mp::Value<int> hits{0};
    {
        const std::lock_guard guard(hits);
        hits.value() += 1;
        const std::lock_guard again(hits.get_lock());
        CHECK(hits.try_lock());
        CHECK(hits.locked());
        mp::Process p([&] {
            const bool taken = hits.acquire(1ms) || hits.try_lock() || hits.try_lock_for(1ms);
            ::_exit(taken ? 1 : 0);
        });
        p.start();
        p.join();
        CHECK(p.exitcode() == 0);
        hits.release();
    }
    CHECK_FALSE(hits.locked());
    CHECK_THROWS_AS(hits.release(), mp::ProcessError);
    CHECK(hits.acquire());
    hits.release();
    mp::Value<int> other;
    const std::scoped_lock both(hits, other);
    const std::unique_lock<mp::RLock> third(hits.get_lock());
    CHECK(third.owns_lock());
}

TEST_CASE("Value: increments under the lock are not lost, by processes and by threads", "[value]") {
    const test::no_leaks leaks;
    mp::Value<int> hits{0};
    mp::Process a(add, hits, 2000), b([hits]() mutable { add(hits, 2000); });
    a.start();
    b.start();
    add(hits, 2000);
    a.join();
    b.join();
    CHECK(hits.value() == 6000);
}

TEST_CASE("Value: increments by threads are not lost", "[value][threads]") {
    mp::Value<int> hits{0};
    std::thread other([&] { add(hits, 2000); });
    add(hits, 2000);
    other.join();
    CHECK(hits.value() == 4000);
}

TEST_CASE("RawValue: std::atomic_ref needs no lock", "[value]") {
    mp::RawValue<long> n(0);
    const auto work = [&] {
        for (int i = 0; i < 10'000; ++i) std::atomic_ref(n.value()).fetch_add(1);
    };
    mp::Process p(work);
    p.start();
    work();
    p.join();
    CHECK(n.value() == 20'000);
}

TEST_CASE("Value: a holder's death is told to the next one, until recover", "[value]") {
    const test::no_leaks leaks;
    mp::Value<account> a;
    mp::Process victim([&] {
        a.acquire();
        a.value().balance = 5;
        ::raise(SIGKILL);
    });
    victim.start();
    victim.join();
    CHECK(victim.exitcode() == -SIGKILL);
    CHECK_THROWS_AS(a.acquire(), mp::AbandonedLock);
    CHECK_THROWS_AS(a.try_lock(), mp::AbandonedLock);
    CHECK_THROWS_AS(a.get_lock().acquire(), mp::AbandonedLock);
    CHECK(a.locked());
    CHECK(a.value().balance == 5);
    a.recover();
    a.value().balance = 0;
    a.release();
    const std::lock_guard guard(a);
}

TEST_CASE("Value: may share a lock with others", "[value]") {
    const test::no_leaks leaks;
    const mp::RLock lock;
    mp::Value<int> a(1, lock);
    mp::Array<int> b(10, lock), c(std::vector{1, 2}, lock);
    CHECK(c[1] == 2);
    const std::lock_guard guard(a);
    CHECK(b.locked());
    CHECK(c.get_lock() == lock);
    mp::Queue<mp::Value<int>> values;
    mp::Queue<mp::Array<int>> arrays;
    mp::Queue<int> out;
    mp::Process p([&] {
        mp::Value<int> value = values.get();
        mp::Array<int> array = arrays.get();
        out.put(value.try_lock() || array.try_lock() ? 1 : 0);
        value.value() = 20;
        array[9] = 30;
        out.put(value.get_lock() == array.get_lock() ? 1 : 0);
    });
    p.start();
    const mp::Value<int> late(5, lock);
    const mp::Array<int> late_array(10, lock);
    values.put(late);
    arrays.put(late_array);
    CHECK(out.get() == 0);
    CHECK(out.get() == 1);
    CHECK(late.value() == 20);
    CHECK(late_array[9] == 30);
    p.join();
}

TEST_CASE("Array: is zero, or what it was made from; span-like and checked", "[array]") {
    const mp::Array<double> zero(1000);
    CHECK(zero.size() == 1000);
    CHECK(total(zero) == 0);
    mp::Array<int> a{3, 1, 2};
    const std::span<int> all = a;
    CHECK(all.size() == 3);
    std::ranges::sort(a);
    CHECK(a[0] == 1);
    CHECK(a.at(2) == 3);
    CHECK_THROWS_AS(a.at(3), std::out_of_range);
    CHECK(a.get_obj().data() == a.data());
    CHECK(mp::Array<int>(std::vector{1, 2}).size() == 2);
    CHECK(mp::Array<int>().empty());
    CHECK(code_of([] { mp::Array<int> negative(static_cast<std::size_t>(-1)); }) == ENOMEM);

    const mp::RawArray<char> raw(std::string("text"));
    CHECK(std::string(raw.begin(), raw.end()) == "text");
    CHECK(mp::RawArray<short>{1, 2}.at(1) == 2);
    CHECK_THROWS_AS((mp::RawArray<short>{1, 2}.at(2)), std::out_of_range);
    CHECK(mp::RawArray<int>().empty());
}

TEST_CASE("shared types: copies are the same object; moved from, they still are",
          "[value][array]") {
    mp::Value<int> v{1};
    mp::Value<int> copy = v, moved = std::move(copy);
    moved.value() = 2;
    CHECK(v.value() == 2);
    CHECK(copy == v);
    CHECK_FALSE(v == mp::Value<int>{2});
    mp::Array<int> a{1};
    const mp::Array<int> same = a;
    CHECK(same == a);
    CHECK_FALSE(a == mp::Array<int>{1});
    mp::RawValue<int> r{1};
    const mp::RawValue<int> s = std::move(r);
    CHECK(s == r);
    const mp::RawArray<int> t{1}, u = t;
    CHECK(t == u);
}

TEST_CASE("shared types: go to processes that were forked before they were made",
          "[value][array]") {
    const test::no_leaks leaks;
    mp::Queue<parcel> in;
    mp::Queue<int> out;
    mp::Process p([&] {
        parcel first = in.get();
        out.put(open_parcel(first));
    });
    p.start();
    mp::Pool pool(2);
    pool.apply(
        +[](int x) { return x; }, 1);

    mp::Value<int> hits{0};
    std::vector<mp::AsyncResult<int>> results;
    for (int i = 0; i < 50; ++i) results.push_back(pool.apply_async(bump, hits));
    for (auto& result : results) result.get();
    CHECK(hits.value() == 50);
    CHECK(pool.apply(total, mp::Array<double>{1.5, 2.5}) == 4);

    const parcel p1{mp::Value<int>{1}, mp::Array<double>(3), {}, mp::RawArray<char>(5)};
    in.put(p1);
    CHECK(out.get() == 3);
    CHECK(pool.apply(open_const_parcel, p1) == 3);
    CHECK(p1.value.value() == 3);
    CHECK(p1.array[0] == 2.5);
    CHECK(p1.raw.value().balance == -7);
    CHECK(p1.text[2] == 'z');
    p.join();
    CHECK(p.exitcode() == 0);
}

TEST_CASE("shared types: go by connection to a process that was forked before they were made",
          "[value][array]") {
    const test::no_leaks leaks;
    auto [here, there] = mp::Pipe<>();
    mp::Process p(
        [](mp::Connection<> c) {
            auto value = c.recv<mp::Value<int>>();
            value.acquire();
            value.value() += 1;
            auto array = c.recv<mp::Array<double>>();
            array.acquire();
            array[2] = 2.5;
            c.send(array.size());
            c.recv<int>();
            value.release();
            array.release();
            c.recv<mp::RawValue<account>>().value().balance = -7;
            c.recv<mp::RawArray<char>>()[4] = 'z';
            auto all = c.recv<parcel>();
            c.send(open_parcel(all));
        },
        std::move(there));
    p.start();
    mp::Value<int> value{1};
    here.send(value);
    mp::Array<double> array(3);
    here.send(array);
    CHECK(here.recv<std::size_t>() == 3);
    CHECK_FALSE(value.try_lock());
    CHECK_FALSE(array.try_lock());
    here.send(0);
    const mp::RawValue<account> raw;
    here.send(raw);
    const mp::RawArray<char> text(5);
    here.send(text);
    here.send(parcel{value, array, raw, text});
    CHECK(here.recv<int>() == 3);
    const std::scoped_lock both(value, array);
    CHECK(value.value() == 3);
    CHECK(array[0] == 2.5);
    CHECK(array[2] == 2.5);
    CHECK(raw.value().balance == -7);
    CHECK(text[2] == 'z');
    CHECK(text[4] == 'z');
    p.join();
    CHECK(p.exitcode() == 0);
}

TEST_CASE("shared types: a worker killed under a Value's lock abandons it for all", "[value]") {
    mp::Pool pool(2);
    mp::Value<int> v{0};
    auto crashed = pool.apply_async(
        +[](mp::Value<int>& value) {
            value.acquire();
            value.value() = 1;
            ::raise(SIGKILL);
            return 0;
        },
        v);
    CHECK_THROWS_AS(crashed.get(), mp::WorkerCrashed);
    CHECK_THROWS_AS(pool.apply(bump, v), mp::AbandonedLock);
    v.recover();
    v.release();
    CHECK(pool.apply(bump, v) == 2);
}

TEST_CASE("shared types: a handle of another type is refused", "[value][array]") {
    const auto bytes_of = [](const auto& object) {
        const mp::detail::encoded message = mp::detail::encode(object);
        std::vector<std::byte> bytes;
        for (const auto& piece : message.pieces())
            bytes.insert(bytes.end(), piece.begin(), piece.end());
        return bytes;
    };
    const mp::Value<int> v{1};
    const mp::RLock lock;
    const mp::RawArray<int> two{1, 2};
    CHECK_THROWS_AS((void)mp::detail::decode<mp::Value<float>>(bytes_of(v)), mp::Error);
    CHECK_THROWS_AS((void)mp::detail::decode<mp::Value<int>>(bytes_of(lock)), mp::Error);
    CHECK_THROWS_AS((void)mp::detail::decode<mp::Array<int>>(bytes_of(two)), mp::Error);
    CHECK_THROWS_AS((void)mp::detail::decode<mp::RawValue<int>>(bytes_of(two)), mp::Error);
    CHECK(mp::detail::decode<mp::Value<int>>(bytes_of(v)) == v);
}

TEST_CASE("shared types: 1,000 made and dropped leave everything as it was", "[value][array]") {
    const test::no_leaks leaks;
    const auto cycle = [] {
        const mp::Value<int> value{1};
        const mp::Array<int> array(100);
        const mp::RawValue<int> raw{1};
        const mp::RawArray<int> raws(100);
        const mp::Value<int> guarded(1, array.get_lock());
        const std::lock_guard guard(value);
    };
    for (int i = 0; i < 10; ++i) cycle();
    const std::size_t before = mappings();
    for (int i = 0; i < 1000; ++i) cycle();
    CHECK(mappings() <= before + 2);  // malloc may have taken some
}

TEST_CASE("shared types: one descriptor each; the last one gone is an OsError", "[value][array]") {
    test::child limited([] {
        const rlimit few{64, 64};
        ::setrlimit(RLIMIT_NOFILE, &few);
        for (int round = 0; round < 3; ++round) {
            std::vector<mp::Value<int>> values;
            std::vector<mp::Array<int>> arrays;
            std::vector<mp::RawValue<int>> raws;
            if (code_of([&] {
                    for (;;) values.emplace_back(1);
                }) != EMFILE)
                return 1;
            const std::size_t most = values.size();
            values.resize(most - 2);
            if (code_of([&] {
                    for (;;) arrays.emplace_back(10u);
                }) != EMFILE)
                return 2;
            if (arrays.size() != 2 || most < 30) return 3;
            arrays.clear();
            if (code_of([&] {
                    for (;;) raws.emplace_back(1);
                }) != EMFILE)
                return 4;
            if (raws.size() != 2) return 5;
        }
        return 0;
    });
    CHECK(limited.exit_status() == 0);
}
