// SPDX-License-Identifier: BSL-1.0

#include "url.hpp"

#include "support/catch.hpp"

using namespace scraper;

namespace {

std::string from(std::string_view reference) {
    return resolve("http://a/b/c/d;p?q", reference).value_or("malformed");
}

}  // namespace

TEST_CASE("url: references resolve as in RFC 3986 5.4, without their fragments", "[url]") {
    CHECK(from("g:h") == "g:h");
    CHECK(from("g") == "http://a/b/c/g");
    CHECK(from("./g") == "http://a/b/c/g");
    CHECK(from("g/") == "http://a/b/c/g/");
    CHECK(from("/g") == "http://a/g");
    CHECK(from("//g") == "http://g/");
    CHECK(from("?y") == "http://a/b/c/d;p?y");
    CHECK(from("g?y") == "http://a/b/c/g?y");
    CHECK(from("#s") == "http://a/b/c/d;p?q");
    CHECK(from("g?y#s") == "http://a/b/c/g?y");
    CHECK(from(";x") == "http://a/b/c/;x");
    CHECK(from("") == "http://a/b/c/d;p?q");
    CHECK(from(".") == "http://a/b/c/");
    CHECK(from("..") == "http://a/b/");
    CHECK(from("../g") == "http://a/b/g");
    CHECK(from("../../g") == "http://a/g");
    CHECK(from("../../../../g") == "http://a/g");
    CHECK(from("/./g") == "http://a/g");
    CHECK(from("/../g") == "http://a/g");
    CHECK(from("g.") == "http://a/b/c/g.");
    CHECK(from("..g") == "http://a/b/c/..g");
    CHECK(from("./../g") == "http://a/b/g");
    CHECK(from("g/./h/../i") == "http://a/b/c/g/i");
    CHECK(from("g;x=1/../y") == "http://a/b/c/y");
    CHECK(from("g?y/../x") == "http://a/b/c/g?y/../x");
    CHECK(from("g#s/../x") == "http://a/b/c/g");
}

TEST_CASE("url: two spellings of an address are one", "[url]") {
    CHECK(from("HTTP://EXAMPLE.org:80") == "http://example.org/");
    CHECK(from("https://example.org:443/") == "https://example.org/");
    CHECK(from("http://example.org:8080/") == "http://example.org:8080/");
    CHECK(from("http://example.org:/") == "http://example.org/");
    CHECK(from("http://[::1]:80/x") == "http://[::1]/x");
    CHECK(from("/%7euser/%41%2f%2e%2e/x") == "http://a/~user/A%2F../x");
    CHECK(from("/a b\xC3\xA9\"<>") == "http://a/a%20b%C3%A9%22%3C%3E");
    CHECK(from("/100%") == "http://a/100%25");
    CHECK(from("/%zz") == "http://a/%25zz");
    CHECK(from(" \n g\n/h \t") == "http://a/b/c/g/h");
    CHECK(from("/x?q=a b&c=%e9") == "http://a/x?q=a%20b&c=%E9");
    CHECK(from("/%2e%2E/x") == "http://a/x");
    CHECK(from("//user:secret@g/x") == "http://g/x");
    CHECK(from("?") == "http://a/b/c/d;p?");
    for (const char* text : {"http://a/b%20c?d=%C3%A9", "https://x:81/?", "http://a/;p=1,2"}) {
        CHECK(from(text) == text);
    }
}

TEST_CASE("url: what can't be an address is malformed", "[url]") {
    for (const char* text : {"http://", "http:///x", "http://a b/", "http://a:99999/",
                             "http://a:x/", "http://[::1/", "http://a:0/", "//", "http:x"}) {
        CAPTURE(text);
        CHECK(from(text) == "malformed");
    }
    CHECK(resolve("", "relative") == std::nullopt);
}

TEST_CASE("url: other schemes are left alone", "[url]") {
    CHECK(from("mailto:a@b.c") == "mailto:a@b.c");
    CHECK(from("javascript:void(0)") == "javascript:void(0)");
    CHECK(from("data:text/plain,hi") == "data:text/plain,hi");
    CHECK_FALSE(is_http(from("mailto:a@b.c")));
    CHECK(from("./a:b") == "http://a/b/c/a:b");
}

TEST_CASE("url: parts of an address", "[url]") {
    const std::string url = "http://example.org:8080/a/b?c";
    CHECK(origin_of(url) == "http://example.org:8080");
    CHECK(target_of(url) == "/a/b?c");
    CHECK(site_of(url) == "example.org:8080");
    CHECK(site_of("http://example.org/") == site_of("https://example.org/x"));
    CHECK(is_loopback("http://127.0.0.1:9/"));
    CHECK(is_loopback("http://localhost:9/"));
    CHECK(is_loopback("http://[::1]:9/"));
    CHECK_FALSE(is_loopback("http://localhost.example.org/"));
    CHECK(unescape("/a%20b%2Fc%") == "/a b/c%");
}
