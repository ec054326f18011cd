// SPDX-License-Identifier: BSL-1.0
//
// Servers of a BaseManager, and their clients, through TLS, killed at any moment: 1,000 of them, or
// 100 with a budget of time. A server is started again at its address, and the clients that are
// there go on. Each call ends with the right answer or an EndOfFile; no object stays locked; and
// the server has the objects, the threads and the descriptors that it had.
// Environment: MP_BUDGET_SECONDS, MP_SEED.

#include <multiprocessing/managers.hpp>
#include <multiprocessing/tls.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

namespace {

unsigned long from_environment(const char* name, unsigned long otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoul(text, nullptr, 10) : otherwise;
}

std::size_t entries(pid_t pid, const char* what) {
    std::size_t n = 0;
    const auto path = "/proc/" + std::to_string(pid) + "/" + what;
    for (const auto& entry : std::filesystem::directory_iterator(path)) n += entry.exists();
    return n;
}

/// A number that is counted as long as it is somewhere in this process.
struct counted {
    counted() noexcept { ++alive; }
    explicit counted(unsigned n) noexcept : value(n) { ++alive; }
    counted(const counted& other) noexcept : value(other.value) { ++alive; }
    counted& operator=(const counted&) = default;
    ~counted() { --alive; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(value);
    }
    unsigned value = 0;
    static inline std::atomic<long> alive{0};
};

constexpr unsigned answer_to(unsigned n) { return 2 * n + 1; }

/// Calls of it take turns.
class book {
public:
    std::vector<counted> look_up(std::vector<counted> what) {
        if (std::exchange(busy_, true)) ++intruders_;
        for (counted& each : what) each.value = answer_to(each.value);
        last_ = what;
        busy_ = false;
        return what;
    }
    long alive() {
        last_.clear();
        return counted::alive;
    }
    int intruders() const { return intruders_; }

private:
    bool busy_ = false;
    int intruders_ = 0;
    std::vector<counted> last_;
};

/// Calls of it don't.
class meeting {
public:
    using mp_concurrent_tag = void;
    /// Waits for another one, but not for ever.
    counted wait(counted mine) {
        std::unique_lock lock(mutex_);
        ++came_;
        changed_.notify_all();
        changed_.wait_for(lock, 5ms, [&, first = came_] { return came_ != first; });
        return counted(answer_to(mine.value));
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    unsigned came_ = 0;
};

struct Library : mp::BaseManager<Library> {
    static void register_types(mp::Registry& r) {
        r.add<book>("book", mp::method<&book::look_up>("look_up"),
                    mp::method<&book::alive>("alive"), mp::method<&book::intruders>("intruders"));
        r.add<meeting>("meeting", mp::method<&meeting::wait>("wait"));
    }
};

const mp::AuthKey key = mp::AuthKey::generate();
mp::ServeOptions serves() { return {.authkey = key, .transport = mp::tls}; }
mp::ClientOptions connects() {
    return {.authkey = key, .transport = mp::tls, .timeout = test::patience};
}

/// What a client has to say.
struct report {
    std::atomic<unsigned long> right, ends;
};

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "client %d: %s\n", int{::getpid()}, what.c_str());
    ::_exit(1);
}

/// A thread of a client.
void work(const mp::Address& server, report& to, unsigned seed) try {
    std::mt19937 random(seed);
    const auto until_it_is_there = [&](auto f) {
        for (;; test::pause_briefly(1ms)) try {
                return f();
            } catch (const mp::EndOfFile&) {  // killed before it answered, or not there
                ++to.ends;
            } catch (const mp::OsError& e) {
                if (e.code().value() != ECONNREFUSED && e.code().value() != ECONNRESET) throw;
                ++to.ends;
            }
    };
    const auto remote = until_it_is_there([&] { return Library::connect(server, connects()); });
    const auto the_book = until_it_is_there([&] { return remote.get<book>("book"); });
    const auto the_meeting = until_it_is_there([&] { return remote.get<meeting>("meeting"); });
    for (;;) {
        const auto first = static_cast<unsigned>(random() % 1000);
        if (random() % 8 == 0) {
            const counted back =
                until_it_is_there([&] { return the_meeting.call<&meeting::wait>(counted(first)); });
            if (back.value != answer_to(first)) fail("a wrong answer");
        } else {
            std::vector<counted> asked;
            const std::size_t size = random() % 16 == 0 ? random() % 50'000 : random() % 50;
            for (unsigned i = 0; i < size; ++i) asked.emplace_back(first + i);
            const auto back =
                until_it_is_there([&] { return the_book.call<&book::look_up>(asked); });
            if (back.size() != size) fail("an answer of another length");
            for (unsigned i = 0; i < size; ++i)
                if (back[i].value != answer_to(first + i)) fail("a wrong answer");
        }
        ++to.right;
    }
} catch (const std::exception& e) {
    fail(e.what());
}

}  // namespace

