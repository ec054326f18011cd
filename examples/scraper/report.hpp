// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What came out, for people. The same for the same site whatever the number of processes, but for
/// the part that begins with "Slowest pages".

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <ostream>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "crawl.hpp"

namespace scraper {

/// A link that leads nowhere.
struct Broken {
    std::string error = {};
    std::vector<std::pair<std::string, std::uint32_t>> places = {};  // page and line; none: a seed
};

struct Summary {
    std::vector<const Page*> pages = {};  // HTML
    std::size_t redirects = 0, others = 0, links = 0;
    std::uint64_t bytes = 0, words = 0;
    std::map<std::string, std::size_t> titles = {};  // with the number of pages that bear it
    std::map<std::string, Broken> broken = {};
};

namespace detail {

/// Why a link to `url` is broken; "" if it is not. Redirects are followed to their end.
inline std::string problem(const Result& result, const std::string& url) {
    std::set<std::string_view> passed;
    for (const std::string* at = &url;;) {
        const auto page = result.pages.find(*at);
        if (page == result.pages.end()) return {};
        const auto& [key, found] = *page;
        if (!passed.insert(key).second) return "redirect loop";
        if (!found.error.empty() && passed.size() > 1 && found.redirect.empty())
            return "redirects to " + key + ": " + found.error;
        if (!found.error.empty() || found.redirect.empty()) return found.error;
        at = &found.redirect;
    }
}

/// 1234567 as "1,234,567".
inline std::string grouped(std::uint64_t number) {
    std::string text = std::to_string(number);
    for (std::size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, ",");
    return text;
}

template <class... Args>
std::string format(const char* pattern, Args... args) {
    char buffer[256];
    std::snprintf(buffer, sizeof buffer, pattern, args...);
    return buffer;
}

inline std::string count(std::uint64_t n, std::string_view one) {
    return grouped(n) + ' ' + std::string(one) + (n == 1 ? "" : one.ends_with("s") ? "es" : "s");
}

}  // namespace detail

inline Summary summarize(const Result& result) {
    Summary sum;
    std::unordered_map<std::string, std::string> problems;
    const auto problem = [&](const std::string& url) -> const std::string& {
        const auto [known, fresh] = problems.try_emplace(url);
        if (fresh) known->second = detail::problem(result, url);
        return known->second;
    };
    for (const auto& [url, page] : result.pages) {
        if (page.html) sum.pages.push_back(&page);
        if (!page.redirect.empty()) ++sum.redirects;
        if (!page.html && page.redirect.empty() && page.error.empty()) ++sum.others;
        if (page.html) ++sum.titles[page.document.title];
        sum.bytes += page.bytes;
        sum.words += page.document.words;
        sum.links += page.document.links.size();
        for (const Link& link : page.document.malformed) {
            sum.broken[link.url].error = "malformed URL";
            sum.broken[link.url].places.emplace_back(url, link.line);
        }
        for (const Link& link : page.document.links) {
            if (problem(link.url).empty()) continue;
            sum.broken[link.url].error = problem(link.url);
            sum.broken[link.url].places.emplace_back(url, link.line);
        }
    }
    for (const std::string& seed : result.seeds)
        if (!problem(seed).empty()) sum.broken[seed].error = problem(seed);
    return sum;
}

inline std::vector<const Page*> slowest(const Result& result, std::size_t most) {
    std::vector<const Page*> pages;
    for (const auto& [url, page] : result.pages) pages.push_back(&page);
    std::ranges::stable_sort(pages, std::greater{}, &Page::seconds);
    pages.resize(std::min(pages.size(), most));
    return pages;
}

/// Writes the report. With one site, addresses stand without it.
class Report {
public:
    Report(std::ostream& out, const Result& result, bool bold)
        : out_(out), result_(result), sum_(summarize(result)), bold_(bold) {
        std::set<std::string> origins;
        for (const auto& [url, page] : result.pages) origins.insert(origin_of(url));
        if (origins.size() == 1) origin_ = *origins.begin();
    }

