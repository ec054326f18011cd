// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Kills a process after exactly n machine instructions, for every n.
///
/// One trial: reset() makes the state and forks the helpers; the victim is forked, led to
/// instruction n of its operation and killed; then a checker in a process of its own, and all
/// helpers, must end with status 0 before a deadline. Asleep in the kernel is a kill point too;
/// after it on_block() acts, and stepping goes on: "woken, but killed before its next instruction"
/// is covered.
///
/// A single step costs some 30 us, so instruction n is reached by breakpoints, each at an address
/// that is not passed between the one before and its own place, and the rest by steps. (An int3 in
/// the victim's own copy of the page, taken out again: hardware breakpoints never hit in some
/// virtual machines, and nothing says so. A child that the victim forks gets its code without it;
/// to a breakpoint behind the start of a thread it steps. One of vfork would have it.) A victim
/// that was not where it should be when it was killed counts as astray: more than a few mean that
/// the sweep is not one. The kernel's clock code in the vdso counts as one instruction: it touches
/// nothing that is shared, and repeats itself while a stepped process is too slow for it. x86-64
/// only: elsewhere `kill_points_work` is false.
///
/// What it does not show: more than one interleaving a scenario (the others rest or sleep), the
/// instructions between the strides of long operations (each run takes another residue), kills
/// inside a system call other than asleep, other memory models. The soaks are for those.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/child.hpp"

namespace test {

#if defined(__x86_64__)
inline constexpr bool kill_points_work = true;
#else
inline constexpr bool kill_points_work = false;
#endif

/// The processes beside the victim in one trial.
class bystanders {
public:
    ~bystanders() {
        for (const pid_t pid : all_) {
            ::kill(pid, SIGKILL);
            wait_status(pid);
        }
    }

    /// Must end with status 0 after the victim was killed.
    pid_t spawn(const std::function<int()>& f) {
        all_.push_back(fork_child(f));
        return all_.back();
    }
    /// As spawn(), and returns once it sleeps in the kernel.
    pid_t spawn_asleep(const std::function<int()>& f) {
        const pid_t pid = spawn(f);
        wait_asleep(pid);
        return pid;
    }
    /// To the end, now.
    bool run(const std::function<int()>& f) { return end_of(fork_child(f), 10s) == 0; }

    /// Exit status or -SIG; nothing if it did not end: it is killed then.
    static std::optional<int> end_of(pid_t pid, clock::duration limit) {
        const auto status = wait_for_exit(pid, limit);
        if (!status) {
            ::kill(pid, SIGKILL);
            wait_status(pid);
        }
        return status;
    }
    std::optional<int> end_of_next(clock::duration limit) {
        const pid_t pid = all_.back();
        all_.pop_back();
        return end_of(pid, limit);
    }
    bool none_left() const { return all_.empty(); }

private:
    std::vector<pid_t> all_;
};

struct scenario {
    std::string name;
    std::function<void(bystanders&)> reset;  // tester: fresh state, early helpers
    std::function<void()> prepare = {};      // victim, before its first kill point
    std::function<void()> operation = {};    // victim: what is killed
    // Or the victim is a process that reset() has made, or a thread of one, which is killed with
    // it: named here, it goes on when it is traced, to an int3. Without go_on it is stepped from
    // where it sleeps.
    std::function<pid_t()> seized = {};
    std::function<void()> go_on = {};
    std::function<void(bystanders&)> on_block = {};  // tester: the victim sleeps for the first time
    std::function<int()> check = {};  // after the kill, in a process of its own: 0 is good
    bool wakes_itself = false;        // a timeout ends its sleep
    long stride = 1;                  // where instructions are many and alike
    long runtime_stride = 1;  // likewise, in the C++ runtime: it unwinds, and shares nothing
    std::chrono::milliseconds limit{10'000};  // for the check and the helpers
};

/// The i-th of `count` things: steps of 0.618 of the whole visit each once, and after any number
/// are spread evenly.
inline std::size_t golden_step(std::uint64_t start, std::uint64_t i, std::uint64_t count) {
    std::uint64_t step = std::max<std::uint64_t>(1, count * 618 / 1000);
    while (std::gcd(step, count) != 1) ++step;
    return static_cast<std::size_t>((start % count + i * step) % count);
}

struct kill_result {
    long instructions = 0, points = 0, failures = 0, astray = 0;
    long first_failure = -1;
    double seconds = 0;
    std::map<std::string, long> where, how;
};

#if defined(__x86_64__)

/// Where the victim's operation ends.
extern "C" [[noreturn]] inline void __attribute__((noinline)) mp_test_operation_ends() {
    asm volatile("");
    for (;;) ::pause();
}

class kill_runner {
public:
    explicit kill_runner(bool verbose = false) : verbose_(verbose) {
        ::prctl(PR_SET_TIMERSLACK, 1000);
        // A tick interrupts waitpid, to look whether the victim sleeps. It is not inherited.
        struct sigaction act {};
        act.sa_handler = [](int) {};
        ::sigaction(SIGALRM, &act, nullptr);
        const itimerval tick{{0, 1000}, {0, 1000}};
        ::setitimer(ITIMER_REAL, &tick, nullptr);
    }
    ~kill_runner() {
        const itimerval none{};
        ::setitimer(ITIMER_REAL, &none, nullptr);
    }
    kill_runner(const kill_runner&) = delete;
    kill_runner& operator=(const kill_runner&) = delete;

