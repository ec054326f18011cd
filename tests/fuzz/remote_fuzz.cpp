// SPDX-License-Identifier: BSL-1.0
//
// What a stranger may say at a listener: to one without a key his hello and messages, to one with a
// key the login. The first byte says to which, and how many bytes of what he says come at a time;
// what follows is all that he says before he hangs up.
// Nothing may be taken that is longer than announced or than max_message, and no login may succeed
// without the key.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <span>
#include <utility>

#include <sys/socket.h>
#include <unistd.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/tls.hpp>

using namespace multiprocessing;
using namespace multiprocessing::detail;

namespace {

constexpr std::size_t most = 4096;  // bytes of a message
volatile std::byte touched;

/// A socket from which `bytes` come, and then the end.
unique_fd said(std::span<const std::uint8_t> bytes) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
        std::abort();
    unique_fd ours(ends[0]), theirs(ends[1]);
    if (!bytes.empty() && ::send(theirs.get(), bytes.data(), bytes.size(), 0) < 0) std::abort();
    ::shutdown(theirs.get(), SHUT_WR);
    return ours;
}

/// The same without a socket, which would take most of the time: so many bytes at a time.
class told final : public stream {
public:
    told(std::span<const std::uint8_t> bytes, std::size_t at_a_time)
        : stream(own_socket()), bytes_(std::as_bytes(bytes)), at_a_time_(at_a_time) {}
    progress log_in() override { return progress::done; }
    progress read(std::span<std::byte> to, std::size_t& size) override {
        if (bytes_.empty()) return progress::ended;
        size = std::min({to.size(), bytes_.size(), at_a_time_});
        std::copy_n(bytes_.begin(), size, to.begin());
        bytes_ = bytes_.subspan(size);
        return progress::done;
    }
    progress write(std::span<const std::byte> from, std::size_t& size) override {
        size = from.size();
        return progress::done;
    }
    void end() noexcept override {}
    bool holds_part() noexcept override { return false; }

private:
    std::span<const std::byte> bytes_;
    const std::size_t at_a_time_;
};

void receive_all(remote_end<>& from) try {
    for (;;)
        from.recv([](std::uint64_t, std::span<const std::byte> message) {
            if (message.size() > most) std::abort();
            if (!message.empty()) touched = message.back();  // it can be read
        });
} catch (const Error&) {  // the end, or a message that is too long
}

void log_in(const ListenerOptions& options, std::unique_ptr<stream> with) try {
    newcomer<> one(std::move(with), true, deadline::never());
    for (;;) switch (one.read(options)) {
            case newcomer<>::progress::waits:  // nothing will come any more
                std::abort();
            case newcomer<>::progress::refused:
                return;
            case newcomer<>::progress::complete:
                if (options.authkey) std::abort();
                return receive_all(*one.arrive(options).remote);
        }
} catch (const Error&) {
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const AuthKey key("this key of thirty-two bytes is no secret");
    if (size == 0) return 0;
    const std::span rest(data + 1, std::min<std::size_t>(size - 1, 65'536));
    static constexpr std::size_t pieces[] = {65'536, 1, 15, 100};
    const std::size_t piece = pieces[data[0] / 3 % std::size(pieces)];
    ListenerOptions options;
    options.max_message = most;
    switch (data[0] % 3) {
        case 0: {
            remote_end<> end(std::make_unique<told>(rest, piece), most, most,
                             std::chrono::seconds(1));
            receive_all(end);
            break;
        }
        case 1:
            log_in(options, std::make_unique<told>(rest, piece));
            break;
        default:
            options.authkey = key;
            log_in(options,
                   std::make_unique<tls_stream>(said(rest), transport_kind::side::server, key));
    }
    return 0;
}
