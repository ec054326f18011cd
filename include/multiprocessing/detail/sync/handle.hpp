// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The base of all synchronization objects: a handle of a struct in shared memory.

#include <cstddef>
#include <cstdint>

#include <multiprocessing/detail/shm/header.hpp>
#include <multiprocessing/detail/shm/shared_object.hpp>

namespace multiprocessing::detail {

/// In the header of the region: which struct lies in it.
enum class sync_type : std::uint64_t {
    lock = 1,
    rlock,
    shared_lock,
    semaphore,
    bounded_semaphore,
    condition,
    event,
    barrier,
};

/// Copies are the same object, in this process and, sent or inherited, in others.
/// \tparam State  has `static constexpr` name ("mp:Lock"), what ("a Lock") and type, and `init()`
template <class State>
class sync_handle {
public:
    using mp_handle_tag = void;

    /// For messages.
    template <class Archive>
    void save(Archive& archive) const {
        shared_.save(archive);
    }
    template <class Archive>
    void load(Archive& archive) {
        shared_.load(archive, State::what, static_cast<std::uint64_t>(State::type));
    }

    /// The same object?
    friend bool operator==(const sync_handle& a, const sync_handle& b) noexcept {
        return a.shared_ == b.shared_;
    }

protected:
    /// \param behind  bytes behind the struct
    /// \throws OsError if the kernel refuses the shared memory or its descriptor
    template <class... Arguments>
    explicit sync_handle(std::size_t behind, Arguments... arguments)
        : shared_(object::create(State::name, static_cast<std::uint64_t>(State::type), behind)) {
        shared_->init(arguments...);
    }
    sync_handle(const sync_handle&) = default;
    sync_handle& operator=(const sync_handle&) = default;
    ~sync_handle() = default;

    State& state() const noexcept { return *shared_; }

    using object = shared_object<State, region_kind::synchronization>;
    object shared_;
};

}  // namespace multiprocessing::detail
