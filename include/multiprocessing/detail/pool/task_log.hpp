// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a pool remembers of the tasks that it ran: for stats() and write_trace().

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

#include <multiprocessing/detail/platform/call.hpp>
#include <multiprocessing/detail/platform/clock.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/pool/back.hpp>

namespace multiprocessing {

/// What one worker of a pool did so far.
struct WorkerStats {
    pid_t pid;               // of the process that is there now
    std::uint64_t tasks;     // items that it and its predecessors ran
    double busy;             // share of the pool's life that tasks took, 0 to 1
    std::uint64_t restarts;  // how often it was replaced
};

/// A task that took long.
struct SlowTask {
    std::string callable;
    std::uint64_t index;  // in its map, 0 of a single call; of items that came home together, the
                          // first
    duration run;         // of such items their mean
    pid_t worker;
};

/// What a pool did so far.
struct PoolStats {
    duration uptime;
    std::uint64_t tasks, failed;  // items answered, and how many of them with an exception
    std::vector<WorkerStats> workers;
    std::vector<SlowTask> slowest;  // ten at most, the slowest first
};

namespace detail {

/// Of tasks that came home: the last `most` of them, and the slowest. One thread at a time.
template <compiled = compiled::when_used>
class task_log {
public:
    /// Items of a task that came home together. Times: CLOCK_MONOTONIC, in nanoseconds.
    struct slice {
        std::int64_t submitted;
        worker_run run;
        const char* name;     // lives as long as the program
        std::uint64_t first;  // index of the first item
        std::uint32_t items;
        const char* outcome;  // "done", "crashed"...
    };
    static constexpr std::size_t most = std::size_t{1} << 18;  // 20 MB

    void add(const slice& what) {
        tasks_ += what.items;
        if (slices_.size() < most)
            slices_.push_back(what);
        else
            slices_[added_ % most] = what;
        ++added_;
        const auto slower = [](const slice& a, const slice& b) { return each(a) > each(b); };
        if (slowest_.size() == 10 && !slower(what, slowest_.back())) return;
        slowest_.insert(std::upper_bound(slowest_.begin(), slowest_.end(), what, slower), what);
        if (slowest_.size() > 10) slowest_.pop_back();
    }

    void report(PoolStats& to) const {
        to.tasks = tasks_;
        to.uptime = duration(deadline::clock() - began_);
        for (const slice& s : slowest_)
            to.slowest.push_back({s.name, s.first, duration(each(s)), s.run.pid});
    }

    /// As chrome://tracing and Perfetto read it (the Trace Event Format: complete events, times in
    /// microseconds).
    void write(const char* path, const std::string& pool, std::size_t workers) const {
        struct closer {
            void operator()(std::FILE* f) const { std::fclose(f); }
        };
        const std::unique_ptr<std::FILE, closer> file(std::fopen(path, "we"));
        const auto failed = [&] { throw_os_error(errno, std::string("writing ") + path); };
        if (!file) failed();
        const int pid = static_cast<int>(::getpid());
        std::fprintf(file.get(),
                     "{\"traceEvents\":[\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,"
                     "\"args\":{\"name\":%s}}",
                     pid, quoted(pool).c_str());
        for (std::size_t w = 0; w < workers; ++w)
            std::fprintf(file.get(),
                         ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":%zu,"
                         "\"args\":{\"name\":\"worker %zu\"}}",
                         pid, w + 1, w + 1);
        for (const slice& s : slices_)
            std::fprintf(file.get(),
                         ",\n{\"name\":%s,\"cat\":\"task\",\"ph\":\"X\",\"pid\":%d,\"tid\":%u,"
                         "\"ts\":%s,\"dur\":%s,\"args\":{\"index\":%llu,\"items\":%u,"
                         "\"queued_us\":%s,\"worker_pid\":%d,\"outcome\":\"%s\"}}",
                         quoted(s.name).c_str(), pid, s.run.worker + 1,
                         microseconds(s.run.began - began_).c_str(),
                         microseconds(s.run.busy).c_str(), static_cast<unsigned long long>(s.first),
                         s.items, microseconds(s.run.began - s.submitted).c_str(),
                         static_cast<int>(s.run.pid), s.outcome);
        std::fputs("\n]}\n", file.get());
        if (std::fflush(file.get()) != 0 || std::ferror(file.get()) != 0) failed();
    }

private:
    static std::int64_t each(const slice& s) noexcept {
        return s.run.busy / std::max<std::uint32_t>(s.items, 1);
    }
    /// With a point whatever the locale.
    static std::string microseconds(std::int64_t ns) {
        ns = std::max<std::int64_t>(ns, 0);
        const std::string behind = std::to_string(1000 + ns % 1000);
        return std::to_string(ns / 1000) + '.' + behind.substr(1);
    }
    static std::string quoted(std::string_view text) {
        std::string result = "\"";
        for (const char c : text) {
            if (c == '"' || c == '\\') result += '\\';
            result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
        }
        return result + '"';
    }

    const std::int64_t began_ = deadline::clock();
    std::uint64_t tasks_ = 0, added_ = 0;
    std::vector<slice> slices_, slowest_;
};

}  // namespace detail
}  // namespace multiprocessing