    /// Every kill point; or, with a limit, as many as fit, spread evenly from `start` on.
    /// \param until_failure  stop at the first one
    kill_result run(const scenario& s, std::optional<clock::duration> limit = {},
                    std::uint64_t start = 0, bool until_failure = false) {
        kill_result r;
        const auto begin = clock::now();
        const auto over = [&] {
            return (until_failure && r.failures != 0) ||
                   (limit && r.points >= 4 && clock::now() - begin > *limit);
        };
        const long sleeps = measure_well(s, r);
        if (!limit && r.instructions == 0) {
            ++r.failures;
            ++r.how["it did nothing that could be killed"];
        }
        std::vector<long> points;
        for (long n = 0; n <= r.instructions; ++n)
            if (const long stride = in_runtime(n) ? s.runtime_stride : s.stride;
                !repeats(n) && n % stride == static_cast<long>(start % std::uint64_t(stride)))
                points.push_back(n);
        for (long sleep = 0; sleep < sleeps && !over(); ++sleep) trial(s, r.instructions, sleep, r);
        const auto count = static_cast<std::uint64_t>(points.size());
        for (std::uint64_t i = 0; i < count && !over(); ++i) {
            const long before = r.astray;
            for (int tries = 0; tries < 3 && (tries == 0 || r.astray != before); ++tries) {
                r.astray = before;
                trial(s, points[golden_step(start, i, count)], -1, r);
            }
        }
        r.seconds = std::chrono::duration<double>(clock::now() - begin).count();
        return r;
    }

    /// Point n alone. \param sleep  or killed when asleep for the (sleep + 1)th time
    kill_result run_point(const scenario& s, long n, long sleep = -1) {
        kill_result r;
        measure_well(s, r);
        trial(s, n, sleep, r);
        return r;
    }

private:
    enum class stop { stepped, asleep, gone };
    static constexpr int ticks_asleep = 2, ticks_woken = 50, ticks_timeout = 300;