TEST_CASE("soak: servers and clients of a BaseManager are killed at random", "[soak][served]") {
    const unsigned long seed = from_environment("MP_SEED", std::random_device()());
    const unsigned long target = std::getenv("MP_BUDGET_SECONDS") ? 100 : 1000;
    std::printf("MP_SEED=%lu\n", seed);
    std::mt19937 random(static_cast<unsigned>(seed));

    const test::no_leaks guard;
    // Below the ports that clients get: none of them may take it while no server is there.
    std::string address;
    std::optional<mp::ManagerServer> server;
    for (int port = 20'000 + ::getpid() % 10'000; !server; ++port) try {
            address = "127.0.0.1:" + std::to_string(port);
            server.emplace(Library::serve(address, serves()));
        } catch (const mp::OsError& e) {
            if (e.code().value() != EADDRINUSE) throw;
        }

    constexpr std::size_t clients_at_a_time = 3;
    auto& reports = test::shared_memory<std::array<report, clients_at_a_time>>();
    std::array<std::optional<test::child>, clients_at_a_time> clients;
    const auto start_client = [&](std::size_t i) {
        const auto own = static_cast<unsigned>(random());
        clients[i].emplace([&reports, &address, i, own] {
            std::thread other([&] { work(address, reports[i], own + 1); });
            work(address, reports[i], own);
            return 0;
        });
    };

    struct state {
        std::size_t threads, descriptors;
        long alive;
        int intruders;
    };
    // With one client, which asks.
    const auto look = [&] {
        const auto the_book = Library::connect(address, connects()).get<book>("book");
        const long alive = the_book.call<&book::alive>();
        const int intruders = the_book.call<&book::intruders>();
        return state{entries(server->pid(), "task"), entries(server->pid(), "fd"), alive,
                     intruders};
    };
    const state before = look();
    const auto end_clients = [&] {
        for (auto& each : clients) each.reset();
        state now{};
        test::eventually([&] {
            now = look();
            return now.threads == before.threads && now.descriptors == before.descriptors &&
                   now.alive == 0;
        });
        CHECK(now.threads == before.threads);
        CHECK(now.descriptors == before.descriptors);
        CHECK(now.alive == 0);
        CHECK(now.intruders == 0);
    };

    unsigned long servers_killed = 0, clients_killed = 0;
    for (std::size_t i = 0; i < clients.size(); ++i) start_client(i);
    for (unsigned long killed = 1; killed <= target; ++killed) {
        test::pause_briefly(std::chrono::microseconds(random() % 30'000));
        if (random() % 4 == 0) {
            ++servers_killed;
            ::kill(server->pid(), SIGKILL);
            server->wait();
            std::array<unsigned long, clients_at_a_time> right{};
            for (std::size_t i = 0; i < clients.size(); ++i) right[i] = reports[i].right;
            server.reset();
            server.emplace(Library::serve(address, serves()));
            // Each of its two threads may have had an answer of the dead one on the way.
            for (std::size_t i = 0; i < clients.size(); ++i)
                REQUIRE(test::eventually(
                    [&] { return reports[i].right > right[i] + 2 || clients[i]->ended(); }));
        } else {
            ++clients_killed;
            const std::size_t i = random() % clients.size();
            REQUIRE(!clients[i]->ended());
            clients[i].reset();
            start_client(i);
        }
        for (auto& each : clients) REQUIRE(!each->ended());
        if (killed % 10 == 0) CHECK(look().intruders == 0);  // it is answered: its turn comes
        if (killed % 100 == 0) {
            end_clients();
            for (std::size_t i = 0; i < clients.size(); ++i) start_client(i);
        }
    }
    end_clients();
    unsigned long right = 0, ends = 0;
    for (const report& each : reports) {
        right += each.right;
        ends += each.ends;
    }
    std::printf(
        "%lu servers and %lu clients killed; %lu answers, all of them right; %lu times EndOfFile\n",
        servers_killed, clients_killed, right, ends);
    CHECK(right > target);
    server->shutdown();
}
