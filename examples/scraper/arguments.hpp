// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The command line.

#include <charconv>
#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <getopt.h>

#include "crawl.hpp"

namespace scraper {

inline constexpr const char* usage =
    R"(usage: scraper [-p PROCESSES] [--max-pages N] [--depth N] [--json FILE] [--timeout S] [--chaos] [URL...]

Crawls everything that links lead to on the hosts of the URLs. Without a URL: the Python
documentation of this machine (Debian's python3-doc), with N processes and with one.

  -p, --processes N   worker processes (as many as there are CPUs)
      --max-pages N   ask for N addresses at most
      --depth N       follow N links in a row at most
      --json FILE     write all that was found to a file
      --timeout S     seconds for each request (10)
      --chaos         kill a random worker every 100 ms; the answer stays the same
  -h, --help
)";

struct Arguments {
    Options options = {};
    std::string json = {};
    std::vector<std::string> urls = {};
    bool help = false;
};

/// A mistake of the user.
struct UsageError : std::runtime_error {
    using runtime_error::runtime_error;
};

/// The value of the option that getopt stands at.
template <class T>
T number(std::string_view option, T least, T most) {
    const std::string_view text = optarg;
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool good = error == std::errc{} && end == text.data() + text.size();
    if (!good || !(least <= value && value <= most))
        throw UsageError(std::string(option) + " doesn't take " + std::string(text));
    return value;
}

inline Arguments read_arguments(int argc, char** argv) {
    enum { max_pages = 256, depth, json, timeout, chaos };
    const option known[] = {{"processes", required_argument, nullptr, 'p'},
                            {"max-pages", required_argument, nullptr, max_pages},
                            {"depth", required_argument, nullptr, depth},
                            {"json", required_argument, nullptr, json},
                            {"timeout", required_argument, nullptr, timeout},
                            {"chaos", no_argument, nullptr, chaos},
                            {"help", no_argument, nullptr, 'h'},
                            {}};
    Arguments result;
    Options& options = result.options;
    int c = 0;
    while ((c = ::getopt_long(argc, argv, "p:h", known, nullptr)) != -1) {
        if (c == 'p') {
            options.processes = number("-p", 1u, 1000u);
        } else if (c == max_pages) {
            options.max_pages = number<std::size_t>("--max-pages", 1, unlimited);
        } else if (c == depth) {
            options.depth = number<std::size_t>("--depth", 0, unlimited);
        } else if (c == json) {
            result.json = optarg;
        } else if (c == timeout) {
            const double seconds = number("--timeout", 0.001, 86'400.0);
            options.timeout = std::chrono::milliseconds(static_cast<long>(1000 * seconds));
        } else if (c == chaos) {
            options.chaos = std::chrono::milliseconds(100);
        } else if (c == 'h') {
            result.help = true;
        } else {
            throw UsageError("");  // getopt has said why
        }
    }
    for (const std::string& text : std::vector<std::string>(argv + optind, argv + argc)) {
        const auto url = resolve("", text.find("://") == text.npos ? "http://" + text : text);
        if (!url || !is_http(*url)) throw UsageError("not a web address: " + text);
        result.urls.push_back(*url);
    }
    return result;
}

}  // namespace scraper