    static pid_t seize_victim(const scenario& s) {
        const pid_t victim = s.seized();
        if (victim <= 0 || ::ptrace(PTRACE_ATTACH, victim, 0, 0) != 0) give_up("no victim");
        wait_status(victim, __WALL);
        if (!s.go_on) return victim;
        s.go_on();
        for (int signal = 0; signal != SIGTRAP;) {
            ::ptrace(PTRACE_CONT, victim, 0, signal == SIGSTOP ? 0 : signal);
            const int status = wait_status(victim, __WALL);
            if (!WIFSTOPPED(status)) give_up("the victim did not reach its start");
            signal = WSTOPSIG(status);
        }
        return victim;
    }
    static pid_t start_victim(const scenario& s) {
        const pid_t victim = s.seized ? seize_victim(s) : fork_victim(s);
        if (::ptrace(PTRACE_SETOPTIONS, victim, 0, PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE) != 0)
            give_up("no news of forks");
        return victim;
    }
    static pid_t fork_victim(const scenario& s) {
        const pid_t victim = fork_child([&s] {
            ::ptrace(PTRACE_TRACEME, 0, 0, 0);
            if (s.prepare) s.prepare();
            asm volatile("int3" ::: "memory");
            s.operation();
            mp_test_operation_ends();
            return 0;
        });
        if (!WIFSTOPPED(wait_status(victim))) {
            std::fprintf(stderr, "'%s': the victim did not reach its start\n", s.name.c_str());
            std::exit(3);
        }
        return victim;
    }
    /// The victim's next stop: of a step, or at the breakpoint if one is set.
    /// \param ticks  milliseconds asleep after which it counts as such
    stop wait_stop(pid_t victim, int ticks = ticks_asleep) {
        for (int asleep = 0, status;;) {
            if (::waitpid(victim, &status, __WALL) == victim) {
                if (!WIFSTOPPED(status)) return stop::gone;
                if (const int event = status >> 16; event != 0)
                    let_child_go(victim, event == PTRACE_EVENT_CLONE);
                else if (!set_ || set_->is_in() || set_->reached())
                    return stop::stepped;
                ::ptrace(set_ && set_->is_in() ? PTRACE_CONT : PTRACE_SINGLESTEP, victim, 0, 0);
                asleep = 0;
                continue;
            }
            asleep = process_state(victim) == 'S' ? asleep + 1 : 0;
            if (asleep >= ticks) return stop::asleep;
        }
    }
    /// An int3 in the code of one process.
    class breakpoint {
    public:
        breakpoint(pid_t victim, std::uintptr_t at)
            : victim_(victim), at_(at), code_(::ptrace(PTRACE_PEEKTEXT, victim, at, 0)) {
            ::ptrace(PTRACE_POKETEXT, victim_, at_, (code_ & ~0xffL) | 0xcc);
        }
        bool is_in() const { return in_; }
        /// The victim is at its place, the int3 being out.
        bool reached() const { return instruction_pointer(victim_) == at_; }
        void take_out() {
            take_from(victim_);
            in_ = false;
        }
        void take_from(pid_t process) const { ::ptrace(PTRACE_POKETEXT, process, at_, code_); }
        /// After a hit: as if it had not been there.
        void take_back() {
            take_out();
            if (instruction_pointer(victim_) == at_ + 1)
                ::ptrace(PTRACE_POKEUSER, victim_, offsetof(struct user, regs.rip), at_);
        }

    private:
        pid_t victim_;
        std::uintptr_t at_;
        long code_;
        bool in_ = true;
    };
    /// A child of the victim was stopped at its birth, or a thread, as the victim is now. (One that
    /// is born while the victim is being killed asleep stays stopped: the check hangs then.)
    void let_child_go(pid_t victim, bool thread) {
        if (set_ && thread) set_->take_out();
        unsigned long child = 0;
        if (::ptrace(PTRACE_GETEVENTMSG, victim, 0, &child) != 0 || child == 0) return;
        const auto pid = static_cast<pid_t>(child);
        if (!WIFSTOPPED(wait_status(pid, __WALL))) return;
        if (set_ && !thread) set_->take_from(pid);
        ::ptrace(PTRACE_DETACH, pid, 0, 0);
    }
    static std::uintptr_t instruction_pointer(pid_t victim) {
        return static_cast<std::uintptr_t>(
            ::ptrace(PTRACE_PEEKUSER, victim, offsetof(struct user, regs.rip), 0));
    }
    /// One instruction on from `at`; out of the vdso if it is there, at a function's entry.
    stop step(pid_t victim, std::uintptr_t at) {
        if (at < vdso_.first || at >= vdso_.second) {
            ::ptrace(PTRACE_SINGLESTEP, victim, 0, 0);
            return wait_stop(victim);
        }
        const auto stack = ::ptrace(PTRACE_PEEKUSER, victim, offsetof(struct user, regs.rsp), 0);
        set_.emplace(victim,
                     static_cast<std::uintptr_t>(::ptrace(PTRACE_PEEKDATA, victim, stack, 0)));
        ::ptrace(PTRACE_CONT, victim, 0, 0);
        return wait_stop(victim);
    }
    /// After a stop that was waited for.
    void leave_breakpoint() {
        if (set_) set_->take_back();
        set_.reset();
    }
    using address_range = std::pair<std::uintptr_t, std::uintptr_t>;
    static std::vector<address_range> code_of(std::initializer_list<const char*> names) {
        std::vector<address_range> all;
        std::ifstream maps("/proc/self/maps");
        for (std::string line; std::getline(maps, line);)
            if (line.find(" r-xp ") != std::string::npos)
                for (const char* name : names)
                    if (address_range one;
                        line.find(name) != std::string::npos &&
                        std::sscanf(line.c_str(), "%zx-%zx", &one.first, &one.second) == 2)
                        all.push_back(one);
        return all;
    }
    static address_range vdso() {
        const auto found = code_of({"[vdso]"});
        return found.empty() ? address_range{0, 0} : found.front();
    }
    bool in_runtime(long n) const {
        if (static_cast<std::size_t>(n) >= trace_.size()) return false;
        const std::uintptr_t at = trace_[static_cast<std::size_t>(n)];
        return std::any_of(runtime_.begin(), runtime_.end(), [at](const address_range& one) {
            return at >= one.first && at < one.second;
        });
    }
    void kill_victim(pid_t victim) {
        set_.reset();
        ::kill(victim, SIGKILL);
        for (int status = 0x7f; !WIFEXITED(status) && !WIFSIGNALED(status);)
            if (::waitpid(victim, &status, __WALL) < 0 && errno != EINTR) break;
    }

