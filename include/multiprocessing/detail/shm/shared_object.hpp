// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A struct in a region of its own, and the handle that names it in every process.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/shm/claim.hpp>
#include <multiprocessing/detail/shm/loans.hpp>
#include <multiprocessing/detail/shm/region.hpp>
#include <multiprocessing/detail/shm/region_table.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// A handle: copies are the same object, in this process and, sent or inherited, in others. The
/// region is gone with its last user.
/// \tparam Shared  what lies behind the region's header: standard layout, all-zero is valid; never
///     destroyed. A kill leaves it as its own protocol says. If it holds locks that users hold, it
///     has a `leave()`, called when this process's last handle goes: false if a thread of the
///     process still holds one, for then the memory must stay mapped.
/// \tparam Kind  of the region
template <class Shared, region_kind Kind>
class shared_object {
    static_assert(std::is_standard_layout_v<Shared> && alignof(Shared) <= 4096);

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
        const std::size_t bytes = offset + sizeof(Shared) + behind;
        const std::string claiming =
            "claiming " + std::to_string(bytes) + " bytes of shared memory for " + name;
        check_claim(bytes, claiming);
        region made = region::create(name, Kind, type, bytes);
        const auto allocate = [&](std::uint64_t at, std::uint64_t n) {
            return made.allocate(at, n);
        };
        if (const int refused = claim_in_pieces(bytes, allocate)) throw_os_error(refused, claiming);
        return shared_object(region_table::add<side>(std::move(made)));
    }

    Shared* operator->() const noexcept { return side_->shared(); }
    Shared& operator*() const noexcept { return *side_->shared(); }
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
        const region_handle handle = loans::lend(*side_);
        archive(handle.id[0], handle.id[1], handle.size, handle.pid, handle.fd);
    }
    /// \param what  "a Lock"
    /// \param type  as in create()
    /// \throws Error if the object is gone or out of reach, or is something else
    template <class Archive>
    void load(Archive& archive, const char* what, std::uint64_t type) {
        region_handle handle{};
        archive(handle.id[0], handle.id[1], handle.size, handle.pid, handle.fd);
        auto received = region_table::open<side>(handle, Kind, what);
        if (received->memory().header().type != type ||
            received->memory().size() < offset + sizeof(Shared))
            throw Error(std::string("receiving ") + what +
                        ": the handle names another kind of object");
        side_ = std::move(received);
    }

    friend bool operator==(const shared_object& a, const shared_object& b) noexcept {
        return a.side_ == b.side_;
    }

private:
    /// This process's side of the region.
    class side {
    public:
        explicit side(region memory) : memory_(std::move(memory)) {}
        region& memory() noexcept { return memory_; }
        void detach() noexcept {}
        bool must_stay() noexcept {
            if constexpr (requires(Shared & object) { object.leave(); }) return !shared()->leave();
            return false;
        }
        Shared* shared() noexcept { return reinterpret_cast<Shared*>(memory_.data() + offset); }

    private:
        region memory_;
    };

    explicit shared_object(std::shared_ptr<side> from) : side_(std::move(from)) {}

    std::shared_ptr<side> side_;
};

}  // namespace multiprocessing::detail