    void write() const {
        write_totals();
        write_titles();
        write_broken();
        write_slowest();
        write_workers();
    }

    void heading(std::string_view text) const {
        out_ << '\n' << (bold_ ? "\033[1m" : "") << text << (bold_ ? "\033[0m" : "") << '\n';
    }

private:
    std::string shown(const std::string& url) const {
        return !origin_.empty() && url.starts_with(origin_ + '/') ? url.substr(origin_.size())
                                                                  : url;
    }

    void write_totals() const {
        using detail::count;
        heading(origin_.empty() ? "Crawled" : "Crawled " + origin_);
        out_ << "  " << count(sum_.pages.size(), "page") << ", "
             << detail::format("%.1f MB, ", static_cast<double>(sum_.bytes) / 1e6)
             << count(sum_.words, "word") << ", " << count(sum_.links, "link") << '\n';
        out_ << "  " << count(sum_.redirects, "redirect") << ", "
             << count(sum_.others, "other file") << ", "
             << count(result_.external.size(), "address") << " elsewhere, "
             << detail::grouped(result_.disallowed.size()) << " refused by robots.txt\n";
        for (const std::string& seed : result_.seeds) {
            const auto page = result_.pages.find(seed);
            if (page != result_.pages.end() && result_.external.contains(page->second.redirect))
                out_ << "  " << seed << " leads to another host: " << page->second.redirect << '\n';
        }
    }

    void write_titles() const {
        const auto untitled = sum_.titles.find("");
        heading("Titles");
        out_ << "  "
             << detail::count(sum_.titles.size() - (untitled != sum_.titles.end()), "title");
        if (untitled != sum_.titles.end()) out_ << ", " << untitled->second << " pages without one";
        out_ << '\n';
        std::vector<std::pair<std::size_t, std::string>> common;
        for (const auto& [title, n] : sum_.titles)
            if (n > 1 && !title.empty()) common.emplace_back(n, title);
        std::ranges::stable_sort(common, std::greater{},
                                 &std::pair<std::size_t, std::string>::first);
        common.resize(std::min<std::size_t>(common.size(), 5));
        for (const auto& [n, title] : common) out_ << detail::format("%6zu x ", n) << title << '\n';
    }

    void write_broken() const {
        constexpr std::size_t most = 4;
        heading("Broken links");
        if (sum_.broken.empty()) out_ << "  none\n";
        for (const auto& [url, broken] : sum_.broken) {
            out_ << "  " << shown(url) << "  (" << broken.error << ")\n";
            if (broken.places.empty()) out_ << "      was given to start with\n";
            for (std::size_t i = 0; i < std::min(most, broken.places.size()); ++i)
                out_ << "      " << shown(broken.places[i].first) << ':' << broken.places[i].second
                     << '\n';
            if (broken.places.size() > most)
                out_ << "      and " << detail::count(broken.places.size() - most, "more page")
                     << '\n';
        }
    }

    void write_slowest() const {
        heading("Slowest pages");
        for (const Page* page : slowest(result_, 5))
            out_ << detail::format("  %7.1f ms %7.1f kB  ", page->seconds * 1e3,
                                   static_cast<double>(page->bytes) / 1e3)
                 << shown(page->url) << '\n';
    }

    void write_workers() const {
        heading("Pages of each worker");
        const std::size_t most = std::max<std::size_t>(1, std::ranges::max(result_.per_worker));
        for (std::size_t i = 0; i < result_.per_worker.size(); ++i) {
            const std::size_t n = result_.per_worker[i];
            out_ << detail::format("  Worker-%-4zu %6zu  ", i + 1, n)
                 << std::string(40 * n / most, '=') << '\n';
        }
        if (result_.killed > 0)
            out_ << "  " << detail::count(result_.killed, "worker") << " killed and replaced\n";
    }

    std::ostream& out_;
    const Result& result_;
    Summary sum_;
    bool bold_;
    std::string origin_ = {};
};

}  // namespace scraper
