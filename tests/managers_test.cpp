// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/managers.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <pthread.h>
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

struct Misfortune : std::runtime_error {
    Misfortune() : std::runtime_error("misfortune") {}
    explicit Misfortune(int n) : std::runtime_error("misfortune"), number(n) {}
    int number = 0;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(number);
    }
};

class Counter {
public:
    Counter() = default;
    explicit Counter(int start) : value_(start) {}
    Counter(int start, const std::string& name) : value_(start), name_(name) {}

    int add(int n) { return value_ += n; }
    void add(const std::string& digits) { value_ += std::stoi(digits); }
    void reset() noexcept { value_ = 0; }
    int value() const noexcept { return value_; }
    const std::string& name() const& { return name_; }
    std::string& name() & { return name_; }
    void append_to(std::vector<int>& out) const { out.push_back(value_); }
    std::vector<int> with(std::vector<int> all) const {
        all.push_back(value_);
        return all;
    }
    void fail(int how) const {
        if (how == 0) throw std::out_of_range("nothing there");
        if (how == 1) throw Misfortune(42);
        if (how == 2) throw mp::QueueEmpty("empty");
        throw how;
    }

    template <class Archive>
    void serialize(Archive& archive) {
        archive(value_, name_);
    }

    int open_member = 17;

private:
    int value_ = 0;
    std::string name_ = "counter";
};

struct Base {
    int twice(int n) { return 2 * n; }
};
struct Derived : Base {};

struct Point {
    int x = 0, y = 0;
};

/// Neither sendable nor copyable nor movable.
class Closed {
public:
    explicit Closed(std::unique_ptr<int> value) : value_(std::move(value)) {}
    Closed(const Closed&) = delete;
    std::unique_ptr<int> take() { return std::move(value_); }
    std::unique_ptr<int> exchange(std::unique_ptr<int> other) {
        return std::exchange(value_, std::move(other));
    }

private:
    std::unique_ptr<int> value_;
};

int scaled(Counter& counter, int factor) { return counter.value() * factor; }

/// Not safe for threads.
class Racy {
public:
    void add() {
        const int before = value_;
        for (int i = 0; i < 100; ++i) spin_ = i;
        value_ = before + 1;
    }
    int value() const { return value_; }

private:
    int value_ = 0;
    volatile int spin_ = 0;
};

/// Two calls that meet inside of it.
class Meeting {
public:
    using mp_concurrent_tag = void;
    int meet() {
        ++there_;
        test::eventually([&] { return there_.load() >= 2; });
        return there_;
    }

private:
    std::atomic<int> there_{0};
};

/// Tells through a file that it was destroyed.
class Mourned {
public:
    explicit Mourned(int fd) : fd_(fd) {}
    ~Mourned() { static_cast<void>(!::write(fd_, "x", 1)); }
    void touch() {}

private:
    int fd_;
};

class Slow {
public:
    using mp_concurrent_tag = void;
    Slow(int begun, int go) : begun_(begun), go_(go) {}
    void work() {
        static_cast<void>(!::write(begun_, "b", 1));
        char c;
        static_cast<void>(!::read(go_, &c, 1));
        done_ = true;
    }
    bool done() const { return done_; }

private:
    int begun_, go_;
    std::atomic<bool> done_{false};
};

/// Makes objects refer to each other inside of the server.
class Node {
public:
    void link(mp::Proxy<Node> next) { next_ = std::move(next); }
    mp::Proxy<Node> next() const { return next_.value(); }
    int depth() const { return next_ ? 1 + next_->call<&Node::depth>() : 0; }

private:
    std::optional<mp::Proxy<Node>> next_;
};

/// Its destructor is a call.
class Farewell {
public:
    explicit Farewell(mp::Proxy<Counter> told) : told_(std::move(told)) {}
    ~Farewell() {
        try {
            told_.call<&Counter::value>();
            told_.call<scaled>(1);
            told_.call<static_cast<int (Counter::*)(int)>(&Counter::add)>(1);
        } catch (...) {
        }
    }
    void touch() {}

private:
    mp::Proxy<Counter> told_;
};

class Stuck {
public:
    ~Stuck() {
        for (;;) ::pause();
    }
    void touch() {}
};

class Quitter {
public:
    void quit() { ::pthread_exit(nullptr); }
};

/// Runs something at the end of its thread.
struct at_thread_end {
    std::function<void()> run;
    ~at_thread_end() {
        if (run) run();
    }
};
thread_local at_thread_end last_words;

struct pipe_of {
    int in = -1, out = -1;
    pipe_of() {
        int fds[2];
        if (::pipe2(fds, O_CLOEXEC) != 0) test::give_up("pipe2");
        in = fds[0];
        out = fds[1];
    }
    ~pipe_of() {
        ::close(in);
        ::close(out);
    }
    bool wait() const {
        char c;
        return ::read(in, &c, 1) == 1;
    }
};

std::size_t entries(pid_t pid, const char* what) {
    std::size_t n = 0;
    const auto path = "/proc/" + std::to_string(pid) + "/" + what;
    for (const auto& entry : std::filesystem::directory_iterator(path)) n += entry.exists();
    return n;
}

/// A child that does one thing and then waits to be killed.
template <class F>
test::child held_child(const pipe_of& ready, F f) {
    return test::child([&ready, f] {
        f();
        static_cast<void>(!::write(ready.out, "r", 1));
        for (;;) ::pause();
        return 0;
    });
}

}  // namespace
MP_REGISTER_EXCEPTION(Misfortune);

TEST_CASE("manager: any public method of a hosted object can be called", "[managers]") {
    const test::no_leaks guard;
    mp::Manager manager;
    const auto c = manager.create<Counter>(5);
    CHECK(c.call<static_cast<int (Counter::*)(int)>(&Counter::add)>(3) == 8);
    c.call<static_cast<void (Counter::*)(const std::string&)>(&Counter::add)>("4");
    CHECK(c.call<&Counter::value>() == 12);
    static_assert(std::is_same_v<decltype(c.call<&Counter::value>()), int>);
    CHECK(c.call<static_cast<std::string& (Counter::*)()&>(&Counter::name)>() == "counter");
    CHECK(c.call<static_cast<const std::string& (Counter::*)() const&>(&Counter::name)>() ==
          "counter");
    CHECK(c.call<&Counter::with>(std::vector<int>{1}) == std::vector{1, 12});
    std::vector<int> mine;
    c.call<&Counter::append_to>(mine);
    CHECK(mine.empty());
    CHECK(c.call<&Counter::open_member>() == 17);
    CHECK(c.call<&scaled>(2) == 24);
    c.call<&Counter::reset>();
    CHECK(c.call<&Counter::value>() == 0);
    const auto named = manager.create<Counter>(1, "a name");
    CHECK(named.get().name() == "a name");
    CHECK(manager.create<Counter>().get().value() == 0);
    CHECK(manager.create<Derived>().call<&Derived::twice>(4) == 8);
    CHECK(manager.create<Point>(1, 2).get().y == 2);
}

