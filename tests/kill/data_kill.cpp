// SPDX-License-Identifier: BSL-1.0

/// \file
/// Kills what is done with shared data at every instruction: kill.data_kill [-v] [-p POINT] [part
/// of a name]. With MP_BUDGET_SECONDS it samples, from MP_KILL_START on.

#include <array>
#include <atomic>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/queues.hpp>
#include <multiprocessing/shared_memory.hpp>
#include <multiprocessing/sharedctypes.hpp>
#include <multiprocessing/synchronize.hpp>

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

// ---- Value and Array

/// Two numbers that are equal outside of the lock of what they are in.
struct pair_of {
    long a = 0, b = 0;
};
using value_of = mp::Value<pair_of>;
using numbers_of = mp::Array<long>;
template <class T>
T make_guarded() {
    if constexpr (std::is_same_v<T, numbers_of>)
        return numbers_of(1000);
    else
        return value_of();
}
long& first(value_of& v) { return v.value().a; }
long& second(value_of& v) { return v.value().b; }
long& first(numbers_of& a) { return a[0]; }
long& second(numbers_of& a) { return a[999]; }

template <class T>
std::optional<T> guarded;

template <class T>
void step(T& object) {
    const std::lock_guard guard(object);
    ++first(object);
    ++second(object);
}
/// Nobody hangs; a death under the lock is told, and recovered from; one outside left it whole.
template <class T>
int is_told(T& object) {
    try {
        if (!object.acquire(8s)) return still_held;
        if (first(object) != second(object)) return mixed;
    } catch (const mp::AbandonedLock&) {
        try {
            if (object.acquire(8s)) return death_untold;
        } catch (const mp::AbandonedLock&) {
        }
        if (!object.recover(8s)) return not_recovered;
        second(object) = first(object);
    }
    object.release();
    for (int i = 0; i < 3; ++i) step(object);
    return first(object) == second(object) && !object.locked() ? 0 : unusable;
}
/// As everybody would who uses it.
template <class T>
int patient_step(T& object) {
    try {
        if (!object.acquire(9s)) return still_held;
    } catch (const mp::AbandonedLock&) {
        if (!object.recover(9s)) return not_recovered;
        second(object) = first(object);
    }
    object.release();
    return 0;
}

/// What helpers wait for.
std::atomic<int>& go = test::shared_memory<std::atomic<int>>();
int wait_to_go(int step = 1) {
    while (go.load() < step) test::pause_briefly(1ms);
    return 0;
}

