// SPDX-License-Identifier: BSL-1.0

/// \file
/// Kills a manager's server at every instruction of what each of its threads does (K5 of
/// detail/manager/server.hpp). One thread is stepped, from its sleep to its next sleep; with it all
/// end. Then each client has the right answer or EndOfFile, also those that wait, and EndOfFile
/// from then on; no child of the server and no file is left. kill.manager_server_kill [-v] [-p
/// POINT] [part of a name]. With MP_BUDGET_SECONDS it samples, from MP_KILL_START on.
///
/// The other threads run the same code: one that comes by a breakpoint ends the server there. That
/// is a kill, too, and counts as one astray.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include <unistd.h>

#include <multiprocessing/process.hpp>

#include "manager_lab.hpp"

namespace {

using namespace test;

/// Managers whose server is killed, one each trial.
class server_lab {
public:
    std::optional<mp::Manager> manager;
    std::optional<shelf> has;
    std::optional<mp::PoolProxy> pool;
    std::optional<mp::Queue<mp::ListProxy<int>>> ring;

    void fresh(bool with_pool) {
        std::fflush(stdout);  // clients' children end as processes do, with what is in the buffer
        ring.emplace();
        has.reset();
        pool.reset();
        manager.reset();
        std::memset(static_cast<void*>(&sh), 0, sizeof sh);
        manager.emplace();
        has.emplace(*manager);
        if (with_pool) {
            pool.emplace(manager->Pool(1));
            pool->apply(plus_one{}, 1);
        }
        manager->create<Mourned>();
        eventually([] { return sh.undertaker != 0; });
        family_ = descendants(manager->pid());
    }

    pid_t main_thread() const { return manager->pid(); }
    static pid_t undertaker() { return sh.undertaker; }
    static pid_t channel() { return sh.thread; }
    pid_t control() const { return control_; }

    /// A helper that is connected, and acts when the victim sleeps.
    void spawn_actor(bystanders& others, const std::function<void()>& before,
                     const std::function<int()>& act) {
        const auto threads = entries(manager->pid(), "task");
        others.spawn([this, &before, &act] {
            sh.thread = has->tally.call<&serving_thread>();
            if (before) before();
            sh.began = 1;
            return act_late(act);
        });
        comes(sh.began, 1);
        for (const std::string& thread : entries(manager->pid(), "task"))
            if (!threads.contains(thread) && std::stoi(thread) != sh.thread)
                control_ = std::stoi(thread);
    }
    /// What it is told is right, or the end; and later calls end.
    int act_late(const std::function<int()>& act) const {
        if (!comes(sh.go, 1, patience)) return helper_asleep;
        return act_now(act);
    }
    int act_now(const std::function<int()>& act) const {
        try {
            if (const int r = act()) return r;
            sh.done = 1;
        } catch (const mp::EndOfFile&) {
        }
        return comes(sh.dead, 1, patience) ? ends() : int{helper_asleep};
    }
    int ends() const {
        try {
            has->tally.call<&Tally::value>();
        } catch (const mp::EndOfFile&) {
            return 0;
        }
        return no_end;
    }

    /// The server is dead.
    int verdict() {
        sh.dead = sh.go = 1;
        if (!eventually([this] { return is_gone(manager->pid()); }, soon)) return server_left;
        for (const pid_t pid : family_)
            if (!eventually([pid] { return is_gone(pid); }, soon)) return child_left;
        const std::string number = std::to_string(manager->pid());
        for (const char* where : {"/dev/shm", "/tmp"})
            for (const auto& entry : std::filesystem::directory_iterator(where))
                if (entry.path().filename().string().find("mp-" + number) != std::string::npos)
                    return file_left;
        if (const int r = ends()) return r;
        try {
            manager->list<int>();
        } catch (const mp::EndOfFile&) {
            return 0;
        }
        return no_end;
    }

private:
    std::set<pid_t> family_;
    pid_t control_ = 0;
};

class server_scenarios {
public:
    server_scenarios(kill_sweep& to, server_lab& lab) : to_(to), lab_(lab) {}

    void add_all() {
        channels();
        controls();
        other_threads();
    }

private:
    shelf& has() { return *lab_.has; }

    struct plan {
        const char* name;
        std::function<int()> act;           // an actor's, who wakes the victim
        std::function<void()> before = {};  // the actor's, too
        std::function<void(bystanders&)> helpers = {};
        std::function<pid_t()> victim = server_lab::channel;
        bool connected = true;  // the actor, before it acts
        bool with_pool = false;
        long stride = 1, runtime_stride = 1;
    };

    void add(plan p) {
        scenario s;
        s.name = p.name;
        s.reset = [this, p](bystanders& others) {
            lab_.fresh(p.with_pool);
            if (p.connected)
                lab_.spawn_actor(others, p.before, p.act);
            else
                others.spawn([this, &p] { return lab_.act_late(p.act); });
            if (p.helpers) p.helpers(others);
            helper(others, [this] {  // nobody answers
                has().event.wait();
                return int{wrong_value};
            });
        };
        s.seized = [this, victim = p.victim] {
            wait_quiet(lab_.main_thread());
            return victim();
        };
        s.on_block = [](bystanders&) { sh.go = 1; };
        s.check = [this] { return lab_.verdict(); };
        s.wakes_itself = true;
        s.stride = p.stride;
        s.runtime_stride = p.runtime_stride;
        to_.add(std::move(s));
    }
    /// Waits in the server from now on: what it gets is right, or the end.
    void helper(bystanders& others, const std::function<int()>& f) {
        spawn_waiting(others, lab_.main_thread(), [this, &f] { return lab_.act_now(f); });
    }

