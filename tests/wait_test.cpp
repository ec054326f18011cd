// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/connection.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <multiprocessing/pool.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;
using indices = std::vector<std::size_t>;

namespace {

int twice(int n) { return 2 * n; }
int after_a_while(int n) {
    ::usleep(20'000);
    return n;
}

/// Whether this process can open so many descriptors; says so if not.
bool can_open(rlim_t count) {
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    const rlimit more{std::max(count, files.rlim_max), std::max(count, files.rlim_max)};
    if (::setrlimit(RLIMIT_NOFILE, &more) == 0) return true;
    WARN("skipped: it takes " << count << " descriptors, and the hard limit is " << files.rlim_max);
    return false;
}

}  // namespace

TEST_CASE("wait: names all that are ready, and only those", "[wait]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<int>();
    auto [c, d] = mp::Pipe<>();
    mp::Queue<std::string> queue;
    mp::JoinableQueue<int> joinable;
    const int event = ::eventfd(0, EFD_CLOEXEC);
    mp::Process child([] { ::usleep(1000); });
    child.start();
    child.join();
    const auto ready = [&, &a = a, &b = b, &c = c](std::optional<mp::duration> timeout) {
        return mp::wait({a, b, queue, c, joinable, event}, timeout);
    };
    CHECK(ready(0s).empty());
    const auto begin = test::clock::now();
    CHECK(ready(20ms).empty());
    CHECK(test::clock::now() - begin >= 20ms);
    CHECK(ready(-1s).empty());
    b.send(1);
    CHECK(ready({}) == indices{0});
    CHECK(mp::wait({a}) == indices{0});
    queue.put("x");
    d.close();
    ::eventfd_write(event, 1);
    CHECK(ready({}) == indices{0, 2, 3, 5});
    CHECK(a.recv() == 1);
    CHECK(queue.get() == "x");
    joinable.put(1);
    CHECK(ready({}) == indices{3, 4, 5});
    CHECK(mp::wait({child, a, child.sentinel()}) == indices{0, 2});
    std::vector<mp::Waitable> some{a, b};
    CHECK(mp::wait(some, 0s).empty());
    ::close(event);
    CHECK_THROWS_AS(mp::wait({a, event}), mp::OsError);
    try {
        mp::wait({a, -1}, test::patience);
        FAIL("no error");
    } catch (const mp::OsError& e) {
        CHECK(e.code() == std::errc::bad_file_descriptor);
    }
    a.close();
    CHECK_THROWS_AS(mp::wait({b, a}), mp::ClosedError);
    CHECK(mp::wait({b}) == indices{0});
    CHECK(mp::wait(std::span<const mp::Waitable>(), 1ms).empty());
}

TEST_CASE("wait: wakes for a message, an item, a death and an end", "[wait][process]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<int>();
    mp::Queue<int> queue, go;
    mp::Process child(
        [queue, go](mp::Connection<int> c) mutable {
            go.get();
            c.send(1);
            go.get();
            queue.put(2);
            go.get();
        },
        std::move(b));
    child.start();
    const auto next = [&, &a = a] {
        std::thread later([&] {
            ::usleep(10'000);
            go.put(0);
        });
        const auto found = mp::wait({queue, a, child});
        later.join();
        return found;
    };
    CHECK(next() == indices{1});
    CHECK(a.recv() == 1);
    CHECK(next() == indices{0});
    CHECK(queue.get() == 2);
    const auto last = next();
    CHECK((last == indices{1} || last == indices{1, 2}));
    child.join();
    CHECK(mp::wait({queue, a, child}) == indices{1, 2});
}

TEST_CASE("wait: the killed process at the other end makes a connection ready", "[wait][process]") {
    auto [a, b] = mp::Pipe<int>();
    mp::Queue<int> started;
    const bool inherits = GENERATE(false, true);
    mp::Process child(
        [started, &copy = b, moved = inherits ? mp::Connection<int>() : std::move(b)]() mutable {
            if (!moved.closed()) copy = std::move(moved);
            static_cast<void>(copy.poll());
            started.put(1);
            copy.recv();
        });
    child.start();
    started.get();
    std::thread killer([&] {
        ::usleep(10'000);
        child.kill();
    });
    CHECK(mp::wait({a}) == indices{0});
    CHECK_THROWS_AS(a.recv(), mp::EndOfFile);
    killer.join();
    child.join();
}

TEST_CASE("wait: results of async and of pools", "[wait][pool]") {
    const test::no_leaks guard;
    auto one = mp::async(after_a_while, 1);
    auto none = mp::async([] { ::pause(); });
    mp::Pool pool(1);
    mp::ThreadPool threads(1);
    auto two = pool.apply_async(after_a_while, 2);
    auto three = threads.apply_async(after_a_while, 3);
    auto many = pool.map_async(twice, std::vector{1, 2, 3});
    std::vector<bool> seen(5);
    for (std::size_t i = 0; i < 4;) {
        const auto found = mp::wait({one, none, two, three, many}, test::patience);
        REQUIRE_FALSE(found.empty());
        i = found.size();
        for (const std::size_t index : found) seen[index] = true;
    }
    CHECK(seen == std::vector<bool>{true, false, true, true, true});
    CHECK(many.get() == std::vector{2, 4, 6});
    CHECK(mp::wait({none, two}) == indices{1});
    none.cancel();
    CHECK(mp::wait({none, two}) == indices{0, 1});
}

TEST_CASE("wait: a signal does not end it", "[wait][process][signal]") {
    const test::no_leaks guard;
    auto [a, b] = mp::Pipe<int>();
    mp::Queue<int> queue;
    test::interruptions signals;
    test::child waits([&, &end = b] {
        signals.count_here();
        if (mp::wait({queue, end}) != indices{1} || end.recv() != 1) return 1;
        if (mp::wait({queue, end}, 1h) != indices{0} || queue.get() != 2) return 2;
        return 0;
    });
    CHECK(signals.interrupt(waits));
    a.send(1);
    CHECK(signals.interrupt(waits));
    queue.put(2);
    CHECK(waits.exit_status() == 0);
}

TEST_CASE("wait: 1,000 things", "[wait]") {
    if (!can_open(6000)) return;
    std::vector<mp::Pipe<int>> pipes;
    for (int i = 0; i < 1000; ++i) pipes.emplace_back();
    std::vector<mp::Waitable> things;
    for (auto& pipe : pipes) things.emplace_back(pipe.first);
    CHECK(mp::wait(things, 1ms).empty());
    indices expected;
    for (const std::size_t i : {3u, 77u, 500u, 999u}) {
        pipes[i].second.send(1);
        expected.push_back(i);
    }
    CHECK(mp::wait(things) == expected);
    for (std::size_t i = 0; i < 1000; ++i)
        if (i % 7 == 0) pipes[i].second.close();
    for (const std::size_t i : expected) pipes[i].first.recv();
    CHECK(mp::wait(things).size() == 143);
}

TEST_CASE("wait: a thousand things of all kinds", "[wait][process][pool]") {
    if (!can_open(6000)) return;
    const test::no_leaks guard;
    mp::Queue<int> go;
    std::vector<mp::Process> processes;
    for (int i = 0; i < 6; ++i) {
        processes.emplace_back(mp::ProcessOptions{.daemon = true}, [] { ::pause(); });
        processes.back().start();
    }
    mp::Pool pool(1);
    std::vector<mp::AsyncResult<int>> results;  // one after the other, as many as `go` has items
    for (int i = 0; i < 94; ++i)
        results.push_back(pool.apply_async([](mp::Queue<int>& from) { return from.get(); }, go));
    std::vector<mp::Pipe<int>> pipes(300);
    std::vector<mp::Queue<int>> queues(300);
    std::vector<int> events;
    for (int i = 0; i < 300; ++i) events.push_back(::eventfd(0, EFD_CLOEXEC));

    std::vector<mp::Waitable> things;
    std::map<const void*, std::size_t> places;
    const auto add = [&](auto& some, std::size_t i) {
        if (i >= some.size()) return;
        places[&some[i]] = things.size();
        if constexpr (requires { some[i].first; })
            things.emplace_back(some[i].first);
        else
            things.emplace_back(some[i]);
    };
    for (std::size_t i = 0; i < 300; ++i) {
        add(pipes, i);
        add(results, i);
        add(queues, i);
        add(processes, i);
        add(events, i);
    }
    REQUIRE(things.size() == 1000);
    CHECK(mp::wait(things, 0s).empty());

    std::set<std::size_t> ready;
    const auto named = [&] { return indices(ready.begin(), ready.end()); };
    const auto change = [&](const auto& thing, bool now) {
        now ? void(ready.insert(places.at(&thing))) : void(ready.erase(places.at(&thing)));
    };
    pipes[299].second.send(1);
    change(pipes[299], true);
    CHECK(mp::wait(things) == named());
    for (std::size_t i = 0; i < 300; i += 7) {
        i % 2 == 0 ? pipes[i].second.send(1) : pipes[i].second.close();
        queues[i + 1].put(1);
        ::eventfd_write(events[i + 2], 1);
        change(pipes[i], true);
        change(queues[i + 1], true);
        change(events[i + 2], true);
    }
    for (std::size_t i = 0; i < 10; ++i) {
        go.put(1);
        results[i].wait();
        change(results[i], true);
    }
    for (std::size_t i = 1; i < 6; i += 2) {
        processes[i].kill();
        processes[i].join();
        change(processes[i], true);
    }
    CHECK(mp::wait(things) == named());
    CHECK(mp::wait(things, 0s) == named());
    for (std::size_t i = 0; i < 300; i += 14) {
        pipes[i].first.recv();
        queues[i + 1].get();
        eventfd_t n;
        ::eventfd_read(events[i + 2], &n);
        change(pipes[i], false);
        change(queues[i + 1], false);
        change(events[i + 2], false);
    }
    CHECK(ready.size() > 50);
    CHECK(mp::wait(things) == named());
    for (std::size_t i = 10; i < results.size(); ++i) go.put(1);
    for (const int event : events) ::close(event);
}
