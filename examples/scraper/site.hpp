// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Manners: what a site allows, and how often it may be asked.

#include <algorithm>
#include <chrono>
#include <deque>
#include <string>

#include "fetcher.hpp"
#include "robots.hpp"
#include "url.hpp"

namespace scraper {

/// One origin, and what waits to be fetched from it.
struct Site {
    using clock = std::chrono::steady_clock;

    Robots robots = {};
    std::string closed = {};             // why nothing may be fetched; else empty
    std::chrono::milliseconds delay{0};  // between two requests
    clock::time_point next = {};         // no request before
    std::deque<std::string> waiting = {};

    bool ready(clock::time_point now) const { return !waiting.empty() && next <= now; }
};

/// Asks for robots.txt. As RFC 9309 wants it, a site that has none allows everything and one that
/// can't say allows nothing.
inline Site open_site(Fetcher& fetcher, const std::string& origin) {
    using namespace std::chrono_literals;
    Site site;
    std::string url = origin + "/robots.txt";
    Response response = fetcher.get(url, false);
    for (int hop = 0; hop < 5 && response.status / 100 == 3; ++hop) {
        const std::string target = resolve(url, response.redirect).value_or("");
        if (!is_http(target) || site_of(target) != site_of(origin)) break;
        response = fetcher.get(url = target, false);
    }
    if (!response.error.empty())
        site.closed = "robots.txt: " + response.error;
    else if (response.status >= 500)
        site.closed = "robots.txt: HTTP " + std::to_string(response.status);
    else if (response.status / 100 == 2)
        site.robots = Robots(response.body, Fetcher::agent);
    site.delay = std::max(site.robots.delay(), is_loopback(origin) ? 0ms : 250ms);
    return site;
}

}  // namespace scraper
