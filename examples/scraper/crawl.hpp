// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The crawl: worker processes fetch and parse, one coordinator decides what is next.
///
/// Each worker has a Queue with at most one URL in it; all put their records into one Queue. The
/// coordinator alone knows what is found, given out and done, so a worker may be killed at any
/// instruction: when its sentinel says that it ended, the coordinator takes all records that are
/// there, and then gives the URL that the dead worker still owes to another. Before the worker took
/// its URL, while it worked, while it put the record: the record is there, whole, or it is not.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <poll.h>

#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>

#include "site.hpp"
#include "visit.hpp"

namespace scraper {

namespace mp = multiprocessing;

inline constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

struct Options {
    unsigned processes = mp::cpu_count();
    std::size_t max_pages = unlimited;  // addresses asked for
    std::size_t depth = unlimited;      // links between a first page and the last
    std::chrono::milliseconds timeout{10'000};
    std::chrono::milliseconds chaos{0};  // kill a random worker this often; 0: never
    bool robots = true;                  // ask each site for its robots.txt
};

struct Progress {
    std::size_t done = 0, queued = 0;
    double seconds = 0;
    unsigned killed = 0;
};

/// Equal for equal sites, whatever the number of processes and their fate, but for the last lines.
struct Result {
    std::map<std::string, Page> pages = {};  // every address asked for
    std::set<std::string> seeds = {}, disallowed = {}, external = {};

    double seconds = 0;
    std::vector<std::size_t> per_worker = {};
    unsigned killed = 0;  // by chaos
};

/// A worker: looks at pages until there is none.
inline void work(mp::Queue<std::optional<std::string>>& urls, mp::Queue<Page>& records,
                 std::uint32_t number, std::chrono::milliseconds timeout,
                 const std::function<Page(Fetcher&, const std::string&)>& look_at) {
    Fetcher fetcher(timeout);
    while (const auto url = urls.get()) {
        Page page = look_at(fetcher, *url);
        page.worker = number;
        records.put(page);
    }
}

class Crawler {
public:
    using Visit = std::function<Page(Fetcher&, const std::string&)>;
    using Tell = std::function<void(const Progress&)>;
    static constexpr unsigned most_redirects = 10;

    explicit Crawler(Options options, Visit look_at = visit)
        : options_(options), visit_(std::move(look_at)), fetcher_(options.timeout) {}

    /// Crawls everything that the seeds lead to on their hosts. Once for each object.
    /// \param tell  called several times a second
    Result run(
        const std::vector<std::string>& seeds, const Tell& tell = [](const Progress&) {}) {
        for (const std::string& seed : seeds) hosts_.insert(site_of(seed));
        for (const std::string& seed : seeds) offer(seed, {});
        result_.seeds = {seeds.begin(), seeds.end()};
        result_.per_worker.resize(options_.processes);
        for (std::uint32_t n = 0; n < options_.processes; ++n) workers_.push_back(hire(n));

        while (plan(), hand_out(), busy() + queued_ + found_.size() > 0) {
            tell(progress());
            const std::vector<Worker*> dead = wait();
            while (auto page = records_.try_get()) take(*std::move(page));
            for (Worker* worker : dead) replace(*worker);
            kill_some();
        }

        for (Worker& worker : workers_) worker.urls.put(std::nullopt);
        for (Worker& worker : workers_) worker.process.join();
        result_.seconds = progress().seconds;
        tell(progress());
        return std::move(result_);
    }

private:
    using clock = std::chrono::steady_clock;

    struct Worker {
        mp::Process process;
        mp::Queue<std::optional<std::string>> urls;
        std::uint32_t number = 0;
        std::string url = {};  // that it works on; empty: idle
        clock::time_point since = {};
        enum { lives, killed_for_fun, killed_for_hanging } fate = lives;
    };

    /// How an address was found, at best.
    struct Way {
        std::size_t depth = 0;  // links from a seed; not counted where it is unlimited
        unsigned redirects = 0;
    };

    // --- workers

    Worker hire(std::uint32_t number) {
        mp::Queue<std::optional<std::string>> urls;
        mp::Process process({.name = "Worker-" + std::to_string(number + 1), .daemon = true}, work,
                            urls, records_, number, options_.timeout, visit_);
        process.start();
        return {std::move(process), urls, number};
    }

    /// Gives each idle worker something to do.
    void hand_out() {
        const auto now = clock::now();
        for (Worker& worker : workers_) {
            if (!worker.url.empty()) continue;
            const auto site = std::ranges::find_if(
                sites_, [&](const auto& entry) { return entry.second.ready(now); });
            if (site == sites_.end()) return;
            worker.url = std::move(site->second.waiting.front());
            worker.since = now;
            site->second.waiting.pop_front();
            site->second.next = now + site->second.delay;
            --queued_;
            worker.urls.put(worker.url);
        }
    }

    /// Sleeps until a record or the end of a worker comes, or there is something else to do.
    /// \return the workers that have ended
    std::vector<Worker*> wait() {
        std::vector<pollfd> events{{records_.fileno(), POLLIN, 0}};
        for (const Worker& worker : workers_)
            events.push_back({worker.process.sentinel(), POLLIN, 0});
        auto until = clock::now() + std::chrono::milliseconds(100);
        if (options_.chaos.count() > 0) until = std::min(until, next_kill_);
        if (busy() < workers_.size())
            for (const auto& [origin, site] : sites_)
                if (!site.waiting.empty()) until = std::min(until, site.next);
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - clock::now());
        ::poll(events.data(), events.size(), std::max(0, static_cast<int>(left.count())));

