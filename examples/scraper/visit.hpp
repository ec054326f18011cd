// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a worker does with a URL: fetch, parse, tell. And the record of it that travels home.

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "fetcher.hpp"
#include "html.hpp"

namespace scraper {

/// All there is to know of one address. A plain aggregate: that is enough to travel in a Queue.
struct Page {
    std::string url = {};
    std::uint32_t worker = 0;
    double seconds = 0;
    long status = 0;
    std::string error = {};     // why this is a broken link; else empty
    std::string redirect = {};  // leads there
    bool html = false;
    std::uint64_t bytes = 0;
    Document document = {};
};

/// Never throws for what a site does.
inline Page visit(Fetcher& fetcher, const std::string& url) {
    const auto start = std::chrono::steady_clock::now();
    const Response response = fetcher.get(url);
    Page page{.url = url, .status = response.status, .error = response.error};
    if (!page.error.empty()) {
        // that says it all
    } else if (response.status / 100 == 3 && !response.redirect.empty()) {
        page.redirect = resolve(url, response.redirect).value_or("");
        if (page.redirect.empty()) page.error = "redirects to a malformed URL";
    } else if (response.status / 100 != 2) {
        page.error = "HTTP " + std::to_string(response.status);
    } else if (response.html()) {
        page.html = true;
        page.bytes = response.body.size();
        page.document = parse_html(response.body, url);
    }
    page.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return page;
}

}  // namespace scraper
