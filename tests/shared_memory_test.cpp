// SPDX-License-Identifier: BSL-1.0

#include <multiprocessing/shared_memory.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <list>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/pool.hpp>
#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>
#include <multiprocessing/sharedctypes.hpp>
#include <multiprocessing/synchronize.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/leaks.hpp"

namespace mp = multiprocessing;

namespace {

struct point {
    double x = 0, y = 0;
    bool operator==(const point&) const = default;
};
struct marked {
    int mark = 7;
};
using row = mp::ShareableList<int, double, std::string, point>;

struct parcel {
    int number = 0;
    mp::SharedArray<int> array;
    row list;
    mp::SharedMemory memory;
};

std::string own_name(const char* what) {
    return "mp-test-" + std::to_string(::getpid()) + '-' + what;
}
std::string path(const std::string& name) { return "/dev/shm/" + name; }
bool exists(const std::string& name) { return ::access(path(name).c_str(), F_OK) == 0; }
bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

/// What a call throws: its code if it is an OsError, and the text.
struct refusal {
    int code = 0;
    std::string what;
};
refusal refused(const std::function<void()>& f) {
    try {
        f();
    } catch (const mp::OsError& e) {
        return {e.code().value(), e.what()};
    } catch (const mp::Error& e) {
        return {-1, e.what()};
    }
    return {0, "nothing was thrown"};
}

std::size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    std::size_t lines = 0;
    for (std::string line; std::getline(maps, line);) ++lines;
    return lines;
}

/// The shared files that a process has open or mapped: name and inode of each.
std::set<std::string> shared_files(pid_t pid) {
    std::set<std::string> found;
    const std::string process = "/proc/" + std::to_string(pid);
    std::ifstream maps(process + "/maps");
    for (std::string line; std::getline(maps, line);) {
        std::istringstream words(line);
        std::string range, access, offset, device, inode, path;
        words >> range >> access >> offset >> device >> inode >> path;
        if (path.starts_with("/memfd:mp:")) found.insert(path + ' ' + inode);
    }
    std::error_code none, gone;  // processes end meanwhile
    for (std::filesystem::directory_iterator one(process + "/fd", none), end; one != end;
         one.increment(none)) {
        const std::string target = std::filesystem::read_symlink(*one, gone).string();
        struct stat info {};
        if (target.starts_with("/memfd:mp:") && ::stat(one->path().c_str(), &info) == 0)
            found.insert(target.substr(0, target.find(' ')) + ' ' + std::to_string(info.st_ino));
    }
    return found;
}

int sum_of(const mp::SharedArray<int>& a) { return std::accumulate(a.begin(), a.end(), 0); }
int fill(mp::SharedArray<int>& a, int from) {
    std::iota(a.begin(), a.end(), from);
    return static_cast<int>(a.size());
}
std::string third(row& list) {
    list.set<0>(list.get<0>() + 1);
    return list.get<2>();
}
int first_byte(mp::SharedMemory& memory) {
    memory.buf()[1] = std::byte{9};
    return std::to_integer<int>(memory.buf()[0]);
}
int open_parcel(const parcel& p) {
    p.array[0] += p.number;
    p.list.set<2>("opened");
    p.memory.buf()[0] = std::byte{5};
    return p.array[0];
}

/// `f` in a process that has a /dev/shm of its own, mounted with these options. Nothing if this
/// machine does not let it.
template <class F>
std::optional<int> with_dev_shm(const char* options, unsigned long flags, F f) {
    test::child c([&] {
        if (::unshare(CLONE_NEWNS) != 0 ||
            ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount("tmpfs", "/dev/shm", "tmpfs", flags, options) != 0)
            return 77;
        return f();
    });
    const auto status = c.exit_status();
    if (status == 77) {
        WARN("skipped: no mount namespaces here");
        return std::nullopt;
    }
    return status.value_or(-1000);
}

}  // namespace

// --- SharedArray

