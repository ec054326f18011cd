// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Waitable and wait(): many things at once, of which any may become ready.

#include <algorithm>
#include <cerrno>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <poll.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/platform/poller.hpp>

namespace multiprocessing {
namespace detail {

/// The friend of those that wait() looks into.
struct wait_access {
    /// What has prepare() and is_ready() itself: a Connection, a Listener.
    template <class W>
    static auto own(W& object) -> decltype(object.waited()) {
        return object.waited();
    }
    template <class W>
    static auto task(W& object) -> decltype(&object.state()) {
        return &object.state();
    }
};
template <class W>
concept waits_itself = requires(W& object) {
    wait_access::own(object);
};
template <class W>
concept waits_for_task = requires(W& object) {
    wait_access::task(object);
};
template <class W>
concept has_fileno = requires(W& object) {
    { object.fileno() } -> std::same_as<int>;
};
template <class W>
concept has_sentinel = requires(W& object) {
    { object.sentinel() } -> std::same_as<int>;
};
template <class W>
concept can_be_waited_for = !std::is_volatile_v<W> && (waits_itself<W> || waits_for_task<W> ||
                                                       has_fileno<W> || has_sentinel<W>);

[[noreturn]] inline void throw_not_open(int descriptor, std::size_t number) {
    throw_os_error(EBADF, "wait: descriptor " + std::to_string(descriptor) + " of number " +
                              std::to_string(number));
}

}  // namespace detail

class Waitable;
template <detail::compiled When = detail::compiled::when_used>
std::vector<std::size_t> wait(std::span<const Waitable> things,
                              std::optional<duration> timeout = {});

/// Names a thing for wait(): a Connection, Queue, JoinableQueue, Listener, Process or AsyncResult,
/// a descriptor, or any object with an `int fileno()`. A reference: the thing must outlive it.
class Waitable {
public:
    Waitable(int descriptor) noexcept  // NOLINT: implicit
        : descriptor_(descriptor), prepare_(nullptr), is_ready_(nullptr) {}

    template <class W>
    requires detail::can_be_waited_for<std::remove_const_t<W>> Waitable(W& object)
    noexcept
        : object_(const_cast<std::remove_const_t<W>*>(&object)),
          prepare_(&prepare<std::remove_const_t<W>>),
          is_ready_(&is_ready<std::remove_const_t<W>>) {}

private:
    template <detail::compiled>
    friend std::vector<std::size_t> wait(std::span<const Waitable>, std::optional<duration>);

    using descriptors = std::vector<pollfd>;

    /// \param next  when to look at the latest: it may make that earlier
    /// \return true if it is ready; else when one of the descriptors that it adds is, it may be
    template <class W>
    static bool prepare(void* object, detail::later<detail::used_by<W>, descriptors>& fds,
                        detail::deadline& next) {
        W& one = *static_cast<W*>(object);
        if constexpr (detail::waits_itself<W>) {
            return detail::wait_access::own(one).prepare(fds, next);
        } else if constexpr (detail::waits_for_task<W>) {
            const int fd = detail::wait_access::task(one)->completion();
            if (one.ready()) return true;
            fds.push_back({fd, POLLIN, 0});
        } else if constexpr (detail::has_fileno<W>) {
            fds.push_back({one.fileno(), POLLIN, 0});
        } else {
            fds.push_back({one.sentinel(), POLLIN, 0});
        }
        return false;
    }
    template <class W>
    static bool is_ready(void* object) {
        W& one = *static_cast<W*>(object);
        if constexpr (detail::waits_itself<W>)
            return detail::wait_access::own(one).is_ready();
        else if constexpr (detail::waits_for_task<W>)
            return one.ready();
        else if constexpr (requires {
                               { one.qsize() } -> std::same_as<std::size_t>;
                           })
            return !one.empty();  // its bell may ring once in vain
        else
            return true;
    }

    int descriptor_ = -1;
    void* object_ = nullptr;
    bool (*prepare_)(void*, descriptors&, detail::deadline&);  // null: a descriptor
    bool (*is_ready_)(void*);
};

/// Waits until at least one is ready: recv(), get(), accept() or join() would not block, a result
/// is there, a descriptor is readable or hangs up. So is a connection at its end.
///
/// A Queue is polled through its fileno(); a Connection is not, so it stays as cheap as it was. The
/// results of a Pool must not be waited for in one of its callbacks.
/// \param timeout  nothing: for ever
/// \return the indices of all that are ready, in order; none if the timeout ended first
/// \throws OsError (EBADF) for a closed or negative descriptor; what the fileno() or sentinel() of
/// the things
///     throws
template <detail::compiled When>
std::vector<std::size_t> wait(std::span<const Waitable> things, std::optional<duration> timeout) {
    const auto until = timeout ? detail::deadline::after(*timeout) : detail::deadline::never();
    std::vector<detail::later<When, std::size_t>> ready;
    std::vector<detail::later<When, pollfd>> fds;
    std::vector<detail::later<When, std::size_t>> begin(things.size() +
                                                        1);  // of each thing's in fds
    for (;;) {
        fds.clear();
        detail::deadline next = until;
        for (std::size_t i = 0; i < things.size(); ++i) {
            const Waitable& one = things[i];
            begin[i] = fds.size();
            if (!one.prepare_) {
                fds.push_back({one.descriptor_, POLLIN, 0});
            } else if (one.prepare_(one.object_, fds, next)) {
                fds.resize(begin[i]);
                ready.push_back(i);
            }
            if (std::any_of(fds.begin() + static_cast<std::ptrdiff_t>(begin[i]), fds.end(),
                            [](pollfd p) { return p.fd < 0; }))  // which poll() ignores
                detail::throw_not_open(-1, i);
        }
        begin[things.size()] = fds.size();
        // Those that did not say so may be ready by now; so all are asked at one instant.
        if (detail::poll_until(fds, ready.empty() ? next : detail::deadline::at_once()) > 0)
            for (std::size_t i = 0; i < things.size(); ++i) {
                const auto mine = std::span(fds).subspan(begin[i], begin[i + 1] - begin[i]);
                if (std::none_of(mine.begin(), mine.end(), [](pollfd p) { return p.revents; }))
                    continue;
                if (std::any_of(mine.begin(), mine.end(),
                                [](pollfd p) { return (p.revents & POLLNVAL) != 0; }))
                    detail::throw_not_open(mine.front().fd, i);
                if (!things[i].is_ready_ || things[i].is_ready_(things[i].object_))
                    ready.push_back(i);
            }
        if (!ready.empty()) {
            std::sort(ready.begin(), ready.end());
            return ready;
        }
        if (until.passed()) return ready;
    }
}
template <detail::compiled When = detail::compiled::when_used>
std::vector<std::size_t> wait(std::initializer_list<Waitable> things,
                              std::optional<duration> timeout = {}) {
    return wait<When>(std::span<const Waitable>(things.begin(), things.size()), timeout);
}

}  // namespace multiprocessing
