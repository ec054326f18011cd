// SPDX-License-Identifier: BSL-1.0

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <multiprocessing/managers.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>
#include <multiprocessing/tls.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"
#include "support/raw_tcp.hpp"
#include "support/reports.hpp"

namespace mp = multiprocessing;
using namespace std::chrono_literals;

namespace {

const mp::AuthKey key = mp::AuthKey::generate();
const mp::ListenerOptions listens{.authkey = key, .transport = mp::tls};
const mp::ClientOptions connects{.authkey = key, .transport = mp::tls, .timeout = test::patience};

/// What a side gets to see.
template <class F>
std::string refused(F f) {
    try {
        f();
    } catch (const mp::AuthenticationError& e) {
        return std::string("AuthenticationError ") + e.what();
    } catch (const mp::EndOfFile& e) {
        return std::string("EndOfFile ") + e.what();
    } catch (const mp::TimeoutError& e) {
        return std::string("TimeoutError ") + e.what();
    } catch (const mp::Error& e) {
        return std::string("Error ") + e.what();
    }
    return "";
}

/// Accepts and answers each message with itself, until it is destroyed.
class echo_server {
public:
    explicit echo_server(mp::Address at = "127.0.0.1:0", mp::ListenerOptions options = listens)
        : listener_(std::move(at), std::move(options)), thread_([this] { serve(); }) {}
    echo_server(const echo_server&) = delete;
    echo_server& operator=(const echo_server&) = delete;
    ~echo_server() {
        listener_.close();
        thread_.join();
    }
    mp::Address address() const { return listener_.address(); }
    /// Messages that it received, whether right or not.
    std::atomic<int> right{0}, wrong{0}, strangers{0};

private:
    void serve() {
        for (;;) try {
                auto c = listener_.accept();
                for (;;) {
                    const auto text = c.recv<std::string>();
                    ++(text == "a message" ? right : wrong);
                    c.send(text);
                }
            } catch (const mp::ClosedError&) {
                return;
            } catch (const mp::AuthenticationError&) {
                ++strangers;
            } catch (const mp::Error&) {  // that client is over
            }
    }

    mp::Listener listener_;
    std::thread thread_;
};

/// Connects, sends a message and receives it back.
void ask(const mp::Address& address, const mp::ClientOptions& options = connects) {
    auto c = mp::Client(address, options);
    c.send("a message");
    if (c.recv<std::string>() != "a message") throw std::runtime_error("another message came back");
}

std::string hex(std::span<const unsigned char> bytes) {
    std::string text;
    for (const unsigned char byte : bytes) {
        char two[3];
        std::snprintf(two, sizeof two, "%02x", byte);
        text += two;
    }
    return text;
}

/// What a BaseManager serves here.
struct number {
    int add(int n) { return value += n; }
    int value = 0;
};
struct Numbers : mp::BaseManager<Numbers> {
    static void register_types(mp::Registry& r) {
        r.add<number>("number", mp::method<&number::add>("add"));
    }
};
const mp::ServeOptions serves{.authkey = key, .transport = mp::tls};

/// Calls over a connection of its own.
int add(const mp::Address& address, int n) {
    return Numbers::connect(address, connects).get("number").call<int>("add", n);
}

}  // namespace

