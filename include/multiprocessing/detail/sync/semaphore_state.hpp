// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What lies in shared memory behind Semaphore and BoundedSemaphore.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/platform/futex.hpp>
#include <multiprocessing/detail/platform/pidfd.hpp>
#include <multiprocessing/detail/platform/robust_mutex.hpp>
#include <multiprocessing/detail/sync/handle.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// With its pid the name of this process for all time; 0 without /proc.
inline std::uint64_t this_start_time() {
    static std::atomic<std::uint64_t> known{0}, generation{0};
    const std::uint64_t now = process_identity::get().generation.load(std::memory_order_relaxed);
    if (generation.load(std::memory_order_acquire) != now) {  // any thread finds the same
        known.store(start_time(this_pid()), std::memory_order_relaxed);
        generation.store(now, std::memory_order_release);
    }
    return known.load(std::memory_order_relaxed);
}

/// A process and how many units it has. Free: units is 0.
struct unit_holder {
    std::atomic<std::uint64_t> started;
    std::atomic<std::uint32_t> pid;
    std::atomic<std::uint32_t> units;
};
static_assert(sizeof(unit_holder) == 16 && std::is_standard_layout_v<unit_holder>);

/// A counter that is waited for while it is zero. Robust: with a ledger of who has its units.
///
/// Layout (96 bytes on x86-64)
///      0 word   units << 1 | somebody sleeps
///      4 limit  units at most
///     16 room   who waits holds it or waits for it: so one sleeps on `word`, whatever their number
///      8 top    entries of the ledger at and above it were never used
///     56 books  guards the ledger, and the check of the limit against other releases
///     behind    a robust semaphore's ledger: unit_holder[1024]
/// Writers  word: anyone by read-modify-write; of a robust one the units by the holder of `books`.
///          The sleeper's bit is set and cleared by the holder of the room alone.
/// I1  units that are free are in `word`, never in a wake-up: who is woken takes one like any
/// other. I2  release() while the bit is set adds and wakes in one system call, so units > 0 and a
/// sleeper
///     that nobody has woken exclude each other.
/// I3  robust: units = limit - those in the ledger, which is the truth. A change is made there
///     first; a holder of `books` who died between both is made good by the next one (recount).
/// K1  killed in acquire() before its exchange: nothing. Behind it: the unit is gone with the dead
///     (robust: it comes back).
/// K2  a waiter killed, woken or not: the room is handed on, and the next one looks at `word`. The
///     bit that it leaves costs one needless wake-up. If it died as robust_mutex's K2 says, the
///     next one looks after `look_again`.
/// K3  killed in release() before the exchange or the call: nothing; behind it: the units are there
///     and the sleeper is awake. More than 1,023 at once while somebody sleeps: some of them.
/// K4  killed in a robust acquire() or release() between ledger and word: the next who takes
/// `books`
///     recounts; those that wait do so after `look_again`.
/// K5  a process that had units of a robust one ended: whoever finds none free looks who is dead,
///     when it begins to wait and each `look_again`; their units are free then.
/// K6  stopped with `books`: an acquire with a timeout ends without a unit.
template <compiled When = compiled::when_used>
class semaphore_state {
public:
    static constexpr std::uint32_t most = 0x7fffffff;
    static constexpr std::size_t most_holders = 1024;
    using ledger = std::span<later<When, unit_holder>>;  // empty: not robust

    void init(std::size_t units, bool bounded) {
        static_assert(sizeof(void*) != 8 || sizeof(semaphore_state) == 96);
        if (units > most)
            throw Error("a semaphore has at most 2147483647 units, not " + std::to_string(units));
        word_.store(static_cast<std::uint32_t>(units) << 1, std::memory_order_relaxed);  // alone
        limit_ = bounded ? static_cast<std::uint32_t>(units) : most;
        room_.init();
        books_.init();
    }

    /// \return false if the deadline came first
    bool acquire(deadline until, ledger holders, duration patience = look_again) {
        if (take(until, holders)) return true;
        if (!holders.empty() && give_back_of_dead(holders) && take(until, holders)) return true;
        return !until.is_at_once() && wait(until, holders, patience);
    }