TEST_CASE("manager: objects and arguments need not be copyable", "[managers]") {
    mp::Manager manager;
    const auto closed = manager.create<Closed>(std::make_unique<int>(3));
    CHECK(*closed.call<&Closed::exchange>(std::make_unique<int>(4)) == 3);
    CHECK(*closed.call<&Closed::take>() == 4);
    CHECK(closed.call<&Closed::take>() == nullptr);
}

TEST_CASE("manager: exceptions of a method keep their type", "[managers]") {
    mp::Manager manager;
    const auto c = manager.create<Counter>();
    CHECK_THROWS_AS(c.call<&Counter::fail>(0), std::out_of_range);
    CHECK_THROWS_AS(c.call<&Counter::fail>(2), mp::QueueEmpty);
    try {
        c.call<&Counter::fail>(1);
        FAIL("nothing was thrown");
    } catch (const Misfortune& e) {
        CHECK(e.number == 42);
    }
    try {
        c.call<&Counter::fail>(3);
        FAIL("nothing was thrown");
    } catch (const mp::RemoteError& e) {
        CHECK(e.type() == "int");
        CHECK(e.worker_pid() == manager.pid());
    }
    CHECK(c.call<&Counter::value>() == 0);  // goes on
}

TEST_CASE("manager: a dict has Python's calls", "[managers]") {
    mp::Manager manager;
    const auto d = manager.dict<std::string, int>();
    d["a"] = 1;
    d.set("b", 2);
    const int a = d["a"];
    CHECK(a == 1);
    CHECK(d["b"] == 2);
    CHECK(d.get("b") == 2);
    CHECK(d.get("c") == std::nullopt);
    CHECK(d.get("c", 7) == 7);
    CHECK(d.at("a") == 1);
    CHECK_THROWS_AS(d.at("c"), std::out_of_range);
    CHECK(d.setdefault("a", 9) == 1);
    CHECK(d.setdefault("z", 9) == 9);
    CHECK(d.contains("z"));
    CHECK(d.erase("z"));
    CHECK_FALSE(d.erase("z"));
    d.update({{"b", 20}, {"c", 30}});
    d.update(std::map<std::string, int>{{"d", 40}});
    d.update(std::vector<std::pair<std::string, int>>{{"e", 50}});
    CHECK(d.copy() ==
          std::map<std::string, int>{{"a", 1}, {"b", 20}, {"c", 30}, {"d", 40}, {"e", 50}});
    CHECK(d.keys() == std::vector<std::string>{"a", "b", "c", "d", "e"});
    CHECK(d.values() == std::vector{1, 20, 30, 40, 50});
    CHECK(d.items().at(1) == std::pair<std::string, int>{"b", 20});
    int sum = 0;
    for (const auto& [key, value] : d) {
        sum += value;
        d.erase(key);  // of a copy
    }
    CHECK(sum == 141);
    CHECK(d.size() == 0);
    d["x"] = 3;
    CHECK(d.pop("x") == 3);
    CHECK(d.pop("x", 4) == 4);
    CHECK_THROWS_AS(d.pop("x"), std::out_of_range);
    CHECK_THROWS_AS(d.popitem(), std::out_of_range);
    d["x"] = 5;
    CHECK(d.popitem() == std::pair<std::string, int>{"x", 5});
    d["x"] = 5;
    d.clear();
    CHECK(d.empty());
    CHECK(manager.dict<int, int>({{1, 2}}).at(1) == 2);
}

TEST_CASE("manager: a list has Python's calls", "[managers]") {
    mp::Manager manager;
    const auto l = manager.list<int>({3, 1});
    l.append(2);
    l.extend(std::vector{5, 4});
    l.extend({6});
    CHECK(l.copy() == std::vector{3, 1, 2, 5, 4, 6});
    CHECK(l.at(0) == 3);
    CHECK(l.at(-1) == 6);
    l[0] = 30;
    CHECK(l[0] == 30);
    CHECK_THROWS_AS(l.at(6), std::out_of_range);
    CHECK_THROWS_AS(l.set(-7, 0), std::out_of_range);
    l.insert(0, 0);
    l.insert(100, 7);
    l.insert(-1, 65);
    CHECK(l.copy() == std::vector{0, 30, 1, 2, 5, 4, 6, 65, 7});
    CHECK(l.pop() == 7);
    CHECK(l.pop(0) == 0);
    l.remove(65);
    CHECK_THROWS_AS(l.remove(65), std::invalid_argument);
    CHECK(l.index(2) == 2);
    CHECK(l.count(2) == 1);
    l.sort();
    CHECK(l.copy() == std::vector{1, 2, 4, 5, 6, 30});
    l.reverse();
    CHECK(l.at(0) == 30);
    int sum = 0;
    for (const int each : l) sum += each;
    CHECK(sum == 48);
    CHECK(l.size() == 6);
    l.clear();
    CHECK(l.empty());
    CHECK_THROWS_AS(l.pop(), std::out_of_range);
}

TEST_CASE("manager: a set and a Namespace have Python's calls", "[managers]") {
    mp::Manager manager;
    const auto s = manager.set<int>({1});
    CHECK(s.add(2));
    CHECK_FALSE(s.add(2));
    s.update(std::vector{3, 4});
    CHECK(s.contains(4));
    CHECK(s.discard(4));
    CHECK_FALSE(s.discard(4));
    CHECK_THROWS_AS(s.remove(4), std::out_of_range);
    CHECK(s.pop() == 1);
    s.intersection_update(std::vector{3, 9});
    CHECK(s.copy() == std::set{3});
    CHECK(s.size() == 1);

    const auto ns = manager.Namespace();
    ns.set("x", 1);
    ns.set("name", "text");
    ns.set("all", std::vector{1, 2});
    CHECK(ns.get<int>("x") == 1);
    CHECK(ns.get<std::string>("name") == "text");
    CHECK(ns.get<std::vector<int>>("all").size() == 2);
    ns.set("x", 2.5);
    CHECK(ns.get<double>("x") == 2.5);
    CHECK_THROWS_AS(ns.get<int>("x"), mp::SerializationError);
    CHECK_THROWS_AS(ns.get<int>("y"), std::out_of_range);
    CHECK(ns.names() == std::vector<std::string>{"all", "name", "x"});
    ns.erase("x");
    CHECK_FALSE(ns.contains("x"));
}

