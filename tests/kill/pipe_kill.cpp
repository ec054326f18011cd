// SPDX-License-Identifier: BSL-1.0

/// \file
/// Kills every operation of a connection at every instruction: kill.pipe_kill [-v] [-p POINT] [part
/// of a name]. With MP_BUDGET_SECONDS it samples, from MP_KILL_START on.
///
/// The victim owns one end, or is about to; whoever has the other one must get whole messages, in
/// order, and then the end of the file, in whichever way it waits: the victim is killed in any
/// case.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/process.hpp>

#include "support/child.hpp"
#include "support/kill_points.hpp"

namespace {

namespace mp = multiprocessing;
using namespace std::chrono_literals;
using test::bystanders;
using test::scenario;

enum complaint : int {
    torn = 10,
    out_of_order,
    too_few,
    too_many,
    no_end_for_sender,
    ready_in_vain,
    not_accepted,
    stranger_accepted,
    still_waits,
};

std::string message(int k, std::size_t size) {
    std::string s(size, '\0');
    for (std::size_t i = 0; i < size; ++i)
        s[i] = static_cast<char>(std::size_t(k) * 131 + i * 7 + (i >> 8));
    std::memcpy(s.data(), &k, sizeof k);
    return s;
}

struct lab {
    std::optional<mp::Pipe<>> pipe;
    std::optional<mp::Pipe<mp::Connection<>>> carrier;
    std::optional<mp::Pipe<std::vector<mp::Connection<>>>> two;
    std::vector<mp::Connection<>> ends;
    mp::Connection<> spare;
    std::vector<mp::detail::unique_fd> strangers;
    std::optional<mp::Listener> listener;
    std::optional<mp::Connection<>> client;
    int listeners = 0;  // that victims made
    pid_t tester = ::getpid();
    std::string ready;           // the victim's message
    std::vector<std::byte> box;  // where it receives
    std::atomic<int>* go = &test::shared_memory<std::atomic<int>>();

    lab() : box(std::size_t{4} << 20) {}

    mp::Connection<>& mine() { return pipe->first; }      // of the bystanders, or the checker
    mp::Connection<>& victims() { return pipe->second; }  // of the victim

    void fresh(int sent = 0, std::size_t size = 64) {
        carrier.reset();
        two.reset();
        ends.clear();
        spare = {};
        strangers.clear();
        pipe.reset();
        pipe.emplace();
        *go = 0;
        for (int k = 1; k <= sent; ++k) send(victims(), k, size);
        ready = message(sent + 1, size);
    }
    static void send(mp::Connection<>& to, int k, std::size_t size = 64) {
        const std::string s = message(k, size);
        to.send_bytes(std::as_bytes(std::span(s)));
    }
    void send_ready() { victims().send_bytes(std::as_bytes(std::span(ready))); }

    enum way { recv, poll, descriptor, wait };

