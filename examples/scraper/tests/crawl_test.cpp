// SPDX-License-Identifier: BSL-1.0
//
// The coordinator against a web that exists only as a function.

#include "crawl.hpp"

#include <csignal>
#include <cstdlib>

#include "support/catch.hpp"

using namespace scraper;

namespace {

const std::string host = "http://127.0.0.1:1/";

Page page_with(const std::string& url, const std::vector<std::string>& links) {
    Page page{.url = url, .status = 200, .html = true};
    for (const std::string& link : links) page.document.links.push_back({host + link, 1});
    return page;
}

/// Page n leads to 2n+1 and 2n+2, up to 126.
Page tree(Fetcher&, const std::string& url) {
    const int n = std::atoi(url.c_str() + host.size());
    if (n > 62) return page_with(url, {});
    return page_with(url, {std::to_string(2 * n + 1), std::to_string(2 * n + 2)});
}

Options quick(unsigned processes) {
    Options options;
    options.processes = processes;
    options.timeout = std::chrono::seconds(5);
    options.robots = false;
    return options;
}

std::vector<std::string> found(const Result& result) {
    std::vector<std::string> names;
    for (const auto& [url, page] : result.pages) names.push_back(url.substr(host.size()));
    return names;
}

}  // namespace

TEST_CASE("crawl: finds everything once, with any number of workers", "[crawl]") {
    for (unsigned processes : {1u, 3u, 8u}) {
        const Result result = Crawler(quick(processes), tree).run({host + "0"});
        CHECK(result.pages.size() == 127);
        std::size_t sum = 0;
        for (std::size_t n : result.per_worker) sum += n;
        CHECK(sum == 127);
    }
}

TEST_CASE("crawl: limits choose the same pages with any number of workers", "[crawl]") {
    Options few = quick(1), many = quick(4);
    few.max_pages = many.max_pages = 20;
    const auto choice = found(Crawler(few, tree).run({host + "0"}));
    CHECK(choice.size() == 20);
    CHECK(found(Crawler(many, tree).run({host + "0"})) == choice);
    few = quick(1), many = quick(4);
    few.depth = many.depth = 3;
    CHECK(Crawler(few, tree).run({host + "0"}).pages.size() == 15);
    CHECK(Crawler(many, tree).run({host + "0"}).pages.size() == 15);
    few.depth = 0;
    CHECK(Crawler(few, tree).run({host + "0"}).pages.size() == 1);
}

TEST_CASE("crawl: depth counts the shortest way, found late or early", "[crawl]") {
    // A long way 0-1-2-3-t and a slow short one 0-s-t; behind t are u and v.
    const auto web = [](Fetcher&, const std::string& url) {
        const std::string name = url.substr(host.size());
        if (name == "0") return page_with(url, {"1", "s"});
        if (name == "1") return page_with(url, {"2"});
        if (name == "2") return page_with(url, {"t"});
        if (name == "s") ::usleep(50'000);
        if (name == "s") return page_with(url, {"t"});
        if (name == "t") return page_with(url, {"u"});
        if (name == "u") return page_with(url, {"v"});
        return page_with(url, {});
    };
    Options options = quick(2);
    options.depth = 3;
    CHECK(found(Crawler(options, web).run({host + "0"})) ==
          std::vector<std::string>{"0", "1", "2", "s", "t", "u"});
}

TEST_CASE("crawl: endless redirects end", "[crawl]") {
    const auto web = [](Fetcher&, const std::string& url) {
        Page page{.url = url, .status = 302};
        page.redirect = url + "x";
        return page;
    };
    const Result result = Crawler(quick(2), web).run({host});
    REQUIRE(result.pages.size() == 11);
    CHECK(result.pages.rbegin()->second.error == "more than 10 redirects");
}

TEST_CASE("crawl: a page that crashes its worker costs that page only", "[crawl]") {
    const auto web = [](Fetcher& fetcher, const std::string& url) {
        if (url == host + "5") ::raise(SIGKILL);
        if (url == host + "6") ::_exit(7);
        return tree(fetcher, url);
    };
    const Result result = Crawler(quick(3), web).run({host + "0"});
    CHECK(result.pages.size() == 127 - 2 * 30);  // without what is below 5 and 6
    CHECK(result.pages.at(host + "5").error == "crashes its worker (Killed)");
    CHECK(result.pages.at(host + "6").error == "crashes its worker (exit code 7)");
}

TEST_CASE("crawl: a page that hangs its worker is given up", "[crawl]") {
    const auto web = [](Fetcher& fetcher, const std::string& url) {
        if (url == host + "5") ::pause();
        return tree(fetcher, url);
    };
    Options options = quick(2);
    options.timeout = std::chrono::milliseconds(10);
    const Result result = Crawler(options, web).run({host + "0"});
    CHECK(result.pages.size() == 127 - 30);
    CHECK(result.pages.at(host + "5").error == "kept its worker busy for too long");
}

TEST_CASE("crawl: workers killed at any moment lose nothing", "[crawl]") {
    unsigned killed = 0;
    for (int round = 0; round < 5; ++round) {
        Options options = quick(3);
        options.chaos = std::chrono::milliseconds(1);
        const Result result = Crawler(options, tree).run({host + "0"});
        CHECK(result.pages.size() == 127);
        for (const auto& [url, page] : result.pages) CHECK(page.error.empty());
        killed += result.killed;
    }
    CHECK(killed > 20);
}