    /// \throws Error past the limit; ProcessError if a robust one's units are not this process's
    void release(std::size_t count, ledger holders) {
        if (count == 0) return;
        if (!holders.empty()) return give_noted(count, holders);
        std::uint32_t now = word_.load(std::memory_order_relaxed);  // the exchange checks it
        // Others that release at the same time matter only near the limit: there one at a time.
        while (limit_ == most && count <= few && (now >> 1) + count <= most / 2) {
            if (now & sleeper) return add(static_cast<std::uint32_t>(count));
            if (word_.compare_exchange_weak(now, now + static_cast<std::uint32_t>(count << 1),
                                            std::memory_order_release, std::memory_order_relaxed))
                return;  // (A)
        }
        const held in(books_, deadline::never());
        check_limit(count);
        add(static_cast<std::uint32_t>(count));
    }

    std::uint32_t value(ledger holders) {
        if (!holders.empty()) give_back_of_dead(holders);
        return word_.load(std::memory_order_acquire) >> 1;  // (B)
    }

private:
    static constexpr std::uint32_t sleeper = 1;
    static constexpr std::size_t few = std::size_t{1} << 20;

    bool take(deadline until, ledger holders) {
        return holders.empty() ? take_unit() : take_noted(until, holders);
    }

    bool take_unit() noexcept {
        std::uint32_t now = word_.load(std::memory_order_relaxed);  // the exchange checks it
        while (now >> 1 != 0)
            if (word_.compare_exchange_weak(now, now - 2, std::memory_order_acquire,  // (B)
                                            std::memory_order_relaxed))
                return true;
        return false;
    }

    bool wait(deadline until, ledger holders, duration patience) {
        for (;;) {
            held room;
            if (room.try_lock(room_) ||
                room.lock(room_, deadline::earlier(until, deadline::after(patience)), patience))
                return wait_inside(until, holders, patience);
            if (take(until, holders)) return true;
            if (until.passed()) return false;
            if (!holders.empty()) give_back_of_dead(holders);
        }
    }
    bool wait_inside(deadline until, ledger holders, duration patience) {
        for (deadline look = deadline::after(patience);;) {
            if (take(until, holders)) {
                word_.fetch_and(~sleeper, std::memory_order_relaxed);  // none: this was the one
                return true;
            }
            if (until.passed()) {
                word_.fetch_and(~sleeper, std::memory_order_relaxed);  // as above
                return false;
            }
            std::uint32_t none = 0;  // relaxed: I2 is about this word alone
            if (!word_.compare_exchange_strong(none, sleeper, std::memory_order_relaxed) &&
                none != sleeper)
                continue;
            if (holders.empty()) {  // I2: no need to look again
                futex_wait(word_, sleeper, until);
                continue;
            }
            futex_wait(word_, sleeper, deadline::earlier(until, look));
            if (!look.passed()) continue;  // signals put no look off
            give_back_of_dead(holders);
            look = deadline::after(patience);
        }
    }

    /// Makes units free and wakes who sleeps for them (I2).
    void add(std::uint32_t count) noexcept {
        std::uint32_t now = word_.load(std::memory_order_relaxed);  // the exchange checks it
        while (!(now & sleeper))
            if (word_.compare_exchange_weak(now, now + (count << 1), std::memory_order_release,
                                            std::memory_order_relaxed))
                return;  // (A)
        word_.fetch_add(0,
                        std::memory_order_release);  // (A): the call itself can't be seen by tools
        for (std::uint32_t step; count != 0; count -= step) {
            step = std::min<std::uint32_t>(count, 1023);
            futex_add_and_wake(word_, static_cast<int>(step << 1), 1);
        }
    }
    void check_limit(std::size_t count) const {
        const std::uint32_t free = word_.load(std::memory_order_relaxed) >> 1;  // books
        if (count > limit_ - std::min(limit_, free))
            throw Error("release: " + std::to_string(count) + " more units than " +
                        std::to_string(free) + " would be past the semaphore's " +
                        std::to_string(limit_) + "; release what was acquired, once");
    }

    // ---- robust

    /// The ledger's lock, with I3 made good.
    class accounts {
    public:
        accounts(semaphore_state& of, ledger holders, deadline until = deadline::never())
            : of_(of) {
            bool died = false;
            locked_ = of_.books_.lock(until, look_again, &died);
            if (died) of_.recount(holders);
        }
        accounts(const accounts&) = delete;
        accounts& operator=(const accounts&) = delete;
        ~accounts() {
            if (locked_) of_.books_.unlock();
        }
        explicit operator bool() const noexcept { return locked_; }

    private:
        semaphore_state& of_;
        bool locked_;
    };