    /// Receives until the end.
    int drain(int least, int most, way how = recv) {
        mp::Connection<>& from = mine();
        const int fd = how == descriptor ? from.fileno() : -1;
        for (int k = 1;; ++k) {
            if (how == poll && !from.poll(1h)) return ready_in_vain;
            if (how == wait && mp::wait({from}).empty()) return ready_in_vain;
            if (how == descriptor) {
                pollfd one{fd, POLLIN, 0};
                do {  // a new owner of the other end may ring in vain
                    if (::poll(&one, 1, 60'000) != 1) return ready_in_vain;
                } while (!from.poll());
            }
            try {
                const auto bytes = from.recv_bytes();
                int number = 0;
                if (bytes.size() < sizeof number) return torn;
                std::memcpy(&number, bytes.data(), sizeof number);
                const std::string expected = message(number, bytes.size());
                if (std::memcmp(bytes.data(), expected.data(), bytes.size()) != 0) return torn;
                if (number != k) return out_of_order;
                if (k > most) return too_many;
            } catch (const mp::EndOfFile&) {
                return k - 1 < least ? too_few : 0;
            }
        }
    }
    /// Sends until the end.
    int flood(std::size_t size) {
        const std::string s = message(1, size);
        for (int k = 1; k < 1'000'000; ++k) try {
                mine().send_bytes(std::as_bytes(std::span(s)));
            } catch (const mp::EndOfFile&) {
                return 0;
            }
        return no_end_for_sender;
    }
    /// As drain(), of what send(vector_of(k)) sent.
    static std::vector<int> vector_of(int k) { return {k, 2 * k, 3 * k}; }
    int drain_values(int least, int most) {
        for (int k = 1;; ++k) try {
                if (mine().recv<std::vector<int>>() != vector_of(k)) return out_of_order;
                if (k > most) return too_many;
            } catch (const mp::EndOfFile&) {
                return k - 1 < least ? too_few : 0;
            }
    }
    int check_sender() {
        try {
            mine().send(1);
        } catch (const mp::EndOfFile&) {
            return 0;
        }
        return no_end_for_sender;
    }
};

/// Where an exception is thrown: thousands of instructions of the unwinder, which touch nothing
/// that is shared.
constexpr long with_exception = 31;

/// Long enough asleep that it sleeps on its descriptor, and not in the futex that comes first; it
/// must do in either.
void spawn_asleep_long(bystanders& others, const std::function<int()>& f) {
    const pid_t pid = others.spawn_asleep(f);
    test::pause_briefly(5ms);
    test::wait_asleep(pid);
}

using scenarios = std::vector<scenario>;

void add_sends(lab& l, scenarios& all) {
    const auto take = [&l] { static_cast<void>(l.victims().poll()); };
    const auto send = [&l] { l.send_ready(); };
    const auto add = [&](const char* name, int sent, std::size_t size, auto reset,
                         std::function<int()> check) {
        all.push_back({.name = name,
                       .reset =
                           [&l, sent, size, reset](bystanders& others) {
                               l.fresh(sent, size);
                               reset(others);
                           },
                       .prepare = take,
                       .operation = send,
                       .check = std::move(check)});
    };
    const auto nobody = [](bystanders&) {};
    const auto fine = [] { return 0; };
    add("send: nobody waits", 0, 64, nobody, [&l] { return l.drain(0, 1); });
    add("send: behind others", 3, 64, nobody, [&l] { return l.drain(3, 4); });
    add("send: a large one", 1, 100'000, nobody, [&l] { return l.drain(1, 2); });
    all.back().stride = 31;
    add(
        "send: one asleep in recv, for a moment", 0, 64,
        [&l](bystanders& o) { o.spawn_asleep([&l] { return l.drain(0, 1); }); }, fine);
    add(
        "send: one asleep in recv, for long", 0, 64,
        [&l](bystanders& o) { spawn_asleep_long(o, [&l] { return l.drain(0, 1); }); }, fine);
    add(
        "send: one asleep in poll(1h)", 0, 64,
        [&l](bystanders& o) { spawn_asleep_long(o, [&l] { return l.drain(0, 1, lab::poll); }); },
        fine);
    add(
        "send: one polls the descriptor", 0, 64,
        [&l](bystanders& o) {
            spawn_asleep_long(o, [&l] { return l.drain(0, 1, lab::descriptor); });
        },
        fine);
    add(
        "send: one asleep in wait()", 0, 64,
        [&l](bystanders& o) { spawn_asleep_long(o, [&l] { return l.drain(0, 1, lab::wait); }); },
        fine);
    add("send: waits for room", 20, 100'000,
        nobody,  // killed asleep
        [&l] { return l.drain(20, 20); });
    all.back().reset = [&l](bystanders& o) {
        l.fresh(20, 100'000);
        o.spawn([&l] {
            while (*l.go == 0) test::pause_briefly();
            return l.drain(20, 21);
        });
    };
    all.back().on_block = [&l](bystanders&) { *l.go = 1; };
    all.back().check = [&l] {
        *l.go = 1;
        return 0;
    };
    all.back().wakes_itself = true;
    all.back().stride = 61;
    const auto value = [&l] { l.victims().send(lab::vector_of(1)); };
    add("send a value: nobody waits", 0, 64, nobody, [&l] { return l.drain_values(0, 1); });
    all.back().operation = value;
    add(
        "send a value: one asleep in recv", 0, 64,
        [&l](bystanders& o) { spawn_asleep_long(o, [&l] { return l.drain_values(0, 1); }); }, fine);
    all.back().operation = value;
    add(
        "send a value: the other end is closed", 0, 64, [&l](bystanders&) { l.mine().close(); },
        fine);
    all.back().operation = [value] {
        try {
            value();
        } catch (const mp::EndOfFile&) {
        }
    };
    all.back().stride = with_exception;
}

void add_receives(lab& l, scenarios& all) {
    const auto take = [&l] { static_cast<void>(l.victims().poll()); };
    const auto add = [&](const char* name, auto reset, auto operation, std::function<int()> check) {
        all.push_back({.name = name,
                       .reset =
                           [&l, reset](bystanders& others) {
                               l.fresh();
                               reset(others);
                           },
                       .prepare = take,
                       .operation = operation,
                       .check = std::move(check)});
    };
    const auto recv = [&l] {
        try {
            static_cast<void>(l.victims().recv_bytes_into(l.box));
        } catch (const mp::EndOfFile&) {
        }
    };
    const auto ends = [&l] {
        return l.check_sender() != 0 ? int{no_end_for_sender} : l.drain(0, 0);
    };
    add(
        "recv: a message is there", [&l](bystanders&) { lab::send(l.mine(), 1); }, recv, ends);
    add(
        "recv: a large one of two",
        [&l](bystanders&) { lab::send(l.mine(), 1, 300'000), lab::send(l.mine(), 2); }, recv, ends);
    all.back().stride = 101;
    add(
        "recv: the other end is closed", [&l](bystanders&) { l.mine().close(); }, recv,
        [] { return 0; });
    all.back().stride = with_exception;
    add(
        "recv: asleep, then a message",
        [&l](bystanders& o) {
            o.spawn([&l] {
                static_cast<void>(l.mine().poll());
                while (*l.go == 0) test::pause_briefly();
                if (*l.go == 1) try {
                        lab::send(l.mine(), 1);
                    } catch (const mp::EndOfFile&) {
                        return 0;
                    }
                return l.drain(0, 0);
            });
        },
        recv,
        [&l] {
            if (*l.go == 0) *l.go = 2;
            return 0;
        });
    all.back().on_block = [&l](bystanders&) { *l.go = 1; };
    all.back().wakes_itself = true;
    all.back().stride = 3;
    const scenario asleep = all.back();
    const auto ends_in = [](auto f) {
        return [f] {
            try {
                f();
            } catch (const mp::EndOfFile&) {
            }
        };
    };
    const std::pair<const char*, std::function<void()>> ways[] = {
        {"recv_bytes", ends_in([&l] { l.victims().recv_bytes(); })},
        {"recv a value", ends_in([&l] {
             try {
                 l.victims().recv<std::vector<int>>();
             } catch (const mp::SerializationError&) {  // of the one who sends bytes
             }
         })}};
    for (const auto& [what, way] : ways) {
        const std::string name = what;
        add((name + ": a message is there").c_str(),
            [&l](bystanders&) { l.mine().send(lab::vector_of(1)); }, way, ends);
        add((name + ": the other end is closed").c_str(), [&l](bystanders&) { l.mine().close(); },
            way, [] { return 0; });
        all.back().stride = with_exception;
        all.push_back(asleep);
        all.back().name = name + ": asleep, then a message";
        all.back().operation = way;
        if (name == "recv a value") all.back().stride = with_exception;
    }
    add(
        "recv: makes room for one that waits",
        [&l](bystanders& o) { o.spawn_asleep([&l] { return l.flood(50'000); }); }, recv,
        [] { return 0; });
    all.back().stride = 31;
    const auto poll = [&l] { static_cast<void>(l.victims().poll()); };
    add(
        "poll: nothing there", [](bystanders&) {}, poll, ends);
    add(
        "poll: a message is there", [&l](bystanders&) { lab::send(l.mine(), 1); }, poll, ends);
    add(
        "poll: for a while", [](bystanders&) {}, [&l] { static_cast<void>(l.victims().poll(5ms)); },
        ends);
    all.back().wakes_itself = true;
    all.back().stride = 3;
    const auto fileno = [&l] { static_cast<void>(l.victims().fileno()); };
    add(
        "fileno: nothing there", [](bystanders&) {}, fileno, ends);
    add(
        "fileno: a message is there", [&l](bystanders&) { lab::send(l.mine(), 1); }, fileno, ends);
    add(
        "fileno: the other end is closed", [&l](bystanders&) { l.mine().close(); }, fileno,
        [] { return 0; });
    const auto wait = [&l] { mp::wait({l.victims(), l.carrier->second}, 5ms); };
    const auto carry = [&l](bystanders&) { l.carrier.emplace(); };
    add("wait: nothing there", carry, wait, ends);
    all.back().wakes_itself = true;
    all.back().stride = 3;
    add(
        "wait: a message is there",
        [&l, carry](bystanders& o) { carry(o), lab::send(l.mine(), 1); }, wait, ends);
    add(
        "wait: the other end is closed",
        [&l, carry](bystanders& o) { carry(o), l.carrier->first.close(); }, wait, ends);
    all.push_back(asleep);
    all.back().name = "wait: asleep, then a message";
    all.back().reset = [carry, reset = asleep.reset](bystanders& o) {
        reset(o);
        carry(o);
    };
    all.back().operation = [&l] { mp::wait({l.victims(), l.carrier->second}); };
    add(
        "recv with a fileno: the only message", [&l](bystanders&) { lab::send(l.mine(), 1); }, recv,
        ends);
    all.back().prepare = fileno;
}

void add_closes(lab& l, scenarios& all) {
    const auto add = [&](const char* name, int sent, auto waits) {
        all.push_back({.name = name,
                       .reset =
                           [&l, sent, waits](bystanders& others) {
                               l.fresh(sent);
                               waits(others);
                           },
                       .prepare = [&l] { static_cast<void>(l.victims().poll()); },
                       .operation = [&l] { l.victims().close(); },
                       .check = [] { return 0; }});
    };
    add("close: nobody waits", 2, [](bystanders&) {});
    all.back().check = [&l] { return l.drain(2, 2) != 0 ? int{too_few} : l.check_sender(); };
    add("close: one asleep in recv, for a moment", 0,
        [&l](bystanders& o) { o.spawn_asleep([&l] { return l.drain(0, 0); }); });
    add("close: one asleep in recv, for long", 0,
        [&l](bystanders& o) { spawn_asleep_long(o, [&l] { return l.drain(0, 0); }); });
    add("close: one polls the descriptor", 0, [&l](bystanders& o) {
        spawn_asleep_long(o, [&l] { return l.drain(0, 0, lab::descriptor); });
    });
    add("close: one asleep in wait()", 0,
        [&l](bystanders& o) { spawn_asleep_long(o, [&l] { return l.drain(0, 0, lab::wait); }); });
    add("close: one waits for room", 0,
        [&l](bystanders& o) { o.spawn_asleep([&l] { return l.flood(50'000); }); });
}

void add_moves(lab& l, scenarios& all) {
    const auto way_of = [](int i) { return i == 0 ? lab::recv : lab::descriptor; };
    for (const int i : {0, 1}) {
        const std::string waits = i == 0 ? "one asleep in recv" : "one polls the descriptor";
        const auto how = way_of(i);
        all.push_back({.name = "take over by the first use: " + waits,
                       .reset =
                           [&l, how](bystanders& o) {
                               l.fresh();
                               spawn_asleep_long(o, [&l, how] { return l.drain(0, 1, how); });
                           },
                       .operation = [&l] { l.send_ready(); },
                       .check =
                           [&l] {  // in a copy: it takes what nobody took
                               try {
                                   static_cast<void>(l.victims().poll());
                                   l.victims().close();
                               } catch (const mp::Error&) {
                               }
                               return 0;
                           },
                       .stride = 3});
    }
    all.push_back({.name = "take over: nobody waits",
                   .reset = [&l](bystanders&) { l.fresh(2); },
                   .operation = [&l] { static_cast<void>(l.victims().poll()); },
                   .check =
                       [&l] {
                           try {
                               l.victims().send(1);  // taken, if the victim did not
                               l.victims().close();
                           } catch (const mp::Error&) {
                           }
                           return l.mine().recv_bytes().size() == 64 ? 0 : int{torn};
                       },
                   .stride = 3});
    all.push_back({.name = "receive an end: its other one asleep in recv",
                   .reset =
                       [&l](bystanders& o) {
                           l.fresh();
                           l.carrier.emplace();
                           l.carrier->first.send(l.victims());
                           spawn_asleep_long(o, [&l] { return l.drain(0, 0); });
                       },
                   .prepare = [&l] { static_cast<void>(l.carrier->second.poll()); },
                   .operation = [&l] { static_cast<void>(l.carrier->second.recv()); },
                   .check =
                       [&l] {
                           try {  // ours, if it was not received
                               static_cast<void>(l.victims().poll());
                               l.victims().close();
                           } catch (const mp::ClosedError&) {
                           }
                           return 0;
                       },
                   .stride = 7});
    all.push_back({.name = "send an end: its other one asleep in recv",
                   .reset =
                       [&l](bystanders& o) {
                           l.fresh();
                           l.carrier.emplace();
                           spawn_asleep_long(o, [&l] { return l.drain(0, 0); });
                       },
                   .prepare =
                       [&l] {
                           static_cast<void>(l.victims().poll());
                           static_cast<void>(l.carrier->first.poll());
                       },
                   .operation = [&l] { l.carrier->first.send(l.victims()); },
                   .check =
                       [&l] {
                           try {
                               static_cast<void>(l.carrier->second.recv());
                           } catch (const mp::Error&) {  // its sender is gone, or nothing was sent
                           }
                           return 0;
                       },
                   .stride = 5});
    // Of what nobody received: in a copy, by the first use.
    const auto close_ours = [](mp::Connection<>& c) {
        try {
            static_cast<void>(c.poll());
            c.close();
        } catch (const mp::ClosedError&) {
        }
    };
    all.push_back({.name = "receive an end: its sender has closed, one asleep in recv",
                   .reset =
                       [&l](bystanders& o) {
                           l.fresh();
                           l.carrier.emplace();
                           l.carrier->first.send(l.victims());
                           l.carrier->first.close();
                           spawn_asleep_long(o, [&l] { return l.drain(0, 0); });
                       },
                   .operation = [&l] { static_cast<void>(l.carrier->second.recv()); },
                   .check = [&l, close_ours] { return close_ours(l.victims()), 0; },
                   .stride = 7});
    all.push_back({.name = "receive two ends in a message: one asleep in recv",
                   .reset =
                       [&l](bystanders& o) {
                           l.fresh();
                           mp::Pipe<> other;
                           l.two.emplace();
                           l.ends.clear();
                           l.ends.push_back(std::move(l.victims()));
                           l.ends.push_back(std::move(other.second));
                           l.spare = std::move(other.first);
                           l.two->first.send(l.ends);
                           spawn_asleep_long(o, [&l] { return l.drain(0, 0); });
                       },
                   .prepare = [&l] { static_cast<void>(l.two->second.poll()); },
                   .operation = [&l] { static_cast<void>(l.two->second.recv()); },
                   .check =
                       [&l, close_ours] {
                           for (auto& one : l.ends) close_ours(one);
                           try {
                               if (!l.spare.poll(9s)) return int{still_waits};
                               l.spare.recv_bytes();
                           } catch (const mp::EndOfFile&) {
                               return 0;
                           }
                           return int{too_many};
                       },
                   .stride = 13});
    const auto owns_both = [&l] {
        static_cast<void>(l.victims().poll());
        static_cast<void>(l.carrier->first.poll());
    };
    const auto receive_it = [&l] {
        try {
            static_cast<void>(l.carrier->second.recv());
        } catch (const mp::Error&) {  // its sender is gone, or nothing was sent
        }
        return 0;
    };
    all.push_back({.name = "send an end: to one asleep in recv",
                   .reset =
                       [&l, receive_it](bystanders& o) {
                           l.fresh();
                           l.carrier.emplace();
                           spawn_asleep_long(o, receive_it);
                       },
                   .prepare = owns_both,
                   .operation = [&l] { l.carrier->first.send(l.victims()); },
                   .check = [&l] { return l.drain(0, 0); },
                   .stride = 5});
    all.push_back({.name = "send an end, let go of it, make a pipe",
                   .reset =
                       [&l](bystanders& o) {
                           l.fresh();
                           l.carrier.emplace();
                           spawn_asleep_long(o, [&l] { return l.drain(0, 0); });
                       },
                   .prepare = owns_both,
                   .operation =
                       [&l] {
                           l.carrier->first.send(l.victims());
                           { const auto gone = std::move(l.victims()); }
                           const mp::Pipe<> next;
                       },
                   .check = receive_it,
                   .stride = 7});
    all.push_back({.name = "send an end: nobody can receive it, let go of it",
                   .reset =
                       [&l](bystanders& o) {
                           l.fresh();
                           l.carrier.emplace();
                           l.carrier->second.close();
                           spawn_asleep_long(o, [&l] { return l.drain(0, 0); });
                       },
                   .prepare = owns_both,
                   .operation =
                       [&l] {
                           try {
                               l.carrier->first.send(l.victims());
                           } catch (const mp::EndOfFile&) {
                           }
                           { const auto gone = std::move(l.victims()); }
                       },
                   .check = [] { return 0; },
                   .stride = with_exception});
    for (const bool duplex : {true, false})
        all.push_back(
            {.name = duplex ? "Pipe(): used and dropped" : "Pipe(false): used and dropped",
             .reset = [&l](bystanders&) { l.fresh(1); },
             .prepare = [&l] { static_cast<void>(l.victims().poll()); },
             .operation =
                 [duplex] {
                     mp::Pipe<int> made(duplex);
                     made.second.send(1);
                 },
             .check = [&l] { return l.drain(1, 1); },
             .stride = 13});
    all.push_back({.name = "Pipe(): sends one of its ends, keeps the other",
                   .reset =
                       [&l](bystanders& o) {
                           l.fresh();
                           l.carrier.emplace();
                           o.spawn_asleep([&l] {
                               try {
                                   auto c = l.carrier->second.recv();
                                   if (!c.poll(9s)) return int{still_waits};
                                   c.recv_bytes();
                               } catch (const mp::EndOfFile&) {
                                   return 0;
                               } catch (const mp::Error&) {  // its sender has ended
                                   return 0;
                               }
                               return int{too_many};
                           });
                       },
                   .prepare = [&l] { static_cast<void>(l.carrier->first.poll()); },
                   .operation =
                       [&l] {
                           mp::Pipe<> made;
                           l.carrier->first.send(made.second);
                       },
                   .check = [] { return 0; },
                   .stride = 7});
    all.push_back({.name = "start a Process with an end: its other one asleep in recv",
                   .reset =
                       [&l](bystanders& o) {
                           l.fresh();
                           spawn_asleep_long(o, [&l] { return l.drain(0, 1); });
                       },
                   .prepare = [&l] { static_cast<void>(l.victims().poll()); },
                   .operation =
                       [&l] {
                           mp::Process child(
                               [](mp::Connection<> c) {
                                   try {
                                       lab::send(c, 1);
                                   } catch (const mp::Error&) {  // its parent was killed before
                                   }
                               },
                               std::move(l.victims()));
                           child.start();
                           child.join();
                       },
                   .check = [] { return 0; },
                   .stride = 31});
    all.push_back({.name = "log in at a Listener",
                   .reset =
                       [&l](bystanders&) {
                           l.fresh();
                           l.listener.reset();
                           l.listener.emplace();
                       },
                   .operation =
                       [&l] {
                           auto c = mp::Client(l.listener->address());
                           lab::send(c, 1);
                       },
                   .check =
                       [&l] {
                           auto c = mp::Client(l.listener->address());
                           c.send("mine");
                           for (int i = 0; i < 2; ++i) {
                               auto s = l.listener->accept(9s);
                               try {
                                   const auto bytes = s.recv_bytes();
                                   if (bytes.size() != 64) return 0;  // "mine"
                               } catch (const mp::EndOfFile&) {
                               }
                           }
                           return int{not_accepted};
                       },
                   .stride = 31});
}

void add_clients(lab& l, scenarios& all) {
    const auto address = [&l] { return l.listener->address(); };
    const auto listens = [&l](bystanders&, int backlog = 128) {
        l.fresh();
        l.listener.reset();
        l.listener.emplace(mp::Address(), mp::ListenerOptions{.backlog = backlog});
    };
    const auto connect = [address](mp::duration timeout) {
        return [=] {
            try {
                auto c = mp::Client(address(), {.timeout = timeout});
                lab::send(c, 1);
            } catch (const mp::Error&) {  // its backlog is full, or nobody listens
            }
        };
    };
    // The listener goes on to the next one, whoever came before.
    const auto goes_on = [&l] {
        auto c = mp::Client(l.listener->address());
        c.send("mine");
        for (;;) try {
                auto s = l.listener->accept(9s);
                if (s.recv_bytes().size() != 64) return 0;  // "mine"
            } catch (const mp::EndOfFile&) {
            }
    };
    all.push_back({.name = "Client: one asleep in accept",
                   .reset =
                       [=, &l](bystanders& o) {
                           listens(o);
                           o.spawn_asleep([&l] {
                               for (;;) try {
                                       auto s = l.listener->accept(9s);
                                       if (s.recv_bytes().size() != 64) return 0;
                                   } catch (const mp::EndOfFile&) {
                                   }
                           });
                       },
                   .operation = connect(1h),
                   .check =
                       [address] {
                           auto c = mp::Client(address());
                           c.send("mine");
                           return c.poll(9s) ? 0 : int{still_waits};
                       },
                   .stride = 31});
    const auto full = [=](bystanders& o) {
        listens(o, 1);
        const mp::detail::unix_address to(address());
        for (;;) {
            const auto one = mp::detail::unix_socket(SOCK_NONBLOCK);
            if (::connect(one.get(), to.get(), to.size()) != 0) return;
        }
    };
    all.push_back({.name = "Client: the backlog is full",
                   .reset = full,
                   .operation = connect(5ms),
                   .check =
                       [&l, goes_on] {
                           try {
                               l.listener->accept(0s);  // makes room
                           } catch (const mp::TimeoutError&) {
                           }
                           return goes_on();
                       },
                   .wakes_itself = true,
                   .stride = with_exception});
    const auto name = [&l] {  // of this trial's listener
        return "@mp-kill-dies-" + std::to_string(l.tester) + '-' + std::to_string(l.listeners);
    };
    all.push_back({.name = "Client: waits for the backlog, and the listener dies",
                   .reset =
                       [=, &l](bystanders& o) {
                           l.fresh();
                           ++l.listeners;
                           o.spawn([=, &l] {
                               mp::Listener here(name(), {.backlog = 1});
                               const mp::detail::unix_address to(here.address());
                               for (;;) {
                                   const auto one = mp::detail::unix_socket(SOCK_NONBLOCK);
                                   if (::connect(one.get(), to.get(), to.size()) != 0) break;
                               }
                               *l.go = 1;
                               while (*l.go == 1) test::pause_briefly();
                               ::_exit(0);
                               return 0;
                           });
                           while (*l.go == 0) test::pause_briefly();
                       },
                   .operation =
                       [name] {
                           try {
                               mp::Client(name(), {.timeout = 1h}).poll();
                           } catch (const mp::Error&) {
                           }
                       },
                   .on_block = [&l](bystanders&) { *l.go = 2; },
                   .check = [&l] { return *l.go = 2, 0; },
                   .stride = with_exception});
    all.push_back({.name = "Client: nobody listens there",
                   .reset = [=](bystanders& o) { listens(o); },
                   .operation =
                       [&l] {
                           try {
                               mp::Client("@mp-kill-none-" + std::to_string(l.tester));
                           } catch (const mp::OsError&) {
                           }
                       },
                   .check = goes_on,
                   .stride = with_exception});
}

void add_listeners(lab& l, scenarios& all) {
    all.push_back({.name = "accept",
                   .reset =
                       [&l](bystanders&) {
                           l.fresh();
                           l.client.reset();
                           l.listener.reset();
                           l.listener.emplace();
                           l.client = mp::Client(l.listener->address());
                       },
                   .operation =
                       [&l] {
                           auto s = l.listener->accept();
                           lab::send(s, 1);
                       },
                   .check =
                       [&l] {
                           try {
                               auto s = l.listener->accept(0s);
                               lab::send(s, 1);
                           } catch (const mp::TimeoutError&) {  // the victim had it
                           }
                           try {
                               for (;;) {
                                   if (!l.client->poll(9s)) return int{still_waits};
                                   if (l.client->recv_bytes().size() < 64) return int{torn};
                               }
                           } catch (const mp::EndOfFile&) {
                               return 0;
                           }
                       },
                   .stride = 31});
    // Whoever accepts a client, it gets its message or its end.
    const auto accepted_or_not = [&l](mp::Connection<>& client) {
        try {
            auto s = l.listener->accept(0s);
            lab::send(s, 1);
        } catch (const mp::TimeoutError&) {  // the victim had it
        }
        try {
            for (;;) {
                if (!client.poll(9s)) return int{still_waits};
                if (client.recv_bytes().size() < 64) return int{torn};
            }
        } catch (const mp::EndOfFile&) {
            return 0;
        }
    };
    const auto listens = [&l](bystanders&) {
        l.fresh();
        l.client.reset();
        l.listener.reset();
        l.listener.emplace();
    };
    all.push_back({.name = "accept: asleep, then a client",
                   .reset =
                       [=, &l](bystanders& o) {
                           listens(o);
                           o.spawn([=, &l] {
                               while (*l.go == 0) test::pause_briefly();
                               auto client = mp::Client(l.listener->address());
                               *l.go = 2;
                               return accepted_or_not(client);
                           });
                       },
                   .operation =
                       [&l] {
                           auto s = l.listener->accept();
                           lab::send(s, 1);
                       },
                   .on_block =
                       [&l](bystanders&) {
                           *l.go = 1;
                           while (*l.go == 1) test::pause_briefly();
                       },
                   .check =
                       [&l] {
                           if (*l.go == 0) *l.go = 1;
                           return 0;
                       },
                   .stride = 31});
    all.push_back({.name = "accept: behind a silent one and garbage",
                   .reset =
                       [=, &l](bystanders& o) {
                           listens(o);
                           const mp::detail::unix_address to(l.listener->address());
                           for (const std::size_t garbage : {0u, 7u, 48u}) {
                               auto one = mp::detail::unix_socket();
                               ::connect(one.get(), to.get(), to.size());
                               if (garbage) ::send(one.get(), l.box.data(), garbage, MSG_NOSIGNAL);
                               l.strangers.push_back(std::move(one));
                           }
                           l.client = mp::Client(l.listener->address());
                       },
                   .operation =
                       [&l] {
                           auto s = l.listener->accept();
                           lab::send(s, 1);
                       },
                   .check = [=, &l] { return accepted_or_not(*l.client); },
                   .stride = 31});
    all.push_back({.name = "accept(5ms): nobody comes",
                   .reset = [=](bystanders& o) { listens(o); },
                   .operation =
                       [&l] {
                           try {
                               l.listener->accept(5ms);
                           } catch (const mp::TimeoutError&) {
                           }
                       },
                   .check =
                       [=, &l] {
                           auto client = mp::Client(l.listener->address());
                           return accepted_or_not(client);
                       },
                   .wakes_itself = true,
                   .stride = with_exception});
    const auto address = [&l] {  // of this trial's victim
        return "@mp-kill-" + std::to_string(l.tester) + '-' + std::to_string(l.listeners);
    };
    all.push_back({.name = "close a Listener with a client that was not accepted",
                   .reset =
                       [&l, address](bystanders& o) {
                           l.fresh();
                           l.client.reset();
                           l.listener.reset();
                           ++l.listeners;
                           o.spawn([&l, address] {
                               while (*l.go == 0) test::pause_briefly();
                               auto c = mp::Client(address());
                               *l.go = 2;
                               try {
                                   if (!c.poll(9s)) return int{still_waits};
                                   c.recv_bytes();
                               } catch (const mp::EndOfFile&) {
                                   return 0;
                               }
                               return int{too_many};
                           });
                       },
                   .prepare =
                       [&l, address] {
                           l.listener.emplace(address());
                           *l.go = 1;
                           while (*l.go != 2) test::pause_briefly();
                       },
                   .operation = [&l] { l.listener->close(); },
                   .check = [] { return 0; },
                   .stride = 7});
    all.push_back({.name = "close a Listener at which a child accepts",
                   .reset =
                       [&l](bystanders&) {
                           l.fresh();
                           l.listener.reset();
                           ++l.listeners;
                       },
                   .prepare =
                       [&l, address] {
                           l.listener.emplace(address());
                           if (::fork() == 0) {
                               *l.go = 1;
                               try {
                                   l.listener->accept().send(1);
                               } catch (const mp::ClosedError&) {
                               }
                               *l.go = 2;
                               ::_exit(0);
                           }
                           while (*l.go == 0) test::pause_briefly();
                       },
                   .operation = [&l] { l.listener->close(); },
                   .check =
                       [&l, address] {  // it accepts in the victim's stead, or has ended
                           const auto ends = [&] {
                               try {
                                   if (*l.go == 1) mp::Client(address()).poll(1s);
                               } catch (const mp::OsError&) {
                               }
                               return *l.go == 2;
                           };
                           return test::eventually(ends, 9s) ? 0 : int{still_waits};
                       },
                   .stride = 7});
    all.push_back({.name = "start a Process with a Listener",
                   .reset =
                       [&l, address](bystanders& o) {
                           l.fresh();
                           l.listener.reset();
                           ++l.listeners;
                           o.spawn([&l, address] {
                               while (*l.go == 0) test::pause_briefly();
                               try {
                                   auto c = mp::Client(address());
                                   *l.go = 2;
                                   if (!c.poll(9s)) return int{still_waits};
                                   c.recv<int>();
                               } catch (const mp::EndOfFile&) {
                               } catch (const mp::OsError&) {  // nobody listens
                               }
                               return 0;
                           });
                       },
                   .prepare =
                       [&l, address] {
                           l.listener.emplace(address());
                           *l.go = 1;
                           while (*l.go != 2) test::pause_briefly();
                       },
                   .operation =
                       [&l] {
                           mp::Process child(
                               [](mp::Listener mine) {
                                   try {
                                       mine.accept(100ms).send(1);
                                   } catch (const mp::Error&) {
                                   }
                               },
                               std::move(*l.listener));
                           child.start();
                           child.join();
                       },
                   .check = [] { return 0; },
                   .stride = 31});
    all.push_back({.name = "listen at an abstract address",
                   .reset =
                       [&l](bystanders&) {
                           l.fresh();
                           l.listener.reset();
                           ++l.listeners;
                       },
                   .operation = [&l, address] { l.listener.emplace(address()); },
                   .check =
                       [address] {
                           mp::Listener again(address());
                           auto c = mp::Client(address());
                           lab::send(c, 1);
                           const auto bytes = again.accept(9s).recv_bytes();
                           return bytes.size() == 64 ? 0 : int{not_accepted};
                       },
                   .stride = 31});
    // A directory of its own: others may lock /tmp.
    const auto place = [&l] { return "/tmp/mp-kill-" + std::to_string(l.tester); };
    const auto path = [place] { return place() + "/s"; };
    const auto listens_again = [place, path] {
        mp::Listener again(path());
        auto c = mp::Client(path());
        lab::send(c, 1);
        const auto bytes = again.accept(9s).recv_bytes();
        again.close();
        ::rmdir(place().c_str());
        return bytes.size() == 64 ? 0 : int{not_accepted};
    };
    const auto somewhere = [&l, place](bystanders&) {
        l.fresh();
        l.listener.reset();
        ::mkdir(place().c_str(), 0700);  // or it is there
    };
    const auto listen = [&l, path] { l.listener.emplace(path()); };
    all.push_back({.name = "listen at a path",
                   .reset = somewhere,
                   .operation = listen,
                   .check = listens_again,
                   .stride = 31});
    all.push_back({.name = "listen at a path: the file of a dead one is there",
                   .reset =
                       [=](bystanders& o) {
                           somewhere(o);
                           o.run([path] {
                               mp::Listener dies(path());
                               ::_exit(0);
                               return 0;
                           });
                       },
                   .operation = listen,
                   .check = listens_again,
                   .stride = 31});
    all.push_back({.name = "close a Listener at a path",
                   .reset = somewhere,
                   .prepare = listen,
                   .operation = [&l] { l.listener->close(); },
                   .check = listens_again,
                   .stride = 7});
}

}  // namespace

int main(int argc, char** argv) {
    lab l;
    test::kill_sweep sweep(argc, argv);
    scenarios all;
    add_sends(l, all);
    add_receives(l, all);
    add_closes(l, all);
    add_moves(l, all);
    add_clients(l, all);
    add_listeners(l, all);
    for (auto& s : all) sweep.add(std::move(s));
    return sweep.run();
}
