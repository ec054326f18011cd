// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Which regions this process has: so that a handle that comes back finds the object that is here
/// already, and a region that was sent stays open until its receiver has it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <sched.h>
#include <sys/resource.h>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/shm/region.hpp>

namespace multiprocessing::detail {

inline namespace abi_1 {

/// One in each process; guarded by process_identity::tables, so a forked child has it whole.
///
/// An Object is this process's side of a region: constructed from a region, with `memory()`, and
/// `detach()`, its last use of that. There is one for each region, shared by all handles here. One
/// with a `must_stay()` that says so is never unmapped: a thread of this process holds a lock in
/// it, and the kernel and libc follow the addresses of held robust locks. Loan: a region that this
/// process lent, with `lent > opened`, when its last object here goes, is kept in `lent_`, since a
/// message may name this process's descriptor; swept at each further use, where those whose
/// receiver was killed cost no more than a few looks. At most 1,024 are kept, and at most a quarter
/// of the descriptors that this process may have: then the oldest goes. A forked child keeps none:
/// they name its parent's descriptors.
template <compiled When = compiled::when_used>
class MP_EXPORT region_table {
    using region = later<When, detail::region>;
    struct loan {
        region_id id;  // of the memory, whose page need not be looked at
        region memory;
    };
    using loans_list = std::list<loan>;

public:
    /// Makes a newly created region known.
    template <class Object>
    static std::shared_ptr<Object> add(region made) {
        loans_list dropped;  // unmapped after the lock is released
        const std::lock_guard lock(process_identity::get().tables);
        dropped = get().sweep();
        return get().template insert<Object>(std::move(made));
    }

    /// The object of a received handle: the one that is here, else a newly opened one.
    template <class Object>
    static std::shared_ptr<Object> open(const region_handle& handle, region_kind kind,
                                        const char* what) {
        return open<Object>(handle, kind, what, [&] { return region::open(handle, kind, what); });
    }
    /// \param opened  gives the region, if it is not here
    template <class Object, class Opened>
    static std::shared_ptr<Object> open(const region_handle& handle, region_kind kind,
                                        const char* what, Opened opened) {
        for (int round = 0;; ++round) {
            loans_list dropped;
            std::unique_lock lock(process_identity::get().tables);
            region_table& table = get();
            dropped = table.sweep();
            if (const auto found = table.known_.find(handle.id); found != table.known_.end()) {
                check(found->second.kind, kind, what);
                if (auto object = found->second.object.lock()) {
                    auto mine = std::static_pointer_cast<Object>(std::move(object));
                    mine->memory().note_opened();
                    return mine;
                }
                // Another thread drops the last handle and waits for the lock: let it, since what
                // it lends may be all that is left. (None, if this process was forked just then.)
                if (round < 100) {
                    lock.unlock();
                    ::sched_yield();
                    continue;
                }
            }
            for (auto it = table.lent_.begin(); it != table.lent_.end(); ++it)
                if (it->id == handle.id) {
                    check(it->memory.header().kind, kind, what);
                    region back = std::move(it->memory);
                    table.forget(it);
                    auto object = table.template insert<Object>(std::move(back));
                    object->memory().note_opened();
                    return object;
                }
            auto object = table.template insert<Object>(opened());
            object->memory().note_opened();
            return object;
        }
    }

    /// A handle for one message, counted.
    template <class Object>
    static region_handle lend(Object& object) {
        const std::lock_guard lock(process_identity::get().tables);
        region& memory = object.memory();
        if (const auto found = get().known_.find(memory.header().id); found != get().known_.end())
            found->second.lender = this_generation();
        memory.note_lent();
        return memory.handle();
    }

    /// That message was not sent.
    static void take_back(const region_id& id) {
        loans_list dropped, swept;
        const std::lock_guard lock(process_identity::get().tables);
        region_table& table = get();
        if (const auto found = table.known_.find(id); found != table.known_.end())
            if (const auto object = found->second.object.lock())
                found->second.memory->note_not_lent();
        for (auto it = table.lent_.begin(); it != table.lent_.end(); ++it)
            if (it->id == id) {
                it->memory.note_not_lent();
                if (!it->memory.awaited()) table.give_up(it, dropped);
                break;
            }
        swept = table.sweep();
    }

private:
    struct entry {
        std::weak_ptr<void> object;
        region* memory = nullptr;  // of the object, while that lives
        region_kind kind{};
        std::uint64_t lender = 0;  // the generation of the process that last lent it
    };
    /// Ends with the last handle.
    template <class Object>
    struct owner {
        std::unique_ptr<Object> object;
        owner() = default;
        owner(const owner&) = delete;
        owner& operator=(const owner&) = delete;
        ~owner() {
            if (object) drop(std::move(object));
        }
    };

    /// Under process_identity::tables: so no fork comes while it is made.
    static region_table& get() {  // never destroyed: static objects of the host may hold queues
        static region_table& only = *new region_table;
        return only;
    }
    static std::uint64_t this_generation() {
        return process_identity::get().generation.load(std::memory_order_relaxed);
    }
    static std::size_t most_lent() noexcept {
        rlimit descriptors{};
        ::getrlimit(RLIMIT_NOFILE, &descriptors);
        return std::min<std::size_t>(1024, descriptors.rlim_cur / 4);
    }

    template <class Object>
    std::shared_ptr<Object> insert(region memory) {
        // What may fail comes first: an owner with an object would want the lock that is held.
        const auto holder = std::make_shared<owner<Object>>();
        auto made = std::make_unique<Object>(std::move(memory));
        entry& known = known_[made->memory().header().id];
        holder->object = std::move(made);
        std::shared_ptr<Object> object(holder, holder->object.get());
        known = {object, &object->memory(), object->memory().header().kind, 0};
        return object;
    }

    static void check(region_kind found, region_kind expected, const char* what) {
        if (found != expected)
            throw Error(std::string("receiving ") + what +
                        ": the handle names another kind of object; the message is damaged");
    }

    template <class Object>
    static void drop(std::unique_ptr<Object> given) noexcept {
        given->detach();
        bool stays = false;
        if constexpr (requires { given->must_stay(); }) stays = given->must_stay();
        loans_list dropped;  // both go after the lock
        std::unique_ptr<Object> last = std::move(given);
        const std::lock_guard lock(process_identity::get().tables);
        region_table& table = get();
        bool lent_here = false;
        const auto found = table.known_.find(last->memory().header().id);
        if (found != table.known_.end() && found->second.object.expired()) {
            lent_here = found->second.lender == this_generation();
            table.known_.erase(found);
        }
        dropped = table.sweep();
        if (stays) {
            try {
                table.staying_.push_back(std::move(last->memory()));
            } catch (...) {
                static_cast<void>(last.release());
            }
        } else if (lent_here && last->memory().awaited()) {
            try {
                const region_id id = last->memory().header().id;
                table.lent_.push_back({id, std::move(last->memory())});
            } catch (...) {  // no memory for the entry: the receiver gets an Error
            }
            if (table.lent_.size() > most_lent()) table.give_up(table.lent_.begin(), dropped);
        }
    }

    /// Each call goes on where the last one stopped: after a few that did not arrive, some of which
    /// never will.
    loans_list sweep() noexcept {
        static constexpr int few = 16;
        loans_list arrived;
        if (generation_ != this_generation()) {
            generation_ = this_generation();
            arrived.swap(lent_);
            next_ = lent_.end();
        }
        std::size_t left = lent_.size();
        for (int waiting = 0; left != 0 && waiting != few; --left) {
            if (next_ == lent_.end()) next_ = lent_.begin();
            if (next_->memory.awaited())
                ++next_, ++waiting;
            else
                give_up(next_, arrived);
        }
        return arrived;
    }
    void give_up(typename loans_list::iterator one, loans_list& to) noexcept {
        if (one == next_) ++next_;
        to.splice(to.end(), lent_, one);
    }
    void forget(typename loans_list::iterator one) noexcept {
        if (one == next_) ++next_;
        lent_.erase(one);
    }

    std::map<region_id, entry> known_;
    loans_list lent_;
    typename loans_list::iterator next_ = lent_.end();  // of sweep()
    std::list<region> staying_;
    std::uint64_t generation_ = this_generation();
};

}  // namespace abi_1
}  // namespace multiprocessing::detail
