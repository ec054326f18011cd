// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Which regions this process has: so that a handle that comes back finds the object that is here
/// already, and a region that was sent stays open until its receiver has it.

#include <algorithm>
#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <sys/resource.h>

#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/detail/shm/region.hpp>

namespace multiprocessing::detail {

/// One in each process; guarded by process_identity::tables, so a forked child has it whole.
///
/// An Object is this process's side of a region: constructed from a region, with `memory()`, and
/// `detach()`, its last use of that. There is one for each region, shared by all handles here.
/// Loan: a region with `lent > opened` when its last object here goes is kept in `lent_`, since a
/// message may name this process's descriptor; swept at each further use. At most 1,024 are kept,
/// and at most a quarter of the descriptors that this process may have: then the oldest goes.
class MP_EXPORT region_table {
public:
    /// Makes a newly created region known.
    template <class Object>
    static std::shared_ptr<Object> add(region made) {
        const std::lock_guard lock(process_identity::get().tables);
        return get().insert<Object>(std::move(made));
    }

    /// The object of a received handle: the one that is here, else a newly opened one.
    template <class Object>
    static std::shared_ptr<Object> open(const region_handle& handle, region_kind kind,
                                        const char* what) {
        std::list<region> dropped;  // unmapped after the lock is released
        const std::lock_guard lock(process_identity::get().tables);
        region_table& table = get();
        dropped = table.sweep();
        if (const auto found = table.known_.find(handle.id); found != table.known_.end())
            if (auto object = found->second.object.lock()) {
                check(found->second.kind, kind, what);
                auto mine = std::static_pointer_cast<Object>(std::move(object));
                mine->memory().note_opened();
                return mine;
            }
        for (auto it = table.lent_.begin(); it != table.lent_.end(); ++it)
            if (it->header().id == handle.id) {
                check(it->header().kind, kind, what);
                region back = std::move(*it);
                table.lent_.erase(it);
                back.note_opened();
                return table.insert<Object>(std::move(back));
            }
        region opened = region::open(handle, kind, what);
        opened.note_opened();
        return table.insert<Object>(std::move(opened));
    }

private:
    static std::size_t most_lent() noexcept {
        rlimit descriptors{};
        ::getrlimit(RLIMIT_NOFILE, &descriptors);
        return std::min<std::size_t>(1024, descriptors.rlim_cur / 4);
    }

    static region_table& get() {  // never destroyed: static objects of the host may hold queues
        static region_table& only = *new region_table;
        return only;
    }

    template <class Object>
    std::shared_ptr<Object> insert(region memory) {
        const region_id id = memory.header().id;
        std::shared_ptr<Object> object(new Object(std::move(memory)),
                                       [](Object* last) noexcept { drop(last); });
        known_[id] = {object, object->memory().header().kind};
        return object;
    }

    static void check(region_kind found, region_kind expected, const char* what) {
        if (found != expected)
            throw Error(std::string("receiving ") + what +
                        ": the handle names another kind of "
                        "object; the message is damaged");
    }

    template <class Object>
    static void drop(Object* last) noexcept {
        std::list<region> dropped;
        last->detach();
        const std::unique_ptr<Object> owner(last);
        const std::lock_guard lock(process_identity::get().tables);
        region_table& table = get();
        const auto found = table.known_.find(last->memory().header().id);
        if (found != table.known_.end() && found->second.object.expired())
            table.known_.erase(found);
        dropped = table.sweep();
        if (!last->memory().awaited()) return;
        try {
            table.lent_.push_back(std::move(last->memory()));
        } catch (...) {  // no memory for the entry: the receiver gets an Error
        }
        if (table.lent_.size() > most_lent())
            dropped.splice(dropped.end(), table.lent_, table.lent_.begin());
    }

    std::list<region> sweep() {
        std::list<region> arrived;
        for (auto it = lent_.begin(); it != lent_.end();) {
            const auto here = it++;
            if (!here->awaited()) arrived.splice(arrived.end(), lent_, here);
        }
        return arrived;
    }

    struct entry {
        std::weak_ptr<void> object;
        region_kind kind;
    };

    std::map<region_id, entry> known_;
    std::list<region> lent_;
};

}  // namespace multiprocessing::detail