    void recount(ledger holders) noexcept {
        std::uint32_t taken = 0;
        for (const unit_holder& one : used(holders))
            taken += one.units.load(std::memory_order_relaxed);
        const std::uint32_t free = limit_ - std::min(limit_, taken);
        const std::uint32_t said = word_.load(std::memory_order_relaxed) >> 1;  // books
        if (free > said)
            add(free - said);
        else
            word_.fetch_sub((said - free) << 1, std::memory_order_relaxed);  // books
    }

    ledger used(ledger holders) const noexcept {
        return holders.first(std::min<std::size_t>(top_, holders.size()));
    }
    /// This process's entry, or a free one.
    unit_holder* entry(ledger holders, bool make) {
        unit_holder* free = nullptr;
        const auto pid = static_cast<std::uint32_t>(this_pid());
        const std::uint64_t started = this_start_time();
        for (unit_holder& one : used(holders)) {
            if (one.units.load(std::memory_order_relaxed) == 0) {  // all under `books`
                if (!free) free = &one;
            } else if (one.pid.load(std::memory_order_relaxed) == pid &&
                       one.started.load(std::memory_order_relaxed) == started) {
                return &one;
            }
        }
        if (!make) return nullptr;
        if (!free && top_ < holders.size()) free = &holders[top_++];
        if (!free) throw Error("acquire: 1,024 processes hold units of this robust semaphore");
        free->pid.store(pid, std::memory_order_relaxed);
        free->started.store(started, std::memory_order_relaxed);
        return free;
    }

    bool take_noted(deadline until, ledger holders) {
        if (word_.load(std::memory_order_relaxed) >> 1 == 0) return false;  // looked at again below
        const accounts in(*this, holders, with_a_moment(until));
        if (!in) return false;                                              // K6
        if (word_.load(std::memory_order_acquire) >> 1 == 0) return false;  // (B)
        unit_holder& mine = *entry(holders, true);
        mine.units.store(mine.units.load(std::memory_order_relaxed) + 1,
                         std::memory_order_release);    // commit (I3); the name goes first
        word_.fetch_sub(2, std::memory_order_acquire);  // (B)
        return true;
    }
    void give_noted(std::size_t count, ledger holders) {
        const accounts in(*this, holders);
        unit_holder* mine = entry(holders, false);
        const std::uint32_t has = mine ? mine->units.load(std::memory_order_relaxed) : 0;
        if (count > has)
            throw ProcessError("release: this process has " + std::to_string(has) +
                               " units of the robust semaphore, not " + std::to_string(count) +
                               "; they can only be given back by the process that took them");
        mine->units.store(has - static_cast<std::uint32_t>(count),
                          std::memory_order_release);  // commit (I3)
        add(static_cast<std::uint32_t>(count));
    }
    /// \return whether there were any
    bool give_back_of_dead(ledger holders) {
        const accounts in(*this, holders, deadline::after(moment));
        if (!in) return false;  // the next one who looks
        const auto self = static_cast<std::uint32_t>(this_pid());
        bool found = false;
        for (unit_holder& one : used(holders)) {
            const std::uint32_t units = one.units.load(std::memory_order_relaxed);  // books
            const std::uint32_t pid = one.pid.load(std::memory_order_relaxed);
            const std::uint64_t started = one.started.load(std::memory_order_relaxed);
            if (units == 0 || (pid == self && started == this_start_time()) ||
                !ended(static_cast<pid_t>(pid), started))
                continue;
            one.units.store(0, std::memory_order_release);  // commit (I3)
            add(units);
            found = true;
        }
        return found;
    }
    static bool ended(pid_t pid, std::uint64_t started) {
        try {
            return is_gone(pid, started);
        } catch (const OsError&) {  // no descriptor left: looked at again the next time
            return false;
        }
    }

    futex_word word_;
    std::uint32_t limit_;
    std::uint32_t top_;
    alignas(16) robust_mutex room_;
    robust_mutex books_;
};

template <compiled When = compiled::when_used>
struct open_semaphore : semaphore_state<When> {
    static constexpr const char* name = "mp:Semaphore";
    static constexpr const char* what = "a Semaphore";
    static constexpr sync_type type = sync_type::semaphore;
    static constexpr bool bounded = false;
};
template <compiled When = compiled::when_used>
struct bounded_semaphore : semaphore_state<When> {
    static constexpr const char* name = "mp:BoundedSemaphore";
    static constexpr const char* what = "a BoundedSemaphore";
    static constexpr sync_type type = sync_type::bounded_semaphore;
    static constexpr bool bounded = true;
};

}  // namespace multiprocessing::detail
