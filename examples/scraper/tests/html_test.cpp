// SPDX-License-Identifier: BSL-1.0

#include "html.hpp"

#include "support/catch.hpp"

using namespace scraper;

namespace {

Document parse(std::string_view text) { return parse_html(text, "http://a/b/c"); }

std::vector<std::string> urls(const Document& page) {
    std::vector<std::string> result;
    for (const Link& link : page.links) result.push_back(link.url);
    return result;
}

}  // namespace

TEST_CASE("html: title, words, links with their lines", "[html]") {
    const Document page = parse(
        "<!doctype html>\n<title>\n The  title </title>\n<p>Three <b>short</b> words\n"
        "<a href='x#1'>one</a>\n<a href='x#2'>again</a>\n<a href=/y>two</a> <a name=z>no</a>\n"
        "<script>var not_counted;</script><style>p {}</style><!-- nor this -->\n"
        "<map><area href='/z'></map><iframe src='/w'></iframe>");
    CHECK(page.title == "The title");
    CHECK(page.words == 7);
    CHECK(urls(page) ==
          std::vector<std::string>{"http://a/b/x", "http://a/y", "http://a/z", "http://a/w"});
    CHECK(page.links[0].line == 5);
    CHECK(page.links[1].line == 7);
}

TEST_CASE("html: the first usable base counts", "[html]") {
    const Document page = parse("<base target=x><base href='/d/'><base href='/e/'><a href=f>");
    CHECK(urls(page) == std::vector<std::string>{"http://a/d/f"});
}

TEST_CASE("html: broken pages have what can be made of them", "[html]") {
    CHECK(urls(parse("<a href=x><table><a href='y'</table><p><a href=\"z")) ==
          std::vector<std::string>{"http://a/b/x", "http://a/b/y"});
    CHECK(parse("").links.empty());
    CHECK(parse(std::string_view("\0\xFF\xFE<a\0 href=x>", 16)).title.empty());
    CHECK(parse("<title>caf\xE9</title>").title == "caf\xEF\xBF\xBD");
    const Document page =
        parse("<a href='http://['>1</a>\n<a href='http://a:b/'>2</a><a href='ok'>");
    REQUIRE(page.malformed.size() == 2);
    CHECK(page.malformed[1].url == "http://a:b/");
    CHECK(page.malformed[1].line == 2);
    CHECK(page.links.size() == 1);
}

TEST_CASE("html: nesting is not a matter of our stack", "[html]") {
    std::string deep;
    for (int i = 0; i < 1000; ++i) deep += "<div>";
    CHECK(parse(deep + "<a href=x>deep down").words == 2);
}
