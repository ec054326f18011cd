// SPDX-License-Identifier: BSL-1.0

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <multiprocessing/managers.hpp>
#include <multiprocessing/queues.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"
#include "support/raw_tcp.hpp"
#include "support/reports.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

/// Has the same name in the program of every compiler.
namespace wire {
struct counter {
    int add(int n) { return value += n; }
    int value = 0;
};
}  // namespace wire

namespace {

struct counters : mp::BaseManager<counters> {
    static void register_types(mp::Registry& r) {
        r.add<wire::counter>("counter", mp::method<&wire::counter::add>("add"));
    }
};

/// Not safe for threads, as most classes.
class job_table {
public:
    int add(int job) {
        jobs_.push_back(job);
        return static_cast<int>(jobs_.size());
    }
    std::size_t size() const { return jobs_.size(); }
    const std::vector<int>& all() const { return jobs_; }
    int at(std::size_t i) const { return jobs_.at(i); }
    mp::Queue<int> queue() const { return {}; }
    void fill(std::size_t size) { jobs_.assign(size, 1); }
    std::string secret() const { return "not registered"; }
    int number = 17;

private:
    std::vector<int> jobs_;
};
std::size_t sum(job_table& of, std::size_t from) {
    std::size_t all = 0;
    for (std::size_t i = from; i < of.size(); ++i) all += static_cast<std::size_t>(of.at(i));
    return all;
}

/// Calls of it don't take turns.
struct gate {
    using mp_concurrent_tag = void;
    void wait() {
        while (!open) test::pause_briefly(1ms);
    }
    void let_through() { open = true; }
    std::atomic<bool> open{false};
};

using numbers = mp::Queue<int>;

struct never_made {
    never_made() { throw std::runtime_error("can't be made"); }
    int any() { return 1; }
};

struct Jobs : mp::BaseManager<Jobs> {
    static void register_types(mp::Registry& r) {
        r.add<job_table>(
            "jobs", mp::method<&job_table::add>("add"), mp::method<&job_table::size>("size"),
            mp::method<&job_table::all>("all"), mp::method<&job_table::at>("at"),
            mp::method<&sum>("sum"), mp::method<&job_table::number>("number"),
            mp::method<&job_table::queue>("queue"), mp::method<&job_table::fill>("fill"));
        r.add<gate>("gate", mp::method<&gate::wait>("wait"),
                    mp::method<&gate::let_through>("let_through"));
        r.add<numbers>("numbers", mp::method<&numbers::put_nowait>("put"),
                       mp::method<&numbers::try_get_for>("get"));
        r.add<never_made>("never", mp::method<&never_made::any>("any"));
    }
};

mp::ServeOptions serves() { return {.transport = mp::insecure, .unreachable_timeout = 60s}; }
mp::ClientOptions connects() { return {.transport = mp::insecure, .timeout = test::patience}; }

std::size_t threads_of(pid_t pid) {
    std::size_t count = 0;
    for (const auto& task :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task"))
        count += task.exists();
    return count;
}

/// A client without the library, as the bytes of the wire have it.
class raw_client {
public:
    explicit raw_client(const mp::Address& server) : socket_(test::tcp_connect(server)) {
        const std::string hello =
            test::from_hex("702d72656d6f7465 01000000 00000000 ffffffffffffff7f");
        if (!socket_.send(hello)) test::give_up("hello");
        socket_.receive(hello.size());
    }
    int get() const noexcept { return socket_.get(); }
    bool send(const std::string& bytes) const { return socket_.send(bytes); }
    std::string receive(std::size_t size) const { return socket_.receive(size); }
    /// Of method `number` of the first object, without arguments. \return false: it is closed
    bool call(std::uint32_t number, std::uint64_t signature) const {
        const mp::detail::served_question question{mp::detail::served_question::calls, 0, number, 0,
                                                   signature};
        return socket_.send(test::from_hex("1800000000000000 00326b1c5a222ce3") +
                            std::string(reinterpret_cast<const char*>(&question), sizeof question));
    }
    /// Asks for all that the table has.
    bool call_all() const { return call(2, mp::detail::fingerprint_of<std::vector<int>()>); }
    std::size_t unread() const {
        int size = 0;
        ::ioctl(get(), FIONREAD, &size);
        return static_cast<std::size_t>(size);
    }

private:
    test::tcp_socket socket_;
};

template <class F>
std::string refused(F f) {
    try {
        f();
    } catch (const mp::Error& e) {
        return e.what();
    }
    return "";
}

}  // namespace

TEST_CASE("served: a queue, in which one who waits stops nobody", "[served]") {
    auto server = Jobs::serve("127.0.0.1:0", serves());
    auto remote = Jobs::connect(server.address(), connects());
    auto queue = remote.get<numbers>("numbers");
    std::thread waits([&] {  // a thread is a connection of its own
        const auto got = queue.call<&numbers::try_get_for>(test::patience);
        queue.call<&numbers::put_nowait>(got.value_or(0) + 1);
    });
    queue.call<&numbers::put_nowait>(1);
    waits.join();
    CHECK(remote.get("numbers").call<std::optional<int>>("get", mp::duration(test::patience)) == 2);
    CHECK(queue.call<&numbers::try_get_for>(0s) == std::nullopt);
}

TEST_CASE("served: methods by the class and by name, through TCP and Unix sockets", "[served]") {
    const test::no_leaks guard;
    for (const char* where : {"127.0.0.1:0", ""}) {
        CAPTURE(where);
        auto server = Jobs::serve(where, serves());
        CHECK(server.pid() != 0);
        auto remote = Jobs::connect(server.address(), connects());
        auto jobs = remote.get<job_table>("jobs");
        CHECK(jobs.call<&job_table::add>(5) == 1);
        CHECK(jobs.call<&job_table::add>(short{6}) == 2);  // converted
        CHECK(jobs.call<&job_table::size>() == 2);
        CHECK(jobs.call<&job_table::all>() == std::vector<int>{5, 6});
        CHECK(jobs.call<&sum>(std::size_t{1}) == 6);
        CHECK(jobs.call<&job_table::number>() == 17);
        const auto any = remote.get("jobs");
        CHECK_THAT(any.type(), Catch::Contains("job_table"));
        CHECK(any.call<int>("add", 7) == 3);
        CHECK(any.call<std::vector<int>>("all").back() == 7);
        // One object for everybody.
        CHECK(Jobs::connect(server.address(), connects()).get("jobs").call<int>("add", 8) == 4);
        const auto copy = jobs;
        CHECK(copy == jobs);
        CHECK(copy.call<&job_table::size>() == 4);
        server.shutdown();
        CHECK(server.wait(0s));
        CHECK_THROWS_AS(jobs.call<&job_table::size>(), mp::EndOfFile);
    }
}

TEST_CASE("served: exceptions keep their type", "[served]") {
    auto server = Jobs::serve("127.0.0.1:0", serves());
    auto remote = Jobs::connect(server.address(), connects());
    auto jobs = remote.get<job_table>("jobs");
    CHECK_THROWS_AS(jobs.call<&job_table::at>(std::size_t{99}), std::out_of_range);
    CHECK_THROWS_AS(remote.get("never").call<int>("any"), std::runtime_error);
    CHECK(jobs.call<&job_table::add>(1) == 1);
}

TEST_CASE("served: what is not offered is an Error that says what is", "[served]") {
    auto server = Jobs::serve("127.0.0.1:0", serves());
    auto remote = Jobs::connect(server.address(), connects());
    CHECK_THAT(refused([&] { remote.get("job"); }), Catch::Contains("\"jobs\", \"gate\""));
    CHECK_THAT(refused([&] { remote.get<gate>("jobs"); }), Catch::Contains("job_table"));
    CHECK_THAT(refused([&] { remote.get<gate>("other"); }), Catch::Contains("no \"other\""));
    const auto any = remote.get("jobs");
    CHECK_THAT(refused([&] { any.call<std::string>("secret"); }), Catch::Contains("secret"));
    CHECK_THAT(refused([&] { any.call<int>("add", 1.5); }), Catch::Contains("add: int(int)"));
    CHECK_THAT(refused([&] { any.call<long>("add", 1); }), Catch::Contains("add: int(int)"));
    auto jobs = remote.get<job_table>("jobs");
    CHECK_THAT(refused([&] { jobs.call<&job_table::secret>(); }), Catch::Contains("offers"));
    // What names shared memory stays on its host.
    CHECK_THAT(refused([&] { jobs.call<&job_table::queue>(); }), Catch::Contains("another host"));
    mp::Pipe<> pipe;
    CHECK_THAT(refused([&] { pipe.first.send(jobs); }), Catch::Contains("connect()"));
    CHECK(jobs.call<&job_table::size>() == 0);
}

TEST_CASE("served: forged questions are refused, and close no more than themselves", "[served]") {
    auto server = Jobs::serve("127.0.0.1:0", serves());
    auto good = Jobs::connect(server.address(), connects()).get("jobs");
    using mp::detail::served_question;
    const std::uint64_t right = mp::detail::fingerprint_of<int(int)>;
    for (const served_question& forged :
         {served_question{served_question::calls, 99, 0, 0, right},
          served_question{served_question::calls, 0, 99, 0, right},
          served_question{served_question::calls, 0, 0, 0, right + 1},
          served_question{77, 0, 0, 0, right}}) {
        mp::detail::served_client<> client(server.address(), connects());
        CHECK_THROWS_AS(client.ask<int>(forged, 0, 1), mp::Error);
    }
    {
        mp::detail::served_client<> client(server.address(), connects());
        CHECK_THROWS_AS(
            client.ask<int>({served_question::calls, 0, 0, 0, right}, 0, std::string("no int")),
            mp::SerializationError);
        CHECK(client.ask<int>({served_question::calls, 0, 0, 0, right}, 0, 1) == 1);
    }
    {
        auto other = mp::Client(server.address(), connects());
        other.send(std::string("no message of a manager"));
        CHECK_THROWS_AS(other.recv<int>(), mp::EndOfFile);
    }
    CHECK(good.call<std::size_t>("size") == 1);
}

TEST_CASE("served: a call that blocks blocks nobody else", "[served][process]") {
    auto server = Jobs::serve("127.0.0.1:0", serves());
    auto remote = Jobs::connect(server.address(), connects());
    auto waits_at = remote.get<gate>("gate");
    auto jobs = remote.get<job_table>("jobs");
    std::vector<std::thread> wait;
    for (int i = 0; i < 3; ++i) wait.emplace_back([&] { waits_at.call<&gate::wait>(); });
    static constexpr int each = 200;
    std::vector<std::thread> add;
    for (int i = 0; i < 4; ++i)
        add.emplace_back([&] {
            for (int k = 0; k < each; ++k) jobs.call<&job_table::add>(1);
        });
    for (auto& one : add) one.join();
    CHECK(jobs.call<&job_table::size>() == 4 * each);  // turns were taken
    test::child forked([&] { return jobs.call<&job_table::add>(1) == 4 * each + 1 ? 0 : 1; });
    CHECK(forked.exit_status() == std::optional<int>(0));
    waits_at.call<&gate::let_through>();
    for (auto& one : wait) one.join();
}

TEST_CASE("served: calls end with EndOfFile when the server does", "[served][process]") {
    auto server = Jobs::serve("127.0.0.1:0", serves());
    const auto address = server.address();
    auto remote = Jobs::connect(address, connects());
    auto waits_at = remote.get<gate>("gate");
    std::atomic<int> ended{0};
    std::vector<std::thread> wait;
    for (int i = 0; i < 3; ++i)
        wait.emplace_back([&] {
            try {
                waits_at.call<&gate::wait>();
            } catch (const mp::EndOfFile&) {
                ++ended;
            }
        });
    SECTION("killed") { ::kill(server.pid(), SIGKILL); }
    SECTION("shut down") { server.shutdown(); }
    for (auto& one : wait) one.join();
    CHECK(ended == 3);
    CHECK_THROWS_AS(waits_at.call<&gate::let_through>(), mp::EndOfFile);
    // Another one at its place serves the clients that are there.
    server.wait();
    auto next = Jobs::serve(address, serves());
    waits_at.call<&gate::let_through>();
    waits_at.call<&gate::wait>();
}

TEST_CASE("served: the server ends with the process that made it", "[served][process]") {
    auto& pid = test::shared_memory<std::atomic<pid_t>>();
    test::child makes([&] {
        auto server = Jobs::serve("127.0.0.1:0", serves());
        pid = server.pid();
        return ::pause();
    });
    REQUIRE(test::eventually([&] { return pid != 0; }));
    makes.kill();
    CHECK(test::eventually([&] { return ::kill(pid, 0) != 0 || test::process_state(pid) == 'Z'; }));
}

TEST_CASE("served: limits of connections and of silence", "[served]") {
    SECTION("one more than may connect is turned away, until another goes") {
        auto options = serves();
        options.max_connections = 2;
        auto server = Jobs::serve("127.0.0.1:0", options);
        std::optional<mp::RemoteManager> first(Jobs::connect(server.address(), connects()));
        auto second = Jobs::connect(server.address(), connects());
        CHECK(first->get("jobs").call<std::size_t>("size") == 0);
        CHECK(second.get("jobs").call<std::size_t>("size") == 0);
        auto third = Jobs::connect(server.address(), connects());
        CHECK_THROWS_AS(third.get("jobs"), mp::EndOfFile);
        first.reset();
        CHECK(test::eventually([&] {
            try {
                return third.get("jobs").call<std::size_t>("size") == 0;
            } catch (const mp::EndOfFile&) {
                return false;
            }
        }));
    }
    SECTION("a connection that idles is closed, and its client opens another") {
        auto options = serves();
        options.idle_timeout = 20ms;
        auto server = Jobs::serve("127.0.0.1:0", options);
        auto silent = mp::Client(server.address(), connects());
        std::optional<mp::AnyProxy> jobs;
        CHECK_THROWS_AS(silent.recv<int>(), mp::EndOfFile);  // so the others are, too, by and by
        CHECK(test::eventually([&] {
            try {
                if (!jobs) jobs = Jobs::connect(server.address(), connects()).get("jobs");
                return jobs->call<std::size_t>("size") == 0;
            } catch (const mp::EndOfFile&) {  // it was closed just while it was asked
                return false;
            }
        }));
    }
    SECTION("who does not log in is dropped, though nobody else comes") {
        auto options = serves();
        options.login_timeout = 20ms;
        auto server = Jobs::serve("127.0.0.1:0", options);
        CHECK(test::tcp_connect(server.address()).ended());
    }
    // UBSan reads memory through a pipe.
    if (!test::address_sanitizer) SECTION("without descriptors it waits until there are some") {
            auto server = Jobs::serve("127.0.0.1:0", serves());
            auto jobs = Jobs::connect(server.address(), connects()).get("jobs");
            CHECK(jobs.call<std::size_t>("size") == 0);
            rlimit before{};
            REQUIRE(::prlimit(server.pid(), RLIMIT_NOFILE, nullptr, &before) == 0);
            const rlimit none{4, before.rlim_max};
            REQUIRE(::prlimit(server.pid(), RLIMIT_NOFILE, &none, nullptr) == 0);
            auto short_time = connects();
            short_time.timeout = 200ms;
            CHECK(!refused([&] { Jobs::connect(server.address(), short_time); }).empty());
            CHECK(jobs.call<std::size_t>("size") == 0);
            REQUIRE(::prlimit(server.pid(), RLIMIT_NOFILE, &before, nullptr) == 0);
            CHECK(
                Jobs::connect(server.address(), connects()).get("jobs").call<std::size_t>("size") ==
                0);
        }
    SECTION("a message that is longer than the server takes is not sent") {
        auto options = serves();
        options.max_message = 1000;
        auto server = Jobs::serve("127.0.0.1:0", options);
        auto remote = Jobs::connect(server.address(), connects());
        CHECK_THAT(refused([&] { remote.get(std::string(2000, 'x')); }),
                   Catch::Contains("max_message"));
        CHECK(remote.get("jobs").call<std::size_t>("size") == 0);
    }
}

TEST_CASE("served: clients killed at random leave nothing", "[served][process]") {
    auto server = Jobs::serve("127.0.0.1:0", serves());
    auto jobs = Jobs::connect(server.address(), connects()).get("jobs");
    const std::size_t before = threads_of(server.pid());
    auto& added = test::shared_memory<std::atomic<std::size_t>>();
    std::size_t killed = 0;
    for (int i = 0; i < 100; ++i) {
        test::child client([&] {
            auto mine = Jobs::connect(server.address(), connects()).get("jobs");
            for (;;) {
                mine.call<int>("add", 1);
                ++added;
            }
            return 0;
        });
        const std::size_t wanted = added + static_cast<std::size_t>(i % 7);
        REQUIRE(test::eventually([&] { return added >= wanted; }));
        client.kill();
        ++killed;
    }
    const std::size_t size = jobs.call<std::size_t>("size");
    CHECK(size >= added);  // what was answered was done, and at most one more for each
    CHECK(size <= added + killed);
    CHECK(test::eventually([&] { return threads_of(server.pid()) <= before; }));
}

TEST_CASE("served: a client that receives nothing holds up nobody else", "[served]") {
    auto options = serves();  // which gives up nobody
    auto server = Jobs::serve("127.0.0.1:0", options);
    auto jobs = Jobs::connect(server.address(), connects()).get<job_table>("jobs");
    static constexpr std::size_t size = 8'000'000;  // 32 MB: longer than all buffers on the way
    jobs.call<&job_table::fill>(size);
    std::vector<raw_client> attackers;
    for (int i = 0; i < 3; ++i) {
        attackers.emplace_back(server.address());
        REQUIRE(attackers.back().call_all());
    }
    // Their answers are on the way, and will be for ever.
    for (const auto& one : attackers)
        REQUIRE(test::eventually([&] { return one.unread() > 1000; }));
    CHECK(jobs.call<&job_table::add>(1) == int{size} + 1);
    CHECK(Jobs::connect(server.address(), connects()).get("jobs").call<std::size_t>("size") ==
          size + 1);
    server.shutdown();
    CHECK(server.wait(0s));
    CHECK_THROWS_AS(jobs.call<&job_table::size>(), mp::EndOfFile);
}

TEST_CASE("served: one that asks on and receives nothing is dropped, and the log says so",
          "[served]") {
    const std::string log = test::log_of([] {
        auto options = serves();
        options.unreachable_timeout = 200ms;
        auto server = Jobs::serve("127.0.0.1:0", options);
        auto jobs = Jobs::connect(server.address(), connects()).get<job_table>("jobs");
        jobs.call<&job_table::fill>(std::size_t{100'000});
        const std::size_t before = threads_of(server.pid());
        const raw_client attacker(server.address());
        std::atomic<bool> dropped{false};
        const auto begin = test::clock::now();
        std::thread floods([&] {
            while (attacker.call_all()) {
            }
            dropped = true;
        });
        bool right = true;
        do right = right && jobs.call<&job_table::at>(std::size_t{1}) == 1;
        while (!dropped && test::clock::now() - begin < test::patience);
        CHECK(right);
        CHECK(dropped);
        ::shutdown(attacker.get(), SHUT_RDWR);  // so that a failed test ends
        floods.join();
        CHECK(test::clock::now() - begin >= 200ms);
        CHECK(test::eventually([&] { return threads_of(server.pid()) <= before; }));
        CHECK(jobs.call<&job_table::add>(1) == 100'001);
        server.shutdown();
        CHECK(server.wait(0s));
    });
    CHECK(log.starts_with("[WARNING/Server-"));
    CHECK_THAT(log, Catch::Contains("a connection was closed: the other host can't be reached"));
    CAPTURE(log);
    CHECK(std::count(log.begin(), log.end(), '\n') == 1);
}

TEST_CASE("served: the bytes of questions and answers are those of version 1", "[served]") {
    // So programs of other builds say it: the length and the fingerprint of a message, its front,
    // and the values.
    auto server = counters::serve("127.0.0.1:0", serves());
    const raw_client client(server.address());
    const auto ask = [&](const std::string& question) {
        client.send(test::from_hex(question));
        const std::string header = client.receive(16);
        REQUIRE(test::to_hex(header.substr(8)) == "00326b1c5a222ce3");
        return client.receive(static_cast<unsigned char>(header.at(0)));
    };
    // Of "counter": the server's pid, its own number, its class, and its one method.
    std::string what =
        ask("2700000000000000 00326b1c5a222ce3"
            "01000000 00000000 00000000 00000000 0000000000000000"
            "0700000000000000 636f756e746572");
    REQUIRE(what.size() > 12);
    const pid_t pid = server.pid();
    CHECK(std::memcmp(what.data() + 8, &pid, 4) == 0);
    what.erase(8, 4);
    CHECK(test::to_hex(what) ==
          test::to_hex(test::from_hex("0000000000000000 00000000"
                                      "0d00000000000000 776972653a3a636f756e746572"
                                      "0100000000000000 0300000000000000 616464"
                                      "0800000000000000 696e7428696e7429 96e25386e61ce796")));
    // add(5), twice; then as if it returned something else.
    const std::string call =
        "1c00000000000000 00326b1c5a222ce3"
        "02000000 00000000 00000000 00000000 96e25386e61ce796 05000000";
    CHECK(test::to_hex(ask(call)) == "000000000000000005000000");
    CHECK(test::to_hex(ask(call)) == "00000000000000000a000000");
    const std::string forged =
        "1c00000000000000 00326b1c5a222ce3"
        "02000000 00000000 00000000 00000000 97e25386e61ce796 05000000";
    CHECK(test::to_hex(ask(forged).substr(0, 8)) == "0100000000000000");
    // And the library asks just that: what it says is what was written here.
    const test::tcp_server listens;
    std::string said;
    std::thread answers([&] {
        const auto c = listens.accept();
        c.send(test::from_hex("702d72656d6f7465 01000000 00000000 ffffffffffffff7f"));
        said = c.receive(24 + 16 + 28);
    });
    mp::detail::served_client<> asks(listens.address(), connects());
    CHECK_THROWS_AS(asks.ask<int>({mp::detail::served_question::calls, 0, 0, 0,
                                   mp::detail::fingerprint_of<int(int)>},
                                  0, 5),
                    mp::EndOfFile);
    answers.join();
    CHECK(test::to_hex(said.substr(24)) == test::to_hex(test::from_hex(call)));
}

TEST_CASE("served: a cut line ends calls, and what is whole again works", "[served][process]") {
    // All of it in network namespaces of its own: they go with their processes.
    test::child host([] {
        if (::unshare(CLONE_NEWNET) != 0 || std::system("ip -V >/dev/null 2>&1") != 0) return 77;
        auto& stage = test::shared_memory<std::atomic<int>>();
        auto& address = test::shared_memory<std::array<char, 64>>();
        test::child other([&] {
            if (::unshare(CLONE_NEWNET) != 0) return 77;
            stage = 1;
            if (!test::eventually([&] { return stage == 2; })) return 2;
            if (std::system("ip addr add 10.77.0.2/30 dev mp1 && ip link set mp1 up") != 0)
                return 3;
            stage = 3;
            if (!test::eventually([&] { return stage == 4; })) return 4;
            auto options = connects();
            options.unreachable_timeout = 1s;
            auto remote = Jobs::connect(address.data(), options);
            auto waits_at = remote.get<gate>("gate");
            auto jobs = remote.get<job_table>("jobs");
            if (jobs.call<&job_table::add>(1) != 1) return 5;
            stage = 5;
            bool ended = false;
            try {
                waits_at.call<&gate::wait>();
            } catch (const mp::TimeoutError&) {
                ended = true;
            } catch (const mp::EndOfFile&) {
                ended = true;
            }
            if (!ended) return 6;
            stage = 6;
            if (!test::eventually([&] { return stage == 7; })) return 7;
            const auto end = test::clock::now() + test::patience;
            while (test::clock::now() < end) try {
                    return jobs.call<&job_table::add>(1) >= 2 ? 0 : 8;
                } catch (const mp::Error&) {  // an old connection, or the line is not up yet
                }
            return 9;
        });
        if (!test::eventually([&] { return stage == 1 || other.ended(); })) return 10;
        const std::string up =
            "ip link set lo up && ip link add mp0 type veth peer name mp1 netns " +
            std::to_string(other.pid()) +
            " && ip addr add 10.77.0.1/30 dev mp0 && ip link set mp0 up";
        if (other.ended() || std::system((up + " 2>/dev/null").c_str()) != 0) return 77;
        stage = 2;
        if (!test::eventually([&] { return stage == 3; })) return 12;
        auto options = serves();
        options.unreachable_timeout = 1s;
        auto server = Jobs::serve("10.77.0.1:0", options);
        server.address().to_string().copy(address.data(), address.size() - 1);
        stage = 4;
        if (!test::eventually([&] { return stage == 5; })) return 13;
        if (std::system("ip link set mp0 down") != 0) return 14;
        if (!test::eventually([&] { return stage == 6; })) return 15;
        if (std::system("ip link set mp0 up") != 0) return 16;
        stage = 7;
        return other.exit_status().value_or(17);
    });
    const auto status = host.exit_status(4 * test::patience);
    if (status == 77)
        WARN("no network namespaces, or no ip program, on this machine");
    else
        CHECK(status == std::optional<int>(0));
}
