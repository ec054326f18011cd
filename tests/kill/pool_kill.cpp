// SPDX-License-Identifier: BSL-1.0

/// \file
/// Kills a pool's worker at every instruction from its first to its last, in each of the ways in
/// which tasks come to it and results go home, and the supervisor in all that it does; then checks
/// that each item was answered once, ran at most once, and that no more than the item that the
/// victim was at is lost. And whole pools whose supervisor is killed: their parent gets its results
/// or PoolBroken, and no worker is left. kill.pool_kill [-v] [-p POINT] [part of a name]. With
/// MP_BUDGET_SECONDS it samples, from MP_KILL_START on; the whole, 300,000 points, takes an hour,
/// less in several processes: "worker:", "supervisor:", "arrest:", "idle:", "bell:", "host:".

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>

#include <unistd.h>

#include "pool_lab.hpp"
#include "support/own_clock.hpp"

namespace {

using namespace test;

constexpr std::int64_t microsecond = 1000, flushes_each_item = 60 * microsecond;
constexpr std::int64_t long_enough = 3'600'000'000'000;

class pool_scenarios {
public:
    pool_scenarios(kill_sweep& to, pool_lab& lab) : to_(to), lab_(lab) {}

    void add_all() {
        tasks("one item", [this] { send(add_one{}, 1, 1); });
        tasks("two tasks", [this] {
            send(add_one{}, 1, 1);
            send(add_one{}, 2, 1);
        });
        tasks("a chunk in one batch", [this] { send(add_one{}, 1, 5); });
        tasks(
            "a chunk in a batch for each item", [this] { send(add_one{}, 1, 5); },
            flushes_each_item);
        tasks("a chunk that fills the scratch memory",
              [this] { send(write_text<14'000>{}, 1, 6); });
        tasks("large results", [this] { send(write_text<20'000>{}, 1, 3); });
        tasks("flat results larger than the scratch memory", [this] { send(make_block{}, 1, 2); });
        tasks(
            "exceptions", [this] { send(refuse{}, 1, 2); }, microsecond, 29);
        tasks("a chunk with timeouts", [this] { send(add_one{}, 1, 3, long_enough); });
        tasks(
            "a chunk with timeouts in batches", [this] { send(add_one{}, 1, 3, long_enough); },
            flushes_each_item);
        tasks("retires inside a chunk", [this] {
            lab_.retire_after(2);
            send(add_one{}, 1, 5);
        });
        tasks("retires behind a chunk", [this] {
            lab_.retire_after(2);
            send(add_one{}, 1, 2);
            send(add_one{}, 3, 2);
        });
        tasks("an initializer", [this] {
            lab_.initialize([this] { ++lab_.sh().begun; });
            send(add_one{}, 1, 1);
        });
        tasks("messages of tasks that were withdrawn", [this] {
            lab_.book().withdraw(send(add_one{}, 1, 1));
            send(add_one{}, 2, 1);
            lab_.book().withdraw(send(add_one{}, 3, 2));
        });
        scenario cold =
            base("worker: its first use of the rings", [this] { send(add_one{}, 1, 1); });
        cold.prepare = [] { own_clock(microsecond); };
        cold.check = [this] { return lab_.judge_first(); };
        to_.add(std::move(cold));
        arrests();
        sleepers();
        supervisors();
        hosts();
    }

private:
    template <class F>
    mpd::task_id send(F f, int first, int count, std::int64_t timeout = 0) {
        return lab_.book().send(f, first, count, timeout);
    }
    scenario base(std::string name, std::function<void()> set_up, std::int64_t step = microsecond,
                  long runtime_stride = 1) {
        scenario s;
        s.name = std::move(name);
        s.reset = [this, set_up](bystanders&) {
            lab_.fresh();
            set_up();
            lab_.back().stop();
        };
        s.prepare = [this, step] {
            lab_.warm();
            own_clock(step);
        };
        s.operation = [this] { lab_.victim(); };
        s.runtime_stride = runtime_stride;
        return s;
    }
    /// The victim is judged at once, or its replacement is quicker.
    void tasks(const std::string& name, const std::function<void()>& set_up,
               std::int64_t step = microsecond, long runtime_stride = 1) {
        scenario s = base("worker: " + name, set_up, step, runtime_stride);
        s.check = [this] { return lab_.judge_first(); };
        to_.add(s);
        s = base("worker: " + name + "; judged late", set_up, step, runtime_stride);
        s.check = [this] { return lab_.replace_first(); };
        to_.add(s);
    }

    void arrests() {
        const auto arrest = [&](const char* name, int first, int second, bool of_second,
                                std::int64_t step) {
            scenario s = base(
                name,
                [=, this] {
                    const auto a = send(add_one{}, 1, first);
                    const auto b = send(add_one{}, 10, second);
                    target_ = of_second ? b : a;
                },
                step);
            s.check = [this] { return lab_.arrest(target_); };
            to_.add(std::move(s));
        };
        arrest("arrest: the first of two tasks", 1, 1, false, microsecond);
        arrest("arrest: the second of two tasks", 1, 1, true, microsecond);
        arrest("arrest: a chunk in batches, a task behind it", 3, 1, false, flushes_each_item);
        for (const std::int64_t step : {microsecond, flushes_each_item}) {
            scenario s = base(
                step == microsecond ? "arrest: an overdue item"
                                    : "arrest: an overdue item, in batches",
                [this] {
                    send(add_one{}, 1, 3, long_enough);
                    send(add_one{}, 10, 2, long_enough);
                },
                step);
            s.check = [this] { return lab_.arrest_overdue(); };
            to_.add(std::move(s));
        }
        scenario s = base("arrest: an overdue item, large results", [this] {
            send(write_text<20'000>{}, 1, 2, long_enough);
            send(add_one{}, 10, 1);
        });
        s.check = [this] { return lab_.arrest_overdue(); };
        to_.add(std::move(s));
    }

    void sleepers() {
        scenario s = base("idle: a task comes", [] {});
        s.reset = [this](bystanders&) { lab_.fresh(); };
        s.on_block = [this](bystanders&) {
            send(add_one{}, 1, 2);
            lab_.back().stop();
        };
        s.check = [this] { return lab_.judge_first(); };
        to_.add(s);

        s.name = "idle: another worker asleep";  // which has taken what would warm the victim
        s.reset = [this](bystanders& others) {
            lab_.fresh();
            others.spawn_asleep([this] { return lab_.work(1, 1); });
        };
        s.on_block = [this](bystanders&) {
            send(add_one{}, 1, 2);
            send(add_one{}, 3, 1);
        };
        s.check = [this] { return lab_.others_do_it(); };
        to_.add(s);
        for (const std::int64_t step : {microsecond, flushes_each_item}) {
            scenario p = base(
                step == microsecond ? "bell: the parent asleep"
                                    : "bell: the parent asleep, in batches",
                [this] { send(add_one{}, 1, 3); }, step);
            p.reset = [this, before = p.reset](bystanders& others) {
                before(others);
                others.spawn_asleep([this] { return lab_.parent(); });
            };
            p.check = [this] { return lab_.report_death(); };
            to_.add(std::move(p));
        }
    }

    /// Killed itself: the workers go with it, and what is in the rings holds.
    void supervisors() {
        const auto add = [&](const char* name, std::function<void()> set_up,
                             std::function<void(lab_supervisor&)> before,
                             std::function<void(lab_supervisor&)> operation,
                             answer_book::answer how = answer_book::answer::crash) {
            scenario s;
            s.name = name;
            s.reset = [this, set_up](bystanders&) {
                lab_.fresh_supervisor();
                set_up();
            };
            s.prepare = [this, before] { before(lab_.supervise()); };
            s.operation = [this, operation] { operation(lab_.supervisor()); };
            s.wakes_itself = true;  // when a worker has ended
            s.check = [this, how] { return lab_.supervisor_ended(how); };
            to_.add(std::move(s));
        };
        const auto begun = [this] {
            if (!eventually([this] { return lab_.sh().begun != 0; })) ::_exit(96);
        };
        const auto crash = [](lab_supervisor& s) {
            s.start(0);
            if (!s.wait_for_end(0)) ::_exit(96);
        };
        const auto order = [this](mpd::supervisor_order::kind what) {
            lab_.order({what, 0, 0, 0, 0});
        };
        add(
            "supervisor: starts all",
            [this, order] {
                send(add_one{}, 1, 1);
                send(add_one{}, 2, 3);
                order(mpd::supervisor_order::start);
            },
            [](lab_supervisor&) {}, [](lab_supervisor& s) { s.start_all(); });
        add(
            "supervisor: finishes",
            [this, order] {
                send(add_one{}, 1, 2);
                order(mpd::supervisor_order::start);
            },
            [order](lab_supervisor& s) {
                s.start_all();
                s.read_orders();
                order(mpd::supervisor_order::finish);
            },
            [](lab_supervisor& s) { s.finish(); });
        add(
            "supervisor: finishes, beside a worker that has ended",
            [this, order] {
                send(end_worker{}, 1, 1);
                order(mpd::supervisor_order::start);
            },
            [order](lab_supervisor& s) {
                s.start_all();
                s.read_orders();
                order(mpd::supervisor_order::finish);
            },
            [](lab_supervisor& s) { s.finish(); });
        add(
            "supervisor: starts a worker", [this] { send(add_one{}, 1, 3); },
            [](lab_supervisor&) {}, [](lab_supervisor& s) { s.start(0); });
        add(
            "supervisor: reaps, reports and replaces one",
            [this] {
                send(end_worker{}, 1, 1);
                send(add_one{}, 2, 2);
            },
            crash, [](lab_supervisor& s) { s.reap(0); });
        add(
            "supervisor: reaps two, one after the other, whose reports nobody read",
            [this] {
                send(end_worker{}, 1, 1);
                send(end_worker{}, 2, 1);
            },
            crash,
            [](lab_supervisor& s) {
                s.reap(0);
                s.wait_for_end(0);
                s.reap(0);
            });
        add(
            "supervisor: replaces one when its reports were read",
            [this] {
                send(end_worker{}, 1, 1);
                send(end_worker{}, 2, 1);
                send(add_one{}, 3, 2);
            },
            [this, crash](lab_supervisor& s) {
                crash(s);
                s.reap(0);
                if (!s.wait_for_end(0)) ::_exit(96);
                s.reap(0);
                lab_.read_report();
                lab_.order({mpd::supervisor_order::acknowledge, 0, 1, 0, 0});
            },
            [](lab_supervisor& s) { s.read_orders(); });
        add(
            "supervisor: arrests a task", [this] { target_ = send(for_ever{}, 1, 1); },
            [this, begun](lab_supervisor& s) {
                s.start(0);
                begun();
                lab_.order({mpd::supervisor_order::arrest, 0, 1, 0,
                            std::uint64_t{target_.generation} << 32 | target_.index});
            },
            [](lab_supervisor& s) {
                s.read_orders();
                s.wait_for_end(0);
                s.reap(0);
            },
            answer_book::answer::cancelled);
        add(
            "supervisor: arrests an overdue item", [this] { send(for_ever{}, 1, 1, microsecond); },
            [begun](lab_supervisor& s) {
                s.start(0);
                begun();
            },
            [](lab_supervisor& s) {
                s.arrest_overdue();
                s.wait_for_end(0);
                s.reap(0);
            },
            answer_book::answer::timeout);
    }

    /// A whole pool, whose parent finds out that its supervisor was killed: within half a second,
    /// hence the stride.
    void hosts() {
        using multiprocessing::Pool;
        const auto right = [](int i, int got) { return got == i * 7 + 1; };
        const auto add = [&](const char* name, std::size_t workers, std::function<int(Pool&)> use) {
            scenario s;
            s.name = name;
            s.reset = [host = pool_host(workers, std::move(use))](bystanders& others) {
                std::fflush(stdout);
                pool_host::reset();
                others.spawn([&host] { return host.run(); });
            };
            s.seized = pool_host::victim;
            s.go_on = pool_host::go_on;
            s.check = [] { return 0; };  // the host's end says it
            s.wakes_itself = true;
            s.stride = s.runtime_stride = 23;
            s.limit = patience;
            to_.add(std::move(s));
        };
        add("host: of two workers, results, end", 2, [right](Pool& pool) {
            for (int i = 1; i < 4; ++i)
                if (!right(i, pool.apply(add_one{}, i))) return int{wrong_value};
            return 0;
        });
        add("host: of a worker that crashes and is replaced", 1, [right](Pool& pool) {
            for (int i = 1; i < 7; i += 2) {
                if (!right(i, pool.apply(add_one{}, i))) return int{wrong_value};
                try {
                    pool.apply(end_worker{}, i + 1);
                    return int{wrong_value};
                } catch (const multiprocessing::WorkerCrashed&) {
                }
            }
            return 0;
        });
        add("host: of a map that nobody waits for", 1, [right](Pool& pool) {
            auto all = pool.map_async(add_one{}, std::vector<int>{1, 2, 3}, {.chunksize = 1});
            pool.close();
            pool.join();
            const std::vector<int> got = all.get();
            for (int i = 1; i < 4; ++i)
                if (!right(i, got[static_cast<std::size_t>(i - 1)])) return int{wrong_value};
            return 0;
        });
    }

    kill_sweep& to_;
    pool_lab& lab_;
    mpd::task_id target_{};
};

}  // namespace

int main(int argc, char** argv) {
    // A `rep movsb` is a step a byte. The sweep starts the program again.
    ::setenv("GLIBC_TUNABLES",
             "glibc.cpu.x86_rep_movsb_threshold=0x1000000:"
             "glibc.cpu.x86_rep_stosb_threshold=0x1000000",
             0);
    kill_sweep sweep(argc, argv);
    pool_host::watch_forks();
    pool_lab lab;
    pool_scenarios all(sweep, lab);  // part of what it adds
    all.add_all();
    return sweep.run();
}