    /// Deals with a victim found asleep. \return false: it sleeps for good
    struct block_state {
        long sleeps = 0;
        bool acted = false;
    };
    stop pass_block(const scenario& s, bystanders& others, pid_t victim, block_state& b) {
        if (b.acted || !s.on_block)
            return s.wakes_itself ? wait_stop(victim, ticks_timeout) : stop::asleep;
        b.acted = true;
        s.on_block(others);
        return wait_stop(victim, s.wakes_itself ? ticks_timeout : ticks_woken);
    }

    /// Until it went the same way twice; else the shortest of some, since on a busy machine a
    /// victim may wait awake where it would sleep. One that did nothing was not woken in time, and
    /// counts only if it never did. \return how often it slept
    long measure_well(const scenario& s, kill_result& r) {
        long sleeps = measure(s, r);
        for (int others = 0; others < (r.instructions == 0 ? 10 : 3); ++others) {
            const kill_result before = r;
            const auto trace = trace_;
            const long sleeps_before = sleeps;
            r.instructions = 0;
            sleeps = measure(s, r);
            const bool same = trace_ == trace && r.instructions != 0;
            if (before.instructions != 0 && (r.instructions == 0 || trace_.size() > trace.size())) {
                r = before;
                trace_ = trace;
                sleeps = sleeps_before;
            }
            if (same) break;
        }
        plan_ways();
        return sleeps;
    }

    /// Records the address of each instruction. \return how often it slept
    long measure(const scenario& s, kill_result& r) {
        bystanders others;
        s.reset(others);
        const pid_t victim = start_victim(s);
        block_state block;
        trace_.clear();
        for (;;) {
            const std::uintptr_t at = instruction_pointer(victim);
            if (at == reinterpret_cast<std::uintptr_t>(&mp_test_operation_ends)) break;
            trace_.push_back(at);
            stop how = step(victim, at);
            if (how == stop::asleep) {
                ++block.sleeps;
                how = pass_block(s, others, victim, block);
            }
            if (how != stop::stepped) break;
            leave_breakpoint();
            ++r.instructions;
        }
        kill_victim(victim);
        return block.sleeps;
    }

    /// Finds the cheapest way to each instruction.
    void plan_ways() {
        constexpr long price = 4;  // of a breakpoint, in steps
        const auto size = static_cast<long>(trace_.size());
        from_.assign(trace_.size(), -1);
        std::unordered_map<std::uintptr_t, long> last;  // where each address was passed last
        struct place {
            long at, cost;
        };
        std::vector<place> cheap;  // behind each no cheaper one comes
        long cost = 0;
        for (long n = 0; n < size; ++n) {
            const std::uintptr_t address = trace_[static_cast<std::size_t>(n)];
            if (n > 0) {
                ++cost;
                const auto passed = last.find(address);
                const long first = passed == last.end() ? -1 : passed->second;
                const auto from =
                    std::upper_bound(cheap.begin(), cheap.end(), first,
                                     [](long before, const place& one) { return before < one.at; });
                if (from != cheap.end() && from->cost + price < cost &&
                    (address < vdso_.first || address >= vdso_.second)) {
                    cost = from->cost + price;
                    from_[static_cast<std::size_t>(n)] = from->at;
                }
            }
            last[address] = n;
            while (!cheap.empty() && cheap.back().cost >= cost) cheap.pop_back();
            cheap.push_back({n, cost});
        }
    }
    /// The breakpoints on the way to instruction n, {from, to}, the last first.
    std::vector<std::pair<long, long>> way_to(long n) const {
        std::vector<std::pair<long, long>> way;
        n = std::min(n, static_cast<long>(from_.size()) - 1);
        while (n > 0) {
            const long from = from_[static_cast<std::size_t>(n)];
            if (from >= 0) way.emplace_back(from, n);
            n = from >= 0 ? from : n - 1;
        }
        return way;
    }