template <class T>
std::vector<scenario> guarded_scenarios(const std::string& kind) {
    const auto object = []() -> T& { return *guarded<T>; };
    const auto fresh = [](bystanders&) {
        go = 0;
        guarded<T> = make_guarded<T>();
    };
    const auto change = [=] { step(object()); };
    const auto told = [=] { return is_told(object()); };
    const auto holder = [=] {
        const std::lock_guard guard(object());
        return wait_to_go();
    };
    const auto freed = [=] {
        go = 1;
        return told();
    };
    return {
        {.name = kind + ": lock, change, unlock",
         .reset = fresh,
         .operation = change,
         .check = told},
        {.name = kind + ": the same, used before",
         .reset =
             [=](bystanders& others) {
                 fresh(others);
                 change();
                 others.run([=] { return change(), 0; });
             },
         .operation = change,
         .check = told},
        {.name = kind + ": the same, another holds it",
         .reset =
             [=](bystanders& others) {
                 fresh(others);
                 others.spawn_asleep(holder);
             },
         .operation = change,
         .on_block = [](bystanders&) { go = 1; },
         .check = freed},
        {.name = kind + ": the same, another waits",
         .reset =
             [=](bystanders& others) {
                 fresh(others);
                 others.spawn_asleep(holder);
                 others.spawn_asleep([=] { return patient_step(object()); });
             },
         .operation = change,
         .on_block = [](bystanders&) { go = 1; },
         .check = freed},
        {.name = kind + ": its last holder died; recover",
         .reset =
             [=](bystanders& others) {
                 fresh(others);
                 others.run([=] {
                     object().acquire();
                     ++first(object());
                     return 0;
                 });
             },
         .operation =
             [=] {
                 try {
                     change();
                 } catch (const mp::AbandonedLock&) {
                     object().recover();
                     second(object()) = first(object());
                     object().release();
                 }
             },
         .check = told,
         .stride = with_exception},
        {.name = kind + ": made, changed, dropped",
         .reset = fresh,
         .operation =
             [] {
                 T own = make_guarded<T>();
                 step(own);
             },
         .check = told},
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

// ---- handles sent through a Pipe

/// How one is made and used: sample<T>::make(), works() after a kill; hold(), let_go() of its
/// maker, between which who takes its turn() sleeps.
template <class T>
struct sample;

template <>
struct sample<mp::Lock> {
    static mp::Lock make() { return mp::Lock(); }
    static void hold(mp::Lock& lock) { lock.acquire(); }
    static void let_go(mp::Lock& lock) { lock.release(); }
    static void turn(mp::Lock& lock) {
        lock.acquire();
        lock.release();
    }
    static bool works(mp::Lock& lock) {
        try {
            if (!lock.acquire(8s)) return false;
        } catch (const mp::AbandonedLock&) {
            if (!lock.recover(8s)) return false;
        }
        lock.release();
        return !lock.locked();
    }
};
template <>
struct sample<mp::Semaphore> {
    static mp::Semaphore make() { return mp::Semaphore(1); }
    static void hold(mp::Semaphore& units) { units.acquire(); }
    static void let_go(mp::Semaphore& units) { units.release(); }
    static void turn(mp::Semaphore& units) {
        units.acquire();
        units.release();
    }
    static bool works(mp::Semaphore& units) {
        if (units.value() == 0) units.release();  // the dead one's
        return units.acquire(8s) && units.value() == 0 && (units.release(), units.value() == 1);
    }
};
template <>
struct sample<mp::Event> {
    static mp::Event make() { return mp::Event(); }
    static void hold(mp::Event&) {}
    static void let_go(mp::Event& event) { event.set(); }
    static void turn(mp::Event& event) { event.wait(); }
    static bool works(mp::Event& event) {
        event.set();
        return event.wait(8s) && (event.clear(), !event.is_set());
    }
};
template <>
struct sample<numbers_of> {
    static numbers_of make() { return make_guarded<numbers_of>(); }
    static void hold(numbers_of& a) { a.acquire(); }
    static void let_go(numbers_of& a) { a.release(); }
    static void turn(numbers_of& a) { step(a); }
    static bool works(numbers_of& a) { return is_told(a) == 0; }
};
template <>
struct sample<mp::SharedMemory> {
    static mp::SharedMemory make() {
        auto memory = mp::SharedMemory::create(name, bytes);
        memory.buf()[7] = std::byte{7};
        return memory;
    }
    static void turn(mp::SharedMemory& memory) { memory.buf()[bytes - 1] = std::byte{1}; }
    static bool works(mp::SharedMemory& memory) {
        return memory.size() == bytes && memory.buf()[7] == std::byte{7};
    }
};

template <class T>
struct by_pipe {
    static constexpr bool has_name = std::is_same_v<T, mp::SharedMemory>;
    static inline std::optional<mp::Pipe<T>> pipe;  // the second end is the victim's
    static inline std::optional<T> object;
    static inline std::atomic<int>& sent = test::shared_memory<std::atomic<int>>();

    static void fresh(bystanders&) {
        go = sent = 0;
        if (has_name) ::unlink(path.c_str());
        object.reset();
        pipe.emplace();
    }
    static void held(bystanders& others) {
        fresh(others);
        object = sample<T>::make();
    }
    /// Made where neither the tester nor the victim know it: who receives it has to open it.
    template <bool Holds = false>
    static void strange(bystanders& others) {
        fresh(others);
        others.spawn([] {
            T made = sample<T>::make();
            if constexpr (Holds) sample<T>::hold(made);
            pipe->first.send(made);
            sent = 1;
            if constexpr (Holds) {
                wait_to_go();
                sample<T>::let_go(made);
            }
            wait_to_go(2);
            if (!sample<T>::works(made)) return int{unusable};
            return ends_for(made);
        });
        test::eventually([] { return sent == 1; });
    }

    static int ends_for(const T& one) {
        try {
            pipe->first.send(one);
        } catch (const mp::EndOfFile&) {
            return 0;
        }
        return lost;
    }
    /// The name of a SharedMemory stays, whoever was killed.
    static int name_stays(std::optional<bool> expected = true) {
        if constexpr (has_name)
            return name_is_whole(expected);
        else
            return 0;
    }
    /// It arrives once or not at all, then comes the end; it works in any case.
    static int arrives_at_most_once() {
        for (int k = 0;; ++k) try {
                T got = pipe->first.recv();
                if (k > 0 || !(got == *object)) return other_value;
                if (!sample<T>::works(got)) return unusable;
            } catch (const mp::EndOfFile&) {
                return sample<T>::works(*object) ? 0 : unusable;
            }
    }
    /// As that, but its last holder may have ended with the victim, and that is said.
    static int arrives_or_is_gone() {
        for (int k = 0;; ++k) try {
                T got = pipe->first.recv();
                if (k > 0) return other_value;
                if (!sample<T>::works(got)) return unusable;
            } catch (const mp::EndOfFile&) {
                return name_stays({});
            } catch (const mp::Error& e) {
                if (std::string(e.what()).find("last holder") == std::string::npos)
                    return other_value;
            }
    }
    /// Its maker finds it whole, and that nobody receives any more.
    static int maker_goes_on() {
        go = 2;
        return name_stays();
    }

    static std::vector<scenario> scenarios(const std::string& kind) {
        const auto take = [] { static_cast<void>(pipe->second.poll()); };
        const auto send = [] { pipe->second.send(*object); };
        std::vector<scenario> all{
            {.name = kind + " by pipe: sent, others have it",
             .reset = held,
             .prepare = take,
             .operation = send,
             .check =
                 [] {
                     const int status = arrives_at_most_once();
                     return status != 0 ? status : name_stays();
                 }},
            {.name = kind + " by pipe: sent to one asleep in recv",
             .reset =
                 [](bystanders& others) {
                     held(others);
                     others.spawn_asleep(arrives_at_most_once);
                 },
             .prepare = take,
             .operation = send,
             .check = [] { return 0; }},
            {.name = kind + " by pipe: made and sent",
             .reset = fresh,
             .prepare = take,
             .operation = [] { pipe->second.send(sample<T>::make()); },
             .check = arrives_or_is_gone},
            {.name = kind + " by pipe: received where it is known",
             .reset =
                 [](bystanders& others) {
                     held(others);
                     pipe->first.send(*object);
                 },
             .prepare = take,
             .operation = [] { pipe->second.recv(); },
             .check =
                 [] {
                     if (!sample<T>::works(*object)) return int{unusable};
                     const int status = ends_for(*object);
                     return status != 0 ? status : name_stays();
                 }},
            {.name = kind + " by pipe: received, opened and used",
             .reset = strange<>,
             .prepare = take,
             .operation =
                 [] {
                     T got = pipe->second.recv();
                     if constexpr (std::is_same_v<T, mp::Event>) got.set();
                     sample<T>::turn(got);
                 },
             .check = maker_goes_on},
        };
        if constexpr (!has_name)
            all.push_back({.name = kind + " by pipe: received, waits for its maker",
                           .reset = strange<true>,
                           .prepare = take,
                           .operation =
                               [] {
                                   T got = pipe->second.recv();
                                   sample<T>::turn(got);
                               },
                           .on_block = [](bystanders&) { go = 1; },
                           .check = maker_goes_on});
        return all;
    }
};

}  // namespace

int main(int argc, char** argv) {
    test::kill_sweep sweep(argc, argv);
    for (auto scenarios :
         {named_scenarios(), guarded_scenarios<value_of>("Value"),
          guarded_scenarios<numbers_of>("Array"), list_scenarios(), array_scenarios(),
          by_pipe<mp::Lock>::scenarios("Lock"), by_pipe<mp::Semaphore>::scenarios("Semaphore"),
          by_pipe<mp::Event>::scenarios("Event"), by_pipe<numbers_of>::scenarios("Array"),
          by_pipe<mp::SharedMemory>::scenarios("SharedMemory")})
        for (auto& s : scenarios) sweep.add(std::move(s));
    return sweep.run();
}
