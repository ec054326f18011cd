// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// URLs as RFC 3986 has them: split, resolve against a base, bring into one normal form, so that
/// two spellings of one address are one page.

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace scraper {

/// The components of a URL reference. A component that is not there differs from an empty one.
struct Url {
    std::optional<std::string> scheme = {}, authority = {};
    std::string path = {};
    std::optional<std::string> query = {};  // the fragment stays with the browser: it is cut off

    std::string str() const {
        std::string text;
        if (scheme) text += *scheme + ':';
        if (authority) text += "//" + *authority;
        text += path;
        if (query) text += '?' + *query;
        return text;
    }
};

namespace detail {

inline std::string lower(std::string_view text) {
    std::string result(text);
    std::ranges::transform(result, result.begin(),
                           [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return result;
}

inline bool unreserved(unsigned char c) {
    return std::isalnum(c) ||
           std::string_view("-._~").find(static_cast<char>(c)) != std::string_view::npos;
}

inline std::string percent(unsigned char c) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    return {'%', digits[c >> 4], digits[c & 15]};
}

/// The byte that the escape at text[at] stands for, if it is one.
inline std::optional<unsigned char> escaped_byte(std::string_view text, std::size_t at) {
    unsigned value = 0;
    if (at + 3 > text.size() || text[at] != '%') return {};
    const char* end = text.data() + at + 3;
    if (std::from_chars(end - 2, end, value, 16).ptr != end) return {};
    return static_cast<unsigned char>(value);
}

}  // namespace detail

/// %41 and A are the same, %2f and %2F too, and what must not stand in a URL is escaped.
inline std::string normal_escapes(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto c = static_cast<unsigned char>(text[i]);
        if (const auto byte = detail::escaped_byte(text, i)) {
            result += detail::unreserved(*byte) ? std::string(1, static_cast<char>(*byte))
                                                : detail::percent(*byte);
            i += 2;
        } else if (detail::unreserved(c) ||
                   (c < 128 && std::string_view("/?:@!$&'()*+,;=[]").find(text[i]) !=
                                   std::string_view::npos)) {
            result += text[i];
        } else {
            result += detail::percent(c);
        }
    }
    return result;
}

/// The opposite, for names of files.
inline std::string unescape(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = detail::escaped_byte(text, i);
        result += byte ? static_cast<char>(*byte) : text[i];
        if (byte) i += 2;
    }
    return result;
}

/// RFC 3986 5.2.4: "/a/./b/../c" is "/a/c".
inline std::string without_dot_segments(std::string_view path) {
    std::string result;
    while (!path.empty()) {
        const std::size_t end = std::min(path.find('/', 1), path.size());
        const std::string_view segment = path.substr(0, end);  // "/name"
        const bool last = end == path.size();
        if (segment == "/.." || segment == "/.") {
            if (segment == "/..") result.erase(std::min(result.rfind('/'), result.size()));
            if (last) result += '/';
        } else {
            result += segment;
        }
        path.remove_prefix(end);
    }
    return result;
}

/// Splits a reference as it stands in an href, forgiving what browsers forgive: blanks around it,
/// line ends in it.
inline Url split_url(std::string_view reference) {
    std::string text;
    for (const char c : reference)
        if (c != '\t' && c != '\n' && c != '\r') text += c;
    const auto blank = [](unsigned char c) { return c <= ' '; };
    text.erase(text.begin(), std::ranges::find_if_not(text, blank));
    while (!text.empty() && blank(static_cast<unsigned char>(text.back()))) text.pop_back();

    Url url;
    std::string_view rest = text;
    rest = rest.substr(0, rest.find('#'));
    const std::size_t colon = rest.find_first_of(":/?");
    if (colon != rest.npos && colon > 0 && rest[colon] == ':' &&
        std::isalpha(static_cast<unsigned char>(rest[0]))) {
        url.scheme = detail::lower(rest.substr(0, colon));
        rest.remove_prefix(colon + 1);
    }
    if (rest.starts_with("//")) {
        const std::size_t end = std::min(rest.find_first_of("/?", 2), rest.size());
        url.authority = rest.substr(2, end - 2);
        rest.remove_prefix(end);
    }
    const std::size_t mark = rest.find('?');
    if (mark != rest.npos) url.query = rest.substr(mark + 1);
    url.path = rest.substr(0, mark);
    return url;
}

/// Lower case, without user and password, without the scheme's own port.
/// \return nothing if it can't be the authority of an http URL
inline std::optional<std::string> normal_authority(std::string_view text, std::string_view scheme) {
    text = text.substr(text.rfind('@') + 1);  // npos + 1 is 0
    const std::size_t bracket = text.starts_with('[') ? text.find(']') : 0;
    if (bracket == text.npos) return {};
    const std::size_t colon = text.find(':', bracket);
    const std::string host = detail::lower(text.substr(0, colon));
    const std::string_view port = colon == text.npos ? "" : text.substr(colon + 1);
    if (host.empty() || host.find_first_of(" \"<>\\^`{|}%") != host.npos) return {};
    if (port.empty()) return host;
    std::uint16_t number = 0;
    if (std::from_chars(port.data(), port.data() + port.size(), number).ptr !=
            port.data() + port.size() ||
        number == 0)
        return {};
    const bool usual = number == (scheme == "https" ? 443 : 80);
    return usual ? host : host + ':' + std::to_string(number);
}

/// The address that `reference` means on the page `base`, in normal form and without a fragment.
/// Addresses that are not http or https come back as they are.
/// \return nothing if it is malformed
inline std::optional<std::string> resolve(std::string_view base, std::string_view reference) {
    Url url = split_url(reference);
    if (url.scheme && *url.scheme != "http" && *url.scheme != "https") return url.str();
    if (!url.scheme) {
        const Url from = split_url(base);
        url.scheme = from.scheme;
        if (!url.authority) {
            url.authority = from.authority;
            if (url.path.empty()) {
                url.path = from.path;
                if (!url.query) url.query = from.query;
            } else if (!url.path.starts_with('/')) {
                url.path = from.path.substr(0, from.path.rfind('/') + 1) + url.path;
            }
        }
    }
    if (!url.scheme || !url.authority) return {};
    url.authority = normal_authority(*url.authority, *url.scheme);
    if (!url.authority) return {};
    url.path = without_dot_segments(normal_escapes(url.path));
    if (!url.path.starts_with('/')) url.path.insert(0, "/");
    if (url.query) url.query = normal_escapes(*url.query);
    return url.str();
}

/// Scheme and authority: what one robots.txt speaks for.
inline std::string origin_of(std::string_view url) {
    return std::string(url.substr(0, url.find_first_of("/?", url.find("//") + 2)));
}

/// The rest of it: what a request asks for, and what robots.txt talks about.
inline std::string target_of(std::string_view url) {
    return std::string(url.substr(origin_of(url).size()));
}

/// Host and port; http and https of one host are one site.
inline std::string site_of(std::string_view url) {
    const std::string origin = origin_of(url);
    return origin.substr(origin.find("//") + 2);
}

inline bool is_http(std::string_view url) {
    return url.starts_with("http://") || url.starts_with("https://");
}

/// On this machine: needs no proxy and no politeness.
inline bool is_loopback(std::string_view url) {
    const std::string site = site_of(url);
    return site.starts_with("127.") || site.starts_with("[::1]") ||
           site.substr(0, site.find(':')) == "localhost";
}

}  // namespace scraper