TEST_CASE("manager: a queue that blocks one caller blocks no other", "[managers]") {
    mp::Manager manager;
    const auto q = manager.Queue<std::string>(1);
    CHECK_THROWS_AS(q.get_nowait(), mp::QueueEmpty);
    CHECK_THROWS_AS(q.get(1ms), mp::QueueEmpty);
    CHECK(q.try_get() == std::nullopt);
    CHECK(q.try_get_for(1ms) == std::nullopt);
    const auto answers = manager.Queue<std::string>();
    std::thread getter([&] { answers.put("got " + q.get()); });
    CHECK(q.empty());  // while that one waits
    q.put("one");
    CHECK(answers.get() == "got one");
    getter.join();
    q.put("two");
    CHECK_THROWS_AS(q.put_nowait("three"), mp::QueueFull);
    CHECK_THROWS_AS(q.put("three", 1ms), mp::QueueFull);
    CHECK_FALSE(q.try_put("three"));
    std::thread putter([&] { q.put("three"); });
    CHECK(q.get() == "two");
    putter.join();
    CHECK(q.get() == "three");
    CHECK(q.empty());

    const auto j = manager.JoinableQueue<int>();
    j.put(1);
    CHECK_FALSE(j.join(1ms));
    std::thread worker([&] {
        j.get();
        j.task_done();
    });
    j.join();
    worker.join();
    CHECK(j.join(0s));
    CHECK_THROWS_AS(j.task_done(), mp::Error);
}

TEST_CASE("manager: close of a queue ends what this process waits for", "[managers]") {
    mp::Manager manager;
    const auto q = manager.Queue<int>();
    const auto other = manager.Queue<int>();
    pipe_of ready;
    std::atomic<int> closed{0};
    std::vector<std::thread> getters;
    for (int i = 0; i < 2; ++i)
        getters.emplace_back([&] {
            try {
                q.get();
            } catch (const mp::ClosedError&) {
                ++closed;
            }
        });
    test::child waits([&] { return q.get(); });  // another process goes on
    CHECK(waits.wait_asleep());
    q.close();
    for (auto& t : getters) t.join();
    CHECK(closed == 2);
    CHECK_THROWS_AS(q.put(1), mp::ClosedError);
    CHECK_THROWS_AS(q.qsize(), mp::ClosedError);
    other.put(1);
    CHECK(other.get() == 1);
    test::child puts([&] {
        q.put(7);
        return 0;
    });
    CHECK(puts.exit_status() == 0);
    CHECK(waits.exit_status() == 7);
}

TEST_CASE("manager: a proxy that is received after close() of another is open", "[managers]") {
    mp::Manager manager;
    auto kept = manager.Namespace();
    kept.set("queue", manager.Queue<int>());
    for (int i = 0; i < 20; ++i) {
        const auto q = kept.get<mp::QueueProxy<int>>("queue");
        CHECK_THROWS_AS(q.get(std::chrono::milliseconds(1)), mp::QueueEmpty);
        q.close();
        const auto again = kept.get<mp::QueueProxy<int>>("queue");
        CHECK_THROWS_AS(again.get(std::chrono::milliseconds(1)), mp::QueueEmpty);
        again.put(i);
        CHECK(again.get() == i);
        CHECK_THROWS_AS(q.get(), mp::ClosedError);
    }
}

TEST_CASE("manager: items of a queue need not be copyable", "[managers]") {
    mp::Manager manager;
    const auto q = manager.Queue<std::unique_ptr<int>>(1);
    q.put(std::make_unique<int>(5));
    CHECK_FALSE(q.try_put(nullptr));
    CHECK(*q.get() == 5);
}

TEST_CASE("manager: a lock belongs to the thread that took it", "[managers]") {
    mp::Manager manager;
    const auto lock = manager.Lock();
    {
        const std::lock_guard guard(lock);
        CHECK(lock.locked());
        CHECK_THROWS_AS(lock.acquire(), mp::ProcessError);
        CHECK_FALSE(lock.acquire(1ms));
        CHECK_FALSE(lock.try_lock());
        std::thread([&] {
            CHECK_FALSE(lock.try_lock());
            CHECK_FALSE(lock.acquire(1ms));
            CHECK_THROWS_AS(lock.release(), mp::ProcessError);
        }).join();
    }
    CHECK_FALSE(lock.locked());
    CHECK_THROWS_AS(lock.release(), mp::ProcessError);
    CHECK_THROWS_AS((lock.acquire(), lock.recover()), mp::ProcessError);
    lock.release();
    {
        const auto r = manager.RLock();
        const std::scoped_lock both(r, lock);
        const std::lock_guard again(r);
        std::thread([&] { CHECK_FALSE(r.try_lock()); }).join();
    }
    // Counted under it: nobody else is in there.
    const auto n = manager.Value<int>(0);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            for (int i = 0; i < 50; ++i) {
                const std::lock_guard guard(lock);
                n.set(n.get() + 1);
            }
        });
    for (auto& t : threads) t.join();
    CHECK(n.value() == 200);
}

TEST_CASE("manager: who dies with a lock abandons it, and all are told (K1)", "[managers][kill]") {
    mp::Manager manager;
    const auto lock = manager.Lock();
    pipe_of ready;
    auto holder = held_child(ready, [&] { lock.acquire(); });
    REQUIRE(ready.wait());
    std::atomic<int> told{0};
    std::vector<std::thread> waiters;
    for (int i = 0; i < 3; ++i)
        waiters.emplace_back([&] {
            try {
                lock.acquire();
            } catch (const mp::AbandonedLock&) {
                ++told;
            }
        });
    holder.kill();
    for (auto& t : waiters) t.join();
    CHECK(told == 3);
    CHECK(lock.locked());
    CHECK_THROWS_AS(lock.try_lock(), mp::AbandonedLock);
    lock.recover();
    lock.release();
    CHECK_FALSE(lock.locked());
    {  // the end of a thread is one, too
        std::thread([&] { lock.acquire(); }).join();
        CHECK_THROWS_AS(lock.acquire(), mp::AbandonedLock);
        CHECK(lock.recover(10s));
        lock.release();
    }
    const auto value = manager.Value<int>(1);
    auto second = held_child(ready, [&] { value.acquire(); });
    REQUIRE(ready.wait());
    second.kill();
    CHECK_THROWS_AS(value.acquire(), mp::AbandonedLock);
    CHECK(value.get() == 1);
}