    void channels() {
        const auto right = [](bool is) { return is ? 0 : int{wrong_value}; };
        add({.name = "a call with a result",
             .act = [=, this] { return right(has().tally.call<&Tally::add>(10) == 15); }});
        add({.name = "a call without a result, of an object that the client counts first",
             .act = [this] {
                 return has().list.extend({4, 5}), 0;
             }});
        add({.name = "a copy of an object",
             .act = [=, this] { return right(has().tally.get().value() == 5); }});
        add({.name = "make an object",
             .act = [=, this] { return right(lab_.manager->list<int>({1}).size() == 1); }});
        add({.name = "keep a proxy in another object",
             .act = [this] { return has().lists.put(has().list), 0; }});
        add({.name = "take a proxy out of another object",
             .act = [=, this] { return right(has().lists.get().size() == 3); },
             .helpers = [this](bystanders&) { has().lists.put(has().list); }});
        add({.name = "Lock: acquire and release", .act = [this] {
                 has().lock.lock();
                 has().lock.unlock();
                 return 0;
             }});
        add({.name = "Lock: release, another waits",
             .act = [this] { return has().lock.unlock(), 0; },
             .before = [this] { has().lock.lock(); },
             .helpers =
                 [this](bystanders& others) {
                     helper(others, [this] {
                         has().lock.lock();
                         has().lock.unlock();
                         return 0;
                     });
                 }});
        add({.name = "Condition: notify, another waits",
             .act =
                 [this] {
                     const std::lock_guard guard(has().condition);
                     has().condition.notify();
                     return 0;
                 },
             .helpers =
                 [this](bystanders& others) {
                     helper(others, [this] {
                         has().condition.lock();
                         has().condition.wait();
                         has().condition.unlock();
                         return 0;
                     });
                 }});
        add({.name = "Barrier: the last",
             .act = [=, this] { return right(has().barrier.wait() < 2); },
             .helpers =
                 [=, this](bystanders& others) {
                     helper(others, [=, this] { return right(has().barrier.wait() < 2); });
                 }});
        add({.name = "Queue: put, another waits",
             .act = [this] { return has().numbers.put(7), 0; },
             .helpers =
                 [=, this](bystanders& others) {
                     helper(others, [=, this] { return right(has().numbers.get() == 7); });
                 }});
        add({.name = "Queue: get, must wait",
             .act = [=, this] { return right(has().numbers.get() == 7); }});
        add({.name = "Pool: apply",
             .act = [=, this] { return right(lab_.pool->apply(plus_one{}, 3) == 4); },
             .with_pool = true,
             .stride = 3});
    }

    void controls() {
        const auto control = [this] { return lab_.control(); };
        add({.name = "a client drops a proxy",
             .act =
                 [this] {
                     has().list = {};
                     return 0;
                 },
             .before = [this] { has().list.size(); },
             .victim = control});
        add({.name = "a client gives a proxy to a child",
             .act =
                 [this] {
                     const auto append = [](mp::ListProxy<int>& to) {
                         try {
                             to.append(4);
                         } catch (const mp::EndOfFile&) {
                         }
                     };
                     mp::Process child(append, has().list);
                     child.start();
                     child.join();
                     return child.exitcode() == 0 ? 0 : int{wrong_value};
                 },
             .before = [this] { has().list.size(); },
             .victim = control});
        add({.name = "a client ends, with a lock, objects and a message",
             .act =
                 [] {
                     ::_exit(0);
                     return 0;
                 },
             .before =
                 [this] {
                     has().lock.lock();
                     box_ = lab_.manager->Queue<mp::ListProxy<int>>();
                     lab_.ring->put(has().list);
                 },
             .victim = control,
             .stride = 3,
             .runtime_stride = 1009});
    }

    void other_threads() {
        const auto main_thread = [this] { return lab_.main_thread(); };
        add({.name = "a client connects",
             .act =
                 [this] { return has().tally.call<&Tally::value>() == 5 ? 0 : int{wrong_value}; },
             .victim = main_thread,
             .connected = false});
        add({.name = "an heir ends that did not use its proxy",
             .act =
                 [this] {
                     mp::Process child([](mp::ListProxy<int>&) {}, has().list);
                     child.start();
                     child.join();
                     return 0;
                 },
             .before = [this] { has().list.size(); },
             .victim = main_thread});
        add({.name = "the undertaker buries an object that has a proxy of another",
             .act =
                 [this] {
                     box_ = {};
                     return 0;
                 },
             .before =
                 [this] {
                     box_ = lab_.manager->Queue<mp::ListProxy<int>>();
                     box_.put(lab_.manager->list<int>({1}));
                 },
             .victim = server_lab::undertaker});
    }

    kill_sweep& to_;
    server_lab& lab_;
    mp::QueueProxy<mp::ListProxy<int>> box_;
};

}  // namespace

int main(int argc, char** argv) {
    // A `rep movsb` is a step a byte. The sweep starts the program again.
    ::setenv("GLIBC_TUNABLES",
             "glibc.cpu.x86_rep_movsb_threshold=0x1000000:"
             "glibc.cpu.x86_rep_stosb_threshold=0x1000000",
             0);
    test::kill_sweep sweep(argc, argv);
    server_lab lab;
    server_scenarios all(sweep, lab);
    all.add_all();
    return sweep.run();
}