    /// Inside a long loop, turns of at most 16 instructions through the same addresses (a `rep
    /// movs`, each of whose turns is a step; a memcpy), some turns will do.
    bool repeats(long n) const {
        constexpr long longest = 16, whole = 8, one_in = 64;
        for (long turn = 1; turn <= longest; ++turn) {
            const long first = n - whole * turn, last = n + whole * turn;
            if (first < 0 || last >= static_cast<long>(trace_.size())) return false;
            const auto at = [this](long i) { return trace_[static_cast<std::size_t>(i)]; };
            if (at(n) != at(n - turn)) continue;
            long i = first;
            while (i + turn <= last && at(i) == at(i + turn)) ++i;
            if (i + turn > last) return n / turn % one_in != 0;
        }
        return false;
    }

    void trial(const scenario& s, long n, long kill_asleep, kill_result& r) {
        std::string how;
        std::uintptr_t at = 0;
        {
            bystanders others;
            s.reset(others);
            const pid_t victim = start_victim(s);
            block_state block;
            auto way = way_to(n);
            for (long done = 0; done < n;) {
                const bool far = !way.empty() && way.back().first == done;
                const long next = far ? way.back().second : done + 1;
                stop what;
                if (far) {
                    way.pop_back();
                    set_.emplace(victim, trace_[static_cast<std::size_t>(next)]);
                    ::ptrace(PTRACE_CONT, victim, 0, 0);
                    what = wait_stop(victim);
                } else {
                    what = step(victim, instruction_pointer(victim));
                }
                if (what == stop::asleep) {
                    if (block.sleeps++ == kill_asleep) break;
                    what = pass_block(s, others, victim, block);
                }
                if (what != stop::stepped) break;
                leave_breakpoint();
                done = next;
            }
            if (process_state(victim) == 't') at = instruction_pointer(victim);
            kill_victim(victim);
            if (kill_asleep < 0 && static_cast<std::size_t>(n) < trace_.size() &&
                at != trace_[static_cast<std::size_t>(n)])
                ++r.astray;
            const auto end = clock::now() + s.limit;
            if (const auto status = bystanders::end_of(fork_child(s.check), s.limit); !status)
                how = "checker hangs";
            else if (*status != 0)
                how = "checker " + std::to_string(*status);
            while (how.empty() && !others.none_left()) {
                const auto status = others.end_of_next(
                    std::max<clock::duration>(end - clock::now(), std::chrono::seconds(1)));
                if (!status)
                    how = "helper hangs";
                else if (*status != 0)
                    how = "helper " + std::to_string(*status);
            }
        }
        ++r.points;
        if (how.empty()) return;
        if (r.failures++ == 0) r.first_failure = n;
        ++r.how[how];
        ++r.where[symbol_of(at)];
        if (verbose_)
            std::printf("    point %ld%s: %s at %s\n", n, kill_asleep >= 0 ? " (asleep)" : "",
                        how.c_str(), place_of(at).c_str());
    }

    static std::string place_of(std::uintptr_t at) {
        if (at == 0) return "asleep";
        Dl_info info{};
        if (::dladdr(reinterpret_cast<void*>(at), &info) == 0 || !info.dli_fname) return "?";
        const bool named = info.dli_sname != nullptr;
        const void* base = named ? info.dli_saddr : info.dli_fbase;
        char text[32];
        std::snprintf(text, sizeof text, "+0x%zx", at - reinterpret_cast<std::uintptr_t>(base));
        const char* slash = std::strrchr(info.dli_fname, '/');
        return std::string(named ? info.dli_sname : slash ? slash + 1 : info.dli_fname) + text;
    }
    static std::string symbol_of(std::uintptr_t at) {
        const std::string place = place_of(at);
        return place.substr(0, place.rfind('+'));
    }

