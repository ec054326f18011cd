// SPDX-License-Identifier: BSL-1.0
//
// A shelf with room for two loaves, bakers and buyers. One buyer is killed while it holds the lock:
// whoever comes next is told, looks at the shelf and goes on. Prints
//
//     4 bakers baked 200 loaves, 3 buyers bought 200
//     a buyer died with the lock; the shelf was put right
//     the shelf is empty

#include <csignal>
#include <cstdio>
#include <mutex>
#include <vector>

#include <sys/mman.h>

#include <multiprocessing/process.hpp>
#include <multiprocessing/synchronize.hpp>

namespace mp = multiprocessing;

struct Shelf {
    int loaves, reserved;  // one that is reserved is taken off in the next moment
    int baked, bought, repaired;
};

struct Shop {
    Shelf& shelf;
    mp::Lock lock;
    mp::Condition not_full{lock}, not_empty{lock};

    void bake() const {
        std::unique_lock door(lock);
        not_full.wait(door, [&] { return shelf.loaves < 2; });
        ++shelf.loaves;
        ++shelf.baked;
        not_empty.notify();
    }
    void buy(bool dies = false) const {
        std::unique_lock door(lock);
        not_empty.wait(door, [&] { return shelf.loaves > 0; });
        ++shelf.reserved;
        if (dies) ::raise(SIGKILL);
        --shelf.loaves;
        --shelf.reserved;
        ++shelf.bought;
        not_full.notify();
    }
    /// What a dead holder left is half done.
    void put_right() const {
        lock.recover();
        const std::lock_guard door(lock, std::adopt_lock);
        if (shelf.reserved == 0) return;
        shelf.reserved = 0;  // nobody took it
        ++shelf.repaired;
        not_empty.notify();  // the one that the dead buyer had been told of
    }
    template <class F>
    void safely(F step) const {
        for (;;) try {
                return step();
            } catch (const mp::AbandonedLock&) {
                put_right();
            }
    }
};

int main() {
    void* memory =
        ::mmap(nullptr, sizeof(Shelf), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const Shop shop{*static_cast<Shelf*>(memory), {}};

    std::vector<mp::Process> people;
    for (int i = 0; i < 4; ++i)
        people.emplace_back([&] {
            for (int k = 0; k < 50; ++k) shop.safely([&] { shop.bake(); });
        });
    people.emplace_back([&] { shop.buy(true); });
    for (const int loaves : {100, 50, 50})
        people.emplace_back([&shop, loaves] {
            for (int k = 0; k < loaves; ++k) shop.safely([&] { shop.buy(); });
        });
    for (mp::Process& one : people) one.start();
    for (mp::Process& one : people) one.join();

    const Shelf& shelf = shop.shelf;
    std::printf("4 bakers baked %d loaves, 3 buyers bought %d\n", shelf.baked, shelf.bought);
    std::printf("a buyer died with the lock; the shelf was put right%s\n",
                shelf.repaired == 1 ? "" : " (or not)");
    std::printf("the shelf is %s\n", shelf.loaves == 0 ? "empty" : "not empty");
}
