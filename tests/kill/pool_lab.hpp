// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A pool without a supervisor whose worker is killed, and the checks after each kill. The test
/// plays the parent, with the board, rings and judgement of ring_back, and starts replacements.

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <multiprocessing/detail/platform/poller.hpp>
#include <multiprocessing/detail/platform/unique_fd.hpp>
#include <multiprocessing/detail/pool/calls.hpp>
#include <multiprocessing/detail/pool/ring_back.hpp>
#include <multiprocessing/detail/pool/supervisor.hpp>
#include <multiprocessing/detail/pool/worker.hpp>
#include <multiprocessing/pool.hpp>

#include "support/child.hpp"
#include "support/kill_points.hpp"

namespace test {

namespace mpd = multiprocessing::detail;
using mpd::deadline;

/// Statuses of a checker or helper; 0 is good.
enum complaint : int {
    unanswered = 10,
    answered_twice,
    wrong_value,
    malformed,
    ran_twice,
    not_run,         // and has a result
    many_crashes,    // the victim was at one item
    another_ended,   // the task that was arrested, and one more
    arrested_wrong,  // its end is not what was asked for
    not_ended,
    stop_refused,
    worker_left,
    bad_report,
    not_reported,
    parent_asleep = 30,
};

constexpr int most_items = 64;
struct pool_ledger {
    std::atomic<int> ran[most_items];
    std::atomic<int> dead, begun, go;
    std::atomic<pid_t> victim;
    std::atomic<pid_t> workers[16];
    std::atomic<unsigned> seen;
};
inline pool_ledger& the_ledger() {
    static pool_ledger& one = shared_memory<pool_ledger>();
    return one;
}

// --- what the workers are asked to do

inline std::string text_of(int i, std::size_t size) {
    std::string s(size, static_cast<char>('a' + i % 26));
    std::memcpy(s.data(), &i, sizeof i);
    return s;
}
struct add_one {  // flat
    int operator()(int i) const {
        ++the_ledger().ran[i];
        return i * 7 + 1;
    }
};
template <std::size_t Size>
struct write_text {
    std::string operator()(int i) const {
        ++the_ledger().ran[i];
        return text_of(i, Size);
    }
};
struct block {
    std::array<int, 20'000> numbers;
};
struct make_block {  // flat and larger than the scratch memory
    block operator()(int i) const {
        ++the_ledger().ran[i];
        block b{};
        b.numbers.front() = i;
        b.numbers.back() = -i;
        return b;
    }
};
struct refuse {
    int operator()(int i) const {
        ++the_ledger().ran[i];
        throw std::out_of_range(std::to_string(i));
    }
};
struct end_worker {
    int operator()(int i) const {
        ++the_ledger().ran[i];
        ::_exit(3);
    }
};
struct for_ever {
    int operator()(int i) const {
        ++the_ledger().ran[i];
        the_ledger().begun = 1;
        for (;;) ::pause();
    }
};

/// The parent's list of tasks, as pool_front keeps it, and who answered what.
class answer_book final : public mpd::pool_events {
public:
    enum class answer { none, result, crash, timeout, cancelled };

    explicit answer_book(mpd::pool_back& back) : back_(back) {}

    /// Items first, first + 1, ... travel together.
    template <class F>
    mpd::task_id send(F f, int first, int count, std::int64_t timeout = 0) {
        task t{};
        t.first = first;
        t.count = count;
        mpd::append_callable(t.bytes, f);
        for (int i = first; i < first + count; ++i)
            mpd::append(t.bytes, std::array{std::as_bytes(std::span(&i, 1))}, sizeof i);
        t.header = {next_index_++, 0, 0, timeout, mpd::reference_to<mpd::map_thunk<F, int>>()};
        using R = decltype(f(0));
        t.check = &answer_book::check_result<R>;
        tasks_.push_back(std::move(t));
        submit(tasks_.back());
        return {tasks_.back().header.index, tasks_.back().header.generation};
    }

    /// It will not be begun.
    void withdraw(mpd::task_id id) {
        task* t = find(id);
        if (!t || !back_.withdraw(id)) return complain(not_ended);
        while (t->answered < t->count) put(*t, answer::cancelled);
        settle(*t);
    }

    bool complete() const {
        for (const task& t : tasks_)
            if (t.answered < t.count) return false;
        return true;
    }
    int complaint() const { return complaint_; }
    answer of(int item) const { return answers_[static_cast<std::size_t>(item)]; }
    int count(answer what) const {
        int n = 0;
        for (const answer a : answers_) n += a == what;
        return n;
    }

