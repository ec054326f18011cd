// SPDX-License-Identifier: BSL-1.0
//
// A parallel web scraper: crawls the hosts of the given URLs, and reports what it finds there.
// Without a URL it serves the Python documentation of this machine and crawls that.

#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <curl/curl.h>
#include <unistd.h>

#include <multiprocessing/process.hpp>

#include "arguments.hpp"
#include "crawl.hpp"
#include "json.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "server.hpp"

namespace {

namespace mp = multiprocessing;

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

void write_speed(const scraper::Result& result) {
    const std::string who = scraper::detail::count(result.per_worker.size(), "process");
    std::cout << scraper::detail::format("  %-13s %7.2f s %7.0f pages/s\n", who.c_str(),
                                         result.seconds, rate(result))
              << std::flush;
}

void run(scraper::Arguments arguments) {
    std::ofstream json;
    if (!arguments.json.empty()) {
        json.open(arguments.json);
        if (!json) throw std::runtime_error("can't write " + arguments.json);
    }

    std::optional<mp::Process> server;
    if (arguments.urls.empty()) {
        scraper::FileServer files(documentation());
        arguments.urls = {files.url()};
        server.emplace(mp::ProcessOptions{.name = "Server", .daemon = true},
                       [&] { files.serve(); });
        server->start();
    }

    scraper::Options options = arguments.options;
    const scraper::Result result = crawl(options, arguments.urls);
    const scraper::Report report(std::cout, result, ::isatty(STDOUT_FILENO) == 1);
    report.write();

    report.heading("Speed");
    write_speed(result);
    if (server && options.processes > 1 && options.chaos.count() == 0 && !json.is_open()) {
        options.processes = 1;
        const scraper::Result alone = crawl(options, arguments.urls);
        write_speed(alone);
        std::cout << scraper::detail::format("  %.2f times as fast\n", rate(result) / rate(alone));
    }

    if (json.is_open()) {
        scraper::write_json(json, result);
        if (!json.flush()) throw std::runtime_error("can't write " + arguments.json);
    }
}

}  // namespace

int main(int argc, char** argv) {
    try {
        ::curl_global_init(CURL_GLOBAL_DEFAULT);
        const scraper::Arguments arguments = scraper::read_arguments(argc, argv);
        if (arguments.help)
            std::cout << scraper::usage;
        else
            run(arguments);
    } catch (const scraper::UsageError& error) {
        if (*error.what()) std::cerr << "scraper: " << error.what() << '\n';
        std::cerr << scraper::usage;
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "scraper: " << error.what() << '\n';
        return 1;
    }
}
