// SPDX-License-Identifier: BSL-1.0

/// \file
/// Random SIGKILLs and SIGSTOPs of a pool's workers while threads of its program call apply_async,
/// map, imap and cancel, with results small and large. A ledger in shared memory shows how often
/// each item ran. Every call must be answered, with the right value or with the reason why not; no
/// item may run twice.
/// stress.pool_soak [SECONDS]; MP_SOAK_SEED repeats the order of kills.

#include <multiprocessing/pool.hpp>
#include <multiprocessing/process.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include <multiprocessing/detail/platform/pidfd.hpp>

#include "support/child.hpp"
#include "support/kill_points.hpp"

namespace {

namespace mp = multiprocessing;
namespace mpd = multiprocessing::detail;
using namespace test;

constexpr std::uint32_t most_items = 1u << 23;
constexpr unsigned workers = 4;
// In at most 3 times the time: with a budget, and ten times that of a soak.
constexpr std::uint64_t least_kills = 3000, least_tasks = 30'000;
constexpr std::chrono::nanoseconds stall = 60s, item_timeout = 60ms, stopped_for = 250ms;

struct ledger {
    std::atomic<std::uint8_t> ran[most_items];
    std::atomic<std::int64_t> started[workers];  // a worker, by its place; CLOCK_MONOTONIC in ns
};
ledger& sh = shared_memory<ledger>();

// --- what the workers do

std::uint32_t mixed(std::uint32_t x) {
    x = (x ^ x >> 16) * 0x45d9f3bu;
    x = (x ^ x >> 16) * 0x45d9f3bu;
    return x ^ x >> 16;
}
void take_a_while(std::uint32_t item) {
    const auto until = clock::now() + std::chrono::microseconds(mixed(item) % 256);
    while (clock::now() < until) {
    }
}
std::uint32_t number_of(std::uint32_t item) {
    ++sh.ran[item];
    take_a_while(item);
    return mixed(item);
}
std::string expected_text(std::uint32_t item) {
    const std::uint32_t x = mixed(item);
    std::string text(x % 16 == 0 ? x % 2'000'000 : x % 40'000, static_cast<char>('a' + x % 26));
    return text + std::to_string(item);
}
std::string text_of(std::uint32_t item) {
    ++sh.ran[item];
    return expected_text(item);
}
bool right(std::uint32_t item, std::uint32_t got) { return got == mixed(item); }
bool right(std::uint32_t item, const std::string& got) { return got == expected_text(item); }

// --- what the program sees

struct totals {
    std::atomic<std::uint64_t> tasks, items, results, crashed, timed_out, cancelled, maps,
        maps_whole;
    std::atomic<std::uint64_t> wrong, unanswered, unexpected, not_run, progress;
} total{};
std::atomic<std::uint32_t> next_item{0};
std::atomic<bool> over{false};

/// So many new items. \return the first; nothing at the end
std::optional<std::uint32_t> new_items(std::uint32_t count) {
    const std::uint32_t first = next_item.fetch_add(count);
    if (over || first + count >= most_items) return {};
    total.items += count;
    return first;
}

std::uint32_t below(std::mt19937& random, std::uint32_t limit) {
    return static_cast<std::uint32_t>(random()) % limit;
}

/// Counts what one item, or a whole map, came to.
template <class F>
void count_answer(F take) {
    try {
        take();
    } catch (const mp::WorkerCrashed&) {
        ++total.crashed;
    } catch (const mp::TaskTimeout&) {
        ++total.timed_out;
    } catch (const mp::Cancelled&) {
        ++total.cancelled;
    } catch (const mp::TimeoutError&) {
        ++total.unanswered;
    } catch (const std::exception& e) {
        ++total.unexpected;
        std::printf("unexpected: %s\n", e.what());
    }
    ++total.progress;
}
template <class T>
void count_result(std::uint32_t item, const T& got) {
    ++total.results;
    if (!right(item, got)) ++total.wrong;
    if (sh.ran[item] != 1) ++total.not_run;
}

template <class F>
void call_one_by_one(mp::Pool& pool, F f, std::mt19937& random) {
    const std::uint32_t count = 1 + below(random, 100);
    const auto first = new_items(count);
    if (!first) return;
    std::vector<decltype(pool.apply_async(f, *first))> all;
    for (std::uint32_t i = 0; i < count; ++i) all.push_back(pool.apply_async(f, *first + i));
    total.tasks += count;
    for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint32_t item = *first + i;
        if (random() % 32 == 0) all[i].cancel();
        count_answer([&] { count_result(item, all[i].get(stall)); });
    }
}
std::vector<std::uint32_t> numbers(std::uint32_t first, std::uint32_t count) {
    std::vector<std::uint32_t> all(count);
    for (std::uint32_t i = 0; i < count; ++i) all[i] = first + i;
    return all;
}
template <class F>
void call_map(mp::Pool& pool, F f, std::mt19937& random) {
    const std::uint32_t count = 1 + below(random, 60);
    const auto first = new_items(count);
    if (!first) return;
    ++total.tasks;
    ++total.maps;
    count_answer([&] {
        const auto all = pool.map(f, numbers(*first, count), {.chunksize = random() % 12});
        for (std::uint32_t i = 0; i < count; ++i) count_result(*first + i, all[i]);
        ++total.maps_whole;
    });
}
template <class F>
void call_imap(mp::Pool& pool, F f, std::mt19937& random, std::uint32_t most) {
    const std::uint32_t count = 1 + below(random, most);
    const auto first = new_items(count);
    if (!first) return;
    const std::size_t chunksize = 1 + random() % 20;
    total.tasks += (count + chunksize - 1) / chunksize;
    auto results = pool.imap(f, numbers(*first, count), {.chunksize = chunksize});
    std::uint32_t item = *first;
    for (auto it = results.begin(); it != results.end(); ++it, ++item)
        count_answer([&] { count_result(item, *it); });
    if (item != *first + count) ++total.unanswered;
}

void caller(mp::Pool& pool, unsigned kind, std::uint64_t seed, const std::atomic<bool>& enough) {
    std::mt19937 random(static_cast<std::uint32_t>(seed) + kind + 1);
    while (!enough) try {
            switch (kind) {
                case 0:
                    call_one_by_one(pool, number_of, random);
                    break;
                case 1:
                    call_map(pool, number_of, random);
                    break;
                case 2:
                    call_imap(pool, number_of, random, 300);
                    break;
                default:
                    if (random() % 2)
                        call_imap(pool, text_of, random, 40);
                    else
                        call_one_by_one(pool, text_of, random);
            }
        } catch (const std::exception& e) {
            ++total.unexpected;
            std::printf("unexpected: %s\n", e.what());
            return;
        }
}

// --- kills

/// 0 if it has ended.
pid_t parent_of(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    std::getline(file, text);
    const auto at = text.rfind(')');
    return at == std::string::npos ? 0
                                   : static_cast<pid_t>(std::strtol(&text[at + 4], nullptr, 10));
}

class killer {
public:
    killer(mp::Pool& pool, pid_t supervisor, std::uint64_t seed)
        : pool_(pool), supervisor_(supervisor), random_(seed) {}