    void batch(mpd::task_id id, std::uint32_t items, std::span<const std::byte> frames,
               const mpd::worker_run&) noexcept override {
        task* t = find(id);
        if (!t) return complain(answered_twice);
        for (; items != 0; --items) {
            if (t->answered == t->count) return complain(answered_twice);
            const std::size_t size = t->check(*this, t->first + t->answered, frames);
            if (size == 0) return complain(malformed);
            frames = frames.subspan(size);
            put(*t, answer::result);
        }
        if (!frames.empty()) complain(malformed);
        if (t->answered == t->count) settle(*t);
    }
    void unread(mpd::task_id, std::uint32_t, const mpd::worker_run&) noexcept override {
        complain(wrong_value);
    }
    void ended(mpd::task_id id, mpd::task_end how, std::uint64_t item, int,
               const mpd::worker_run&) noexcept override {
        task* t = find(id);
        if (!t || t->answered == t->count) return;
        if (how == mpd::task_end::cancelled) {
            while (t->answered < t->count) put(*t, answer::cancelled);
            return settle(*t);
        }
        if (how == mpd::task_end::timed_out &&
            item != static_cast<std::uint64_t>(t->answered - t->base))
            how = mpd::task_end::retired;
        if (how == mpd::task_end::timed_out) put(*t, answer::timeout);
        if (how == mpd::task_end::crashed || how == mpd::task_end::no_memory)
            put(*t, answer::crash);
        back_.forget({t->header.index, t->header.generation});
        if (t->answered < t->count) submit(*t);
    }
    void broken(std::exception_ptr) noexcept override { complain(not_ended); }

private:
    struct task {
        int first, count, answered = 0, base = 0;
        mpd::task_header header;
        std::vector<std::byte> bytes;
        std::size_t (*check)(answer_book&, int, std::span<const std::byte>);
    };

    template <class R>
    static std::size_t check_result(answer_book& book, int item, std::span<const std::byte> from) {
        const mpd::result_frame got = mpd::read_frame(from, sizeof(R));
        if (got.size == 0) return 0;
        bool right = false;
        try {
            mpd::require_value(got, 0);
            const R value = mpd::decode<R>(got.bytes);
            if constexpr (std::is_same_v<R, std::string>)
                right = value == text_of(item, value.size()) && value.size() >= 1000;
            else if constexpr (std::is_same_v<R, block>)
                right = value.numbers.front() == item && value.numbers.back() == -item;
            else
                right = value == item * 7 + 1;
        } catch (const std::out_of_range& e) {
            right = e.what() == std::to_string(item);
        } catch (...) {  // wrong
        }
        if (!right) book.complain(wrong_value);
        return got.size;
    }

    task* find(mpd::task_id id) {
        for (task& t : tasks_)
            if (t.header.index == id.index && t.header.generation == id.generation) return &t;
        return nullptr;
    }
    void submit(task& t) {
        const auto bytes =
            t.answered == 0
                ? t.bytes
                : mpd::cut_rest(t.bytes, static_cast<std::uint32_t>(t.answered), sizeof(int));
        t.header.generation = ++generations_;
        t.header.items = static_cast<std::uint32_t>(t.count - t.answered);
        t.base = t.answered;
        const std::span<const std::byte> piece(bytes);
        back_.send(t.header, {&piece, 1});
    }
    void settle(const task& t) { back_.forget({t.header.index, t.header.generation}); }
    void put(task& t, answer what) {
        answer& to = answers_[static_cast<std::size_t>(t.first + t.answered++)];
        if (to != answer::none) complain(answered_twice);
        to = what;
    }
    void complain(int what) {
        if (complaint_ == 0) complaint_ = what;
    }

    mpd::pool_back& back_;
    std::vector<task> tasks_;
    std::array<answer, most_items> answers_{};
    std::uint32_t next_index_ = 0, generations_ = 0;
    int complaint_ = 0;
};

/// Or nobody has reaped it yet.
inline bool is_gone(pid_t pid) {
    const char state = process_state(pid);
    return state == '?' || state == 'Z' || state == 'X';
}

/// A back whose workers the test starts.
class lab_back final : public mpd::ring_back<> {
public:
    explicit lab_back(std::size_t workers) : ring_back(workers) {}
    bool arrest(mpd::task_id) override { return false; }
    void watch(multiprocessing::duration) override {}
    void finish() override {}
    void terminate() override {}