TEST_CASE("manager: what a dead client waited for goes to the next one (K1)", "[managers][kill]") {
    mp::Manager manager;
    const auto q = manager.Queue<int>();
    const auto lock = manager.Lock();
    const auto units = manager.Semaphore(0);
    lock.acquire();
    for (int round = 0; round < 3; ++round) {
        test::child gets([&] { return q.get(); });
        test::child locks([&] { return lock.acquire(), 0; });
        test::child takes([&] { return units.acquire(), 0; });
        CHECK(gets.wait_asleep());
        CHECK(locks.wait_asleep());
        CHECK(takes.wait_asleep());
        if (round == 1) ::usleep(10'000);  // behind the first milliseconds they sleep otherwise
        gets.kill();
        locks.kill();
        takes.kill();
        q.put(round);
        units.release();
        lock.release();
        CHECK(q.get(test::patience) == round);
        CHECK(units.try_acquire_for(test::patience));
        CHECK(lock.acquire(test::patience));
    }
    lock.release();
}

TEST_CASE("manager: semaphores and events", "[managers]") {
    mp::Manager manager;
    const auto s = manager.Semaphore(2);
    s.acquire();
    CHECK(s.try_acquire());
    CHECK_FALSE(s.try_acquire());
    CHECK_FALSE(s.acquire(1ms));
    CHECK(s.locked());
    std::thread other([&] { s.release(2); });
    s.acquire();
    other.join();
    CHECK(s.value() == 1);
    const auto b = manager.BoundedSemaphore(1);
    CHECK_THROWS_AS(b.release(), mp::Error);
    b.acquire();
    b.release();
    CHECK(b.value() == 1);

    const auto e = manager.Event();
    CHECK_FALSE(e.is_set());
    CHECK_FALSE(e.wait(1ms));
    test::child waits([&] { return e.wait() ? 0 : 1; });
    CHECK(waits.wait_asleep());
    e.set();
    CHECK(waits.exit_status() == 0);
    CHECK(e.wait());
    e.clear();
    CHECK_FALSE(e.is_set());
}

TEST_CASE("manager: a condition wakes as many as it was told to", "[managers]") {
    mp::Manager manager;
    const auto lock = manager.Lock();
    const auto c = manager.Condition(lock);
    const auto awake = manager.Value<int>(0);
    const auto asleep = manager.Value<int>(0);
    std::vector<mp::Process> waiters;
    for (int i = 0; i < 3; ++i) {
        waiters.emplace_back([=] {
            std::unique_lock guard(lock);
            asleep.set(asleep.get() + 1);
            c.wait(guard);
            awake.set(awake.get() + 1);
        });
        waiters.back().start();
    }
    const auto count = [&](const mp::ValueProxy<int>& of) {
        const std::lock_guard guard(lock);
        return of.get();
    };
    REQUIRE(test::eventually([&] { return count(asleep) == 3; }));
    c.notify(2);
    REQUIRE(test::eventually([&] { return count(awake) == 2; }));
    CHECK(count(awake) == 2);
    c.notify_all();
    for (auto& each : waiters) each.join();
    CHECK(awake.get() == 3);

    const auto own = manager.Condition();
    CHECK_THROWS_AS(own.wait(), mp::ProcessError);
    const std::lock_guard once(own);
    const std::lock_guard twice(own);
    CHECK_FALSE(own.wait(1ms));
    CHECK_FALSE(own.wait_for([] { return false; }, 1ms));
    std::thread notifies([&] {
        const std::lock_guard guard(own);  // both were given back
        own.notify();
    });
    CHECK(own.wait());
    notifies.join();
}

TEST_CASE("manager: a notify passes over the dead", "[managers][kill]") {
    mp::Manager manager;
    const auto c = manager.Condition();
    const auto there = manager.Semaphore(0);
    const auto wait_once = [&] {
        const std::lock_guard guard(c);
        there.release();
        c.wait();
        return 0;
    };
    test::child first(wait_once);
    there.acquire();
    { const std::lock_guard guard(c); }  // so it waits by now
    test::child second(wait_once);
    there.acquire();
    { const std::lock_guard guard(c); }
    CHECK(first.wait_asleep());
    first.kill();
    c.notify();
    CHECK(second.exit_status() == 0);
}

TEST_CASE("manager: a barrier lets all go, and breaks", "[managers][kill]") {
    mp::Manager manager;
    const auto b = manager.Barrier(3);
    const auto seen = manager.set<std::size_t>();
    std::vector<mp::Process> parties;
    for (int i = 0; i < 2; ++i)
        parties
            .emplace_back([=] {
                for (int round = 0; round < 20; ++round) seen.add(b.wait());
            })
            .start();
    for (int round = 0; round < 20; ++round) seen.add(b.wait());
    for (auto& each : parties) each.join();
    CHECK(seen.copy() == std::set<std::size_t>{0, 1, 2});
    CHECK(b.parties() == 3);
    CHECK(b.n_waiting() == 0);
    CHECK_THROWS_AS(b.wait(1ms), mp::BrokenBarrier);
    CHECK(b.broken());
    CHECK_THROWS_AS(b.wait(), mp::BrokenBarrier);
    b.reset();
    CHECK_FALSE(b.broken());

    test::child dies([&] { return static_cast<int>(b.wait()); });
    REQUIRE(test::eventually([&] { return b.n_waiting() == 1; }));
    std::thread told([&] { CHECK_THROWS_AS(b.wait(), mp::BrokenBarrier); });
    REQUIRE(test::eventually([&] { return b.n_waiting() == 2; }));
    dies.kill();
    told.join();
    b.reset();
    std::thread waits([&] { CHECK_THROWS_AS(b.wait(), mp::BrokenBarrier); });
    REQUIRE(test::eventually([&] { return b.n_waiting() == 1; }));
    b.reset();
    waits.join();
    b.abort();
    CHECK(b.broken());
    CHECK_THROWS_AS(manager.Barrier(0), mp::Error);
}

TEST_CASE("manager: values and arrays", "[managers]") {
    mp::Manager manager;
    const auto v = manager.Value<std::string>("one");
    v.set("two");
    CHECK(v.get() == "two");
    {
        const std::lock_guard guard(v.get_lock());
        v.value(v.value() + "!");
    }
    CHECK(v.get() == "two!");
    const auto a = manager.Array<double>(3);
    a[1] = 2.5;
    CHECK(a[1] == 2.5);
    a.assign(std::vector{7.0, 8.0}, 1);
    CHECK(a.copy() == std::vector{0.0, 7.0, 8.0});
    CHECK_THROWS_AS(a.at(3), std::out_of_range);
    CHECK_THROWS_AS(a.assign(std::vector{1.0, 2.0}, 2), std::out_of_range);
    double sum = 0;
    for (const double each : a) sum += each;
    CHECK(sum == 15);
    CHECK(manager.Array<int>({1, 2, 3}).size() == 3);
}

TEST_CASE("manager: calls of one object take turns, unless it says otherwise", "[managers]") {
    mp::Manager manager;
    const auto racy = manager.create<Racy>();
    const auto meeting = manager.create<Meeting>();
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            for (int i = 0; i < 500; ++i) racy.call<&Racy::add>();
        });
    for (auto& t : threads) t.join();
    CHECK(racy.call<&Racy::value>() == 2000);
    std::thread other([&] { meeting.call<&Meeting::meet>(); });
    CHECK(meeting.call<&Meeting::meet>() == 2);
    other.join();
}

TEST_CASE("manager: a destructor of an object may call other objects", "[managers]") {
    mp::Manager manager;
    const auto told = manager.create<Counter>(0);
    const auto says = [&](int n) {
        return test::eventually([&] { return told.call<&Counter::value>() == n; });
    };
    { const auto released = manager.create<Farewell>(told); }
    CHECK(says(1));
    {
        auto bequeathed = manager.create<Farewell>(told);
        mp::Process heir([](const mp::Proxy<Farewell>&) { ::_exit(0); }, std::move(bequeathed));
        heir.start();
        bequeathed = {};
        heir.join();
    }
    CHECK(says(2));
    std::thread([&] { CHECK(told.call<&Counter::value>() == 2); }).join();  // a new channel
}

