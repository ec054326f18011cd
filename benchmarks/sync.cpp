// SPDX-License-Identifier: BSL-1.0
//
// sync WHO WHAT SECONDS: nanoseconds for one taking and giving back, or one hand-over.
//   alone   one process
//   hammer  two processes on two cores, as fast as they can
//   two     hand-over: two processes on two cores wake each other in turns
//   one     the same on one core; free: as the kernel places them
// WHO: Lock, RLock, SharedLock, reader, Semaphore, robust_Semaphore; Event, Condition, Barrier for
// hand-overs. Beside: robust (a raw robust pthread mutex), sem_t, futex (wake the other's word,
// wait for one's own).

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>

#include <pthread.h>
#include <semaphore.h>

#include <multiprocessing/detail/platform/futex.hpp>
#include <multiprocessing/synchronize.hpp>

#include "support.hpp"

namespace {

namespace mp = multiprocessing;
namespace mpd = multiprocessing::detail;

class raw_robust {
public:
    raw_robust() {
        pthread_mutexattr_t attributes;
        ::pthread_mutexattr_init(&attributes);
        ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        ::pthread_mutex_init(&mutex_, &attributes);
    }
    void lock() const { ::pthread_mutex_lock(&mutex_); }
    void unlock() const { ::pthread_mutex_unlock(&mutex_); }

private:
    pthread_mutex_t& mutex_ = bench::shared<pthread_mutex_t>();
};

class posix_semaphore {
public:
    explicit posix_semaphore(unsigned units = 1) { ::sem_init(&semaphore_, 1, units); }
    void lock() const {
        while (::sem_wait(&semaphore_) != 0 && errno == EINTR) {
        }
    }
    void unlock() const { ::sem_post(&semaphore_); }

private:
    sem_t& semaphore_ = bench::shared<sem_t>();
};

class to_read {
public:
    void lock() const { lock_.lock_shared(); }
    void unlock() const { lock_.unlock_shared(); }

private:
    mp::SharedLock lock_;
};

/// Calls `f` 1,000 times between looks at the clock. \return calls
template <class F>
std::int64_t for_seconds(double seconds, F f) {
    std::int64_t calls = 0;
    for (const auto end = bench::now() + static_cast<std::int64_t>(seconds * 1e9);
         bench::now() < end; calls += 1000)
        for (int i = 0; i < 1000; ++i) f();
    return calls;
}

struct count {
    bench::start_line start;
    std::atomic<std::int64_t> calls, nanoseconds;
    alignas(64) std::int64_t guarded;
};

template <class L>
double lock_unlock(const L& lock, std::size_t processes, double seconds) {
    auto& sum = bench::shared<count>();
    bench::children others;
    for (std::size_t i = 0; i < processes; ++i)
        others.start([&, i] {
            bench::placement("two").settle(i);
            sum.start.wait_for(processes);
            const auto begin = bench::now();
            sum.calls += for_seconds(seconds, [&] {
                lock.lock();
                sum.guarded = sum.guarded + 1;
                lock.unlock();
            });
            sum.nanoseconds += bench::now() - begin;
        });
    others.join();
    // Of all together: each call of one of them takes the time of one.
    return static_cast<double>(sum.nanoseconds) / static_cast<double>(processes) /
           static_cast<double>(sum.calls);
}

/// Two processes in turns: `turn(me)` waits for its turn and ends it.
template <class Turn>
double hand_over(Turn turn, const std::string& place, double seconds) {
    auto& start = bench::shared<bench::start_line>();
    auto& last = bench::shared<std::atomic<std::int64_t>>();
    last = INT64_MAX;
    bench::children other;
    other.start([&] {
        bench::placement(place).settle(1);
        start.wait_for(2);
        for (std::int64_t i = 0; i < last; ++i) turn(1);
    });
    bench::placement(place).settle(0);
    start.wait_for(2);
    const auto begin = bench::now(), end = begin + static_cast<std::int64_t>(seconds * 1e9);
    std::int64_t turns = 0;
    while (turns < last) {
        // The other one has had as many turns or one less, so it sees this in time.
        if (turns % 64 == 0 && bench::now() > end) last = turns + 64;
        turn(0);
        ++turns;
    }
    const auto elapsed = bench::now() - begin;
    other.join();
    return static_cast<double>(elapsed) / static_cast<double>(2 * turns);
}

double by_futex(const std::string& place, double seconds) {
    struct pair {
        mpd::futex_word words[2];
    };
    auto& words = bench::shared<pair>().words;
    words[0] = 1;
    return hand_over(
        [&](int me) {
            while (words[me].load(std::memory_order_acquire) == 0)
                mpd::futex_wait(words[me], 0, mpd::deadline::never());
            words[me].store(0, std::memory_order_relaxed);
            words[1 - me].store(1, std::memory_order_release);
            mpd::futex_wake(words[1 - me], 1);
        },
        place, seconds);
}

double by_semaphore(const std::string& place, double seconds) {
    const mp::Semaphore turns[2]{mp::Semaphore(1), mp::Semaphore(0)};
    return hand_over(
        [&](int me) {
            turns[me].acquire();
            turns[1 - me].release();
        },
        place, seconds);
}

double by_event(const std::string& place, double seconds) {
    const mp::Event turns[2];
    turns[0].set();
    return hand_over(
        [&](int me) {
            turns[me].wait();
            turns[me].clear();
            turns[1 - me].set();
        },
        place, seconds);
}

double by_condition(const std::string& place, double seconds) {
    const mp::Lock lock;
    const mp::Condition changed(lock);
    auto& whose = bench::shared<int>();
    return hand_over(
        [&](int me) {
            std::unique_lock guard(lock);
            changed.wait(guard, [&] { return whose == me; });
            whose = 1 - me;
            changed.notify();
        },
        place, seconds);
}

/// One hand-over is half of a meeting.
double by_barrier(const std::string& place, double seconds) {
    const mp::Barrier barrier(2);
    return hand_over([&](int) { barrier.wait(); }, place, seconds);
}

double measure(const std::string& who, const std::string& what, double seconds) {
    if (what == "alone" || what == "hammer") {
        const std::size_t processes = what == "alone" ? 1 : 2;
        if (who == "Lock") return lock_unlock(mp::Lock(), processes, seconds);
        if (who == "RLock") return lock_unlock(mp::RLock(), processes, seconds);
        if (who == "SharedLock") return lock_unlock(mp::SharedLock(), processes, seconds);
        if (who == "reader") return lock_unlock(to_read(), processes, seconds);
        if (who == "Semaphore") return lock_unlock(mp::Semaphore(), processes, seconds);
        if (who == "robust_Semaphore")
            return lock_unlock(mp::Semaphore(1, mp::robust), processes, seconds);
        if (who == "robust") return lock_unlock(raw_robust(), processes, seconds);
        if (who == "sem_t") return lock_unlock(posix_semaphore(), processes, seconds);
    } else if (what == "two" || what == "one" || what == "free") {
        if (who == "futex") return by_futex(what, seconds);
        if (who == "Semaphore") return by_semaphore(what, seconds);
        if (who == "Event") return by_event(what, seconds);
        if (who == "Condition") return by_condition(what, seconds);
        if (who == "Barrier") return by_barrier(what, seconds);
    }
    throw std::runtime_error("what is " + who + ' ' + what + '?');
}

}  // namespace

int main(int argc, char** argv) {
    return bench::program([&] {
        if (argc != 4) throw std::runtime_error("sync WHO WHAT SECONDS");
        std::printf("%.4g\n", measure(argv[1], argv[2], std::atof(argv[3])));
    });
}