    mpd::pool_board& board() { return board_; }
    mpd::pool_ring& tasks() { return *tasks_; }
    const auto& all_results() { return results_; }
    mpd::pool_ring& results(std::uint32_t w) { return *results_[w]; }
    void stop() { tasks_->put({}, mpd::stop_message, deadline::never()); }
    using ring_back::drain;
    using ring_back::judge;
};

/// Its steps one by one, in the process that is killed.
class lab_supervisor final : public mpd::supervisor<> {
public:
    using supervisor::alive_;
    using supervisor::arrest_overdue;
    using supervisor::look;
    using supervisor::read_orders;
    using supervisor::reap;
    using supervisor::start;
    using supervisor::start_all;
    using supervisor::supervisor;

    /// As run() does, once it was told to finish.
    void finish() {
        while (alive_ != 0 && look(deadline::never(), true)) {
        }
    }
    /// \return false if it does not end
    bool wait_for_end(std::uint32_t w) {
        return mpd::wait_readable(workers_[w].process->sentinel(), deadline::after(patience));
    }
};

class pool_lab {
public:
    using answer = answer_book::answer;
    static constexpr auto soon = 2s;
    static constexpr std::uint64_t no_message = 99;

    lab_back& back() { return *back_; }
    answer_book& book() { return *book_; }
    pool_ledger& sh() { return the_ledger(); }

    void fresh() {
        std::memset(static_cast<void*>(&sh()), 0, sizeof(pool_ledger));
        book_.reset();
        back_ = std::make_unique<lab_back>(2);
        book_ = std::make_unique<answer_book>(*back_);
        // Nobody may depend on looking again by himself.
        back_->tasks().patience = std::chrono::seconds(10);
        for (std::uint32_t w = 0; w < 2; ++w) {
            back_->results(w).patience = std::chrono::seconds(10);
            back_->board().slot(w, 1).renew(deadline::clock());
        }
        back_->tasks().put({}, no_message, deadline::never());  // for warm()
        most_items_ = 0;
        initializer_ = {};
        next_[0] = 2;
        next_[1] = 1;
    }
    void retire_after(std::uint64_t items) { most_items_ = items; }
    void initialize(std::function<void()> f) { initializer_ = std::move(f); }

    /// A worker, until it finds a stop or retires.
    int work(std::uint32_t w, std::uint32_t incarnation) {
        return mpd::work({back_->board(), back_->tasks(), back_->results(w), w, incarnation,
                          most_items_, initializer_, true});
    }
    int victim() { return work(0, 1); }
    /// In the victim, before its steps: the first use of a ring in a process maps a segment, which
    /// is thousands of instructions that nobody else sees. Messages of no kind, to be passed over.
    void warm() {
        back_->tasks().get(deadline::at_once(), [](auto...) {});
        back_->results(0).put({}, no_message, deadline::never());
    }

    // --- a supervisor

