// SPDX-License-Identifier: BSL-1.0

/// \file
/// Random SIGKILLs among processes that talk through connections: in each round two processes are
/// started, one of them or both are killed, at any moment from their start on, and the other one
/// must end by itself, by the end of the file. Parts: the ends of a pipe moved into Processes;
/// those that forked processes inherit; a Listener and its Client, some with a child that has the
/// socket and does nothing; ends that are sent through a connection; a server that lives, whose
/// clients are killed. Each message is checked, and that all that were sent arrive; and afterwards
/// that no descriptor, mapping or child is left. stress.pipe_soak [SECONDS
/// [MOST_PAUSE_MICROSECONDS]]; MP_SOAK_SEED repeats the order of kills.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <dirent.h>
#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/process.hpp>

#include "support/child.hpp"
#include "support/kill_points.hpp"

namespace {

using namespace test;
namespace mp = multiprocessing;

constexpr auto stall = 20s;

/// Statuses of a process; 0 is good.
enum complaint : int {
    torn = 10,
    out_of_order,
    too_few,
    too_many,
    ready_in_vain,
    decoded_wrong,
    descriptors_left,
    mappings_left,
};

struct side {
    std::atomic<std::uint64_t> begun, returned;  // its sends
    std::atomic<bool> killed;                    // or about to be
};
struct ledger {
    side sides[2];
    std::atomic<bool> listens, stop;
    std::atomic<int> taken;
    std::atomic<std::uint64_t> messages, ends;
};
ledger& sh = shared_memory<ledger>();

// ---- what a process has open

long descriptors() {
    long n = 0;
    DIR* const all = ::opendir("/proc/self/fd");
    if (!all) give_up("opendir");
    while (::readdir(all)) ++n;
    ::closedir(all);
    return n;
}
long mappings() {
    long n = 0;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) n += line.find("/memfd:mp") != line.npos;
    return n;
}
std::vector<pid_t> children() {
    std::vector<pid_t> found;
    std::ifstream list("/proc/self/task/" + std::to_string(::getpid()) + "/children");
    for (pid_t pid = 0; list >> pid;) found.push_back(pid);
    return found;
}

class opened {
public:
    /// After an end that was kept for a receiver that is gone was looked after.
    /// \param more  descriptors that are meant to be open
    int left(long more = 0) const {
        { const mp::Pipe<int> looks; }
        if (descriptors() != descriptors_ + more) return descriptors_left;
        return mappings() != mappings_ ? int{mappings_left} : 0;
    }

private:
    const long descriptors_ = descriptors(), mappings_ = mappings();
};

// ---- messages

using random_numbers = std::minstd_rand;

/// Its number and who sent it, then bytes that follow from that.
void fill(std::vector<std::byte>& to, std::uint64_t number, unsigned who, std::size_t size) {
    to.resize(size);
    std::uint64_t x = number * 2 + who;
    std::memcpy(to.data(), &x, sizeof x);
    for (std::size_t i = sizeof x; i < size; ++i) {
        x = x * 6364136223846793005 + 1442695040888963407;
        to[i] = static_cast<std::byte>(x >> 56);
    }
}
std::size_t some_size(random_numbers& random) {
    if (random() % 200 == 0) return 16 + random() % 600'000;
    return 16 + random() % 400;
}

/// What one of two does with its end, and what it has seen of the other one.
class talk {
public:
    talk(mp::Connection<>& c, unsigned who, unsigned seed) : c_(c), who_(who), random_(seed) {}