TEST_CASE("manager: a destructor that does not return holds up nobody", "[managers]") {
    mp::Manager manager;
    { const auto stuck = manager.create<Stuck>(); }
    for (int i = 0; i < 1000; ++i) static_cast<void>(manager.Event());
    CHECK(test::eventually([&] { return manager.number_of_objects() == 0; }));
    manager.shutdown();
}

TEST_CASE("manager: a method that ends its thread ends no other", "[managers]") {
    mp::Manager manager;
    const auto quitter = manager.create<Quitter>();
    std::thread([&] { CHECK_THROWS_AS(quitter.call<&Quitter::quit>(), mp::EndOfFile); }).join();
    CHECK(manager.number_of_objects() == 1);
    CHECK_THROWS_AS(quitter.call<&Quitter::quit>(), mp::EndOfFile);
    std::thread([&] { CHECK(manager.number_of_objects() == 1); }).join();
}

TEST_CASE("manager: destructors of thread_local objects may call", "[managers]") {
    mp::Manager manager;
    const auto lock = manager.Lock();
    const auto items = manager.list<int>({1, 2, 3});
    std::size_t size = 0;
    std::thread([&] {
        last_words.run = [&] {
            size = items.size();
            lock.acquire();
        };
        CHECK(items.size() == 3);
    }).join();
    CHECK(size == 3);
    CHECK_THROWS_AS(lock.acquire(std::chrono::seconds(60)), mp::AbandonedLock);
    const std::size_t threads = entries(manager.pid(), "task");
    for (int i = 0; i < 10; ++i)
        std::thread([&] { last_words.run = [&] { size = items.size(); }; }).join();
    CHECK(test::eventually([&] { return entries(manager.pid(), "task") <= threads; }));
}

TEST_CASE("manager: destructors of static objects may call", "[managers]") {
    auto& said = test::shared_memory<std::atomic<std::size_t>>();
    mp::Manager manager;
    const auto items = manager.list<int>({1, 2, 3});
    mp::Process process([&] {
        struct at_exit {
            mp::ListProxy<int> items;
            std::atomic<std::size_t>& said;
            ~at_exit() { said = items.size(); }
        };
        static at_exit last{items, said};
        last.items.size();
    });
    process.start();
    process.join();
    CHECK(process.exitcode() == 0);
    CHECK(said == 3);
}

TEST_CASE("manager: what waits needs no descriptors", "[managers]") {
    if (test::address_sanitizer) return;  // UBSan reads memory through a pipe
    mp::Manager manager;
    const auto condition = manager.Condition();
    const auto barrier = manager.Barrier(2);
    condition.acquire();
    rlimit old{};
    REQUIRE(::prlimit(manager.pid(), RLIMIT_NOFILE, nullptr, &old) == 0);
    const rlimit none{6, old.rlim_max};  // poll() of more would fail, too
    REQUIRE(::prlimit(manager.pid(), RLIMIT_NOFILE, &none, nullptr) == 0);
    CHECK_FALSE(condition.wait(20ms));
    condition.release();
    CHECK_THROWS_AS(barrier.wait(20ms), mp::BrokenBarrier);
    CHECK(barrier.broken());
    CHECK(::prlimit(manager.pid(), RLIMIT_NOFILE, &old, nullptr) == 0);
}

TEST_CASE("manager: the last proxy frees the object", "[managers]") {
    const pipe_of freed;
    mp::Manager manager;
    CHECK(manager.number_of_objects() == 0);
    {
        auto one = manager.create<Mourned>(freed.out);
        auto two = one;
        CHECK(one == two);
        CHECK_FALSE(one == manager.create<Mourned>(freed.out));
        CHECK(freed.wait());
        one = {};
        two.call<&Mourned::touch>();
        CHECK(manager.number_of_objects() == 1);
        CHECK_THROWS_AS(one.call<&Mourned::touch>(), mp::Error);
    }
    CHECK(freed.wait());
    CHECK(manager.number_of_objects() == 0);
}

TEST_CASE("manager: proxies inside of objects keep theirs alive", "[managers]") {
    mp::Manager manager;
    const auto d = manager.dict<std::string, mp::ListProxy<int>>();
    d["a"] = manager.list<int>({1});
    CHECK(test::eventually([&] { return manager.number_of_objects() == 2; }));
    d.at("a").append(2);
    CHECK(d.at("a").copy() == std::vector{1, 2});
    d.erase("a");
    CHECK(test::eventually([&] { return manager.number_of_objects() == 1; }));
    const auto ns = manager.Namespace();
    ns.set("l", manager.list<int>({5}));
    CHECK(ns.get<mp::ListProxy<int>>("l").at(0) == 5);
    CHECK(ns.get<mp::ListProxy<int>>("l").at(0) == 5);

    // A chain in which each keeps the next: calls go through it, and it goes at once.
    constexpr int length = 20;
    auto first = manager.create<Node>();
    for (int i = 0; i < length; ++i) {
        auto next = manager.create<Node>();
        next.call<&Node::link>(first);
        first = std::move(next);
    }
    CHECK(test::eventually([&] { return manager.number_of_objects() == 3 + length + 1; }));
    CHECK(first.call<&Node::depth>() == length);
    CHECK(first.call<&Node::next>().call<&Node::depth>() == length - 1);
    first = {};
    CHECK(test::eventually([&] { return manager.number_of_objects() == 3; }));
}

TEST_CASE("manager: a proxy in a message keeps the object until it is received", "[managers]") {
    mp::Manager manager;
    auto [a, b] = mp::Pipe<mp::ListProxy<int>>();
    mp::Queue<mp::ListProxy<int>> q;
    a.send(manager.list<int>({1}));
    q.put(manager.list<int>({2}));
    CHECK(manager.number_of_objects() == 2);
    CHECK(b.recv().at(0) == 1);
    CHECK(q.get().at(0) == 2);
    CHECK(test::eventually([&] { return manager.number_of_objects() == 0; }));
    {  // not sent after all
        mp::Queue<mp::ListProxy<int>> full(1);
        full.put(manager.list<int>());
        CHECK_FALSE(full.try_put(manager.list<int>()));
        CHECK(test::eventually([&] { return manager.number_of_objects() == 1; }));
        full.get();
    }
    b.close();
    CHECK_THROWS_AS(a.send(manager.list<int>()), mp::EndOfFile);
    CHECK(test::eventually([&] { return manager.number_of_objects() == 0; }));
    {  // through a queue of the manager itself
        const auto hosted = manager.Queue<mp::ListProxy<int>>();
        hosted.put(manager.list<int>({3}));
        CHECK(test::eventually([&] { return manager.number_of_objects() == 2; }));
        CHECK(hosted.get().at(0) == 3);
        hosted.put(manager.list<int>({4}));
    }
    CHECK(test::eventually([&] { return manager.number_of_objects() == 0; }));
    mp::Queue<mp::Proxy<Counter>> empty;
    empty.put({});
    CHECK(empty.get() == mp::Proxy<Counter>());
}

