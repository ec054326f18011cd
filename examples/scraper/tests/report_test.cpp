// SPDX-License-Identifier: BSL-1.0

#include "report.hpp"
#include "json.hpp"

#include <sstream>

#include "support/catch.hpp"

using namespace scraper;

namespace {

const std::string host = "http://127.0.0.1:1";

Result example() {
    Result result;
    const auto add = [&](Page page) { result.pages[page.url] = page; };
    Page home{.url = host + "/", .status = 200, .html = true, .bytes = 1'234'567};
    home.document = {.title = "A \"title\"", .words = 1234};
    for (const char* name : {"/gone", "/loop1", "/moved", "/away", "/fine"})
        home.document.links.push_back({host + name, 3});
    home.document.malformed.push_back({"http://[", 4});
    add(home);
    add({.url = host + "/gone", .status = 404, .error = "HTTP 404"});
    add({.url = host + "/loop1", .status = 301, .redirect = host + "/loop2"});
    add({.url = host + "/loop2", .status = 301, .redirect = host + "/loop1"});
    add({.url = host + "/moved", .status = 301, .redirect = host + "/gone"});
    add({.url = host + "/away", .status = 301, .redirect = "http://elsewhere/"});
    add({.url = host + "/fine", .status = 301, .redirect = host + "/"});
    result.seeds = {host + "/", host + "/gone"};
    result.external = {"http://elsewhere/"};
    result.per_worker = {7};
    return result;
}

}  // namespace

TEST_CASE("report: links are broken where their redirects end in nothing", "[report]") {
    const Summary sum = summarize(example());
    std::map<std::string, std::string> errors;
    for (const auto& [url, broken] : sum.broken) errors[url] = broken.error;
    CHECK(errors == std::map<std::string, std::string>{
                        {host + "/gone", "HTTP 404"},
                        {host + "/loop1", "redirect loop"},
                        {host + "/moved", "redirects to " + host + "/gone: HTTP 404"},
                        {"http://[", "malformed URL"}});
    CHECK(sum.broken.at(host + "/gone").places.size() == 1);
    CHECK(sum.redirects == 5);
    CHECK(sum.pages.size() == 1);
}

TEST_CASE("report: says where broken links stand", "[report]") {
    std::ostringstream out;
    Report(out, example(), false).write();
    CHECK(out.str().find("1 page, 1.2 MB, 1,234 words, 5 links\n") != std::string::npos);
    CHECK(out.str().find("  /gone  (HTTP 404)\n      /:3\n") != std::string::npos);
}

TEST_CASE("report: JSON strings are quoted", "[report]") {
    CHECK(quoted("a\"b\\c\n") == "\"a\\\"b\\\\c\\u000a\"");
    std::ostringstream out;
    write_json(out, example());
    CHECK(out.str().find("\"title\": \"A \\\"title\\\"\"") != std::string::npos);
}