        std::vector<Worker*> dead;
        for (std::size_t i = 0; i < workers_.size(); ++i)
            if (events[i + 1].revents != 0) dead.push_back(&workers_[i]);
        return dead;
    }

    /// A worker has ended, and its records are taken.
    void replace(Worker& worker) {
        if (!worker.url.empty()) {
            if (worker.fate == Worker::killed_for_hanging)
                give_up(worker, "kept its worker busy for too long");
            else if (worker.fate == Worker::lives && ++crashes_[worker.url] == 3)
                give_up(worker, "crashes its worker (" + cause(*worker.process.exitcode()) + ')');
            else
                put_back(worker.url);
        }
        worker = hire(worker.number);
    }

    static std::string cause(int exitcode) {
        return exitcode < 0 ? ::strsignal(-exitcode) : "exit code " + std::to_string(exitcode);
    }

    void give_up(Worker& worker, const std::string& error) {
        take({.url = worker.url, .worker = worker.number, .error = error});
    }

    /// Kills the worker of a page that no timeout of libcurl ends: parsers have bad days, too. And
    /// with --chaos any other, but spares a page from its fourth kill, so that slow ones get done.
    void kill_some() {
        const auto now = clock::now();
        const auto longest = 2 * options_.timeout + std::chrono::seconds(2);
        for (Worker& worker : workers_)
            if (!worker.url.empty() && now - worker.since > longest) {
                worker.fate = Worker::killed_for_hanging;
                worker.process.kill();
            }
        if (options_.chaos.count() == 0 || now < next_kill_) return;
        next_kill_ = now + options_.chaos;
        Worker& victim = workers_[random_() % workers_.size()];
        if (victim.fate != Worker::lives || (!victim.url.empty() && ++kills_[victim.url] > 3))
            return;
        victim.fate = Worker::killed_for_fun;
        victim.process.kill();
        ++result_.killed;
    }

    std::size_t busy() const {
        return static_cast<std::size_t>(
            std::ranges::count_if(workers_, [](const Worker& w) { return !w.url.empty(); }));
    }

    Progress progress() const {
        return {result_.pages.size(), queued_ + found_.size() + busy(),
                std::chrono::duration<double>(clock::now() - start_).count(), result_.killed};
    }

    // --- addresses

    /// A record came in.
    void take(Page page) {
        Worker& worker = workers_[page.worker];
        if (worker.url == page.url) worker.url.clear();
        const auto [entry, fresh] = result_.pages.try_emplace(page.url, std::move(page));
        if (!fresh) return;
        ++result_.per_worker[entry->second.worker];
        follow(entry->second);
    }

    /// Offers all that a page leads to.
    void follow(Page& page) {
        const Way way = ways_[page.url];
        if (!page.redirect.empty()) {
            const bool enough = way.redirects == most_redirects;
            page.error = enough ? "more than 10 redirects" : "";
            if (!enough) offer(page.redirect, {way.depth, way.redirects + 1});
        }
        if (options_.depth != unlimited && way.depth == options_.depth) return;
        const std::size_t depth = options_.depth == unlimited ? 0 : way.depth + 1;
        for (const Link& link : page.document.links) offer(link.url, {depth, 0});
    }

    /// An address was found. A better way to one that is known may bring others into reach.
    void offer(const std::string& url, Way way) {
        if (!is_http(url) || !hosts_.contains(site_of(url))) {
            result_.external.insert(url);
            return;
        }
        const auto [known, fresh] = ways_.try_emplace(url, way);
        Way& best = known->second;
        if (fresh) {
            found_.insert(url);
        } else if (way.depth < best.depth || way.redirects < best.redirects) {
            best = {std::min(way.depth, best.depth), std::min(way.redirects, best.redirects)};
            const auto page = result_.pages.find(url);
            if (page != result_.pages.end()) follow(page->second);
        }
    }

    /// Moves what was found to what will be fetched, in the order of the alphabet. If the number of
    /// pages is limited, one round of links after the other, so that the choice is always the same.
    void plan() {
        if (queued_ > 0 || (options_.max_pages != unlimited && busy() > 0)) return;
        for (const std::string& url : std::exchange(found_, {})) {
            if (planned_ == options_.max_pages) return;
            Site& site = site_at(origin_of(url));
            if (!site.closed.empty()) {
                result_.pages[url] = {.url = url, .error = site.closed};
            } else if (!site.robots.allows(target_of(url))) {
                result_.disallowed.insert(url);
            } else {
                site.waiting.push_back(url);
                ++queued_;
                ++planned_;
            }
        }
    }

    void put_back(std::string& url) {
        sites_.at(origin_of(url)).waiting.push_front(std::exchange(url, {}));
        ++queued_;
    }

    Site& site_at(const std::string& origin) {
        const auto known = sites_.find(origin);
        if (known != sites_.end()) return known->second;
        return sites_[origin] = options_.robots ? open_site(fetcher_, origin) : Site{};
    }

    Options options_;
    Visit visit_;
    Fetcher fetcher_;  // for robots.txt
    mp::Queue<Page> records_ = {};
    std::vector<Worker> workers_ = {};
    Result result_ = {};

    std::unordered_map<std::string, Way> ways_ = {};  // every address on our hosts
    std::set<std::string> found_ = {};                // not planned yet
    std::map<std::string, Site> sites_ = {};          // by origin, with the URLs that wait
    std::set<std::string> hosts_ = {};
    std::size_t queued_ = 0, planned_ = 0;

    std::unordered_map<std::string, unsigned> crashes_ = {}, kills_ = {};
    std::minstd_rand random_{std::random_device{}()};
    clock::time_point start_ = clock::now(), next_kill_ = start_;
};

}  // namespace scraper