TEST_CASE("SharedArray: is zero, or what it was made from", "[shared]") {
    const mp::SharedArray<double> zero(1000);
    CHECK(zero.size() == 1000);
    CHECK(std::all_of(zero.begin(), zero.end(), [](double d) { return d == 0; }));
    CHECK(reinterpret_cast<std::uintptr_t>(zero.data()) % 64 == 0);

    const mp::SharedArray<int> listed{1, 2, 3};
    CHECK(std::vector<int>(listed.begin(), listed.end()) == std::vector{1, 2, 3});
    const std::list<int> source{4, 5};
    const mp::SharedArray<long> copied(source);
    CHECK(std::vector<long>(copied.begin(), copied.end()) == std::vector<long>{4, 5});
    std::istringstream words("7 8 9");  // a range to walk once
    struct once {
        std::istream& from;
        auto begin() const { return std::istream_iterator<int>(from); }
        auto end() const { return std::istream_iterator<int>(); }
    };
    const mp::SharedArray<int> walked(once{words});
    CHECK(std::vector<int>(walked.begin(), walked.end()) == std::vector{7, 8, 9});

    CHECK(mp::SharedArray<marked>(3)[2].mark == 7);
    CHECK(mp::SharedArray<point>(3)[2] == point{});
    struct alignas(256) wide {
        char c;
    };
    CHECK(reinterpret_cast<std::uintptr_t>(mp::SharedArray<wide>(2).data()) % 256 == 0);
}

TEST_CASE("SharedArray: is span-like", "[shared]") {
    const mp::SharedArray<int> a{1, 2, 3};
    const std::span<int> all = a;
    all[1] = 20;
    CHECK(a[1] == 20);
    CHECK(a.at(2) == 3);
    CHECK(a.span().size_bytes() == 12);
    CHECK_THROWS_AS(a.at(3), std::out_of_range);
    CHECK(std::accumulate(a.begin(), a.end(), 0) == 24);
    std::ranges::sort(a, std::greater<>());
    CHECK(a[0] == 20);
}

TEST_CASE("SharedArray: copies are the same array, and only they are equal", "[shared]") {
    mp::SharedArray<int> a{1, 2}, other{1, 2};
    mp::SharedArray<int> copy = a;
    copy[0] = 9;
    CHECK(a[0] == 9);
    CHECK(a == copy);
    CHECK_FALSE(a == other);
    const mp::SharedArray<int> none;
    CHECK(none.empty());
    CHECK(none == mp::SharedArray<int>());
    const mp::SharedArray<int> moved = std::move(copy);
    CHECK(moved == a);
}

TEST_CASE("SharedArray: goes to a Process by capture, by value and by reference", "[shared]") {
    const test::no_leaks leaks;
    mp::SharedArray<int> a(100), b(10);
    mp::Process captured([a] { std::iota(a.begin(), a.end(), 1); });
    mp::Process given(fill, b, 5);
    captured.start();
    given.start();
    captured.join();
    given.join();
    CHECK(sum_of(a) == 5050);
    CHECK(b[9] == 14);
}

TEST_CASE("shared data: goes to processes that were forked before it was made", "[shared]") {
    const test::no_leaks leaks;
    mp::Queue<parcel> in;
    mp::Queue<int> out;
    mp::Process p([&] {
        for (int i = 0; i < 2; ++i) out.put(open_parcel(in.get()));
    });
    p.start();
    mp::Pool pool(2);
    pool.apply(
        +[](int x) { return x; }, 1);

    mp::SharedArray<int> a(100);
    CHECK(pool.apply(fill, a, 1) == 100);
    CHECK(pool.apply(sum_of, a) == 5050);
    CHECK(sum_of(a) == 5050);
    row list{1, 2.5, "three", point{1, 2}};
    CHECK(pool.apply(third, list) == "three");
    CHECK(list.get<0>() == 2);
    auto memory = mp::SharedMemory::create(own_name("forked"), 100);
    memory.buf()[0] = std::byte{4};
    CHECK(pool.apply(first_byte, memory) == 4);
    CHECK(memory.buf()[1] == std::byte{9});

    for (const int number : {3, 4}) in.put({number, a, list, memory});
    CHECK(out.get() == 4);
    CHECK(out.get() == 8);
    CHECK(list.get<2>() == "opened");
    CHECK(memory.buf()[0] == std::byte{5});
    p.join();
    CHECK(p.exitcode() == 0);
    memory.unlink();
}

