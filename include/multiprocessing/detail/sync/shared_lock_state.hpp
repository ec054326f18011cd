// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What lies in shared memory behind SharedLock.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/sync/handle.hpp>
#include <multiprocessing/detail/sync/lock_state.hpp>
#include <multiprocessing/detail/sync/presence.hpp>
#include <multiprocessing/detail/sync/thread_id.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// Many readers or one writer. A reader has a place of its own and touches nothing that other
/// readers write; a writer closes the gate, then waits until each place is empty.
///
/// Layout (of a place 64 bytes on x86-64)
///     writer    its mutex is held by the writer, by one that waits for readers to leave, and for a
///               moment by a reader that found the gate closed; its owner is the writer
///     closed    1: readers go by the mutex
///     top       places at and above it were never used
///     places[]:
///       there     held by the reader's thread as long as it reads
///       reader    its thread; 0: it does not read
/// Writers  closed: the holder of the mutex. reader: who holds `there`.
/// I1  a reader writes `reader`, then reads `closed`; a writer writes `closed`, then reads each
///     `reader`, all seq_cst: one of them sees the other.
/// I2  whoever has the mutex while nobody is its owner may open the gate.
/// K1  a reader killed: the kernel frees its place, at once; nothing else is to be done, since it
///     wrote nothing.
/// K2  a writer killed before it was the owner: the gate is closed, and the next who gets the mutex
///     opens it or is a writer itself.
/// K3  a writer killed as the owner: lock_state's K2. The gate stays closed, so readers come by the
///     mutex and are refused too, until recover().
/// K4  killed in release, between giving up ownership and opening the gate: K2.
template <compiled = compiled::when_used>
class shared_lock_state {
public:
    static constexpr const char* name = "mp:SharedLock";
    static constexpr const char* what = "a SharedLock";
    static constexpr sync_type type = sync_type::shared_lock;
    static constexpr std::size_t most_readers = 1024;

    void init() {
        writer_.init();
        for (place& one : places_) one.there.init();
    }

    bool acquire(deadline until) {
        if (until.is_never() && (writer_.is_mine() || my_place()))
            lock_state::would_wait_for_ever();
        if (!writer_.take_mutex(until)) return false;
        if (writer_.abandoned()) writer_.refuse();
        if (!keep_readers_out(until)) return false;
        writer_.own();
        return true;
    }
    void release() {
        if (!writer_.is_mine()) writer_.not_mine("release");
        writer_.disown();
        closed_.store(0, std::memory_order_release);  // (A), K4
        writer_.drop_mutex();
    }
    bool recover(deadline until) {
        if (writer_.is_mine() || my_place())
            throw ProcessError("recover: this thread holds the lock; it is not abandoned");
        if (!writer_.take_mutex(until) || !keep_readers_out(until)) return false;
        writer_.own();
        writer_.not_abandoned();
        return true;
    }

    bool acquire_shared(deadline until) {
        place& mine = sit_down();
        if (closed_.load(std::memory_order_seq_cst) == 0) return true;  // I1, (B)
        leave(mine);
        if (until.is_never() && writer_.is_mine()) lock_state::would_wait_for_ever();
        if (!writer_.take_mutex(until)) return false;
        if (writer_.abandoned()) writer_.refuse();
        const mutex_guard in(writer_);
        closed_.store(0, std::memory_order_release);  // I2
        sit_down();
        return true;
    }
    void release_shared() {
        place* mine = my_place();
        if (!mine)
            throw ProcessError(
                "release_shared: this thread has no share of the lock; only the thread that took "
                "one may give it back");
        leave(*mine);
    }

    /// Has it a writer or a reader?
    bool locked() {
        if (writer_.locked()) return true;
        for (place& one : used()) {
            if (one.reader.load(std::memory_order_relaxed) == 0) continue;  // at some instant
            if (!one.there.is_dead()) return true;
            leave(one);  // K1, or it left just now
        }
        return false;
    }

    bool leave() {
        bool all = writer_.leave();
        for (place& one : used()) {
            const std::uint64_t reader = one.reader.load(std::memory_order_relaxed);
            if (reader == this_thread_id())
                leave(one);
            else if (reader != 0 && is_thread_here(reader))
                all = false;
        }
        return all;
    }

private:
    struct place {
        presence there;
        std::atomic<std::uint64_t> reader;
        std::uint64_t unused[2];
    };
    /// Drops the mutex at the end of the scope.
    struct mutex_guard {
        explicit mutex_guard(lock_state& of) : lock(of) {}
        mutex_guard(const mutex_guard&) = delete;
        mutex_guard& operator=(const mutex_guard&) = delete;
        ~mutex_guard() { lock.drop_mutex(); }
        lock_state& lock;
    };

    /// Where this thread sat last, in any lock: it is likely to be free, and in its cache.
    static std::size_t& usual_place() noexcept {
        static thread_local std::size_t place = 0;
        return place;
    }

    place& sit_down() {
        const std::size_t usual = usual_place();
        for (const bool also_dead : {false, true})
            for (std::size_t i = 0; i < places_.size(); ++i) {
                const std::size_t at = (usual + i) % places_.size();
                place& one = places_[at];
                // relaxed: a hint; `there` decides.
                if (one.reader.load(std::memory_order_relaxed) != 0 && !also_dead) continue;
                if (!one.there.sit_down()) continue;
                std::uint32_t top = top_.load(std::memory_order_relaxed);
                while (top <= at &&  // seq_cst: before `reader`, as I1
                       !top_.compare_exchange_weak(top, static_cast<std::uint32_t>(at) + 1,
                                                   std::memory_order_seq_cst)) {
                }
                one.reader.store(this_thread_id(), std::memory_order_seq_cst);  // I1
                usual_place() = at;
                return one;
            }
        throw Error("acquire_shared: 1,024 readers have the lock already");
    }
    static void leave(place& one) noexcept {
        one.reader.store(0, std::memory_order_release);
        one.there.get_up();
    }
    place* my_place() {
        const std::uint64_t self = this_thread_id();
        place& usual = places_[usual_place()];
        if (usual.reader.load(std::memory_order_relaxed) == self) return &usual;  // its own store
        for (place& one : used())
            if (one.reader.load(std::memory_order_relaxed) == self) return &one;  // as above
        return nullptr;
    }

    /// With the mutex; drops it if the deadline comes first.
    bool keep_readers_out(deadline until) {
        closed_.store(1, std::memory_order_seq_cst);  // I1
        for (place& one : used()) {
            if (one.reader.load(std::memory_order_seq_cst) == 0) continue;  // I1, (B) with leave()
            if (!one.there.wait(until)) {
                if (!writer_.abandoned()) closed_.store(0, std::memory_order_release);
                writer_.drop_mutex();
                return false;
            }
            leave(one);
        }
        return true;
    }

    std::span<place> used() noexcept {
        const std::size_t top = top_.load(std::memory_order_seq_cst);  // I1
        return std::span(places_).first(std::min(top, places_.size()));
    }

    lock_state writer_;
    std::atomic<std::uint32_t> closed_;
    std::atomic<std::uint32_t> top_;
    std::array<place, most_readers> places_;
};

}  // namespace multiprocessing::detail
