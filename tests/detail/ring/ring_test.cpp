// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <atomic>
#include <cstring>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include "small_ring.hpp"

using namespace test;

namespace {

constexpr auto tick = std::chrono::milliseconds(20);

/// From here on fallocate(2) is refused in this process.
void refuse_fallocate(int error) {
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fallocate, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{4, filter};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        give_up("seccomp");
}

bool contains(const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("ring: messages come out whole, in order, with their fingerprints", "[ring]") {
    const auto ring = make_ring();
    std::vector<std::string> sent;
    for (const std::size_t size : {0u, 1u, 7u, 8u, 64u, 4079u, 4080u, 4081u, 9000u, 3u, 16000u}) {
        sent.emplace_back(size, static_cast<char>('a' + sent.size()));
        CHECK(put(*ring, sent.back()));
        CHECK(ring->qsize() == sent.size());
    }
    for (const std::string& text : sent) CHECK((try_get(*ring) == text));
    CHECK(ring->qsize() == 0);
    CHECK(!try_get(*ring));
}

TEST_CASE("ring: a message is its pieces, one behind the other", "[ring]") {
    const auto ring = make_ring();
    const std::string a = "one, ", b, c(6000, 'x');
    const std::array parts{std::as_bytes(std::span(a)), std::as_bytes(std::span(b)),
                           std::as_bytes(std::span(c))};
    CHECK(ring->put(parts, type_of_strings, deadline::never()));
    CHECK((try_get(*ring) == a + b + c));
}

TEST_CASE("ring: children put and get", "[ring]") {
    const auto ring = make_ring();
    child putter([&] {
        for (int i = 0; i < 1000; ++i) put(*ring, std::to_string(i));
        return 0;
    });
    for (int i = 0; i < 1000; ++i) CHECK(get(*ring, soon()) == std::to_string(i));
    CHECK(putter.exit_status() == 0);
}

TEST_CASE("ring: a visitor that throws has taken the message, but not for want of memory",
          "[ring]") {
    const auto ring = make_ring();
    put(*ring, "a"), put(*ring, "b");
    const auto refuse = [](std::uint64_t, std::span<const std::byte>) {
        throw std::runtime_error("not this one");
    };
    const auto no_memory = [](std::uint64_t, std::span<const std::byte>) {
        throw std::bad_alloc();
    };
    CHECK_THROWS_AS(ring->get(deadline::at_once(), no_memory), std::bad_alloc);
    CHECK(ring->qsize() == 2);
    CHECK_THROWS_AS(ring->get(deadline::at_once(), refuse), std::runtime_error);
    CHECK(ring->qsize() == 1);
    CHECK(try_get(*ring) == "b");
}

TEST_CASE("ring: maxsize bounds the number of messages", "[ring]") {
    const auto ring = make_ring({.maxsize = 2});
    CHECK(!ring->full());
    CHECK(try_put(*ring, "a"));
    CHECK(try_put(*ring, "b"));
    CHECK(ring->full());
    CHECK(!try_put(*ring, "c"));
    child putter([&] { return put(*ring, "c", soon()) ? 0 : 1; });
    CHECK(putter.wait_asleep());
    CHECK(try_get(*ring) == "a");
    CHECK(putter.exit_status() == 0);
    CHECK(try_get(*ring) == "b");
    CHECK(try_get(*ring) == "c");
}

TEST_CASE("ring: a byte window takes a message that fits, or the second one", "[ring]") {
    const auto ring = make_ring({.window = 1000});
    const std::string large(5000, 'L'), half(500, 'h');
    CHECK(try_put(*ring, large));
    CHECK(try_put(*ring, large));  // one other is queued
    CHECK(!try_put(*ring, "small"));
    CHECK((try_get(*ring) == large));
    CHECK((try_get(*ring) == large));
    CHECK(try_put(*ring, half));
    CHECK(try_put(*ring, half));
    CHECK(!try_put(*ring, half));
    CHECK(!ring->full());  // that is for maxsize
}

TEST_CASE("ring: a full byte window wakes its putter when a quarter is free, not before",
          "[ring]") {
    const auto ring = make_ring({.window = 2000});
    const std::string text(184, 'x');  // 200 bytes in the ring
    for (int i = 0; i < 10; ++i) CHECK(try_put(*ring, text));
    child putter([&] { return put(*ring, text, soon()) ? 0 : 1; });
    CHECK(putter.wait_asleep());
    const auto& gate = ring->shared().get.committed;
    try_get(*ring), try_get(*ring);
    CHECK(sleeper_at(gate));
    CHECK(!putter.ended());
    try_get(*ring);
    CHECK(putter.exit_status() == 0);
    CHECK(ring->qsize() == 8);
}

TEST_CASE("ring: a message that can never fit is an OsError that names both sizes", "[ring]") {
    const auto ring = make_ring();
    const std::string text = text_of<OsError>([&] { put(*ring, std::string(12 * segment, 'x')); });
    CHECK(contains(text, "49152 bytes"));
    CHECK(try_put(*ring, "a"));
    CHECK(try_get(*ring) == "a");
}

TEST_CASE("ring: out of segments is an OsError, and the ring is as before", "[ring]") {
    const auto ring = make_ring();
    for (char c = 'a'; c < 'a' + 12; ++c) put(*ring, segmentful(c));
    for (int i = 0; i < 3; ++i) {
        const std::string text = text_of<OsError>([&] { put(*ring, "more"); });
        CHECK(contains(text, "is full; 12 messages of 49152 bytes lie unread"));
    }
    CHECK(ring->qsize() == 12);
    for (char c = 'a'; c < 'a' + 12; ++c) CHECK((try_get(*ring) == segmentful(c)));
    CHECK(try_put(*ring, "more"));
    CHECK(try_get(*ring) == "more");
}

TEST_CASE("ring: refused memory is an OsError, and the ring is as before", "[ring]") {
    const auto ring = make_ring();
    put(*ring, segmentful('a'));
    child putter([&] {
        refuse_fallocate(ENOSPC);
        const std::string text = text_of<OsError>([&] { put(*ring, segmentful('b')); });
        if (!contains(text, "growing a queue by 4096 bytes") || !contains(text, "1 messages"))
            return 1;
        return ring->qsize() == 1 ? 0 : 2;
    });
    CHECK(putter.exit_status() == 0);
    CHECK(try_put(*ring, segmentful('b')));
    CHECK((try_get(*ring) == segmentful('a')));
    CHECK((try_get(*ring) == segmentful('b')));
}

TEST_CASE("ring: timed calls wait their time and say false", "[ring]") {
    const auto ring = make_ring({.maxsize = 1});
    auto begin = clock::now();
    CHECK(!get(*ring, deadline::after(tick)));
    CHECK(clock::now() - begin >= tick);
    put(*ring, "a");
    begin = clock::now();
    CHECK(!put(*ring, "b", deadline::after(tick)));
    CHECK(clock::now() - begin >= tick);
    begin = clock::now();
    CHECK(!ring->join(deadline::after(tick)));
    CHECK(clock::now() - begin >= tick);
    CHECK(!ring->join(deadline::at_once()));
    CHECK(ring->qsize() == 1);
}

TEST_CASE("ring: a call that does not wait gives a holder of the lock his few instructions",
          "[ring]") {
    const auto ring = make_ring();
    put(*ring, "a");
    ring->patience = tick;
    const detail::held lock(ring->shared().get.lock, deadline::never());
    child getter([&] {
        const auto begin = clock::now();
        const bool nothing = !try_get(*ring);
        return nothing && clock::now() - begin >= tick ? 0 : 1;
    });
    CHECK(getter.exit_status() == 0);
}

TEST_CASE("ring: join returns when every message was reported done", "[ring]") {
    const auto ring = make_ring();
    CHECK(ring->join(deadline::at_once()));
    put(*ring, "a"), put(*ring, "b");
    child joiner([&] { return ring->join(soon()) ? 0 : 1; });
    CHECK(joiner.wait_asleep());
    try_get(*ring), try_get(*ring);
    CHECK(ring->task_done());
    CHECK(!joiner.ended());
    CHECK(ring->task_done());
    CHECK(joiner.exit_status() == 0);
    CHECK(!ring->task_done());
    CHECK(ring->join(deadline::at_once()));
}

TEST_CASE("ring: join returns even if more was put before it could look", "[ring]") {
    const auto ring = make_ring();
    put(*ring, "a"), try_get(*ring);
    child joiner([&] { return ring->join(soon()) ? 0 : 1; });
    CHECK(joiner.wait_asleep());
    joiner.stop();
    ring->task_done();
    put(*ring, "b");
    joiner.go_on();
    CHECK(joiner.exit_status() == 0);
}

TEST_CASE("ring: close() ends this process's calls with ClosedError, others go on", "[ring]") {
    const auto ring = make_ring();
    put(*ring, "a");
    child other([&] {
        ring->close();
        int refused = 0;
        const auto count = [&](auto f) { refused += !text_of<ClosedError>(f).empty(); };
        count([&] { put(*ring, "b"); });
        count([&] { get(*ring); });
        count([&] { ring->qsize(); });
        count([&] { ring->task_done(); });
        count([&] { ring->join(deadline::never()); });
        count([&] { ring->fileno(); });
        count([&] { (void)ring->full(); });
        return refused;
    });
    CHECK(other.exit_status() == 6);  // full() needs no look at a ring without maxsize
    CHECK(try_get(*ring) == "a");
}

TEST_CASE("ring: close() wakes the threads of this process that wait", "[ring]") {
    const auto ring = make_ring({.maxsize = 1});
    put(*ring, "a");
    child other([&] {
        std::atomic<int> refused{0};
        const auto waits = [&](auto f) {
            return std::thread([&refused, f] { refused += !text_of<ClosedError>(f).empty(); });
        };
        std::vector<std::thread> all;
        all.push_back(waits([&] { put(*ring, "b"); }));
        all.push_back(waits([&] { put(*ring, "c"); }));
        all.push_back(waits([&] { ring->join(deadline::never()); }));
        eventually([&] {
            return sleeper_at(ring->shared().get.committed) && sleeper_at(ring->shared().done);
        });
        ring->close();
        for (auto& t : all) t.join();
        return refused.load();
    });
    CHECK(other.exit_status() == 3);
    CHECK(try_get(*ring) == "a");
    CHECK(!try_get(*ring));
}

TEST_CASE("ring: a drained backlog is given back by a getter that waits (I6)", "[ring][memory]") {
    const auto ring = make_ring();
    for (char c = 'a'; c < 'a' + 10; ++c) put(*ring, segmentful(c));
    CHECK(pages(*ring) == 10);
    while (try_get(*ring)) {
    }
    CHECK(pages(*ring) == 10);
    CHECK(segments_in_use(*ring) == 0);
    child getter([&] {
        ring->patience = std::chrono::milliseconds(1);
        return get(*ring, soon()) == "end" ? 0 : 1;
    });
    CHECK(eventually([&] { return pages(*ring) == small_ring::kept_segments; }));
    CHECK(eventually([&] { return ring->shared().limit == ring->shared().top; }));
    put(*ring, "end");
    CHECK(getter.exit_status() == 0);
}

TEST_CASE("ring: a drained backlog is given back by the next uses (I6)", "[ring][memory]") {
    const auto ring = make_ring();
    for (char c = 'a'; c < 'a' + 10; ++c) put(*ring, segmentful(c));
    while (try_get(*ring)) {
    }
    for (int i = 0; i < 100; ++i) put(*ring, segmentful('x')), try_get(*ring);
    CHECK(pages(*ring) == small_ring::kept_segments);
}

TEST_CASE("ring: a stream that keeps up stays in the kept segments", "[ring][memory]") {
    const auto ring = make_ring();
    for (int i = 0; i < 10'000; ++i) {
        put(*ring, std::string(static_cast<std::size_t>(i % 700), 'x'));
        try_get(*ring);
    }
    CHECK(pages(*ring) <= small_ring::kept_segments);
}

TEST_CASE("ring: a handle opens the same ring, here and in another process", "[ring]") {
    const auto ring = make_ring();
    CHECK(small_ring::open(detail::region_table<>::lend(*ring), "a ring") == ring);
    const detail::region_handle handle = detail::region_table<>::lend(*ring);
    const auto other = same_memory<small_ring>(*ring);
    CHECK(other != ring);
    put(*other, "a");
    CHECK(try_get(*ring) == "a");
    CHECK(handle.size == other->memory().size());
}

// ---- the kill table of layout.hpp; tests/kill has every instruction of it

TEST_CASE("ring: a putter killed before it writes leaves nothing (K1)", "[ring][kill]") {
    const auto ring = make_ring();
    put(*ring, "a");
    die_holding(ring->shared().put.lock);
    CHECK(try_put(*ring, "b"));
    CHECK(try_get(*ring) == "a");
    CHECK(try_get(*ring) == "b");
}

TEST_CASE("ring: what a killed putter laid and wrote above the tail is free and unseen (K2)",
          "[ring][kill]") {
    const auto ring = make_ring();
    put(*ring, segmentful('a'));
    const auto killing = same_memory<ring_killed_before_commit>(*ring);
    CHECK(child([&] { return put(*killing, std::string(3 * segment, 'x')); }).exit_status() ==
          -SIGKILL);
    CHECK(ring->qsize() == 1);
    CHECK(segments_in_use(*ring) == 1);
    for (char c = 'b'; c < 'b' + 11; ++c) CHECK(try_put(*ring, segmentful(c)));
    for (char c = 'a'; c < 'a' + 12; ++c) CHECK((try_get(*ring) == segmentful(c)));
}

TEST_CASE("ring: memory that a killed putter gained and did not tell of is given back (K3)",
          "[ring][kill]") {
    const auto ring = make_ring();
    for (char c = 'a'; c < 'a' + 4; ++c) put(*ring, segmentful(c));
    while (try_get(*ring)) {
    }
    die_holding(ring->shared().put.lock, [&] {
        ring->shared().limit = 5;
        ring->memory().allocate(ring->data_begin() + 4 * segment, segment);
    });
    CHECK(pages(*ring) == 5);
    put(*ring, segmentful('x'));  // a segment change
    CHECK(pages(*ring) == 4);
    CHECK(ring->shared().limit == 4);
}

// K4: bells_test.cpp

TEST_CASE("ring: a putter killed behind the commit has delivered, and woken (K5)", "[ring][kill]") {
    const auto ring = make_ring();
    ring->patience = std::chrono::hours(1);  // the wake-up alone
    const auto killing = same_memory<ring_killed_after_commit>(*ring);
    child getter([&] { return get(*ring) == "a" ? 0 : 1; });
    CHECK(getter.wait_asleep());
    CHECK(child([&] { return put(*killing, "a"); }).exit_status() == -SIGKILL);
    CHECK(getter.exit_status() == 0);
}

TEST_CASE("ring: the next getter has the message of one killed before the commit (K6)",
          "[ring][kill]") {
    const auto ring = make_ring();
    put(*ring, "a"), put(*ring, "b");
    const auto killing = same_memory<ring_killed_before_commit>(*ring);
    CHECK(child([&] { return try_get(*killing) ? 0 : 1; }).exit_status() == -SIGKILL);
    CHECK(ring->qsize() == 2);
    CHECK(try_get(*ring) == "a");
}

TEST_CASE("ring: a getter killed behind the commit takes this message with it, no other (K7)",
          "[ring][kill]") {
    const auto ring = make_ring({.maxsize = 2});
    ring->patience = std::chrono::hours(1);
    put(*ring, "a"), put(*ring, "b");
    child putter([&] { return put(*ring, "c") ? 0 : 1; });
    CHECK(putter.wait_asleep());
    const auto killing = same_memory<ring_killed_after_commit>(*ring);
    CHECK(child([&] { return try_get(*killing) ? 0 : 1; }).exit_status() == -SIGKILL);
    CHECK(putter.exit_status() == 0);  // woken
    CHECK(try_get(*ring) == "b");
    CHECK(try_get(*ring) == "c");
}

TEST_CASE("ring: a getter killed in its sleep hands on to one outside the room (K8)",
          "[ring][kill]") {
    const auto ring = make_ring();
    ring->patience = std::chrono::hours(1);
    child asleep([&] { return get(*ring) ? 0 : 1; });
    CHECK(asleep.wait_asleep());
    child outside([&] { return get(*ring) == "a" ? 0 : 1; });
    CHECK(outside.wait_asleep());
    asleep.kill();
    put(*ring, "a");
    CHECK(outside.exit_status() == 0);
}

TEST_CASE("ring: the bit of a getter killed in its sleep costs one needless wake (K8)",
          "[ring][kill]") {
    const auto ring = make_ring();
    child asleep([&] { return get(*ring) ? 0 : 1; });
    CHECK(asleep.wait_asleep());
    asleep.kill();
    CHECK(sleeper_at(ring->shared().put.committed));
    CHECK(try_put(*ring, "a"));
    CHECK(!sleeper_at(ring->shared().put.committed));
    CHECK(try_get(*ring) == "a");
}

TEST_CASE("ring: a getter killed outside the room leaves nothing (K9)", "[ring][kill]") {
    const auto ring = make_ring();
    ring->patience = std::chrono::hours(1);
    child asleep([&] { return get(*ring) == "a" ? 0 : 1; });
    CHECK(asleep.wait_asleep());
    child outside([&] { return get(*ring) ? 0 : 1; });
    CHECK(outside.wait_asleep());
    outside.kill();
    put(*ring, "a");
    CHECK(asleep.exit_status() == 0);
}

TEST_CASE("ring: a shrink cut short is finished by the next one (K10)", "[ring][kill]") {
    const bool punched = GENERATE(false, true);
    const auto ring = make_ring();
    for (char c = 'a'; c < 'a' + 6; ++c) put(*ring, segmentful(c));
    while (try_get(*ring)) {
    }
    die_holding(ring->shared().put.lock, [&] {
        ring->shared().top = 5;
        if (punched) ring->memory().punch(ring->data_begin() + 5 * segment, segment);
    });
    ring->patience = std::chrono::milliseconds(1);
    // One get may be over before it looked again, where others need the processor.
    CHECK(eventually(
        [&] { return !get(*ring, deadline::after(tick)) && ring->shared().limit == 4; }));
    CHECK(pages(*ring) == 4);
    CHECK(ring->shared().top == 4);
}

TEST_CASE("ring: task_done killed before its commit did nothing, behind it woke (K11)",
          "[ring][kill]") {
    const auto ring = make_ring();
    ring->patience = std::chrono::hours(1);
    put(*ring, "a"), try_get(*ring);
    child joiner([&] { return ring->join(deadline::never()) ? 0 : 1; });
    CHECK(joiner.wait_asleep());
    const auto before = same_memory<ring_killed_before_commit>(*ring);
    CHECK(child([&] { return before->task_done(); }).exit_status() == -SIGKILL);
    CHECK(ring->shared().done.read().at.count == 0);
    CHECK(!joiner.ended());
    const auto behind = same_memory<ring_killed_after_commit>(*ring);
    CHECK(child([&] { return behind->task_done(); }).exit_status() == -SIGKILL);
    CHECK(joiner.exit_status() == 0);
    CHECK(!ring->task_done());
}

TEST_CASE("ring: every lock passes on when its holder is killed (I4)", "[ring][kill]") {
    const auto ring = make_ring({.maxsize = 1});
    ring->patience = std::chrono::hours(1);
    auto& shared = ring->shared();
    for (detail::robust_mutex* lock : {&shared.put.lock, &shared.put.room, &shared.get.lock,
                                       &shared.get.room, &shared.done_lock})
        die_holding(*lock);
    child getter([&] { return get(*ring) == "a" ? 0 : 1; });
    CHECK(getter.wait_asleep());
    CHECK(put(*ring, "a", soon()));
    CHECK(getter.exit_status() == 0);
    CHECK(put(*ring, "b", soon()));
    child putter([&] { return put(*ring, "c") ? 0 : 1; });
    CHECK(putter.wait_asleep());
    CHECK(try_get(*ring) == "b");
    CHECK(putter.exit_status() == 0);
    CHECK(ring->task_done());
}

// ---- damage: an exception, never a crash

TEST_CASE("ring: damaged messages are SerializationErrors", "[ring][damage]") {
    const auto ring = make_ring();
    put(*ring, "a"), put(*ring, "b");
    auto* const first = ring->memory().data() + ring->data_begin();
    using header = detail::message_header;
    const auto refused = [&](std::uint64_t word) {
        std::memcpy(first, &word, sizeof word);
        CHECK(contains(text_of<SerializationError>([&] { try_get(*ring); }), "damaged"));
        CHECK(ring->qsize() == 2);
    };
    refused(0);
    refused(header::word(1, static_cast<header::kind>(3)));
    refused(header::word(1000, header::message));  // beyond the tail
    refused(header::word(header::most_length, header::message));
    refused(header::word(0, header::skip));  // nothing behind it
    const auto right = header::word(1, header::message);
    std::memcpy(first, &right, sizeof right);
    CHECK(try_get(*ring) == "a");
}

TEST_CASE("ring: a damaged map is a SerializationError on both sides", "[ring][damage]") {
    const auto ring = make_ring();
    put(*ring, "a"), put(*ring, std::string(5000, 'b'));
    auto* const map = const_cast<std::uint32_t*>(ring->map());
    for (const std::uint32_t wrong : {12u, 0xffffffffu}) {
        map[0] = wrong;
        CHECK_THROWS_AS(try_get(*ring), SerializationError);
        map[0] = 0;
        map[2] = wrong;  // where the tail is
        CHECK_THROWS_AS(try_put(*ring, "c"), SerializationError);
        map[2] = 2;
    }
    CHECK(try_get(*ring) == "a");
    for (const std::uint32_t wrong : {0u, 11u, 0xffffffffu}) {
        map[2] = wrong;  // no longer behind map[1]
        CHECK_THROWS_AS(try_get(*ring), SerializationError);
    }
    map[2] = 2;
    CHECK((try_get(*ring) == std::string(5000, 'b')));
}

TEST_CASE("ring: a map that was damaged under a getter is a SerializationError", "[ring][damage]") {
    const auto ring = make_ring();
    put(*ring, "a"), put(*ring, "b"), put(*ring, std::string(5000, 'c'));
    CHECK(try_get(*ring) == "a");  // it knows where segment 0 is
    auto* const second = ring->memory().data() + ring->data_begin() + 24;
    const auto longer = detail::message_header::word(5000, detail::message_header::message);
    std::memcpy(second, &longer, sizeof longer);
    auto* const map = const_cast<std::uint32_t*>(ring->map());
    map[0] = 5, map[1] = 6;  // in a row, but not behind what it knows
    CHECK_THROWS_AS(try_get(*ring), SerializationError);
}

TEST_CASE("ring: damaged positions are errors or an empty ring", "[ring][damage]") {
    const auto ring = make_ring();
    put(*ring, "a");
    auto& shared = ring->shared();
    const auto set = [](detail::gate& gate, std::uint64_t bytes, std::uint64_t count) {
        for (auto& slot : gate.slot) slot.bytes = bytes, slot.count = count;
    };
    for (const std::uint64_t at : {1ull, 4ull, 8ull, 4095ull, 4096ull, 1ull << 40, ~0ull, ~7ull}) {
        for (const std::uint64_t count : {0ull, 1ull, ~0ull}) {
            for (detail::gate* gate : {&shared.put.committed, &shared.get.committed}) {
                set(shared.put.committed, 24, 1), set(shared.get.committed, 0, 0);
                shared.put.seen = shared.get.seen = {};
                set(*gate, at, count);
                const auto use = [&](auto f) {
                    try {
                        f();
                    } catch (const Error&) {
                    }
                };
                use([&] { put(*ring, "b", deadline::after(tick)); });
                use([&] { put(*ring, std::string(9000, 'c'), deadline::after(tick)); });
                for (int i = 0; i < 4; ++i) use([&] { try_get(*ring); });
                use([&] { ring->qsize(); });
                use([&] { get(*ring, deadline::after(std::chrono::milliseconds(1))); });
            }
        }
    }
    SUCCEED("no crash");
}

TEST_CASE("ring: damaged marks of the memory are not believed", "[ring][damage]") {
    for (const std::uint32_t top : {0u, 1u, 5u, 12u, 13u, 0xffffffffu})
        for (const std::uint32_t limit : {0u, 4u, 5u, 12u, 13u, 0xffffffffu}) {
            const auto ring = make_ring();
            put(*ring, "a");
            ring->shared().top = top;
            ring->shared().limit = limit;
            ring->patience = std::chrono::microseconds(100);
            const auto use = [&](auto f) {
                try {
                    f();
                } catch (const Error&) {
                }
            };
            for (int i = 0; i < 6; ++i) use([&] { put(*ring, segmentful('b')); });
            for (int i = 0; i < 7; ++i) use([&] { try_get(*ring); });
            use([&] { get(*ring, deadline::after(std::chrono::milliseconds(2))); });
        }
    SUCCEED("no crash");
}

TEST_CASE("ring: a region that says another size than it has is refused", "[ring][damage]") {
    const auto ring = make_ring();
    const auto right = ring->shared().segments;
    for (const std::uint64_t wrong : {0ull, 3ull, 11ull, 13ull, 1ull << 50, ~0ull}) {
        ring->shared().segments = wrong;
        CHECK_THROWS_AS(same_memory<small_ring>(*ring), Error);
    }
    ring->shared().segments = right;
    CHECK_NOTHROW(same_memory<small_ring>(*ring));
}
