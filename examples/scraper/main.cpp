// SPDX-License-Identifier: BSL-1.0
//
// A parallel web scraper: crawls the hosts of the given URLs, and reports what it finds there.
// Without a URL it serves the Python documentation of this machine and crawls that.

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <curl/curl.h>
#include <getopt.h>
#include <unistd.h>

#include <multiprocessing/process.hpp>

#include "crawl.hpp"
#include "json.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "server.hpp"

namespace {

namespace mp = multiprocessing;

constexpr const char* usage =
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
    scraper::Options options = {};
    std::string json = {};
    std::vector<std::string> urls = {};
};

/// A mistake of the user.
struct UsageError : std::runtime_error {
    using runtime_error::runtime_error;
};

double number(std::string_view option, std::string_view text, double least, double most) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most)
        throw UsageError(std::string(option) + " doesn't take " + std::string(text));
    return value;
}

Arguments read(int argc, char** argv) {
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
    scraper::Options& options = result.options;
    const auto whole = [](std::string_view name, double least) {
        return static_cast<std::size_t>(number(name, optarg, least, 1e9));
    };
    for (int c; (c = ::getopt_long(argc, argv, "p:h", known, nullptr)) != -1;) switch (c) {
            case 'p':
                options.processes = static_cast<unsigned>(number("-p", optarg, 1, 1000));
                break;
            case max_pages:
                options.max_pages = whole("--max-pages", 1);
                break;
            case depth:
                options.depth = whole("--depth", 0);
                break;
            case json:
                result.json = optarg;
                break;
            case timeout:
                options.timeout = std::chrono::milliseconds(
                    static_cast<long>(1000 * number("--timeout", optarg, 0.001, 86'400)));
                break;
            case chaos:
                options.chaos = std::chrono::milliseconds(100);
                break;
            case 'h':
                std::cout << usage;
                std::exit(0);
            default:
                throw UsageError("");
        }
    for (const std::string& text : std::vector<std::string>(argv + optind, argv + argc)) {
        const auto url =
            scraper::resolve("", text.find("://") == text.npos ? "http://" + text : text);
        if (!url || !scraper::is_http(*url)) throw UsageError("not a web address: " + text);
        result.urls.push_back(*url);
    }
    return result;
}

/// Debian's python3.x-doc, the newest.
std::filesystem::path documentation() {
    namespace fs = std::filesystem;
    std::optional<fs::path> newest;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/usr/share/doc", error)) {
        const fs::path pages = entry.path() / "html";
        if (entry.path().filename().string().starts_with("python3.") &&
            fs::exists(pages / "contents.html", error) && (!newest || *newest < pages))
            newest = pages;
    }
    if (!newest)
        throw std::runtime_error(
            "no Python documentation under /usr/share/doc: "
            "install python3.11-doc, or name a URL");
    return *newest;
}

scraper::Result crawl(const scraper::Options& options, const std::vector<std::string>& urls) {
    scraper::ProgressBar bar(scraper::detail::count(options.processes, "process"));
    return scraper::Crawler(options).run(urls, std::ref(bar));
}

double rate(const scraper::Result& result) {
    return static_cast<double>(result.pages.size()) / result.seconds;
}

void run(Arguments arguments) {
    std::optional<mp::Process> server;
    if (arguments.urls.empty()) {
        scraper::FileServer files(documentation());
        arguments.urls = {files.url()};
        server.emplace(mp::ProcessOptions{.name = "Server", .daemon = true},
                       [&] { files.serve(); });
        server->start();
    }

    const scraper::Options& options = arguments.options;
    const scraper::Result result = crawl(options, arguments.urls);
    const bool bold = ::isatty(STDOUT_FILENO) == 1;
    scraper::Report(std::cout, result, bold).write();

    const auto speed = [](unsigned processes, const scraper::Result& of) {
        const std::string who = scraper::detail::count(processes, "process");
        std::cout << scraper::detail::format("  %-14s %7.2f s %8.0f pages/s", who.c_str(),
                                             of.seconds, rate(of));
    };
    std::cout << (bold ? "\n\033[1mTime: speed\033[0m\n" : "\nTime: speed\n");
    speed(options.processes, result);
    std::cout << std::endl;
    if (server && options.processes > 1 && options.chaos.count() == 0 && arguments.json.empty()) {
        scraper::Options alone = options;
        alone.processes = 1;
        const scraper::Result again = crawl(alone, arguments.urls);
        speed(1, again);
        std::cout << scraper::detail::format("   (%.2f x)\n", rate(result) / rate(again));
    }

    if (!arguments.json.empty()) {
        std::ofstream file(arguments.json);
        scraper::write_json(file, result);
        if (!file.flush()) throw std::runtime_error("can't write " + arguments.json);
    }
}

}  // namespace

int main(int argc, char** argv) {
    try {
        ::curl_global_init(CURL_GLOBAL_DEFAULT);
        run(read(argc, argv));
    } catch (const UsageError& error) {
        if (*error.what()) std::cerr << "scraper: " << error.what() << '\n';
        std::cerr << usage;
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "scraper: " << error.what() << '\n';
        return 1;
    }
}
