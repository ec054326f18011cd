// SPDX-License-Identifier: BSL-1.0

/// \file
/// Kills what is done with shared data at every instruction: kill.data_kill [-v] [-p POINT] [part
/// of a name]. With MP_BUDGET_SECONDS it samples, from MP_KILL_START on.

#include <array>
#include <atomic>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/queues.hpp>
#include <multiprocessing/shared_memory.hpp>
#include <multiprocessing/sharedctypes.hpp>

#include "support/child.hpp"
#include "support/kill_points.hpp"

namespace {

namespace mp = multiprocessing;
using namespace std::chrono_literals;
using test::bystanders;
using test::scenario;

/// Statuses of a checker; 0 is good.
enum complaint : int {
    half_made = 10,
    other_value,
    not_removable,
    leftovers,
    mixed,
    still_held,
    death_untold,
    not_recovered,
    unusable,
    lost,
};

// ---- SharedMemory

const std::string name = "mp-kill-" + std::to_string(::getpid());
const std::string path = "/dev/shm/" + name;
constexpr std::size_t bytes = 3 << 20;  // claimed in three pieces

/// Where an exception is thrown: thousands of instructions of the unwinder, which touch nothing
/// that is shared.
constexpr long with_exception = 31;

/// The name is there with all its memory, or not at all; either way the next program goes on.
int name_is_whole(std::optional<bool> expected = {}) {
    const bool there = ::access(path.c_str(), F_OK) == 0;
    if (expected && there != *expected) return lost;
    if (there) {
        const auto memory = mp::SharedMemory::attach(name);
        struct stat info {};
        ::stat(path.c_str(), &info);
        if (memory.size() != bytes || info.st_blocks * 512 < static_cast<blkcnt_t>(bytes))
            return half_made;
        if (memory.buf()[7] != std::byte{0} && memory.buf()[7] != std::byte{7}) return other_value;
        memory.unlink();
    }
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
        if (entry.path().filename().string().find(name) != std::string::npos) return leftovers;
    const auto next = mp::SharedMemory::create(name, bytes);
    next.unlink();
    return ::access(path.c_str(), F_OK) == 0 ? not_removable : 0;
}

std::vector<scenario> named_scenarios() {
    static mp::SharedMemory held;
    const auto gone = [](bystanders&) {
        held = {};
        ::unlink(path.c_str());
    };
    const auto made = [gone](bystanders& others) {
        gone(others);
        held = mp::SharedMemory::create(name, bytes);
        held.buf()[7] = std::byte{7};
    };
    const auto check = [] { return name_is_whole(); };
    const auto stays = [] { return name_is_whole(true); };
    const auto create = [] { mp::SharedMemory::create(name, bytes); };
    const auto attach = [] { mp::SharedMemory::attach(name).buf()[7] = std::byte{7}; };
    const auto refused = [create] {
        try {
            create();
        } catch (const mp::OsError&) {
        }
    };
    return {
        {.name = "create: nobody has the name", .reset = gone, .operation = create, .check = check},
        {.name = "create: the name is taken",
         .reset = made,
         .operation = refused,
         .check = stays,
         .stride = with_exception},
        {.name = "create: taken, and its maker has ended",
         .reset =
             [made](bystanders& others) {
                 made(others);
                 held = {};
             },
         .operation = refused,
         .check = stays,
         .stride = with_exception},
        {.name = "attach: its maker has it", .reset = made, .operation = attach, .check = stays},
        {.name = "attach: its maker has ended",
         .reset =
             [made](bystanders& others) {
                 made(others);
                 held = {};
             },
         .operation = attach,
         .check = stays},
        {.name = "attach: sparse, of another program",
         .reset =
             [gone](bystanders& others) {
                 gone(others);
                 const int fd = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
                 if (::ftruncate(fd, bytes) != 0) test::give_up("ftruncate");
                 ::close(fd);
             },
         .operation = attach,
         .check = stays},
        {.name = "unlink: others have it",
         .reset = made,
         .operation = [] { held.unlink(); },
         .check = check},
        {.name = "unlink: nobody else has it",
         .reset =
             [made](bystanders& others) {
                 made(others);
                 held = {};
             },
         .operation = [] { mp::SharedMemory::attach(name).unlink(); },
         .check = check},
        {.name = "unlink: the name is another's",
         .reset =
             [made](bystanders& others) {
                 made(others);
                 ::unlink(path.c_str());
                 const auto second = mp::SharedMemory::create(name, bytes);
             },
         .operation =
             [] {
                 try {
                     held.unlink();
                 } catch (const mp::OsError&) {
                 }
             },
         .check = stays,
         .stride = with_exception},
    };
}

// ---- Value

/// Two numbers that are equal outside of the lock.
struct pair_of {
    long a = 0, b = 0;
};
std::optional<mp::Value<pair_of>> value;

void step() {
    const std::lock_guard guard(*value);
    ++value->value().a;
    ++value->value().b;
}
/// Nobody hangs; a death under the lock is told, and recovered from; one outside left it whole.
int value_is_told() {
    try {
        if (!value->acquire(8s)) return still_held;
        if (value->value().a != value->value().b) return mixed;
    } catch (const mp::AbandonedLock&) {
        try {
            if (value->acquire(8s)) return death_untold;
        } catch (const mp::AbandonedLock&) {
        }
        if (!value->recover(8s)) return not_recovered;
        value->value().b = value->value().a;
    }
    value->release();
    for (int i = 0; i < 3; ++i) step();
    return value->value().a == value->value().b && !value->locked() ? 0 : unusable;
}
/// As everybody would who uses it.
int patient_step() {
    try {
        if (!value->acquire(9s)) return still_held;
    } catch (const mp::AbandonedLock&) {
        if (!value->recover(9s)) return not_recovered;
        value->value().b = value->value().a;
    }
    value->release();
    return 0;
}

/// What helpers wait for.
std::atomic<int>& go = test::shared_memory<std::atomic<int>>();
int wait_to_go() {
    while (go.load() == 0) test::pause_briefly(1ms);
    return 0;
}

std::vector<scenario> value_scenarios() {
    const auto fresh = [](bystanders&) {
        go = 0;
        value.emplace();
    };
    const auto holder = [] {
        const std::lock_guard guard(*value);
        return wait_to_go();
    };
    const auto freed = [] {
        go = 1;
        return value_is_told();
    };
    return {
        {.name = "Value: lock, change, unlock",
         .reset = fresh,
         .operation = step,
         .check = value_is_told},
        {.name = "Value: the same, used before",
         .reset =
             [fresh](bystanders& others) {
                 fresh(others);
                 step();
                 others.run([] { return step(), 0; });
             },
         .operation = step,
         .check = value_is_told},
        {.name = "Value: the same, another holds it",
         .reset =
             [=](bystanders& others) {
                 fresh(others);
                 others.spawn_asleep(holder);
             },
         .operation = step,
         .on_block = [](bystanders&) { go = 1; },
         .check = freed},
        {.name = "Value: the same, another waits",
         .reset =
             [=](bystanders& others) {
                 fresh(others);
                 others.spawn_asleep(holder);
                 others.spawn_asleep(patient_step);
             },
         .operation = step,
         .on_block = [](bystanders&) { go = 1; },
         .check = freed},
        {.name = "Value: its last holder died; recover",
         .reset =
             [fresh](bystanders& others) {
                 fresh(others);
                 others.run([] {
                     value->acquire();
                     ++value->value().a;
                     return 0;
                 });
             },
         .operation =
             [] {
                 try {
                     step();
                 } catch (const mp::AbandonedLock&) {
                     value->recover();
                     value->value().b = value->value().a;
                     value->release();
                 }
             },
         .check = value_is_told,
         .stride = with_exception},
        {.name = "Value: made, changed, dropped",
         .reset = fresh,
         .operation =
             [] {
                 mp::Value<long> own(3);
                 const std::lock_guard guard(own);
                 own.value() = 4;
             },
         .check = value_is_told},
    };
}

// ---- ShareableList

using list_of = mp::ShareableList<int, std::string, std::array<long, 9>>;
std::optional<list_of> list;
const std::string old_text = "the text of before", new_text = "now";

constexpr std::array<long, 9> nine(long n) {
    std::array<long, 9> all{};
    all.fill(n);
    return all;
}

/// Every element has its old value or its new one, and can be set again.
int list_is_whole() {
    const auto [number, text, numbers] = list->values();
    if (number != 1 && number != 2) return other_value;
    if (text != old_text && text != new_text) return mixed;
    if (numbers != nine(1) && numbers != nine(2)) return mixed;
    for (int i = 0; i < 3; ++i) {
        list->set<0>(i);
        list->set<1>(std::string(static_cast<std::size_t>(i), 'x'));
        list->set<2>(nine(i));
        if (list->values() != std::tuple(i, std::string(static_cast<std::size_t>(i), 'x'), nine(i)))
            return unusable;
    }
    return 0;
}

std::vector<scenario> list_scenarios() {
    const auto fresh = [](bystanders&) { list.emplace(1, old_text, nine(1)); };
    const auto set = [](bystanders&) {
        list.emplace(2, std::string(30, 'x'), nine(2));
        list->set<0>(1);
        list->set<1>(old_text);
        list->set<2>(nine(1));
    };
    // A set that was cut off is a copy half written: it is what nobody reads.
    const auto cut_off = [set](bystanders& others) {
        set(others);
        test::child writer([] {
            for (;;) {
                list->set<1>(old_text);
                list->set<2>(nine(1));
            }
            return 0;
        });
        test::pause_briefly(200us);
    };
    const auto change = [] {
        list->set<0>(2);
        list->set<1>(new_text);
        list->set<2>(nine(2));
    };
    std::vector<scenario> all;
    const std::pair<const char*, std::function<void(bystanders&)>> states[] = {
        {"new", fresh}, {"set before", set}, {"a set cut off", cut_off}};
    for (const auto& [what, reset] : states)
        all.push_back({.name = std::string("ShareableList: set; ") + what,
                       .reset = reset,
                       .operation = change,
                       .check = list_is_whole});
    all.push_back({.name = "ShareableList: get",
                   .reset = fresh,
                   .operation = [] { list->values(); },
                   .check = list_is_whole});
    return all;
}

// ---- SharedArray

using array_of = mp::SharedArray<int>;
using array_queue = mp::Queue<array_of>;
std::optional<array_queue> arrays;
array_of array;

bool is_right(const array_of& a) { return a.size() == 100'000 && a[0] == 1 && a[99'999] == 2; }
array_of make_array() {
    array_of made(100'000);
    made[0] = 1;
    made[99'999] = 2;
    return made;
}
/// The queue is empty or has the array; either way it carries the next one.
int array_arrives() {
    while (auto got = arrays->try_get())
        if (!is_right(*got)) return other_value;
    go = 1;  // its maker may end now
    const array_of next = make_array();
    arrays->put(next);
    return arrays->get() == next ? 0 : unusable;
}
/// As array_arrives(), but its last holder may have ended with the victim, and that is said.
int array_arrives_or_is_gone() {
    try {
        return array_arrives();
    } catch (const mp::Error& e) {
        if (std::string(e.what()).find("last holder") == std::string::npos) return other_value;
    }
    return array_arrives();
}

std::vector<scenario> array_scenarios() {
    const auto fresh = [](bystanders&) {
        go = 0;
        array = {};
        arrays.emplace();
    };
    const auto held = [fresh](bystanders& others) {
        fresh(others);
        array = make_array();
    };
    // Made where neither the tester nor the victim know it: who gets it has to open it.
    const auto strange = [fresh](bystanders& others) {
        fresh(others);
        others.spawn([] {
            const array_of made = make_array();
            arrays->put(made);
            arrays->put(made);
            return wait_to_go();
        });
        test::eventually([] { return arrays->qsize() == 2; });
    };
    return {
        {.name = "SharedArray: made and dropped",
         .reset = fresh,
         .operation = [] { array_of own(300'000); },
         .check = array_arrives},
        {.name = "SharedArray: made from elements",
         .reset = fresh,
         .operation =
             [] {
                 array_of own{1, 2, 3};
             },
         .check = array_arrives},
        {.name = "SharedArray: sent, others have it",
         .reset = held,
         .operation = [] { arrays->put(array); },
         .check = array_arrives},
        {.name = "SharedArray: sent, a getter sleeps",
         .reset =
             [held](bystanders& others) {
                 held(others);
                 others.spawn_asleep([] {
                     const auto got = arrays->get();
                     return is_right(got) ? 0 : other_value;
                 });
             },
         .operation = [] { arrays->put(array); },
         .check =
             [] {
                 arrays->put(array);  // for the getter, if the victim sent none
                 return 0;
             }},
        {.name = "SharedArray: made and sent, nobody else has it",
         .reset = fresh,
         .operation = [] { arrays->put(make_array()); },
         .check = array_arrives_or_is_gone},
        {.name = "SharedArray: received where it is known",
         .reset =
             [held](bystanders& others) {
                 held(others);
                 arrays->put(array);
             },
         .operation = [] { arrays->get(); },
         .check = array_arrives},
        {.name = "SharedArray: received and opened",
         .reset = strange,
         .operation = [] { arrays->get(); },
         .check = array_arrives},
        {.name = "SharedArray: received, opened, sent on",
         .reset = strange,
         .operation = [] { arrays->put(arrays->get()); },
         .check = array_arrives_or_is_gone},
    };
}

}  // namespace

int main(int argc, char** argv) {
    test::kill_sweep sweep(argc, argv);
    for (auto scenarios :
         {named_scenarios(), value_scenarios(), list_scenarios(), array_scenarios()})
        for (auto& s : scenarios) sweep.add(std::move(s));
    return sweep.run();
}