TEST_CASE("shared data: goes by connection to a process that was forked before it was made",
          "[shared]") {
    const test::no_leaks leaks;
    auto [here, there] = mp::Pipe<>();
    mp::Process p(
        [](mp::Connection<> c) {
            auto array = c.recv<mp::SharedArray<int>>();
            c.send(fill(array, 1));
            auto list = c.recv<row>();
            c.send(third(list));
            auto memory = c.recv<mp::SharedMemory>();
            c.send(first_byte(memory));
            c.send(open_parcel(c.recv<parcel>()));
        },
        std::move(there));
    p.start();
    const mp::SharedArray<int> array(100);
    here.send(array);
    CHECK(here.recv<int>() == 100);
    CHECK(sum_of(array) == 5050);
    const row list{1, 2.5, "three", point{1, 2}};
    here.send(list);
    CHECK(here.recv<std::string>() == "three");
    CHECK(list.get<0>() == 2);
    const auto memory = mp::SharedMemory::create(own_name("connected"), 100);
    memory.buf()[0] = std::byte{4};
    here.send(memory);
    CHECK(here.recv<int>() == 4);
    CHECK(memory.buf()[1] == std::byte{9});
    here.send(parcel{3, array, list, memory});
    CHECK(here.recv<int>() == 4);
    CHECK(list.get<2>() == "opened");
    CHECK(memory.buf()[0] == std::byte{5});
    p.join();
    CHECK(p.exitcode() == 0);
    memory.unlink();
}

TEST_CASE("SharedArray: its memory is there from the start, and only once", "[shared]") {
    const mp::SharedArray<char> a(std::size_t{32} << 20);
    struct stat info {};
    for (const auto& [fd, target] : test::open_descriptors())
        if (contains(target, "mp:SharedArray")) ::fstat(fd, &info);
    CHECK(info.st_blocks * 512 >= 32 << 20);
    CHECK((info.st_mode & 0777) == 0600);
}

TEST_CASE("SharedArray: more than there can be is an OsError that names the sizes", "[shared]") {
    const test::no_leaks leaks;
    const refusal large = refused([] { mp::SharedArray<char> a(std::size_t{1} << 50); });
    CHECK(large.code == ENOMEM);
    CHECK(contains(large.what, "claiming " + std::to_string((std::size_t{1} << 50) + 128)));
    CHECK(contains(large.what, "are left"));
    const refusal negative =
        refused([] { mp::SharedArray<double> a(static_cast<std::size_t>(-1)); });
    CHECK(negative.code == ENOMEM);
    CHECK(contains(negative.what, "8 bytes"));

    test::child limited([] {  // SIGXFSZ would kill it
        const rlimit files{1 << 20, 1 << 20};
        ::setrlimit(RLIMIT_FSIZE, &files);
        const refusal r = refused([] { mp::SharedArray<char> a(2 << 20); });
        mp::SharedArray<char> small(1000);
        const refusal named = refused([] { mp::SharedMemory::create(2 << 20); });
        return r.code == EFBIG && named.code == EFBIG && contains(r.what, "RLIMIT_FSIZE") ? 0 : 1;
    });
    CHECK(limited.exit_status() == 0);
}