    /// Once, after a random while.
    void act() {
        pause_briefly(std::chrono::microseconds(1 + random_() % 3000));
        end_stopped();
        const std::size_t w = random_() % workers;
        const std::int64_t started = sh.started[w];
        if (killed_[w] != 0 && started > killed_[w]) {
            took_.push_back(static_cast<double>(started - killed_[w]) / 1e6);
            killed_[w] = 0;
        }
        // Mostly of those that have begun: eight in a row that have not would break the pool.
        if (killed_[w] != 0 && random_() % 16 != 0) return;
        const pid_t pid = pool_.stats().workers[w].pid;
        if (pid <= 0) return;
        mpd::unique_fd fd;
        try {
            fd = mpd::open_pidfd(pid);
        } catch (const std::exception&) {  // has ended
            return;
        }
        if (parent_of(pid) != supervisor_) return;  // the number is somebody else's now
        if (random_() % 16 == 0) {
            mpd::send_signal(fd, SIGSTOP);
            killed_[w] = 0;  // a replacement that was stopped says nothing of the time it takes
            stopped_.push_back({std::move(fd), clock::now()});
            ++stops;
            return;
        }
        mpd::send_signal(fd, SIGKILL);
        killed_[w] = mpd::deadline::clock();
        ++kills;
    }
    void end_stopped(bool all = false) {
        std::erase_if(stopped_, [&](auto& one) {
            if (!all && clock::now() - one.second < stopped_for) return false;
            // Within an item it was arrested; elsewhere nobody would miss it.
            mpd::send_signal(one.first, random_() % 2 ? SIGKILL : SIGCONT);
            return true;
        });
    }
    std::uint64_t kills = 0, stops = 0;
    const std::vector<double>& took() const { return took_; }

private:
    mp::Pool& pool_;
    pid_t supervisor_;
    std::mt19937_64 random_;
    std::array<std::int64_t, workers> killed_{};
    std::vector<std::pair<mpd::unique_fd, clock::time_point>> stopped_;
    std::vector<double> took_;  // ms from the kill to the replacement's start
};

double part_of(std::vector<double>& all, double part) {
    if (all.empty()) return 0;
    std::sort(all.begin(), all.end());
    return all[static_cast<std::size_t>(part * static_cast<double>(all.size() - 1))];
}

}  // namespace