TEST_CASE("manager: what lies in messages of a dead sender goes with it (K1)", "[managers][kill]") {
    mp::Manager manager;
    mp::Queue<mp::ListProxy<int>> q;
    const auto kept = manager.list<int>({1});
    pipe_of ready;
    auto sends = held_child(ready, [&] {
        q.put(manager.list<int>({2}));
        q.put(kept);
    });
    REQUIRE(ready.wait());
    CHECK(manager.number_of_objects() == 2);
    sends.kill();
    CHECK(test::eventually([&] { return manager.number_of_objects() == 1; }));
    CHECK_THROWS_AS(q.get(), mp::Error);
    CHECK(q.get().at(0) == 1);
}

TEST_CASE("manager: proxies work in processes, tasks and after fork", "[managers]") {
    mp::Manager manager;
    const auto d = manager.dict<int, int>();
    std::vector<mp::Process> children;
    for (int i = 0; i < 3; ++i)
        children.emplace_back([](mp::DictProxy<int, int>& to, int n) { to[n] = n * n; }, d, i)
            .start();
    for (auto& each : children) each.join();
    test::child forked([&] {
        d[3] = 9;
        return manager.number_of_objects() == 1 ? 0 : 1;
    });
    CHECK(forked.exit_status() == 0);
    mp::Pool pool(2);
    CHECK(pool.apply([](mp::DictProxy<int, int>& to) { return to.at(2); }, d) == 4);
    const auto squares =
        pool.map(mp::bind([](mp::DictProxy<int, int>& to, int n) { return to[n] = n * n, n; }, d),
                 std::vector{4, 5, 6, 7});
    CHECK(squares.size() == 4);
    CHECK(d.size() == 8);
    CHECK(d.at(7) == 49);
    CHECK(mp::async([&] { return d.at(3); }).get() == 9);
    CHECK(mp::map([&](int n) { return d.at(n); }, std::vector{1, 2}) == std::vector{1, 4});
    // Made in a worker, received here while it lives.
    CHECK(pool.apply([](mp::DictProxy<int, int>& of) { return of; }, d) == d);
}

TEST_CASE("manager: an argument of a Process is the child's from the start", "[managers][kill]") {
    mp::Manager manager;
    const auto go = manager.Event();
    auto l = manager.list<int>({1});
    mp::Process late(
        [](mp::EventProxy& e, mp::ListProxy<int>& mine) {
            e.wait();
            std::exit(mine.at(0));
        },
        go, l);
    late.start();
    mp::Process dies(
        {}, [](mp::ListProxy<int>&) { ::pause(); }, manager.list<int>());
    dies.start();
    l = {};
    CHECK(manager.number_of_objects() == 3);
    dies.kill();
    CHECK(test::eventually([&] { return manager.number_of_objects() == 2; }));  // K4
    go.set();
    late.join();
    CHECK(late.exitcode() == 1);
    CHECK(test::eventually([&] { return manager.number_of_objects() == 1; }));
    // A child hands on what it has not used.
    auto far = manager.list<int>({7});
    mp::Process between(
        [](mp::ListProxy<int>& passes) {
            mp::Process below([](mp::ListProxy<int>& uses) { std::exit(uses.at(0)); },
                              std::move(passes));
            below.start();
            below.join();
            std::exit(*below.exitcode());
        },
        std::move(far));
    between.start();
    between.join();
    CHECK(between.exitcode() == 7);
}

TEST_CASE("manager: a client's death drops its references (K1, K2)", "[managers][kill]") {
    mp::Manager manager;
    const auto shared = manager.list<int>();
    const auto fds = entries(manager.pid(), "fd");
    const auto threads = entries(manager.pid(), "task");
    for (int i = 0; i < 3; ++i) {
        pipe_of ready;
        std::vector<mp::ListProxy<int>> kept;
        auto client = held_child(ready, [&] {
            for (int n = 0; n < 10; ++n) kept.push_back(manager.list<int>());
            kept.push_back(shared);
            kept.front().append(1);
            shared.append(1);
        });
        REQUIRE(ready.wait());
        CHECK(manager.number_of_objects() == 11);
        client.kill();
        CHECK(test::eventually([&] { return manager.number_of_objects() == 1; }));
    }
    CHECK(shared.size() == 3);
    // What this process's own connections sleep with comes on top.
    CHECK(test::eventually([&] { return entries(manager.pid(), "fd") <= fds + 3; }));
    CHECK(test::eventually([&] { return entries(manager.pid(), "task") == threads; }));
}

TEST_CASE("manager: a method goes on to its end though its client is killed (K1)",
          "[managers][kill]") {
    const pipe_of begun, go;
    mp::Manager manager;
    const auto slow = manager.create<Slow>(begun.out, go.in);
    test::child calls([&] { return slow.call<&Slow::work>(), 0; });
    REQUIRE(begun.wait());
    calls.kill();
    CHECK_FALSE(slow.call<&Slow::done>());
    static_cast<void>(!::write(go.out, "g", 1));
    CHECK(test::eventually([&] { return slow.call<&Slow::done>(); }));
}

TEST_CASE("manager: every call of a killed server ends with EndOfFile (K5)", "[managers][kill]") {
    const test::no_leaks guard;
    mp::Manager manager;
    const auto q = manager.Queue<int>();
    const auto lock = manager.Lock();
    const auto e = manager.Event();
    lock.acquire();
    std::atomic<int> ended{0};
    const auto ends = [&](auto call) {
        return std::thread([&ended, call] {
            try {
                call();
            } catch (const mp::EndOfFile&) {
                ++ended;
            }
        });
    };
    std::vector<std::thread> waiters;
    waiters.push_back(ends([&] { q.get(); }));
    waiters.push_back(ends([&] { lock.acquire(); }));
    waiters.push_back(ends([&] { e.wait(100s); }));
    test::child other([&] {
        try {
            q.get();
        } catch (const mp::EndOfFile&) {
            return 0;
        }
        return 1;
    });
    CHECK(other.wait_asleep());
    ::kill(manager.pid(), SIGKILL);
    for (auto& t : waiters) t.join();
    CHECK(ended == 3);
    CHECK(other.exit_status() == 0);
    CHECK_THROWS_AS(q.put(1), mp::EndOfFile);
    CHECK_THROWS_AS(lock.release(), mp::EndOfFile);
    CHECK_THROWS_AS(manager.create<Counter>(), mp::EndOfFile);
    std::thread([&] { CHECK_THROWS_AS(q.put(1), mp::EndOfFile); }).join();
    test::child late([&] {
        try {
            q.put(1);
        } catch (const mp::EndOfFile&) {
            return 0;
        }
        return 1;
    });
    CHECK(late.exit_status() == 0);
}

