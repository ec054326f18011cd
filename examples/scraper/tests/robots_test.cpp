// SPDX-License-Identifier: BSL-1.0

#include "robots.hpp"

#include "support/catch.hpp"

using scraper::Robots;

TEST_CASE("robots: nothing said is everything allowed", "[robots]") {
    CHECK(Robots().allows("/x"));
    CHECK(Robots("", "us").allows("/x"));
    CHECK(Robots("<html>not a robots.txt: at all</html>", "us").allows("/x"));
    CHECK(Robots("user-agent: *\ndisallow:\n", "us").allows("/x"));
}

TEST_CASE("robots: the longest rule decides, a tie allows", "[robots]") {
    const Robots robots(
        "User-Agent: *\r\nDisallow: /a  # comment\r\nAllow: /a/b\r\n"
        "Disallow: /a/b/c\r\nDisallow: /t\r\nAllow: /t\r\n",
        "us");
    CHECK_FALSE(robots.allows("/a"));
    CHECK_FALSE(robots.allows("/abc"));
    CHECK(robots.allows("/a/b"));
    CHECK_FALSE(robots.allows("/a/b/c/d"));
    CHECK(robots.allows("/t"));
    CHECK(robots.allows("/"));
    CHECK(Robots("User-agent: *\nDisallow: /", "us").allows("/robots.txt"));
}

TEST_CASE("robots: wildcards and ends", "[robots]") {
    const Robots robots("user-agent: *\ndisallow: /*.gif$\ndisallow: /private*/x\ndisallow: /end$",
                        "us");
    CHECK_FALSE(robots.allows("/a/b.gif"));
    CHECK(robots.allows("/a/b.gif?x"));
    CHECK_FALSE(robots.allows("/private/1/x"));
    CHECK(robots.allows("/private/1/y"));
    CHECK_FALSE(robots.allows("/end"));
    CHECK(robots.allows("/ending"));
}

TEST_CASE("robots: a pattern of stars takes no time", "[robots]") {
    std::string stars = "user-agent: *\ndisallow: /";
    for (int i = 0; i < 200; ++i) stars += "*a";
    CHECK(Robots(stars + "b$", "us").allows('/' + std::string(20'000, 'a')));
}

TEST_CASE("robots: our own group, wherever it stands, replaces that for all", "[robots]") {
    const Robots robots(
        "user-agent: other\nuser-agent: US\ndisallow: /1\n\nuser-agent: *\n"
        "disallow: /2\ncrawl-delay: 9\nuser-agent: us\nDisallow: /3\nCrawl-delay: 0.5\n",
        "us");
    CHECK_FALSE(robots.allows("/1"));
    CHECK(robots.allows("/2"));
    CHECK_FALSE(robots.allows("/3"));
    CHECK(robots.delay() == std::chrono::milliseconds(500));
}

TEST_CASE("robots: escapes are compared in normal form", "[robots]") {
    const Robots robots("user-agent: *\ndisallow: /%7ejoe/\ndisallow: /caf\xC3\xA9", "us");
    CHECK_FALSE(robots.allows("/~joe/x"));
    CHECK_FALSE(robots.allows("/caf%C3%A9"));
}