    bool verbose_;
    const address_range vdso_ = vdso();
    const std::vector<address_range> runtime_ = code_of({"/libgcc_s", "/libstdc++", "/ld-linux"});
    std::optional<breakpoint> set_;
    std::vector<std::uintptr_t> trace_;  // address of instruction n
    std::vector<long> from_;  // where a breakpoint at instruction n is to be set; -1: step there
};

#else

class kill_runner {
public:
    explicit kill_runner(bool = false) {}
    kill_result run(const scenario&, std::optional<clock::duration> = {}, std::uint64_t = 0,
                    bool = false) {
        return {};
    }
    kill_result run_point(const scenario&, long, long = -1) { return {}; }
};

#endif

/// The time that MP_BUDGET_SECONDS leaves to a whole program; nothing: take as long as it takes.
inline std::optional<clock::duration> time_budget() {
    const char* text = std::getenv("MP_BUDGET_SECONDS");
    if (!text || !*text) return {};
    return std::chrono::duration_cast<clock::duration>(
        std::chrono::duration<double>(std::atof(text)));
}

/// Starts the program again with all its symbols bound: else the dynamic linker's first look-up of
/// each function makes most of the instructions.
inline void bind_now(char** argv) {
    if (std::getenv("LD_BIND_NOW")) return;
    ::setenv("LD_BIND_NOW", "1", 1);
    char self[4096];  // not by the name /proc/self/exe: that is what ps would call it
    const ssize_t size = ::readlink("/proc/self/exe", self, sizeof self - 1);
    if (size <= 0) return;
    self[size] = 0;
    ::execv(self, argv);
}

/// What a random test starts from: `variable` of the environment, else another one each time. The
/// caller prints it.
inline std::uint64_t moving_seed(const char* variable) {
    if (const char* text = std::getenv(variable); text && *text)
        return std::strtoull(text, nullptr, 0);
    return static_cast<std::uint64_t>(::time(nullptr)) * 2654435761u % 1'000'000'007u;
}

/// Runs a list of scenarios, prints a line for each and the totals. Within a time budget it takes
/// them from another one on each time, as many as it has time for.
class kill_sweep {
public:
    /// Arguments: [-v] [-p POINT] [part of a name].
    kill_sweep(int argc, char** argv) {
        bind_now(argv);
        for (int i = 1; i < argc; ++i) {
            if (std::strcmp(argv[i], "-v") == 0)
                verbose_ = true;
            else if (std::strcmp(argv[i], "-p") == 0 && i + 1 < argc)
                point_ = std::atol(argv[++i]);
            else
                only_ = argv[i];
        }
    }

    void add(scenario s) {
        if (s.name.find(only_) != std::string::npos) all_.push_back(std::move(s));
    }

    /// \return the exit status of the program
    int run() {
        if (!kill_points_work) {
            std::puts("skipped: kill points need x86-64\nkill points 0, failures 0");
            return 0;
        }
        const auto budget = time_budget();
        const std::uint64_t start = moving_seed("MP_KILL_START");
        if (budget)
            std::printf("sampling for %.0f s from MP_KILL_START=%llu\n",
                        std::chrono::duration<double>(*budget).count(),
                        static_cast<unsigned long long>(start));
        std::printf("%-48s %7s %7s %5s %6s %8s\n", "scenario", "instr", "kills", "fail", "astray",
                    "kills/s");
        const auto begin = clock::now();
        kill_runner runner(verbose_);
        long points = 0, failures = 0;
        const std::size_t count = all_.size();
        for (std::size_t i = 0; i < count; ++i) {
            const auto left = budget ? *budget - (clock::now() - begin) : clock::duration::max();
            if (left <= 0ns) {
                std::printf("%zu of %zu scenarios are left to other starts\n", count - i, count);
                break;
            }
            const scenario& s = all_[budget ? golden_step(start, i, count) : i];
            std::optional<clock::duration> share;
            if (budget)
                share = std::max<clock::duration>(left / static_cast<long>(count - i), 500ms);
            const kill_result r =
                point_ >= 0 ? runner.run_point(s, point_) : runner.run(s, share, start);
            std::printf("%-48s %7ld %7ld %5ld %6ld %8.0f\n", s.name.c_str(), r.instructions,
                        r.points, r.failures, r.astray,
                        static_cast<double>(r.points) / std::max(r.seconds, 1e-9));
            if (r.failures != 0) {
                std::printf("      again: -v -p %ld '%s';", r.first_failure, s.name.c_str());
                for (const auto& [how, n] : r.how) std::printf(" %s x%ld", how.c_str(), n);
                std::printf(" in");
                int shown = 0;
                for (const auto& [where, n] : r.where)
                    if (++shown <= 7) std::printf(" %s x%ld", where.c_str(), n);
                std::puts("");
            }
            std::fflush(stdout);
            points += r.points;
            failures += r.failures;
        }
        std::printf("kill points %ld, failures %ld\n", points, failures);
        return failures == 0 && points > 0 ? 0 : 1;
    }

private:
    bool verbose_ = false;
    long point_ = -1;
    std::string only_;
    std::vector<scenario> all_;
};

}  // namespace test