TEST_CASE("manager: the end of a killed server passes guards (K5)", "[managers][kill]") {
    mp::Manager manager;
    const auto lock = manager.Lock();
    const auto value = manager.Value<int>(1);
    const auto condition = manager.Condition();
    const auto units = manager.Semaphore(1);
    const auto ends = [&] {
        const std::lock_guard a(lock);
        const std::lock_guard b(value);
        const std::lock_guard c(condition);
        const std::lock_guard d(units);
        ::kill(manager.pid(), SIGKILL);
        for (;;) value.get();
    };
    CHECK_THROWS_AS(ends(), mp::EndOfFile);
    CHECK_THROWS_AS(lock.release(), mp::EndOfFile);
    CHECK_THROWS_AS(units.release(), mp::EndOfFile);
}

TEST_CASE("manager: shutdown ends the calls that wait, and the objects", "[managers]") {
    const test::no_leaks guard;
    const pipe_of freed;
    mp::Manager manager({.name = "shop"});
    const auto q = manager.Queue<int>();
    const auto mourned = manager.create<Mourned>(freed.out);
    std::thread waits([&] { CHECK_THROWS_AS(q.get(), mp::EndOfFile); });
    test::child other([&] {
        try {
            q.get();
        } catch (const mp::EndOfFile&) {
            return 0;
        }
        return 1;
    });
    CHECK(other.wait_asleep());
    const pid_t server = manager.pid();
    manager.shutdown();
    waits.join();
    CHECK(other.exit_status() == 0);
    CHECK(freed.wait());
    CHECK(::kill(server, 0) == -1);
    CHECK_THROWS_AS(q.get(), mp::EndOfFile);
    CHECK_THROWS_AS(manager.Lock(), mp::EndOfFile);
    manager.shutdown();
}

TEST_CASE("manager: a server that is busy is ended all the same", "[managers]") {
    const pipe_of begun, go;
    mp::Manager manager;
    const auto slow = manager.create<Slow>(begun.out, go.in);
    std::thread waits([&] { CHECK_THROWS_AS(slow.call<&Slow::work>(), mp::EndOfFile); });
    REQUIRE(begun.wait());
    manager.shutdown();
    waits.join();
}

TEST_CASE("manager: a server that is stopped is ended all the same", "[managers][kill]") {
    const test::no_leaks guard;
    mp::Manager manager;
    auto dropped = manager.Event();
    const pid_t server = manager.pid();
    REQUIRE(::kill(server, SIGSTOP) == 0);
    std::atomic<bool> asks{false};
    std::thread waits([&] {
        asks = true;
        CHECK_THROWS_AS(dropped.set(), mp::EndOfFile);
    });
    REQUIRE(test::eventually([&] { return asks.load(); }));
    { const auto copy = dropped; }
    manager.shutdown();
    waits.join();
    CHECK(::kill(server, 0) == -1);
}

TEST_CASE("manager: the server dies with its creator (K6)", "[managers][kill]") {
    auto& server = test::shared_memory<std::atomic<pid_t>>();
    test::child creator([&] {
        mp::Manager manager;
        server = manager.pid();
        for (;;) ::pause();
        return 0;
    });
    REQUIRE(test::eventually([&] { return server.load() != 0; }));
    creator.kill();
    CHECK(test::eventually([&] { return ::kill(server, 0) == -1; }));
}

TEST_CASE("manager: a forked child makes objects, and does not end the server", "[managers]") {
    mp::Manager manager;
    const auto all = manager.list<mp::ListProxy<int>>();
    test::child forked([&] {
        {
            mp::Manager mine = std::move(manager);
            all.append(mine.list<int>({3}));
            try {
                mine.shutdown();
                return 1;
            } catch (const mp::ProcessError&) {
            }
        }
        return 0;
    });
    CHECK(forked.exit_status() == 0);
    CHECK(all.at(0).at(0) == 3);
    CHECK(manager.number_of_objects() == 2);
}

TEST_CASE("manager: an initializer runs first, and its failure is told", "[managers]") {
    static int prepared = 0;
    mp::Manager manager({.initializer = [] { prepared = 3; }});
    struct Reads {
        int value() const { return prepared; }
    };
    CHECK(manager.create<Reads>().call<&Reads::value>() == 3);
    CHECK(prepared == 0);
    CHECK_THROWS_AS(mp::Manager({.initializer = [] { ::_exit(3); }}), mp::EndOfFile);
}

TEST_CASE("manager: only calls of managers are accepted, of the object's own class", "[managers]") {
    namespace d = mp::detail;
    struct other_thunk {
        using output = int;
        static void invoke(std::span<const std::byte>, int&) { std::abort(); }
    };
    mp::Manager manager;
    const auto c = manager.create<Counter>();
    const auto session = d::client_session<>::find({manager.address(), manager.pid()});
    REQUIRE(session);
    CHECK_THROWS_AS(session->ask<void>(d::manager_op::call, 1, d::reference_to<other_thunk>()),
                    mp::UnknownCallable);
    CHECK_THROWS_AS(session->ask<void>(d::manager_op::call, 1, d::callable_ref{1, 2, 3}),
                    mp::UnknownCallable);
    const auto as_point = d::reference_to<d::copy_thunk<Point>>();
    CHECK_THROWS_AS(session->ask<Point>(d::manager_op::call, 1, as_point), mp::Error);
    CHECK_THROWS_AS(session->ask<Point>(d::manager_op::create, 0, as_point), mp::Error);
    CHECK_THROWS_AS(session->ask<Point>(d::manager_op::call, 99, as_point), mp::Error);
    const auto adds = d::reference_to<
        d::method_thunk<Counter, static_cast<int (Counter::*)(int)>(&Counter::add)>>();
    CHECK_THROWS_AS(session->ask<int>(d::manager_op::call, 1, adds), mp::SerializationError);
    CHECK(c.call<&Counter::value>() == 0);
}

TEST_CASE("manager: a stranger who talks nonsense harms nobody", "[managers]") {
    mp::Manager manager;
    const auto fds = entries(manager.pid(), "fd");
    {
        auto stranger = mp::Client(manager.address());
        stranger.send(std::string("hello"));
        CHECK_THROWS_AS(stranger.recv<int>(), mp::EndOfFile);
        auto silent = mp::Client(manager.address());
        CHECK(manager.list<int>({1}).at(0) == 1);
    }
    // This process's channel, and what its connections sleep with.
    CHECK(test::eventually([&] { return entries(manager.pid(), "fd") <= fds + 6; }));
}