    /// As the one that begins, or answers, until the end of the file. \return the exit status
    int until_end() {
        try {
            for (;;) {
                // Together less than what a connection takes before it blocks.
                const unsigned n = who_ == 0 ? 1 + random_() % 8 : 1;
                if (who_ != 0) receive();
                for (unsigned i = 0; i < n; ++i)
                    send(i == 0 ? some_size(random_) : 16 + random_() % 400);
                for (unsigned i = 0; i < n && who_ == 0; ++i) receive();
            }
        } catch (const mp::EndOfFile&) {
        } catch (complaint what) {
            return what;
        }
        try {
            for (;;) receive();  // what was sent arrives first
        } catch (const mp::EndOfFile&) {
        } catch (complaint what) {
            return what;
        }
        const side& other = sh.sides[who_ ^ 1];
        if (other.killed && received_ < other.returned) return too_few;
        return received_ > other.begun ? int{too_many} : 0;
    }

private:
    void send(std::size_t size) {
        fill(message_, ++sent_, who_, size);
        side& mine = sh.sides[who_];
        mine.begun = sent_;
        c_.send_bytes(message_);
        mine.returned = sent_;
    }
    void receive() {
        const unsigned way = random_() % 8;
        if (way == 0 && !c_.poll(1h)) throw ready_in_vain;
        if (way == 1 && mp::wait({c_}).size() != 1) throw ready_in_vain;
        if (way == 2) {
            pollfd one{c_.fileno(), POLLIN, 0};
            do
                if (::poll(&one, 1, 60'000) != 1) throw ready_in_vain;
            while (!c_.poll());
        }
        const std::vector<std::byte> got = c_.recv_bytes();
        std::uint64_t begin = 0;
        if (got.size() < sizeof begin) throw torn;
        std::memcpy(&begin, got.data(), sizeof begin);
        if (begin != (received_ + 1) * 2 + (who_ ^ 1)) throw out_of_order;
        fill(message_, ++received_, who_ ^ 1, got.size());
        if (got != message_) throw torn;
        ++sh.messages;
    }

    mp::Connection<>& c_;
    const unsigned who_;
    random_numbers random_;
    std::vector<std::byte> message_;
    std::uint64_t sent_ = 0, received_ = 0;
};

// ---- parts

/// A process of ours.
class actor {
public:
    actor() = default;
    explicit actor(pid_t forked) : pid_(forked) {}
    explicit actor(mp::Process started) : process_(std::move(started)), pid_(*process_->pid()) {}
    actor(actor&& other) noexcept
        : process_(std::move(other.process_)), pid_(std::exchange(other.pid_, 0)) {}
    actor& operator=(actor&& other) noexcept {
        std::swap(process_, other.process_);
        std::swap(pid_, other.pid_);
        return *this;
    }
    ~actor() {
        if (pid_ == 0) return;
        kill();
        end(stall);
    }

    void kill() const { ::kill(pid_, SIGKILL); }
    /// Exit status or -SIG; nothing if it does not end.
    std::optional<int> end(clock::duration limit) {
        std::optional<int> status;
        if (!process_)
            status = wait_for_exit(pid_, limit);
        else if (process_->join(limit))
            status = process_->exitcode();
        if (status) pid_ = 0;
        return status;
    }

private:
    std::optional<mp::Process> process_;
    pid_t pid_ = 0;
};

template <class F, class... Args>
actor start(F f, Args... args) {
    mp::Process made([f](Args... mine) { std::exit(f(mine...)); }, std::move(args)...);
    made.start();
    return actor(std::move(made));
}

struct part {
    const char* name;
    std::function<std::array<actor, 2>(unsigned seed)> start;
    bool has_orphans = false;  // which the tester adopts
};

/// The ends belong to the children from their first instruction on.
part moved() {
    return {"moved into Processes", [](unsigned seed) {
                auto [a, b] = mp::Pipe<>();
                const auto talks = [seed](unsigned who) {
                    return [=](mp::Connection<>& c) { return talk(c, who, seed).until_end(); };
                };
                actor first = start(talks(0), std::move(a));
                return std::array{std::move(first), start(talks(1), std::move(b))};
            }};
}

/// The ends are the tester's until a child uses its copy, or the tester drops its own.
part inherited() {
    return {"taken by forked processes", [](unsigned seed) {
                static std::optional<mp::Pipe<>> pipe;
                pipe.emplace();
                std::array<actor, 2> both;
                std::atomic<int>& taken = sh.taken;
                for (const unsigned who : {0u, 1u})
                    both[who] = actor(fork_child([&, who] {
                        mp::Connection<>& mine = who == 0 ? pipe->first : pipe->second;
                        static_cast<void>(mine.writable() && mine.poll());
                        ++taken;
                        return talk(mine, who, seed).until_end();
                    }));
                eventually([&] { return taken == 2; });
                pipe.reset();
                return both;
            }};
}

/// Both come and go as they like; sometimes a child of the listener has its socket, and does
/// nothing.
part strangers() {
    return {"Listener and Client",
            [](unsigned seed) {
                const std::string at =
                    "@mp-soak-" + std::to_string(::getpid()) + '-' + std::to_string(seed);
                actor listens = start([=] {
                    mp::Listener listener(at);
                    if (seed % 2 == 0 && ::fork() == 0)
                        for (;;) ::pause();
                    sh.listens = true;
                    for (;;) try {
                            const bool last = sh.sides[0].killed;
                            auto c = listener.accept(last ? 0s : 1ms);
                            return talk(c, 1, seed).until_end();
                        } catch (const mp::TimeoutError&) {
                            if (sh.sides[0].killed) return 0;
                        }
                });
                actor connects = start([=] {
                    for (;;) {
                        const bool last = sh.sides[1].killed;
                        if (sh.listens) try {
                                auto c = mp::Client(at);
                                return talk(c, 0, seed).until_end();
                            } catch (const mp::OsError&) {
                            }
                        if (last) return 0;
                        pause_briefly();
                    }
                });
                return std::array{std::move(connects), std::move(listens)};
            },
            true};
}

/// One makes pipes and sends an end of each to the other one.
part sent() {
    return {"ends sent through a connection", [](unsigned seed) {
                auto [a, b] = mp::Pipe<mp::Connection<int>>();
                actor gives = start(
                    [seed](mp::Connection<mp::Connection<int>>& carrier) {
                        const opened before;
                        long carries = 0;
                        random_numbers random(seed);
                        try {
                            for (;;) {
                                auto [mine, theirs] = mp::Pipe<int>();
                                carries = 1;  // it watches its receiver
                                carrier.send(theirs);
                                { const auto gone = std::move(theirs); }  // kept until received
                                ++sh.ends;
                                for (int i = static_cast<int>(random() % 5); i > 0; --i) {
                                    mine.send(i);
                                    if (mine.recv() != i + 1) return int{out_of_order};
                                    ++sh.messages;
                                }
                            }
                        } catch (const mp::EndOfFile&) {
                        }
                        return before.left(carries);
                    },
                    std::move(a));
                actor takes = start(
                    [](mp::Connection<mp::Connection<int>>& carrier) {
                        const opened before;
                        for (;;) try {
                                auto c = carrier.recv();
                                try {
                                    for (;;) c.send(c.recv() + 1);
                                } catch (const mp::EndOfFile&) {
                                }
                            } catch (const mp::EndOfFile&) {
                                return before.left();
                            } catch (const mp::Error&) {  // its sender has ended
                                if (!sh.sides[0].killed) return int{decoded_wrong};
                            }
                    },
                    std::move(b));
                return std::array{std::move(gives), std::move(takes)};
            }};
}

struct course {
    double seconds;
    std::uint64_t most_pause;
    std::mt19937_64& random;
};

/// A line of figures. \return whether all is well
bool report(const char* name, std::uint64_t rounds, std::uint64_t kills, clock::duration longest,
            const std::map<int, std::uint64_t>& wrong, const opened& before) {
    const int left = before.left() + (children().empty() ? 0 : 1);
    const bool good = wrong.empty() && left == 0 && sh.messages > 0;
    std::printf(
        "%-30s rounds %6llu, kills %6llu, messages %9llu, ends sent %7llu, longest end %.0f "
        "ms, left open %d%s\n",
        name, (unsigned long long)rounds, (unsigned long long)kills,
        (unsigned long long)sh.messages, (unsigned long long)sh.ends,
        std::chrono::duration<double, std::milli>(longest).count(), left, good ? "" : "  FAILED");
    for (const auto& [what, times] : wrong)
        std::printf("    status %d x%llu\n", what, (unsigned long long)times);
    std::fflush(stdout);
    return good;
}

constexpr int hangs = 1000;  // as a status

bool run(const part& p, const course& c) {
    sh.messages = sh.ends = 0;
    { const mp::Pipe<int> first; }  // what the library opens once
    const opened before;
    std::map<int, std::uint64_t> wrong;
    std::uint64_t rounds = 0, kills = 0;
    clock::duration longest{};
    const auto begin = clock::now();
    for (; clock::now() - begin < std::chrono::duration<double>(c.seconds) && wrong.empty();
         ++rounds) {
        for (side& s : sh.sides) s.begun = s.returned = 0, s.killed = false;
        sh.listens = false;
        sh.taken = 0;
        std::array<actor, 2> both = p.start(static_cast<unsigned>(c.random()));
        pause_briefly(std::chrono::microseconds(1 + static_cast<long>(c.random() % c.most_pause)));
        const std::size_t dies = c.random() % 2;
        const bool both_die = c.random() % 8 == 0;
        const auto killed = clock::now();
        for (const std::size_t i : {dies, dies ^ 1}) {
            if (i != dies && !both_die) continue;
            sh.sides[i].killed = true;  // before anybody finds out
            both[i].kill();
            if (const auto status = both[i].end(stall); status != -SIGKILL && status != 0)
                ++wrong[status.value_or(hangs)];
            ++kills;
        }
        if (!both_die) {
            const auto status = both[dies ^ 1].end(stall);
            if (status != 0) ++wrong[status.value_or(hangs)];
            longest = std::max(longest, clock::now() - killed);
        }
        for (const pid_t orphan : children()) {
            if (!p.has_orphans) ++wrong[hangs];
            ::kill(orphan, SIGKILL);
            wait_status(orphan);
        }
    }
    return report(p.name, rounds, kills, longest, wrong, before);
}

/// A server that is never killed, with clients that are; some end well.
bool run_server(const course& c) {
    sh.messages = sh.ends = 0;
    sh.stop = false;
    { const mp::Pipe<int> first; }
    const opened before;
    const std::string at = "@mp-soak-server-" + std::to_string(::getpid());
    actor server = start([at] {
        mp::Listener listener(at);
        sh.listens = true;
        const opened start;
        std::list<mp::Connection<>> clients;
        while (!sh.stop || !clients.empty()) {
            std::vector<mp::Waitable> all{listener};
            for (auto& one : clients) all.emplace_back(one);
            const auto ready = mp::wait(all, 50ms);
            for (auto one = clients.begin(); one != clients.end();) {
                const auto here = one++;
                try {
                    for (int i = 0; i < 10 && here->poll(); ++i) {
                        here->send_bytes(here->recv_bytes());
                        ++sh.messages;
                    }
                } catch (const mp::EndOfFile&) {
                    clients.erase(here);
                }
            }
            if (!ready.empty() && ready.front() == 0) try {
                    clients.push_back(listener.accept(0s));
                } catch (const mp::TimeoutError&) {
                }
        }
        return start.left();
    });
    std::map<int, std::uint64_t> wrong;
    std::array<actor, 3> clients;
    const auto connect = [&](unsigned seed) {
        return actor(fork_child([at, seed] {
            random_numbers random(seed);
            auto mine = mp::Client(at);
            std::vector<std::byte> message;
            for (std::uint64_t k = 1; k < 50 + random() % 100; ++k) {
                fill(message, k, 0, some_size(random));
                mine.send_bytes(message);
                if (mine.recv_bytes() != message) return int{torn};
            }
            return 0;
        }));
    };
    while (!sh.listens) pause_briefly();
    std::uint64_t rounds = 0, kills = 0;
    const auto begin = clock::now();
    for (auto& one : clients) one = connect(static_cast<unsigned>(c.random()));
    for (; clock::now() - begin < std::chrono::duration<double>(c.seconds) && wrong.empty();
         ++rounds) {
        pause_briefly(std::chrono::microseconds(1 + static_cast<long>(c.random() % c.most_pause)));
        actor& one = clients[c.random() % clients.size()];
        if (c.random() % 4 != 0) one.kill(), ++kills;
        if (const auto status = one.end(stall); status != 0 && status != -SIGKILL)
            ++wrong[status.value_or(hangs)];
        one = connect(static_cast<unsigned>(c.random()));
    }
    for (auto& one : clients)
        if (const auto status = one.end(stall); status != 0) ++wrong[status.value_or(hangs)];
    sh.stop = true;  // now that nobody waits to be accepted
    const auto stopped = clock::now();
    if (const auto status = server.end(stall); status != 0) ++wrong[status.value_or(hangs)];
    server = actor();
    return report("a server and its clients", rounds, kills, clock::now() - stopped, wrong, before);
}

}  // namespace

int main(int argc, char** argv) {
    double seconds = argc > 1 ? std::atof(argv[1]) : 120;
    if (const auto budget = time_budget(); argc < 2 && budget)
        seconds = std::chrono::duration<double>(*budget).count();
    const std::uint64_t most_pause = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 10'000;
    const std::uint64_t seed = moving_seed("MP_SOAK_SEED");
    std::printf("MP_SOAK_SEED=%llu, %.0f s\n", (unsigned long long)seed, seconds);
    std::fflush(stdout);
    ::prctl(PR_SET_TIMERSLACK, 1000);
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    std::mt19937_64 random(seed);

    const part parts[] = {moved(), inherited(), strangers(), sent()};
    const course each{seconds / static_cast<double>(std::size(parts) + 1), most_pause, random};
    bool good = true;
    for (const part& p : parts) good = run(p, each) && good;
    good = run_server(each) && good;
    std::puts(good ? "good" : "FAILED");
    return !good;
}
