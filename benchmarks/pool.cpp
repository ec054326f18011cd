// SPDX-License-Identifier: BSL-1.0
//
// pool WHO WHAT: one figure of a pool of two workers.
//   WHO   ours; threads (mp::ThreadPool); tbb (oneTBB); async (std::async); fork (two children
//         forked for a map, results through a pipe)
//   WHAT  apply       one call at a time: the median, in us
//         submit      1e5 calls submitted, then all results collected: us a task
//         map5 map6   a map over so many (1e5, 1e6) trivial items: ms
//         sleepy      1,000 items that compute for 1 ms: % of the ideal on two workers
//         skewed      10,000 items of 10 us, then 100 of 10 ms: % of the ideal
//         vectors     64 vectors of 1e6 doubles out and back: ms an item
//         open        a pool made and closed: ms; open_big: with 1 GiB touched before
//         captured    mp::map over a captured table of 1 GiB, 100 items: ms
//         submit64    as submit, with 64 workers of which 62 have nothing to do: us a task
//         queued      1e6 tasks that wait: bytes of memory for each
//         idle        64 idle workers: % of a core

#include <multiprocessing/pool.hpp>

#include <cstring>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#ifdef MP_BENCHMARK_TBB
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>
#endif

#include "support.hpp"

namespace {

namespace mp = multiprocessing;

int square(int x) { return static_cast<int>(static_cast<unsigned>(x) * static_cast<unsigned>(x)); }
int one_ms(int x) {
    bench::stay_busy(1'000'000);
    return x;
}
int uneven(int x) {
    bench::stay_busy(x < 10'000 ? 10'000 : 10'000'000);
    return x;
}
std::vector<double> scaled(std::vector<double> v) {
    for (double& d : v) d *= 2;
    return v;
}

/// Two threads of oneTBB, or std::async, behind the calls that are measured.
struct async_peer {
    template <class F, class... Args>
    auto apply(F f, Args... args) {
        return std::async(std::launch::async, f, args...).get();
    }
    template <class F>
    auto apply_async(F f, int x) {
        return std::async(std::launch::async, f, x);
    }
    template <class F, class T>
    auto map(F f, const std::vector<T>& in) {
        std::vector<decltype(f(in[0]))> out(in.size());
        const auto half = [&](std::size_t from, std::size_t to) {
            for (std::size_t i = from; i < to; ++i) out[i] = f(in[i]);
        };
        auto other = std::async(std::launch::async, half, 0, in.size() / 2);
        half(in.size() / 2, in.size());
        other.get();
        return out;
    }
};
#ifdef MP_BENCHMARK_TBB
struct tbb_peer {
    tbb::global_control two{tbb::global_control::max_allowed_parallelism, 2};
    template <class T>
    struct result {
        std::unique_ptr<std::promise<T>> promise = std::make_unique<std::promise<T>>();
        T get() { return promise->get_future().get(); }
    };
    tbb::task_arena arena{2};
    template <class F, class... Args>
    auto apply(F f,
               Args... args) {  // by another thread, as a pool does: wait() alone would run it here
        std::promise<decltype(f(args...))> promise;
        arena.enqueue([&] { promise.set_value(f(args...)); });
        return promise.get_future().get();
    }
    template <class F>
    auto apply_async(F f, int x) {
        result<decltype(f(x))> made;
        arena.enqueue([f, x, promise = made.promise.get()] { promise->set_value(f(x)); });
        return made;
    }
    template <class F, class T>
    auto map(F f, const std::vector<T>& in) {
        std::vector<decltype(f(in[0]))> out(in.size());
        tbb::parallel_for(std::size_t{0}, in.size(), [&](std::size_t i) { out[i] = f(in[i]); });
        return out;
    }
};
#endif
/// Two children for each map, which take halves.
struct fork_peer {
    template <class F, class T>
    auto map(F f, const std::vector<T>& in) {
        using R = decltype(f(in[0]));
        std::vector<R> out(in.size());
        int pipes[2][2];
        bench::children both;
        const std::size_t middle = in.size() / 2;
        for (int half = 0; half < 2; ++half) {
            if (::pipe(pipes[half]) != 0) throw std::runtime_error("pipe");
            both.start([&] {
                const std::size_t from = half ? middle : 0, to = half ? in.size() : middle;
                for (std::size_t i = from; i < to; ++i) out[i] = f(in[i]);
                const char* at = reinterpret_cast<const char*>(out.data() + from);
                for (std::size_t left = (to - from) * sizeof(R); left != 0;) {
                    const ssize_t put = ::write(pipes[half][1], at, left);
                    if (put <= 0) ::_exit(1);
                    at += put;
                    left -= static_cast<std::size_t>(put);
                }
            });
            ::close(pipes[half][1]);
        }
        for (int half = 0; half < 2; ++half) {
            const std::size_t from = half ? middle : 0, to = half ? in.size() : middle;
            char* at = reinterpret_cast<char*>(out.data() + from);
            for (std::size_t left = (to - from) * sizeof(R); left != 0;) {
                const ssize_t got = ::read(pipes[half][0], at, left);
                if (got <= 0) throw std::runtime_error("read");
                at += got;
                left -= static_cast<std::size_t>(got);
            }
            ::close(pipes[half][0]);
        }
        both.join();
        return out;
    }
};

std::vector<int> numbers(int n) {
    std::vector<int> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

template <class F>
double milliseconds(F f) {
    const std::int64_t begin = bench::now();
    f();
    return static_cast<double>(bench::now() - begin) / 1e6;
}

template <class Pool>
double apply(Pool& pool) {
    std::vector<std::int64_t> times;
    for (int i = 0; i < 10'000; ++i) {
        const std::int64_t begin = bench::now();
        bench::keep(pool.apply(square, i));
        times.push_back(bench::now() - begin);
    }
    return static_cast<double>(bench::median(times)) / 1e3;
}

template <class Pool>
double submit(Pool& pool, int tasks) {
    return milliseconds([&] {
               std::vector<decltype(pool.apply_async(square, 0))> results;
               results.reserve(static_cast<std::size_t>(tasks));
               for (int i = 0; i < tasks; ++i) results.push_back(pool.apply_async(square, i));
               long sum = 0;
               for (auto& result : results) sum += result.get();
               bench::keep(sum);
           }) *
           1e3 / tasks;
}

template <class Pool>
double mapped(Pool& pool, const std::string& what) {
    if (what == "map5" || what == "map6") {
        const auto in = numbers(what == "map5" ? 100'000 : 1'000'000);
        std::vector<double> times;
        for (int i = 0; i < 5; ++i)
            times.push_back(milliseconds([&] { bench::keep(pool.map(square, in).size()); }));
        return bench::median(times);
    }
    if (what == "sleepy") {
        const auto in = numbers(1000);
        return 100 * 500 / milliseconds([&] { bench::keep(pool.map(one_ms, in).size()); });
    }
    if (what == "skewed") {
        const auto in = numbers(10'100);
        return 100 * (100 + 1000) / 2.0 /
               milliseconds([&] { bench::keep(pool.map(uneven, in).size()); });
    }
    throw std::runtime_error("what is " + what);
}

template <class Pool>
double vectors(Pool& pool) {
    const std::vector<std::vector<double>> in(64, std::vector<double>(1'000'000, 1.5));
    return milliseconds([&] { bench::keep(pool.map(scaled, in).size()); }) / 64;
}

/// kB of a line of /proc/<pid>/<file>.
double kilobytes(const std::string& file, const std::string& line) {
    std::ifstream from("/proc/self/" + file);
    for (std::string word; from >> word;)
        if (word == line) {
            double value = 0;
            from >> value;
            return value;
        }
    return 0;
}

double ours(const std::string& what) {
    if (what == "open" || what == "open_big") {
        std::vector<char> touched(what == "open_big" ? std::size_t{1} << 30 : 1, 'x');
        bench::keep(touched.data());
        std::vector<double> times;
        for (int i = 0; i < 15; ++i) times.push_back(milliseconds([] { mp::Pool pool(2); }));
        return bench::median(times);
    }
    if (what == "captured") {
        const std::vector<char> table(std::size_t{1} << 30, 1);
        std::vector<double> times;
        for (int i = 0; i < 3; ++i)
            times.push_back(milliseconds([&] {
                bench::keep(
                    mp::map([&](int at) { return table[static_cast<std::size_t>(at) << 20]; },
                            numbers(100))
                        .size());
            }));
        return bench::median(times);
    }
    if (what == "submit64" || what == "idle") {
        mp::Pool pool(64);
        pool.map(square, numbers(1000));
        if (what == "submit64") return submit(pool, 100'000);
        const auto ticks = [&] {  // of the workers and the supervisor, by their statistics
            double sum = 0;
            for (const pid_t pid : pool.worker_pids()) {
                std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
                std::string word;
                for (int field = 1; field <= 15 && stat >> word; ++field)
                    if (field >= 14) sum += std::stod(word);
            }
            return sum;
        };
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        const double before = ticks();
        std::this_thread::sleep_for(std::chrono::seconds(1));
        return (ticks() - before) * 100 / static_cast<double>(::sysconf(_SC_CLK_TCK));
    }
    mp::Pool pool(2);
    while (pool.worker_pids().size() < 2) pool.apply(square, 1);
    if (what == "queued") {
        constexpr int tasks = 1'000'000;
        const double before = kilobytes("smaps_rollup", "Pss:");
        std::vector<mp::AsyncResult<int>> results;
        results.reserve(tasks);
        auto stop = [&pool] {
            for (const pid_t pid : pool.worker_pids()) ::kill(pid, SIGSTOP);
        };
        stop();
        for (int i = 0; i < tasks; ++i) results.push_back(pool.apply_async(square, i));
        const double after = kilobytes("smaps_rollup", "Pss:");
        for (const pid_t pid : pool.worker_pids()) ::kill(pid, SIGCONT);
        long sum = 0;
        for (auto& result : results) sum += result.get();
        bench::keep(sum);
        return (after - before) * 1024 / tasks;
    }
    if (what == "apply") return apply(pool);
    if (what == "submit") return submit(pool, 100'000);
    if (what == "vectors") return vectors(pool);
    return mapped(pool, what);
}

template <class Pool>
double peer(Pool& pool, const std::string& what) {
    if (what == "apply") return apply(pool);
    if (what == "submit") return submit(pool, 100'000);
    if (what == "vectors") return vectors(pool);
    return mapped(pool, what);
}

}  // namespace

int main(int, char** arguments) {
    return bench::program([&] {
        const std::string who = arguments[1], what = arguments[2];
        double figure = 0;
        if (who == "ours") {
            figure = ours(what);
        } else if (who == "threads") {
            mp::ThreadPool pool(2);
            figure = peer(pool, what);
        } else if (who == "async") {
            async_peer pool;
            figure = peer(pool, what);
        } else if (who == "fork") {
            fork_peer pool;
            figure = mapped(pool, what);
#ifdef MP_BENCHMARK_TBB
        } else if (who == "tbb") {
            tbb_peer pool;
            figure = peer(pool, what);
#endif
        } else {
            throw std::runtime_error("who is " + who);
        }
        std::printf("%.6g\n", figure);
    });
}