    void fresh_supervisor() {
        std::fflush(stdout);  // its workers end as processes do, with what is in the buffer
        fresh();
        reports_ = mpd::pool_ring::create("mp:test reports");
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
            give_up("socketpair");
        orders_[0] = mpd::unique_fd(ends[0]);
        orders_[1] = mpd::unique_fd(ends[1]);
        plan_.reset(new mpd::pool_plan{back_->board(),
                                       back_->tasks(),
                                       back_->all_results(),
                                       *reports_,
                                       orders_[0].get(),
                                       "Lab",
                                       0,
                                       0,
                                       0,
                                       {},
                                       false,
                                       {}});
    }
    /// In the victim, before its steps.
    lab_supervisor& supervise() {
        // A tracer would be told of each child's end, as of a step.
        sigset_t ends;
        sigemptyset(&ends);
        sigaddset(&ends, SIGCHLD);
        ::sigprocmask(SIG_BLOCK, &ends, nullptr);
        supervisor_ = std::make_unique<lab_supervisor>(*plan_);
        return *supervisor_;
    }
    lab_supervisor& supervisor() { return *supervisor_; }
    void order(const mpd::supervisor_order& what) {
        if (::send(orders_[1].get(), &what, sizeof what, 0) != sizeof what) give_up("send");
    }
    /// The parent's part, in a process whose list of answers nobody asks.
    void read_report() {
        mpd::death_report report{};
        reports_->get(deadline::at_once(), [&](std::uint64_t, auto bytes) {
            if (bytes.size() == sizeof report) std::memcpy(&report, bytes.data(), sizeof report);
        });
        judge(report.worker, report.incarnation, report.exitcode);
    }
    /// The supervisor is dead: so are its workers, soon; what they did and what it reported holds.
    /// \param how  each reported worker's item did
    int supervisor_ended(answer how) {
        for (std::uint32_t w = 0; w < 2; ++w)
            for (const std::uint32_t parity : {0u, 1u}) {
                const auto pid = static_cast<pid_t>(back_->board().slot(w, parity).pid.load());
                if (pid != 0 && !eventually([&] { return is_gone(pid); }, soon)) return worker_left;
            }
        back_->collect(*book_);
        const auto ended = [this] {
            return book_->count(answer::crash) + book_->count(answer::timeout) +
                   book_->count(answer::cancelled);
        };
        mpd::death_report report{};
        int reports = 0, trapped = 0, trapped_so = 0;
        bool whole = true;
        while (reports_->get(deadline::at_once(), [&](std::uint64_t, auto bytes) {
            whole = whole && bytes.size() == sizeof report;
            if (whole) std::memcpy(&report, bytes.data(), sizeof report);
        })) {
            if (!whole || report.what != mpd::death_report::died || report.worker > 1 ||
                report.pid <= 0)
                return bad_report;
            const int before = ended(), before_so = book_->count(how);
            back_->judge(report.worker, report.incarnation, report.pid, report.exitcode, *book_);
            if (report.exitcode == -SIGTRAP) {  // it inherited the tester's breakpoint
                trapped += ended() - before;
                trapped_so += book_->count(how) - before_so;
            } else {
                ++reports;
            }
        }
        for (std::uint32_t w = 0; w < 2; ++w) back_->drain(w, *book_);
        if (book_->complaint() != 0) return book_->complaint();
        if (ended() - trapped > reports) return many_crashes;
        if (book_->count(how) - trapped_so != reports) return not_reported;
        for (int i = 0; i < most_items; ++i) {
            if (sh().ran[i] > 1) return ran_twice;
            if (book_->of(i) == answer::result && sh().ran[i] != 1) return not_run;
        }
        return 0;
    }
    /// The next incarnation, here and now. It ends as a process would, with exit status 0.
    void run_worker(std::uint32_t w, bool judged, bool stops = true) {
        const std::uint32_t incarnation = next_[w]++;
        back_->board().slot(w, incarnation).renew(deadline::clock());
        if (stops) back_->stop();
        work(w, incarnation);
        if (judged) judge(w, incarnation, 0);
    }
    void judge(std::uint32_t w, std::uint32_t incarnation, int exitcode) {
        back_->judge(w, incarnation, 1, exitcode, *book_);
    }

    // --- checks

    /// The victim is judged, then others do the rest.
    int judge_first(int most_crashes = 1) {
        judge(0, 1, -SIGKILL);
        return finish(most_crashes);
    }
    /// Another worker does what is there, and the victim's replacement delivers before the victim
    /// is judged.
    int replace_first(int most_crashes = 1) {
        most_items_ = 0;
        if (back_->tasks().qsize() != 0) run_worker(1, true, false);
        book_->send(add_one{}, 50, 1);
        run_worker(0, false);
        judge(0, 1, -SIGKILL);
        judge(0, 2, 0);
        return finish(most_crashes);
    }
    int finish(int most_crashes) {
        for (int i = 0; i < 20 && !book_->complete(); ++i) {
            run_worker(static_cast<std::uint32_t>(i % 2), true);
            back_->collect(*book_);
        }
        return verdict(most_crashes);
    }
    int verdict(int most_crashes) {
        if (book_->complaint() != 0) return book_->complaint();
        if (!book_->complete()) return unanswered;
        if (book_->count(answer::crash) > most_crashes) return many_crashes;
        for (int i = 0; i < most_items; ++i) {
            const int ran = sh().ran[i];
            if (ran > 1) return ran_twice;
            if (book_->of(i) == answer::result && ran != 1) return not_run;
        }
        return 0;
    }