TEST_CASE("tls: messages through TCP and Unix sockets", "[tls]") {
    const test::no_leaks guard;
    char path[] = "/tmp/mp-tls-XXXXXX";
    REQUIRE(::mkdtemp(path));
    for (const mp::Address& where :
         {mp::Address("127.0.0.1:0"), mp::Address(), mp::Address(std::string(path) + "/s")}) {
        CAPTURE(where.to_string());
        echo_server server(where);
        auto c = mp::Client(server.address(), connects);
        for (const std::size_t size : std::vector<std::size_t>{0, 1, 20'000, 5'000'000}) {
            const std::string text(size, 'x');
            std::thread sends([&] { c.send(text); });
            CHECK(c.recv<std::string>() == text);
            sends.join();
        }
    }
    ::rmdir(path);
}

TEST_CASE("tls: at a Unix socket both ends move to shared memory", "[tls]") {
    mp::Listener listener({}, listens);
    std::optional<mp::Connection<>> client;
    std::thread connecting([&] { client = mp::Client(listener.address(), connects); });
    auto server = listener.accept(test::patience);
    connecting.join();
    mp::Queue<int> queue;  // which goes to nobody on another host
    queue.put(5);
    client->send(queue);
    CHECK(server.recv<mp::Queue<int>>().get() == 5);
}

TEST_CASE("tls: another key is refused on both sides, and the next client is not", "[tls]") {
    for (const mp::Address& where : {mp::Address("127.0.0.1:0"), mp::Address()}) {
        CAPTURE(where.to_string());
        mp::Listener listener(where, listens);
        std::string client;
        std::thread wrong([&] {
            client = refused([&] {
                mp::Client(listener.address(), {.authkey = mp::AuthKey::generate(),
                                                .transport = mp::tls,
                                                .timeout = test::patience});
            });
        });
        CHECK_THAT(refused([&] { listener.accept(test::patience); }),
                   Catch::Contains("AuthenticationError"));
        wrong.join();
        CHECK_THAT(client, Catch::Contains("AuthenticationError"));
        std::thread good([&] { mp::Client(listener.address(), connects); });
        listener.accept(test::patience);
        good.join();
    }
}

TEST_CASE("tls: who has no key gets nowhere, and delays nobody", "[tls]") {
    echo_server server;
    SECTION("a Client without") {
        CHECK(!refused([&] {
                   mp::Client(server.address(),
                              {.transport = mp::insecure, .timeout = test::patience});
               }).empty());
    }
    SECTION("garbage, and beginnings of what might become a login") {
        std::vector<test::tcp_socket> open;
        for (int i = 0; i < 300; ++i) {
            open.push_back(test::tcp_connect(server.address()));
            if (i % 3 == 1) open.back().send("GET / HTTP/1.1\r\n\r\n");
            if (i % 3 == 2) open.back().send(std::string("\x16\x03\x01\x02\x00\x01", 6));
        }
        ask(server.address());
    }
    SECTION("a Listener without") {
        const test::tcp_server other;
        std::thread answers([&] {
            const auto c = other.accept();
            c.send("no TLS here, but a text\r\n");
            c.ended();
        });
        CHECK_THAT(refused([&] { mp::Client(other.address(), connects); }), Catch::Contains("TLS"));
        answers.join();
    }
    ask(server.address());
    CHECK(server.wrong == 0);
}

TEST_CASE("tls: a manager refuses who has another key, or none, and its log says so", "[tls]") {
    const auto other = mp::AuthKey::generate();
    const auto hex_of = [](const mp::AuthKey& one) {
        return hex({reinterpret_cast<const unsigned char*>(one.bytes().data()), 32});
    };
    std::string with_another, without;
    const std::string log = test::log_of([&] {
        auto server = Numbers::serve("127.0.0.1:0", serves);
        with_another = refused([&] {
            Numbers::connect(server.address(),
                             {.authkey = other, .transport = mp::tls, .timeout = test::patience});
        });
        CHECK(add(server.address(), 1) == 1);
        without = refused([&] {
            Numbers::connect(server.address(),
                             {.transport = mp::insecure, .timeout = test::patience});
        });
        CHECK(add(server.address(), 1) == 2);
        server.shutdown();
        CHECK(server.wait(0s));
    });
    CHECK_THAT(with_another, Catch::StartsWith("AuthenticationError"));
    CHECK_THAT(without, Catch::StartsWith("E"));
    CAPTURE(with_another, without, log);
    CHECK(log.starts_with("[WARNING/Server-"));
    CHECK_THAT(log, Catch::Contains("a client was refused, of 127.0.0.1:"));
    CHECK_THAT(log, Catch::Contains("a client was turned away, of 127.0.0.1:"));
    for (const std::string& text : {log, with_another, without})
        for (const auto& one : {key, other}) {
            const auto bytes = one.bytes();
            CHECK(text.find(hex_of(one)) == text.npos);
            CHECK(text.find({reinterpret_cast<const char*>(bytes.data()), bytes.size()}) ==
                  text.npos);
        }
}

TEST_CASE("tls: one that receives nothing is given up, and holds up nobody else", "[tls]") {
    mp::ListenerOptions options = listens;
    options.unreachable_timeout = 200ms;
    mp::Listener listener("127.0.0.1:0", options);
    const auto connect = [&] {
        std::pair<mp::Connection<>, mp::Connection<>> ends;
        std::thread client([&] { ends.first = mp::Client(listener.address(), connects); });
        ends.second = listener.accept(test::patience);
        client.join();
        return ends;
    };
    auto [reads_nothing, to_it] = connect();
    const auto begin = test::clock::now();
    std::string what;
    std::atomic<bool> ended{false};
    std::thread sends([&, &to = to_it] {
        what = refused([&] {
            for (const std::string text(1'000'000, 'x');;) to.send(text);
        });
        ended = true;
    });
    do {
        auto [good, served] = connect();
        good.send(1);
        CHECK(served.recv<int>() == 1);
        served.send(2);
        CHECK(good.recv<int>() == 2);
    } while (!ended && test::clock::now() - begin < test::patience);
    CHECK(ended);
    reads_nothing.close();  // so that a failed test ends
    sends.join();
    CHECK(test::clock::now() - begin >= 200ms);
    CHECK_THAT(what, Catch::StartsWith("TimeoutError"));
}

TEST_CASE("tls: a storm of logins that break off leaves a manager as it was", "[tls]") {
    const unsigned seed = std::random_device()();
    CAPTURE(seed);
    std::minstd_rand random(seed);
    auto options = serves;
    options.login_timeout = 60s;  // nothing goes by that
    auto server = Numbers::serve("127.0.0.1:0", options);
    const auto has = [&](const char* what) {
        std::size_t n = 0;
        const auto path = "/proc/" + std::to_string(server.pid()) + "/" + what;
        for (const auto& entry : std::filesystem::directory_iterator(path)) n += entry.exists();
        return n;
    };
    std::string login;  // as it is with the right key, and a question
    {
        test::relay between(server.address(), [&](auto d, std::string& bytes, bool&) {
            if (d == test::relay::to_server) login += bytes;
        });
        CHECK(add(between.address(), 1) == 1);
    }
    REQUIRE(test::eventually([&] { return has("task") == 1; }));  // that one is over
    auto good = Numbers::connect(server.address(), connects).get("number");
    const std::size_t descriptors = has("fd"), threads = has("task");
    for (int i = 0; i < 300; ++i) {
        const auto attacker = test::tcp_connect(server.address());
        std::string says = login.substr(0, random() % login.size());
        if (i % 3 == 0 && !says.empty()) says[random() % says.size()] ^= 8;
        attacker.send(says);
        if (i % 2 == 0) {  // a reset, rather than an end
            const linger at_once{1, 0};
            ::setsockopt(attacker.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        }
        if (i % 30 == 0) CHECK(good.call<int>("add", 1) == 2 + i / 30 * 2);
        if (i % 30 == 1) CHECK(add(server.address(), 1) == 3 + i / 30 * 2);
    }
    CHECK(test::eventually([&] { return has("fd") <= descriptors && has("task") <= threads; }));
    std::ifstream children("/proc/" + std::to_string(server.pid()) + "/task/" +
                           std::to_string(server.pid()) + "/children");
    int child = 0;
    CHECK(!(children >> child));
}

TEST_CASE("tls: a thousand clients that stop in their login cost a manager little memory",
          "[tls]") {
    if (test::address_sanitizer) return;  // whose own memory grows
    auto options = serves;
    options.login_timeout = 60s;  // nothing goes by that
    auto server = Numbers::serve("127.0.0.1:0", options);
    const auto resident = [&] {  // KiB
        std::ifstream status("/proc/" + std::to_string(server.pid()) + "/status");
        for (std::string word; status >> word;)
            if (long size = 0; word == "RssAnon:" && status >> size) return size;
        return 0L;
    };
    std::string login;
    {
        test::relay between(server.address(), [&](auto d, std::string& bytes, bool&) {
            if (d == test::relay::to_server) login += bytes;
        });
        CHECK(add(between.address(), 1) == 1);
    }
    const long before = resident();
    REQUIRE(before > 0);
    // 256 of them may be heard at a time, and OpenSSL takes some 64 KiB for each.
    const long most = before + 256 * 128 + 1024;
    std::vector<test::tcp_socket> silent;
    for (int i = 0; i < 1000; ++i) {
        silent.push_back(test::tcp_connect(server.address()));
        silent.back().send(std::string_view(login).substr(0, 100));
        if (i % 100 == 99) {
            CHECK(add(server.address(), 1) == 2 + i / 100);
            CHECK(resident() < most);
        }
    }
    silent.clear();
    CHECK(add(server.address(), 1) == 12);
    CHECK(resident() < most);
}

TEST_CASE("tls: a password is no key", "[tls]") {
    CHECK_THAT(refused([] {
                   mp::Listener("127.0.0.1:0",
                                {.authkey = mp::AuthKey("secret"), .transport = mp::tls});
               }),
               Catch::Contains("32"));
    CHECK_THAT(refused([] { mp::Listener("127.0.0.1:0", {.transport = mp::tls}); }),
               Catch::Contains("authkey"));
}

TEST_CASE("tls: who sits in between reads nothing, and what he changes is not believed", "[tls]") {
    echo_server server;
    std::string seen[2];
    {
        test::relay between(server.address(),
                            [&](auto d, std::string& bytes, bool&) { seen[d] += bytes; });
        ask(between.address());
    }
    CHECK(seen[0].find("a message") == seen[0].npos);
    CHECK(seen[1].find("a message") == seen[1].npos);
    REQUIRE(server.right == 1);

    // Every k-th byte of a session, from a start and in a bit that move; with MP_EVERY_BYTE each.
    const std::size_t step = std::getenv("MP_EVERY_BYTE") != nullptr ? 1 : 23;
    const std::size_t start = static_cast<std::size_t>(::getpid()) % step;
    const int bit = ::getpid() / 23 % 8;
    CAPTURE(start, bit);
    const bool flips = GENERATE(true, false);
    int tried = 0, noticed = 0;
    std::atomic<int> reached{0};
    for (const int direction : {0, 1})
        for (std::size_t at = start; at < seen[direction].size(); at += step) {
            CAPTURE(flips, direction, at);
            ++tried;
            std::size_t passed = 0;
            test::relay between(server.address(), [&](auto d, std::string& bytes, bool& cut) {
                if (d != direction) return;
                const std::size_t begin = passed;
                passed += bytes.size();
                if (at < begin || at >= passed) return;
                ++reached;
                if (flips) {
                    bytes[at - begin] = static_cast<char>(bytes[at - begin] ^ 1 << bit);
                } else {
                    bytes.resize(at - begin);
                    cut = true;
                }
            });
            // A flipped length may leave a side waiting for more: then its time ends.
            mp::ClientOptions options = connects;
            options.timeout = 1s;
            const std::string what = refused([&] {
                auto c = mp::Client(between.address(), options);
                c.send("a message");
                if (!c.poll(1s)) throw mp::TimeoutError("no answer");
                if (c.recv<std::string>() != "a message") throw std::runtime_error("changed");
            });
            noticed += !what.empty();
        }
    CHECK(server.wrong == 0);
    // Nobody need notice what changes nothing: the version in the front of a record in clear, which
    // RFC 8446, 5.1 wants ignored, and what comes behind the answer.
    CHECK(4 * noticed > 3 * tried);
    CHECK(reached > tried / 2);  // it takes two milliseconds, and has a second
    ask(server.address());
}

TEST_CASE("tls: a session that is cut ends as one whose other side was killed", "[tls]") {
    // Of three messages the second one takes three records.
    const std::vector<std::size_t> sizes{100, 40'000, 10};
    std::vector<std::size_t> ends;  // bytes on the wire up to the end of each
    const auto run = [&](std::size_t most) {
        mp::Listener listener("127.0.0.1:0", listens);
        std::atomic<bool> counts{false};
        std::atomic<std::size_t> passed{0};
        test::relay between(listener.address(), [&](auto d, std::string& bytes, bool& cut) {
            if (d != test::relay::to_server || !counts) return;
            if (passed + bytes.size() >= most) {
                bytes.resize(most - passed);
                cut = true;
            }
            passed += bytes.size();
        });
        std::optional<mp::Connection<>> client;
        std::thread connecting([&] { client = mp::Client(between.address(), connects); });
        auto server = listener.accept(test::patience);
        connecting.join();
        counts = true;  // the login is over
        std::thread sends([&] {
            refused([&] {
                for (const std::size_t size : sizes) {
                    client->send_bytes(std::vector<std::byte>(size, std::byte{7}));
                    client->recv<bool>();
                }
            });
            client->close();
        });
        std::size_t got = 0;
        const std::string what = refused([&] {
            for (;;) {
                const auto message = server.recv_bytes();
                CHECK(message == std::vector<std::byte>(sizes.at(got), std::byte{7}));
                ++got;
                if (most == std::string::npos) ends.push_back(passed);
                server.send(true);
            }
        });
        server.close();
        sends.join();
        return std::pair(got, what);
    };
    CHECK(run(std::string::npos).first == sizes.size());
    REQUIRE(ends.size() == sizes.size());
    std::vector<std::size_t> cuts{0, 1, 4, 5, 6, 21, ends[0] + 1, ends[0] + 5};
    for (std::size_t at = ends[0] + 300; at < ends[2]; at += 2'999) cuts.push_back(at);
    const std::size_t record = 5 + 16'384 + 1 + 16;
    for (const std::size_t at : {ends[0] + record, ends[0] + 2 * record, ends[0], ends[1], ends[2]})
        for (const std::size_t near : {at - 1, at}) cuts.push_back(near);
    for (const std::size_t at : cuts) {
        CAPTURE(at);
        const auto [got, what] = run(at);
        std::size_t whole = 0;
        while (whole < ends.size() && ends[whole] <= at) ++whole;
        CHECK(got == whole);
        CHECK_THAT(what, Catch::StartsWith("EndOfFile"));
        const bool between_messages = at == 0 || (whole != 0 && ends[whole - 1] == at);
        CHECK((what.find("in the middle") == what.npos) == between_messages);
    }
}

TEST_CASE("tls: one that stops in the middle of a record is given up", "[tls]") {
    mp::ListenerOptions options = listens;
    options.unreachable_timeout = 50ms;
    mp::Listener listener("127.0.0.1:0", options);
    const std::size_t let_through = GENERATE(1u, 5u, 6u, 30u);  // of a record; its front is 5
    std::atomic<bool> stops{false};
    std::size_t passed = 0;
    test::relay between(listener.address(), [&](auto d, std::string& bytes, bool& cut) {
        if (d != test::relay::to_server || !stops || cut) return;
        bytes.resize(std::min(bytes.size(), let_through - passed));
        passed += bytes.size();
    });
    std::optional<mp::Connection<>> client;
    std::thread connecting([&] { client = mp::Client(between.address(), connects); });
    auto server = listener.accept(test::patience);
    connecting.join();
    CHECK(!server.poll(60ms));  // between messages it may be silent
    stops = true;
    client->send(std::string(100, 'x'));
    CHECK(mp::wait({server}, test::patience) == std::vector<std::size_t>{0});
    CHECK_THAT(refused([&] { server.recv<std::string>(); }),
               Catch::Contains("stopped in the middle"));
}

TEST_CASE("tls: what was sent before the end arrives, though the receiver sends first", "[tls]") {
    mp::Listener listener("127.0.0.1:0", listens);
    std::thread sends([&] {
        auto c = mp::Client(listener.address(), connects);
        for (int i = 0; i < 100; ++i) c.send(i);
    });
    auto c = listener.accept(test::patience);
    sends.join();
    for (int i = 0; i < 3; ++i) refused([&] { c.send(std::string(100'000, 'x')); });
    int got = 0;
    CHECK_THAT(refused([&] {
                   for (;;) got += c.recv<int>() == got;
               }),
               Catch::Contains("EndOfFile"));
    CHECK(got == 100);
}

TEST_CASE("tls: a process may fork while threads log in", "[tls][process]") {
    echo_server server;
    std::atomic<bool> stop{false};
    std::vector<std::thread> clients;
    for (int i = 0; i < 2; ++i)
        clients.emplace_back([&] {
            while (!stop) ask(server.address());
        });
    for (int i = 0; i < 200; ++i) {
        test::child forked([] { return 0; });
        CHECK(forked.exit_status() == std::optional<int>(0));
    }
    mp::Process child([&] { ask(server.address()); });
    child.start();
    child.join();
    CHECK(child.exitcode() == 0);
    stop = true;
    for (auto& one : clients) one.join();
}

TEST_CASE("tls: a recorded login is not accepted again", "[tls]") {
    std::string recorded;
    {
        echo_server server;
        test::relay between(server.address(), [&](auto d, std::string& bytes, bool&) {
            if (d == test::relay::to_server) recorded += bytes;
        });
        ask(between.address());
    }
    echo_server server;
    const auto attacker = test::tcp_connect(server.address());
    attacker.send(recorded);
    CHECK(attacker.ended());
    ask(server.address());
    CHECK(server.right == 1);
}

TEST_CASE("tls: OpenSSL's own tools, as strangers, agree", "[tls][process]") {
    const std::string psk = hex(mp::detail::tls_key(key).bytes());
    const std::string options =
        " -tls1_3 -psk_identity multiprocessing -ciphersuites TLS_AES_128_GCM_SHA256 -psk ";
    const auto run = [](const std::string& command, const std::string& input) {
        const std::string quiet = command + " >/dev/null 2>&1";
        std::FILE* const program = ::popen(quiet.c_str(), "we");
        REQUIRE(program);
        std::fwrite(input.data(), 1, input.size(), program);
        std::fflush(program);
        return program;
    };
    if (std::system("openssl version >/dev/null 2>&1") != 0) {
        WARN("no openssl program: not checked");
        return;
    }
    SECTION("s_client") {
        mp::Listener listener("127.0.0.1:0", listens);
        const mp::detail::remote_hello hello{.max_message = 1000};
        const mp::detail::remote_header header{5, 0};
        std::string says(reinterpret_cast<const char*>(&hello), sizeof hello);
        says += std::string(reinterpret_cast<const char*>(&header), sizeof header) + "hello";
        std::FILE* const client = run("openssl s_client -nocommands -quiet -connect " +
                                          listener.address().to_string() + options + psk,
                                      says);
        auto c = listener.accept(test::patience);
        const auto bytes = c.recv_bytes();
        CHECK(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == "hello");
        c.close();
        ::pclose(client);
    }
    SECTION("s_server") {
        const bool right = GENERATE(true, false);
        const std::string port = std::to_string(20'000 + ::getpid() % 12'000);
        std::FILE* const server =
            run("exec openssl s_server -quiet -nocert -naccept 1 -accept 127.0.0.1:" + port +
                    options + (right ? psk : std::string(64, '7')),
                std::string(100, 'x'));  // which is no hello
        std::string what;
        REQUIRE(test::eventually([&] {  // until it listens
            what = refused([&] { mp::Client("127.0.0.1:" + port, connects); });
            return what.find("refused") == what.npos;
        }));
        if (right)
            CHECK_THAT(what, Catch::Contains("no Listener"));  // after a login
        else
            CHECK_THAT(what, Catch::Contains("AuthenticationError"));
        ::pclose(server);
    }
    SECTION("s_server with a certificate, but without the key") {
        char place[] = "/tmp/mp-tls-XXXXXX";
        REQUIRE(::mkdtemp(place));
        const std::string name = std::string(place) + "/x";
        CHECK(std::system(("openssl req -x509 -newkey ed25519 -nodes -subj /CN=x -keyout " + name +
                           ".key -out " + name + ".pem >/dev/null 2>&1")
                              .c_str()) == 0);
        const std::string port = std::to_string(20'000 + ::getpid() % 12'000);
        std::FILE* const server =
            run("exec openssl s_server -quiet -tls1_3 -naccept 1 -cert " + name + ".pem -key " +
                    name + ".key -accept 127.0.0.1:" + port,
                "");
        std::string what;
        REQUIRE(test::eventually([&] {
            what = refused([&] { mp::Client("127.0.0.1:" + port, connects); });
            return what.find("Connection refused") == what.npos;
        }));
        ::pclose(server);
        std::filesystem::remove_all(place);
        CHECK_THAT(what, Catch::StartsWith("AuthenticationError"));
    }
    SECTION("s_client that offers TLS 1.2 and the key") {
        int status = 0;
        const std::string log = test::log_of([&] {
            echo_server server;
            status = std::system(("exec openssl s_client -quiet -tls1_2 -cipher PSK -psk_identity "
                                  "multiprocessing -psk " +
                                  psk + " -connect " + server.address().to_string() +
                                  " </dev/null >/dev/null 2>&1")
                                     .c_str());
            ask(server.address());
            CHECK(server.strangers == 0);
        });
        CHECK(status != 0);
        CHECK_THAT(log, Catch::Contains("does not speak TLS 1.3"));
        CHECK(log.find(psk) == log.npos);
    }
}

TEST_CASE("tls: the key is in no text, and in no memory that a core dump would have",
          "[tls][process]") {
    // Nobody else's, and never in memory as it is, but for the AuthKey.
    const auto own = mp::AuthKey::generate();
    std::string inverted;
    for (const std::byte b : own.bytes()) inverted += static_cast<char>(~std::to_integer<int>(b));
    std::string error;
    {
        mp::Listener listener("127.0.0.1:0", {.authkey = own, .transport = mp::tls});
        std::thread client([&] {
            mp::Client(listener.address(),
                       {.authkey = own, .transport = mp::tls, .timeout = test::patience});
        });
        listener.accept(test::patience);
        client.join();
        std::thread wrong(
            [&] { error = refused([&] { mp::Client(listener.address(), connects); }); });
        error += refused([&] { listener.accept(test::patience); });
        wrong.join();
    }
    const auto found_in = [&](const std::string& bytes) {
        for (std::size_t at = 0; at + inverted.size() <= bytes.size(); ++at) {
            std::size_t same = 0;
            while (same < inverted.size() && bytes[at + same] == static_cast<char>(~inverted[same]))
                ++same;
            if (same == inverted.size()) return true;
        }
        return false;
    };
    CHECK(!found_in(error));
    CHECK(error.find(hex({reinterpret_cast<const unsigned char*>(own.bytes().data()), 32})) ==
          error.npos);
    const auto dumped = [&] {  // what proc(5) says of mappings without "dd", in this process
        int found = 0;
        std::ifstream maps("/proc/self/smaps");
        std::ifstream memory("/proc/self/mem", std::ios::binary);
        std::uintptr_t begin = 0, end = 0;
        bool readable = false;
        for (std::string line; std::getline(maps, line);) {
            char mode[5];
            if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, mode) == 3)
                readable = mode[0] == 'r' && mode[1] == 'w';
            if (!line.starts_with("VmFlags:") || !readable) continue;
            if (line.find(" dd") != line.npos || end - begin > (std::uintptr_t{64} << 20)) continue;
            std::string bytes(end - begin, 0);
            memory.clear();
            memory.seekg(static_cast<std::streamoff>(begin));
            memory.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
            found += found_in(bytes);
        }
        return found;
    };
    CHECK(dumped() == 0);
    {  // nor is what is derived from it, while a connection lives
        const mp::detail::tls_key derived(own);
        std::string inverted_key;
        for (const unsigned char b : derived.bytes()) inverted_key += static_cast<char>(~b);
        mp::Listener listener("127.0.0.1:0", {.authkey = own, .transport = mp::tls});
        std::optional<mp::Connection<>> client;
        std::thread connecting([&] {
            client = mp::Client(listener.address(), {.authkey = own, .transport = mp::tls});
        });
        auto server = listener.accept(test::patience);
        connecting.join();
        std::swap(inverted, inverted_key);
        CHECK(dumped() == 0);
        std::swap(inverted, inverted_key);
    }
    mp::Process child([&] { ::_exit(dumped()); });
    child.start();
    child.join();
    CHECK(child.exitcode() == 0);
}