TEST_CASE("SharedArray: signals that come all the time don't keep it from its memory", "[shared]") {
    test::child interrupted([] {
        struct sigaction act {};
        act.sa_handler = [](int) {};
        ::sigaction(SIGALRM, &act, nullptr);
        const itimerval tick{{0, 2000}, {0, 2000}};
        ::setitimer(ITIMER_REAL, &tick, nullptr);
        const mp::SharedArray<char> a(std::size_t{64} << 20);
        return a[a.size() - 1];
    });
    CHECK(interrupted.exit_status() == 0);
}

TEST_CASE("shared data: of what is anonymous a killed process leaves nothing, whatever it made",
          "[shared]") {
    const test::no_leaks leaks;  // nothing new in /dev/shm
    mp::Queue<std::set<std::string>> made;
    mp::Process victim([&] {
        const std::set<std::string> before = shared_files(::getpid());
        const mp::SharedArray<int> array(1 << 20);
        const row list{1, 2, "x", {}};
        const mp::Lock lock;
        const mp::RLock rlock;
        const mp::SharedLock shared_lock;
        const mp::Semaphore semaphore;
        const mp::BoundedSemaphore bounded;
        const mp::Condition condition;
        const mp::Event event;
        const mp::Barrier barrier(2);
        const mp::Value<int> value{1};
        const mp::Array<int> numbers(1000);
        const mp::RawValue<int> raw{1};
        const mp::RawArray<int> raws(1000);
        mp::Pipe<std::string> pipe;
        pipe.first.send(std::string(100'000, 'x'));
        pipe.first.fileno();
        mp::Queue<std::string> queue;
        queue.put(std::string(100'000, 'x'));
        mp::JoinableQueue<int> joinable;
        mp::SimpleQueue<int> simple;
        const std::lock_guard holds(lock);
        value.acquire();
        std::set<std::string> own = shared_files(::getpid());
        for (const std::string& one : before) own.erase(one);
        made.put(own);
        for (;;) ::pause();
    });
    victim.start();
    const std::set<std::string> files = made.get();
    CHECK(files.size() == 18);
    const auto still_known = [&] {
        std::set<std::string> known;
        for (const auto& entry : std::filesystem::directory_iterator("/proc"))
            if (const pid_t pid = std::atoi(entry.path().filename().c_str()); pid > 0)
                for (const std::string& file : shared_files(pid))
                    if (files.contains(file)) known.insert(file);
        return known;
    };
    CHECK(still_known() == files);
    victim.kill();
    victim.join();
    CHECK(still_known().empty());
}

TEST_CASE("SharedArray: one whose last holder has ended can't be received, and it says so",
          "[shared]") {
    mp::Queue<mp::SharedArray<int>> q;
    mp::Process sender([&] { q.put(mp::SharedArray<int>{1, 2}); });
    sender.start();
    sender.join();
    const refusal r = refused([&] { q.get(); });
    CHECK(contains(r.what, "a SharedArray"));
    CHECK(contains(r.what, "last holder ended"));
}

TEST_CASE("SharedArray: outlives its sender's handle in a message, and finds itself", "[shared]") {
    mp::Queue<mp::SharedArray<int>> q;
    {
        const mp::SharedArray<int> a{5};
        q.put(a);
        q.put(a);
        CHECK(q.get() == a);
    }
    CHECK(q.get()[0] == 5);
    q.put({});
    CHECK(q.get().empty());
}

TEST_CASE("SharedArray: a handle of another type is refused", "[shared]") {
    mp::SharedArray<int> ints{1};
    const mp::detail::encoded message = mp::detail::encode(ints);
    std::vector<std::byte> bytes;
    for (const auto& piece : message.pieces())
        bytes.insert(bytes.end(), piece.begin(), piece.end());
    CHECK_THROWS_AS((void)mp::detail::decode<mp::SharedArray<float>>(bytes), mp::Error);
    CHECK_THROWS_AS((void)mp::detail::decode<row>(bytes), mp::Error);
    CHECK((mp::detail::decode<mp::SharedArray<int>>(bytes)) == ints);
}

// --- ShareableList

TEST_CASE("ShareableList: keeps each element's type and value", "[shared][list]") {
    const mp::ShareableList<int, double, std::string> list{1, 2.0, "three"};
    CHECK(list.size() == 3);
    CHECK(list.get<0>() == 1);
    CHECK(list.get<1>() == 2.0);
    CHECK(list.get<2>() == "three");
    list.set<0>(-1);
    list.set<1>(0.5);
    list.set<2>("drei");
    CHECK(list.values() == std::tuple(-1, 0.5, std::string("drei")));
    const mp::ShareableList deduced{true, 'c', "text", point{1, 2}};
    CHECK(deduced.values() == std::tuple(true, 'c', std::string("text"), point{1, 2}));
    const mp::ShareableList<std::string> one("only");
    CHECK(one.get<0>() == "only");
}

TEST_CASE("ShareableList: a text has room for the next multiple of 8, not for more",
          "[shared][list]") {
    const mp::ShareableList<std::string, std::string, int> list{"", "12345678", 3};
    CHECK(list.capacity<0>() == 8);
    CHECK(list.capacity<1>() == 16);
    CHECK(list.capacity<2>() == sizeof(int));
    list.set<0>("12345678");
    list.set<0>(std::string(3, '\0'));
    CHECK(list.get<0>() == std::string(3, '\0'));
    const refusal r = refused([&] { list.set<1>("12345678901234567"); });
    CHECK(contains(r.what, "17 bytes"));
    CHECK(contains(r.what, "has 16"));
    CHECK(list.get<1>() == "12345678");
    CHECK(list.get<2>() == 3);
}

TEST_CASE("ShareableList: count and index look among the elements of a type", "[shared][list]") {
    const mp::ShareableList<int, std::string, int, long> list{4, "four", 4, 4};
    CHECK(list.count(4) == 2);
    CHECK(list.count(4L) == 1);
    CHECK(list.count("four") == 1);
    CHECK(list.count(5) == 0);
    CHECK(list.index(4L) == 3);
    CHECK(list.index(std::string("four")) == 1);
    CHECK_THROWS_AS(list.index("five"), mp::Error);
}

TEST_CASE("ShareableList: copies are the same list; one made from nothing is none",
          "[shared][list]") {
    const mp::ShareableList<int> list(1), other(1);
    mp::ShareableList<int> copy;
    CHECK_THROWS_AS(copy.get<0>(), mp::Error);
    CHECK_THROWS_AS(copy.set<0>(1), mp::Error);
    copy = list;
    copy.set<0>(2);
    CHECK(list.get<0>() == 2);
    CHECK(copy == list);
    CHECK_FALSE(list == other);
}

TEST_CASE("ShareableList: its readers see whole values while one process writes",
          "[shared][list]") {
    const mp::ShareableList<std::array<long, 20>, std::string> list{{}, std::string(100, 'a')};
    mp::Process writer([&] {
        std::array<long, 20> value{};
        for (long i = 1; i <= 20'000; ++i) {
            value.fill(i);
            list.set<0>(value);
            list.set<1>(std::string(static_cast<std::size_t>(i % 100), static_cast<char>(i % 100)));
        }
    });
    writer.start();
    bool whole = true;
    long last = 0;
    while (last < 20'000) {
        const auto value = list.get<0>();
        whole = whole && std::count(value.begin(), value.end(), value[0]) == 20 && value[0] >= last;
        last = value[0];
        const std::string text = list.get<1>();
        for (const char c : text)
            whole = whole && (c == 'a' || static_cast<std::size_t>(c) == text.size());
    }
    CHECK(whole);
    writer.join();
}

TEST_CASE("ShareableList: its readers see whole values while a thread writes",
          "[shared][list][threads]") {
    const mp::ShareableList<std::array<long, 4>> list(std::array<long, 4>{});
    std::thread writer([&] {
        for (long i = 1; i <= 20'000; ++i) list.set<0>({i, i, i, i});
    });
    bool whole = true;
    for (long last = 0; last < 20'000;) {
        const auto value = list.get<0>();
        whole = whole && value == std::array{value[0], value[0], value[0], value[0]};
        last = value[0];
    }
    writer.join();
    CHECK(whole);
}

// --- SharedMemory

TEST_CASE("SharedMemory: has a name, a size and bytes, and lives until unlink", "[shared][named]") {
    const test::no_leaks leaks;
    const std::string name = own_name("lives");
    auto made = mp::SharedMemory::create(name, 5000);
    CHECK(made.name() == name);
    CHECK(made.size() == 5000);
    REQUIRE(made.buf().size() == 5000);
    CHECK(std::all_of(made.buf().begin(), made.buf().end(),
                      [](std::byte b) { return b == std::byte{0}; }));
    struct stat info {};
    CHECK(::stat(path(name).c_str(), &info) == 0);
    CHECK((info.st_mode & 07777) == 0600);
    CHECK(info.st_blocks * 512 >= 5000);
    made.buf()[4999] = std::byte{3};

    auto attached = mp::SharedMemory::attach('/' + name);
    CHECK(attached.size() == 5000);
    CHECK(attached.buf()[4999] == std::byte{3});
    CHECK(attached == made);
    made.close();
    made.close();
    CHECK_THROWS_AS(made.buf(), mp::ClosedError);
    CHECK_THROWS_AS(made.unlink(), mp::ClosedError);
    CHECK(made.name() == name);
    CHECK(attached.buf()[4999] == std::byte{3});
    attached.close();
    CHECK(exists(name));
    auto again = mp::SharedMemory::attach(name, 5000);
    again.unlink();
    CHECK_FALSE(exists(name));
    CHECK(refused([&] { again.unlink(); }).code == ENOENT);
    CHECK(again.buf()[4999] == std::byte{3});
}

TEST_CASE("SharedMemory: a umask changes nothing: it is its owner's only", "[shared][named]") {
    for (const mode_t mask : {mode_t{0}, mode_t{0777}}) {
        const mode_t before = ::umask(mask);
        const auto memory = mp::SharedMemory::create(100);
        ::umask(before);
        struct stat info {};
        CHECK(::stat(path(memory.name()).c_str(), &info) == 0);
        CHECK((info.st_mode & 07777) == 0600);
        memory.unlink();
    }
}

TEST_CASE("SharedMemory: a name that is taken, absent or none is refused", "[shared][named]") {
    const test::no_leaks leaks;
    const std::string name = own_name("taken");
    const auto made = mp::SharedMemory::create(name, 10);
    const refusal taken = refused([&] { mp::SharedMemory::create(name, 10); });
    CHECK(taken.code == EEXIST);
    CHECK(contains(taken.what, name));
    CHECK(contains(taken.what, "unlink()"));
    made.unlink();
    const refusal absent = refused([&] { mp::SharedMemory::attach(name); });
    CHECK(absent.code == ENOENT);
    CHECK(contains(absent.what, name));
    for (const std::string& bad :
         {std::string(), std::string("/"), std::string("a/b"), std::string(".."),
          std::string(256, 'x'), std::string("a\0b", 3)}) {
        CHECK(refused([&] { mp::SharedMemory::create(bad, 10); }).code == -1);
        CHECK(refused([&] { mp::SharedMemory::attach(bad); }).code == -1);
    }
    CHECK(refused([&] { mp::SharedMemory::create(name, 0); }).code == -1);
    const std::string long_one = own_name(std::string(255 - own_name("").size(), 'x').c_str());
    mp::SharedMemory::create(long_one, 1).unlink();
}

TEST_CASE("SharedMemory: attach checks what it finds", "[shared][named]") {
    const test::no_leaks leaks;
    const std::string name = own_name("found");
    {
        const auto made = mp::SharedMemory::create(name, 10);
        const refusal small = refused([&] { mp::SharedMemory::attach(name, 11); });
        CHECK(contains(small.what, "10 bytes"));
        CHECK(contains(small.what, "11 are wanted"));
        made.unlink();
    }
    const auto foreign = [&](auto make) {
        make();
        const refusal r = refused([&] { mp::SharedMemory::attach(name); });
        ::unlink(path(name).c_str());
        ::rmdir(path(name).c_str());
        return r;
    };
    const auto file = [&](off_t size) {
        const int fd = ::open(path(name).c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
        if (::ftruncate(fd, size) != 0) FAIL("ftruncate");
        ::close(fd);
    };
    CHECK(contains(foreign([&] { file(0); }).what, "0 bytes"));
    CHECK(foreign([&] { (void)::symlink("/dev/zero", path(name).c_str()); }).code == ELOOP);
    CHECK(foreign([&] { ::mkdir(path(name).c_str(), 0700); }).code == EISDIR);
    CHECK(contains(foreign([&] { ::mkfifo(path(name).c_str(), 0600); }).what, "regular"));
    if (::geteuid() == 0) {
        CHECK(contains(foreign([&] {
                           file(10);
                           (void)::chown(path(name).c_str(), 12345, 12345);
                       }).what,
                       "belongs to user 12345"));
    }
    file(1 << 20);  // as other programs make it: without memory
    const auto sparse = mp::SharedMemory::attach(name);
    struct stat info {};
    ::stat(path(name).c_str(), &info);
    CHECK(info.st_blocks * 512 >= 1 << 20);
    sparse.unlink();
}

TEST_CASE("SharedMemory: without a name it gets one", "[shared][named]") {
    const auto a = mp::SharedMemory::create(10), b = mp::SharedMemory::create(10);
    CHECK(a.name() != b.name());
    CHECK(exists(a.name()));
    CHECK_FALSE(a == b);
    a.unlink();
    b.unlink();
}

TEST_CASE("SharedMemory: unlink removes no other memory that has the name now", "[shared][named]") {
    const std::string name = own_name("again");
    const auto first = mp::SharedMemory::create(name, 10);
    first.unlink();
    const auto second = mp::SharedMemory::create(name, 10);
    CHECK(refused([&] { first.unlink(); }).code == ENOENT);
    CHECK(exists(name));
    second.unlink();
}

TEST_CASE("SharedMemory: in a message it is found when its name is gone, while its sender has it",
          "[shared][named]") {
    const test::no_leaks leaks;
    mp::Queue<mp::SharedMemory> q;
    mp::Queue<int> out, go;
    mp::Process p([&] {
        const mp::SharedMemory memory = q.get();
        out.put(std::to_integer<int>(memory.buf()[0]));
        go.get();
        try {
            q.get();
        } catch (const mp::Error& e) {
            out.put(contains(e.what(), "unlinked") ? 1 : 0);
        }
    });
    p.start();
    {
        const auto memory = mp::SharedMemory::create(10);
        memory.buf()[0] = std::byte{6};
        memory.unlink();
        q.put(memory);
        CHECK(out.get() == 6);
    }
    {
        const auto memory = mp::SharedMemory::create(10);
        memory.unlink();
        q.put(memory);
    }
    go.put(1);
    CHECK(out.get() == 1);
    p.join();
    CHECK(p.exitcode() == 0);
}

TEST_CASE("SharedMemory: its creator's end or death leaves it to the others", "[shared][named]") {
    const test::no_leaks leaks;
    const std::string name = own_name("killed");
    test::child creator([&] {
        const auto memory = mp::SharedMemory::create(name, 100);
        memory.buf()[0] = std::byte{1};
        ::raise(SIGKILL);
        return 0;
    });
    CHECK(creator.exit_status() == -SIGKILL);
    const auto memory = mp::SharedMemory::attach(name);
    CHECK(memory.buf()[0] == std::byte{1});
    memory.unlink();
}

TEST_CASE("SharedMemory: too small a /dev/shm is an OsError that names it and both sizes",
          "[shared][named]") {
    const auto status = with_dev_shm("size=1m", 0, [] {
        const refusal r = refused([] { mp::SharedMemory::create("mp-large", 2 << 20); });
        if (r.code != ENOSPC || !contains(r.what, "/dev/shm") || !contains(r.what, "2097152") ||
            !contains(r.what, "1048576"))
            return 1;
        if (exists("mp-large")) return 2;
        const auto fits = mp::SharedMemory::create("mp-small", 1 << 20);
        std::ranges::fill(fits.buf(), std::byte{1});
        // Anonymous ones don't lie there.
        const mp::SharedArray<char> array(2 << 20);
        std::ranges::fill(array, 'x');
        fits.unlink();
        // Sparse files of others are claimed, or refused.
        const int fd = ::open("/dev/shm/mp-sparse", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
        if (::ftruncate(fd, 4 << 20) != 0) return 3;
        return refused([] { mp::SharedMemory::attach("mp-sparse"); }).code == ENOSPC ? 0 : 4;
    });
    CHECK(status.value_or(0) == 0);
}

TEST_CASE("SharedMemory: a read-only or absent /dev/shm is an OsError that names it",
          "[shared][named]") {
    const auto status = with_dev_shm("size=1m", MS_RDONLY, [] {
        const refusal r = refused([] { mp::SharedMemory::create("mp-x", 4096); });
        return r.code == EROFS && contains(r.what, "/dev/shm") && contains(r.what, "4096") &&
                       contains(r.what, "1048576")
                   ? 0
                   : 1;
    });
    CHECK(status.value_or(0) == 0);
    const auto absent = with_dev_shm("size=1m", 0, [] {
        ::umount("/dev/shm");
        if (::mount("tmpfs", "/dev", "tmpfs", 0, "") != 0) return 0;
        const refusal r = refused([] { mp::SharedMemory::create("mp-x", 4096); });
        return r.code == ENOENT && contains(r.what, "/dev/shm") ? 0 : 1;
    });
    CHECK(absent.value_or(0) == 0);
}

// --- all of them

TEST_CASE("shared data: 1,000 made and dropped leave everything as it was", "[shared]") {
    const test::no_leaks leaks;
    const auto cycle = [] {
        const mp::SharedArray<int> array(1000);
        const mp::ShareableList<int, std::string> list{1, "text"};
        const auto memory = mp::SharedMemory::create(1000);
        array[999] = 1;
        list.set<1>("other");
        memory.buf()[0] = std::byte{1};
        memory.unlink();
    };
    for (int i = 0; i < 10; ++i) cycle();
    const std::size_t before = mappings();
    for (int i = 0; i < 1000; ++i) cycle();
    CHECK(mappings() <= before + 2);  // malloc may have taken some
}

TEST_CASE("shared data: the last descriptor gone is an OsError, and nothing leaks", "[shared]") {
    if (test::address_sanitizer) return;  // UBSan reads memory through a pipe, and says it can't
    test::child limited([] {
        const rlimit few{64, 64};
        ::setrlimit(RLIMIT_NOFILE, &few);
        for (int round = 0; round < 3; ++round) {
            std::vector<mp::SharedArray<int>> arrays;
            std::vector<mp::SharedMemory> memories;
            std::vector<mp::ShareableList<int>> lists;
            const int codes[] = {refused([&] {
                                     for (;;) arrays.emplace_back(10);
                                 }).code,
                                 refused([&] {
                                     arrays.pop_back();
                                     for (;;) memories.push_back(mp::SharedMemory::create(10));
                                 }).code,
                                 refused([&] {
                                     memories.back().unlink();
                                     memories.pop_back();
                                     for (;;) lists.emplace_back(1);
                                 }).code};
            for (const auto& memory : memories) memory.unlink();
            for (const int code : codes)
                if (code != EMFILE) return 1;
            if (arrays.size() < 30) return 2;
        }
        return 0;
    });
    CHECK(limited.exit_status() == 0);
}
