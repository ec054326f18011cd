// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A struct in a region of its own, and the handle that names it in every process.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/shm/claim.hpp>
#include <multiprocessing/detail/shm/loans.hpp>
#include <multiprocessing/detail/shm/region.hpp>
#include <multiprocessing/detail/shm/region_table.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// This process's side of the region of a shared_object, whatever the struct is.
template <compiled When = compiled::when_used>
class shared_side {
public:
    /// \return false if a thread of this process still holds a lock in the struct at `object`
    using leaving = bool (*)(void* object);

    explicit shared_side(region memory) : memory_(std::move(memory)) {}

    static std::shared_ptr<shared_side> create(const char* name, region_kind kind,
                                               std::uint64_t type, std::size_t bytes) {
        const std::string claiming =
            "claiming " + std::to_string(bytes) + " bytes of shared memory for " + name;
        check_claim(bytes, claiming);
        region made = region::create(name, kind, type, bytes);
        const auto allocate = [&](std::uint64_t at, std::uint64_t n) {
            return made.allocate(at, n);
        };
        if (const int refused = claim_in_pieces(bytes, allocate)) throw_os_error(refused, claiming);
        return region_table<When>::template add<shared_side>(std::move(made));
    }

    static std::shared_ptr<shared_side> open(const region_handle& handle, region_kind kind,
                                             const char* what, std::uint64_t type,
                                             std::size_t least) {
        auto received = region_table<When>::template open<shared_side>(handle, kind, what);
        if (received->memory().header().type != type || received->memory().size() < least)
            throw Error(std::string("receiving ") + what +
                        ": the handle names another kind of object");
        return received;
    }

    region& memory() noexcept { return memory_; }
    void detach() noexcept {}

    /// \param offset  of the struct
    void on_leave(leaving leave, std::size_t offset) noexcept {
        offset_.store(offset, std::memory_order_relaxed);  // whoever stores: always the same
        leave_.store(leave, std::memory_order_release);    // (A) offset_
    }
    bool must_stay() {
        const leaving leave = leave_.load(std::memory_order_acquire);  // (A)
        return leave != nullptr &&
               !leave(memory_.data() + offset_.load(std::memory_order_relaxed));  // (A)
    }

private:
    region memory_;
    std::atomic<leaving> leave_{nullptr};
    std::atomic<std::size_t> offset_{0};
};

/// A handle: copies are the same object, in this process and, sent or inherited, in others. The
/// region is gone with its last user.
/// \tparam Shared  what lies behind the region's header: standard layout, all-zero is valid; never
///     destroyed. A kill leaves it as its own protocol says. If it holds locks that users hold, it
///     has a `leave()`, called when this process's last handle goes: false if a thread of the
///     process still holds one, for then the memory must stay mapped.
/// \tparam Kind  of the region
template <class Shared, region_kind Kind>
class shared_object {
    using side = shared_side<used_by<Shared>>;

public:
    static constexpr std::size_t offset =
        (sizeof(region_header) + alignof(Shared) - 1) / alignof(Shared) * alignof(Shared);

    /// Names nothing; only to be assigned, loaded into, compared and asked for that.
    shared_object() = default;
    explicit operator bool() const noexcept { return side_ != nullptr; }

    /// \param name  shown in /proc/<pid>/maps
    /// \param type  which of the types of its kind it is: a fingerprint, so that a handle of
    ///     another one is refused
    /// \param behind  bytes behind the struct
    /// \throws OsError if the kernel refuses the memory (claimed at once: no SIGBUS later) or its
    ///     descriptor, or if there is not so much; it names the sizes
    static shared_object create(const char* name, std::uint64_t type, std::size_t behind = 0) {
        static_assert(std::is_standard_layout_v<Shared> && alignof(Shared) <= 4096);
        return shared_object(side::create(name, Kind, type, offset + sizeof(Shared) + behind));
    }

    Shared* operator->() const noexcept {
        return reinterpret_cast<Shared*>(side_->memory().data() + offset);
    }
    Shared& operator*() const noexcept { return *operator->(); }
    /// The bytes behind the struct, and how many.
    std::byte* behind() const noexcept { return side_->memory().data() + offset + sizeof(Shared); }
    std::size_t bytes_behind() const noexcept {
        return side_->memory().size() - offset - sizeof(Shared);
    }

    /// Keeps the object mapped.
    std::shared_ptr<void> keep() const noexcept { return side_; }

    /// As bytes of a message.
    template <class Archive>
    void save(Archive& archive) const {
        const region_handle handle = loans<used_by<Shared>>::lend(*side_);
        archive(handle.id[0], handle.id[1], handle.size, handle.pid, handle.fd);
    }
    /// \param what  "a Lock"
    /// \param type  as in create()
    /// \throws Error if the object is gone or out of reach, or is something else
    template <class Archive>
    void load(Archive& archive, const char* what, std::uint64_t type) {
        region_handle handle{};
        archive(handle.id[0], handle.id[1], handle.size, handle.pid, handle.fd);
        *this = shared_object(side::open(handle, Kind, what, type, offset + sizeof(Shared)));
    }

    friend bool operator==(const shared_object& a, const shared_object& b) noexcept {
        return a.side_ == b.side_;
    }

private:
    explicit shared_object(std::shared_ptr<side> from) : side_(std::move(from)) {
        if constexpr (requires(Shared & object) { object.leave(); })
            side_->on_leave([](void* object) { return static_cast<Shared*>(object)->leave(); },
                            offset);
    }

    std::shared_ptr<side> side_;
};

}  // namespace multiprocessing::detail
