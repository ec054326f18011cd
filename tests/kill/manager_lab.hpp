// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Managers whose clients, or whose server, are killed, and the checks after each kill.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <multiprocessing/managers.hpp>
#include <multiprocessing/queues.hpp>

#include "support/child.hpp"
#include "support/kill_points.hpp"

namespace test {

namespace mp = multiprocessing;

/// Statuses of a checker or helper; 0 is good.
enum complaint : int {
    wrong_value = 10,
    half_done,     // a call that ran in part
    not_done,      // a call that returned, and has not run
    objects_left,  // more or fewer than before
    not_settled,   // the server keeps threads, descriptors or objects of the trial before
    still_held = 20,
    not_abandoned,
    abandoned_for_nothing,
    not_recovered,
    not_usable,
    helper_asleep = 30,
    too_many_awake,
    of_two_minds,
    item_lost,
    item_twice,
    no_end = 40,  // a call of a dead server was answered
    server_left,
    child_left,
    file_left,
};

struct ledger {
    std::atomic<int> inside, done, began, go, awake, broken, got, wrong, dead;
    std::atomic<pid_t> thread, undertaker;
};
inline ledger& sh = shared_memory<ledger>();

/// How long the server may take to learn of a death. Helpers are patient: a trial may step long.
constexpr auto soon = 5s;

/// Until somebody adds to `what`.
inline bool comes(const std::atomic<int>& what, int value, clock::duration limit = soon) {
    for (const auto end = clock::now() + limit; what < value; pause_briefly(200us))
        if (clock::now() > end) return false;
    return true;
}

// --- a process from outside

/// Names in a directory of its in /proc; none if it has ended.
inline std::set<std::string> entries(pid_t pid, const char* what) {
    std::set<std::string> found;
    std::error_code gone;
    const std::filesystem::directory_iterator end;
    for (std::filesystem::directory_iterator it("/proc/" + std::to_string(pid) + '/' + what, gone);
         !gone && it != end; it.increment(gone))
        found.insert(it->path().filename().string());
    return found;
}
/// How often its threads have run.
inline long runs_of(pid_t pid) {
    long sum = 0;
    for (const std::string& thread : entries(pid, "task")) {
        long time = 0, delay = 0, runs = 0;
        std::ifstream("/proc/" + std::to_string(pid) + "/task/" + thread + "/schedstat") >> time >>
            delay >> runs;
        sum += runs;
    }
    return sum;
}
/// Until all of a server sleep as they do for long, which is otherwise than in the first two
/// milliseconds.
inline void wait_quiet(pid_t server) {
    long before = -1;
    eventually(
        [&] {
            const long last = std::exchange(before, runs_of(server));
            if (last == before) return true;
            pause_briefly(4ms);
            return false;
        },
        soon);
}
/// A helper that says that it begins, and sleeps in the server from then on.
inline void spawn_waiting(bystanders& others, pid_t server, const std::function<int()>& f) {
    const int before = sh.began;
    const pid_t pid = others.spawn([&f] {
        ++sh.began;
        return f();
    });
    comes(sh.began, before + 1);
    wait_asleep(pid);
    wait_quiet(server);
    wait_asleep(pid);
}

inline void add_descendants(pid_t of, std::set<pid_t>& to) {
    for (const std::string& thread : entries(of, "task")) {
        std::ifstream list("/proc/" + std::to_string(of) + "/task/" + thread + "/children");
        for (pid_t pid = 0; list >> pid;)
            if (to.insert(pid).second) add_descendants(pid, to);
    }
}
inline std::set<pid_t> descendants(pid_t of) {
    std::set<pid_t> found;
    add_descendants(of, found);
    return found;
}
/// Or nobody has reaped it yet.
inline bool is_gone(pid_t pid) { return std::strchr("?ZX", process_state(pid)) != nullptr; }

/// Processes that have joined, and their children: others wait until all have ended.
class family {
public:
    static void join() { lock(LOCK_SH); }
    static void wait_for_end() { lock(LOCK_EX); }

private:
    static void lock(int how) {
        const std::string path = "/proc/self/fd/" + std::to_string(file_);
        const int own = ::open(path.c_str(), O_RDWR | O_CLOEXEC);  // until this process ends
        if (own < 0 || ::flock(own, how) != 0) give_up("flock");
    }

    static inline const int file_ = ::memfd_create("mp-test", MFD_CLOEXEC);
};

// --- what is hosted

class Tally {
public:
    Tally() = default;
    explicit Tally(int start) : value_(start) {}

    int add(int n) { return value_ += n; }
    void reset() { value_ = 0; }
    int value() const { return value_; }
    void refuse() const { throw std::out_of_range("refused"); }

    template <class Archive>
    void serialize(Archive& archive) {
        archive(value_);
    }

private:
    int value_ = 0;
};
inline pid_t serving_thread(Tally&) { return ::gettid(); }

/// Tells who buries it.
class Mourned {
public:
    ~Mourned() { sh.undertaker = ::gettid(); }
    void touch() {}
};

struct plus_one {
    int operator()(int i) const { return i + 1; }
};

/// Objects at a server, new for each trial.
struct shelf {
    static constexpr std::size_t objects = 14;

    explicit shelf(mp::Manager& of) : manager(of) {}

    mp::Manager& manager;
    mp::ValueProxy<int> probe = manager.Value<int>(0);
    mp::Proxy<Tally> tally = manager.create<Tally>(5);
    mp::DictProxy<int, int> dict = manager.dict<int, int>({{1, 1}, {2, 2}});
    mp::ListProxy<int> list = manager.list<int>({1, 2, 3});
    mp::LockProxy lock = manager.Lock();
    mp::SemaphoreProxy units = manager.Semaphore(1);
    mp::ConditionProxy condition = manager.Condition();
    mp::EventProxy event = manager.Event();
    mp::BarrierProxy barrier = manager.Barrier(2);
    mp::QueueProxy<int> numbers = manager.Queue<int>(1);
    mp::QueueProxy<mp::ListProxy<int>> lists = manager.Queue<mp::ListProxy<int>>();
    mp::JoinableQueueProxy<int> jobs = manager.JoinableQueue<int>();
    mp::ValueProxy<int> value = manager.Value<int>(1);
    mp::ArrayProxy<int> array = manager.Array<int>({1, 2, 3});
};

}  // namespace test