int main(int argc, char** argv) {
    double seconds = argc > 1 ? std::atof(argv[1]) : 600;
    const auto budget = time_budget();
    if (argc < 2 && budget) seconds = std::chrono::duration<double>(*budget).count();
    const std::uint64_t times = argc < 2 && !budget ? 10 : 1;
    const std::uint64_t seed = moving_seed("MP_SOAK_SEED");
    std::printf("MP_SOAK_SEED=%llu, %.0f s\n", static_cast<unsigned long long>(seed), seconds);
    std::fflush(stdout);
    ::prctl(PR_SET_TIMERSLACK, 1000);

    const auto begin = clock::now();
    const auto past = [&] { return std::chrono::duration<double>(clock::now() - begin).count(); };
    std::uint64_t kills = 0, stops = 0, last = 0;
    std::vector<double> took;
    auto moved = begin;
    const auto enough = [&] {
        return kills >= times * least_kills && total.tasks >= times * least_tasks;
    };
    const auto ends = [&] {
        return past() >= (enough() ? seconds : 3 * seconds) || next_item >= most_items - 10'000;
    };
    unsigned rounds = 0;
    for (; !ends(); ++rounds) {
        mp::Pool pool(mp::PoolOptions{.processes = workers,
                                      .initializer =
                                          [] {
                                              const std::string name = mp::current_process().name();
                                              const auto w = std::strtoul(
                                                  &name[name.rfind('-') + 1], nullptr, 10);
                                              sh.started[w - 1] = mpd::deadline::clock();
                                          },
                                      .maxtasksperchild = rounds % 3 == 2 ? 50u : 0u,
                                      .task_timeout = item_timeout});
        killer kill(pool, mp::active_children().front().pid(), seed + rounds);
        std::atomic<bool> round_ends{false};
        std::atomic<int> left{4};
        std::vector<std::thread> callers;
        for (unsigned kind = 0; kind < 4; ++kind)
            callers.emplace_back([&, kind] {
                caller(pool, kind, seed + 100 * rounds, round_ends);
                --left;
            });
        const double until = past() + std::max(1.0, seconds / 8);
        while (left != 0) {
            kill.act();
            if (past() >= until) round_ends = true;
            const std::uint64_t now = total.progress;
            if (now != last) {
                last = now;
                moved = clock::now();
            } else if (clock::now() - moved > stall) {
                std::printf("FAILED: a stall after %llu kills in round %u; %llu answers\n",
                            (unsigned long long)(kills + kill.kills), rounds,
                            (unsigned long long)now);
                std::fflush(stdout);
                std::_Exit(1);  // the supervisor's lifeline ends the rest
            }
        }
        for (std::thread& each : callers) each.join();
        kill.end_stopped(true);
        kills += kill.kills;
        stops += kill.stops;
        took.insert(took.end(), kill.took().begin(), kill.took().end());
    }
    over = true;

    std::uint64_t twice = 0, ran = 0;
    for (std::uint32_t i = 0; i < std::min<std::uint32_t>(next_item, most_items); ++i) {
        ran += sh.ran[i] != 0;
        twice += sh.ran[i] > 1;
    }
    const auto n = [](std::uint64_t x) { return static_cast<unsigned long long>(x); };
    std::printf(
        "%.0f s, %u pools; kills %llu, stops %llu; tasks %llu of %llu items, %llu ran\n"
        "results %llu, crashed %llu, timed out %llu, cancelled %llu; maps %llu, whole %llu\n"
        "unanswered %llu, wrong %llu, run twice %llu, result without run %llu, unexpected %llu\n"
        "replaced after p50 %.2f ms, p99 %.2f ms (%zu seen)\n",
        past(), rounds, n(kills), n(stops), n(total.tasks), n(total.items), n(ran),
        n(total.results), n(total.crashed), n(total.timed_out), n(total.cancelled), n(total.maps),
        n(total.maps_whole), n(total.unanswered), n(total.wrong), n(twice), n(total.not_run),
        n(total.unexpected), part_of(took, 0.5), part_of(took, 0.99), took.size());
    const bool good = total.unanswered == 0 && total.wrong == 0 && twice == 0 &&
                      total.not_run == 0 && total.unexpected == 0 && (enough() || argc > 1) &&
                      total.results > 0 && mp::active_children().empty();
    if (!enough())
        std::printf("fewer than %llu kills or %llu tasks\n", n(times * least_kills),
                    n(times * least_tasks));
    std::puts(good ? "good" : "FAILED");
    return !good;
}