    /// The supervisor arrested the task in the instant before the kill, if it was running.
    int arrest(mpd::task_id id) {
        const bool arrested = mpd::arrest_task(back_->board(), id.index, id.generation, 0, 1);
        const int r = judge_first(arrested ? 0 : 1);
        if (r != 0 || !arrested) return r == many_crashes ? another_ended : r;
        // Of a task whose last results were sent nothing can be taken back.
        return book_->count(answer::cancelled) == 0 ? arrested_wrong : 0;
    }
    /// The item was overdue in the instant before the kill, if one was going on.
    int arrest_overdue() {
        const bool arrested = mpd::arrest_item(back_->board().slot(0, 1), std::int64_t{1} << 62);
        const int r = judge_first(arrested ? 0 : 1);
        if (r != 0) return r == many_crashes ? another_ended : r;
        return book_->count(answer::timeout) > (arrested ? 1 : 0) ? arrested_wrong : 0;
    }

    /// Another worker is there, asleep perhaps; nobody starts one.
    int others_do_it() {
        judge(0, 1, -SIGKILL);
        if (!eventually(
                [this] {
                    back_->collect(*book_);
                    return book_->complete();
                },
                soon))
            return unanswered;
        back_->stop();
        return verdict(1);
    }

    /// A helper: the parent, asleep on the bell for good if nobody wakes it.
    int parent() {
        while (sh().dead == 0) {
            const std::uint32_t seen = back_->seen();
            const bool any = back_->collect(*book_);
            if (sh().dead == 0 && !any) back_->board().sleep(seen, deadline::never());
        }
        return judge_first();
    }
    /// As the supervisor does after a death.
    int report_death() {
        sh().dead = 1;
        back_->board().ring();
        return 0;
    }

private:
    std::unique_ptr<lab_back> back_;
    std::unique_ptr<answer_book> book_;
    std::shared_ptr<mpd::pool_ring> reports_;
    mpd::unique_fd orders_[2];
    std::unique_ptr<mpd::pool_plan> plan_;
    std::unique_ptr<lab_supervisor> supervisor_;
    std::uint64_t most_items_ = 0;
    std::function<void()> initializer_;
    std::uint32_t next_[2] = {2, 1};
};

/// A program with a real pool, whose supervisor is killed behind its first int3.
class pool_host {
public:
    /// \param use  of the pool; returns 0 if all that it got is right
    pool_host(std::size_t workers, std::function<int(multiprocessing::Pool&)> use)
        : workers_(workers), use_(std::move(use)) {}

    /// Before a host is forked; once in a program.
    static void watch_forks() {
        ::pthread_atfork(&pool_host::stop_at_first_fork, nullptr, nullptr);
    }

    static void reset() { std::memset(static_cast<void*>(&the_ledger()), 0, sizeof(pool_ledger)); }
    static pid_t victim() {
        pid_t pid = 0;
        eventually([&] { return (pid = the_ledger().victim) != 0; });
        return pid;
    }
    static void go_on() { the_ledger().go = 1; }

    /// The program. Nobody in it may hang, whatever became of the supervisor.
    int run() const {
        host_pid() = ::getpid();
        int result = 0;
        {
            multiprocessing::Pool pool(
                multiprocessing::PoolOptions{.processes = workers_, .initializer = [] {
                                                 const unsigned n = the_ledger().seen++;
                                                 the_ledger().workers[n % 16] = ::getpid();
                                             }});
            try {
                result = use_(pool);
            } catch (const multiprocessing::PoolBroken&) {
            }
        }
        const bool gone = eventually([] {
            for (const auto& pid : the_ledger().workers)
                if (const pid_t one = pid; one != 0 && !is_gone(one)) return false;
            return true;
        });
        if (!gone) return worker_left;
        for (const auto& ran : the_ledger().ran)
            if (ran > 1) return ran_twice;
        return result;
    }

private:
    static pid_t& host_pid() {
        static pid_t pid = 0;
        return pid;
    }
    /// In the supervisor, within its first start of a worker: its own start is over then, for
    /// which its parent would not wait for ever.
    static void stop_at_first_fork() {
        if (host_pid() == 0 || host_pid() == ::getpid()) return;
        host_pid() = 0;
        sigset_t ends;
        sigemptyset(&ends);
        sigaddset(&ends, SIGCHLD);
        ::sigprocmask(SIG_BLOCK, &ends, nullptr);  // as pool_lab::supervise()
        the_ledger().victim = ::getpid();
        while (the_ledger().go == 0) pause_briefly();
        asm volatile("int3" ::: "memory");
    }

    std::size_t workers_;
    std::function<int(multiprocessing::Pool&)> use_;
};

}  // namespace test