TEST_CASE("manager: a proxy goes though the server is stopped, and it hears of that later",
          "[managers][process]") {
    mp::Manager manager;
    const auto kept = manager.Event();
    enum stages { starts, has_it, may_drop, dropped, goes_on };
    auto& stage = test::shared_memory<std::atomic<int>>();
    test::child drops([&] {
        std::optional<mp::LockProxy> one(manager.Lock());
        const auto session = mp::detail::client_session<>::of({manager.address(), manager.pid()});
        stage = has_it;
        if (!test::eventually([&] { return stage == may_drop; })) return 1;
        // More than the connection holds unread.
        for (std::size_t i = 0; i < mp::detail::link<>::window / 48; ++i)
            session->tell(mp::detail::manager_op::release, 0);
        one.reset();
        stage = dropped;
        if (!test::eventually([&] { return stage == goes_on; })) return 2;
        for (;;) kept.is_set();
    });
    REQUIRE(test::eventually([&] { return stage == has_it; }));
    CHECK(manager.number_of_objects() == 2);
    ::kill(manager.pid(), SIGSTOP);
    stage = may_drop;
    CHECK(test::eventually([&] { return stage == dropped; }));
    ::kill(manager.pid(), SIGCONT);
    stage = goes_on;
    CHECK(test::eventually([&] { return manager.number_of_objects() == 1; }));
}

TEST_CASE("manager: a hosted pool has the calls of Pool", "[managers]") {
    const test::no_leaks guard;
    mp::Manager manager;
    {
        const auto pool = manager.Pool(2);
        CHECK(pool.processes() == 2);
        CHECK(pool.worker_pids().size() == 2);
        const auto square = [](int n) { return n * n; };
        const auto product = [](int a, int b) { return a * b; };
        const auto odd = [](int n) {
            if (n % 2 == 0) throw std::invalid_argument("even");
            return n;
        };
        CHECK(pool.apply(square, 7) == 49);
        CHECK_THROWS_AS(pool.apply(odd, 2), std::invalid_argument);
        CHECK(pool.apply(mp::bind(product, 3), 4) == 12);
        pool.apply([](mp::DictProxy<int, int>& d) { d[1] = 1; }, manager.dict<int, int>());
        auto later = pool.apply_async(square, 8);
        CHECK(later.get() == 64);
        CHECK(later.get(10s) == 64);
        CHECK(later.ready());
        CHECK(later.successful());
        CHECK_FALSE(later.cancel());
        CHECK(pool.map(square, std::vector{1, 2, 3}, {.chunksize = 2}) == std::vector{1, 4, 9});
        CHECK_THROWS_AS(pool.map(odd, std::vector{1, 2}), std::invalid_argument);
        CHECK(pool.starmap(product, std::vector<std::pair<int, int>>{{2, 3}, {4, 5}}) ==
              std::vector{6, 20});
        CHECK(pool.map_async(square, std::vector{5, 6}).get() == std::vector{25, 36});
        CHECK(pool.starmap_async(product, std::vector<std::pair<int, int>>{{2, 3}}).get() ==
              std::vector{6});
        std::vector<int> all;
        auto results = pool.imap(odd, std::vector{1, 2, 3}, {.buffersize = 2});
        for (auto it = results.begin(); it != results.end(); ++it) {
            try {
                all.push_back(*it);
            } catch (const std::invalid_argument&) {
                all.push_back(-1);
            }
        }
        CHECK(all == std::vector{1, -1, 3});
        std::set<int> any;
        for (const int each : pool.imap_unordered(square, std::vector{1, 2, 3, 4}))
            any.insert(each);
        CHECK(any == std::set{1, 4, 9, 16});
        for (const int each : pool.imap(square, std::vector<int>())) FAIL(each);
        try {
            pool.apply([] { ::raise(SIGKILL); });
            FAIL("nothing was thrown");
        } catch (const mp::WorkerCrashed& e) {
            CHECK(e.signal() == SIGKILL);
        }
        CHECK(pool.stats().failed >= 1);
        const auto hangs = pool.apply_async([] { ::pause(); });
        CHECK_FALSE(hangs.wait(1ms));
        CHECK_THROWS_AS(hangs.get(1ms), mp::TimeoutError);
        CHECK(hangs.cancel());
        CHECK_THROWS_AS(hangs.get(), mp::Cancelled);
        // The workers serve other processes, too.
        test::child other([&] { return pool.apply(square, 5); });
        CHECK(other.exit_status() == 25);
        CHECK_THROWS_AS(pool.join(), mp::ProcessError);
        pool.close();
        CHECK_THROWS_AS(pool.apply(square, 1), mp::ClosedError);
        pool.join();
    }
    CHECK(test::eventually([&] { return manager.number_of_objects() == 0; }));
}

TEST_CASE("manager: a pool's workers die with the server (K5)", "[managers][kill]") {
    mp::Manager manager;
    const auto pids = manager.Pool(2).worker_pids();
    const auto pool = manager.Pool(2);
    const auto more = pool.worker_pids();
    REQUIRE(more.size() == 2);
    ::kill(manager.pid(), SIGKILL);
    for (const auto& all : {pids, more})
        for (const pid_t pid : all) CHECK(test::eventually([&] { return ::kill(pid, 0) == -1; }));
    CHECK_THROWS_AS(pool.apply([] {}), mp::EndOfFile);
}

TEST_CASE("manager: who dies waiting for a pool's task lets the pool go (K1)", "[managers][kill]") {
    auto& worker = test::shared_memory<std::atomic<pid_t>>();
    mp::Manager manager;
    CHECK(manager.number_of_objects() == 0);  // this thread has its connection
    const std::size_t threads = entries(manager.pid(), "task");
    enum { in_apply, in_get, in_join };
    for (const auto way : {in_apply, in_get, in_join}) {
        CAPTURE(way);
        worker = 0;
        test::child client([&] {
            const auto pool = manager.Pool(1);
            const auto forever = [] {
                for (;;) ::pause();
            };
            const pid_t pid = pool.worker_pids().front();
            std::optional<mp::AsyncResultProxy<void>> result;
            if (way != in_apply) result = pool.apply_async(forever);
            if (way == in_join) pool.close();
            worker = pid;
            if (way == in_apply)
                pool.apply(forever);
            else if (way == in_get)
                result->get();
            else
                pool.join();
            return 0;
        });
        REQUIRE(test::eventually([&] { return worker.load() != 0; }));
        CHECK(client.wait_asleep());
        client.kill();
        CHECK(test::eventually([&] { return ::kill(worker, 0) == -1; }));
        CHECK(test::eventually([&] { return manager.number_of_objects() == 0; }));
        CHECK(test::eventually([&] { return entries(manager.pid(), "task") == threads; }));
    }
}

TEST_CASE("manager: many threads and processes at once", "[managers]") {
    mp::Manager manager;
    const auto d = manager.dict<int, int>();
    const auto q = manager.Queue<int>(4);
    constexpr int each = 100;
    const auto work = [&](int base) {
        std::vector<std::thread> threads;
        for (int t = 0; t < 3; ++t)
            threads.emplace_back([&, t] {
                for (int i = 0; i < each; ++i) {
                    d[base + t * each + i] = i;
                    q.put(i);
                    q.get();
                }
            });
        for (auto& t : threads) t.join();
        return 0;
    };
    test::child a([&] { return work(0); });
    test::child b([&] { return work(10'000); });
    work(20'000);
    CHECK(a.exit_status() == 0);
    CHECK(b.exit_status() == 0);
    CHECK(d.size() == 9 * each);
    CHECK(q.empty());
}
