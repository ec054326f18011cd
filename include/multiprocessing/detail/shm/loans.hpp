// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Handles in a message that may not be sent after all.

#include <utility>
#include <vector>

#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/shm/region_table.hpp>

namespace multiprocessing::detail {

/// Lives while this thread encodes and sends a message: remembers the regions lent in it, and takes
/// them back unless the message was sent.
template <compiled When = compiled::when_used>
class loans {
public:
    loans() noexcept : outer_(std::exchange(innermost(), this)) {}
    loans(const loans&) = delete;
    loans& operator=(const loans&) = delete;
    ~loans() {
        innermost() = outer_;
        for (const region_id& id : lent_) region_table<When>::take_back(id);
        for (const watcher& one : watchers_) one.call(one.object, false, nullptr);
    }

    /// \param by  what it went through, for those who watch it; null: something that they can't
    ///     watch, such as a queue
    void sent(const void* by = nullptr) noexcept {
        lent_.clear();
        for (const watcher& one : watchers_) one.call(one.object, true, by);
        watchers_.clear();
    }
    bool any() const noexcept { return !lent_.empty(); }
    bool watched() const noexcept { return !watchers_.empty(); }

    /// Lends for the message that this thread encodes.
    template <class Object>
    static region_handle lend(Object& object) {
        const region_handle handle = region_table<When>::lend(object);
        if (loans* message = innermost()) message->lent_.push_back(handle.id);
        return handle;
    }

    /// Calls `call(object, whether it was sent, by what)` at the end of the message that this
    /// thread encodes. The object is part of what is sent, hence outlives this.
    static void watch(void (*call)(void*, bool, const void*) noexcept, void* object) {
        if (loans* message = innermost()) message->watchers_.push_back({call, object});
    }

private:
    struct watcher {
        void (*call)(void*, bool, const void*) noexcept;
        void* object;
    };

    static loans*& innermost() noexcept {
        static thread_local loans* of_this_thread = nullptr;
        return of_this_thread;
    }

    loans* outer_;
    std::vector<later<When, region_id>> lent_;
    std::vector<watcher> watchers_;
};

}  // namespace multiprocessing::detail
