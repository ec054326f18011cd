// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The same for programs. Everything but "timing" is equal for equal sites.

#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include "report.hpp"

namespace scraper {

inline std::string quoted(std::string_view text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') result += '\\';
        if (static_cast<unsigned char>(c) < 32)
            result += detail::format("\\u%04x", static_cast<unsigned>(c));
        else
            result += c;
    }
    return result + '"';
}

/// Writes `[a, b, c]`, one element a line.
template <class Range, class F>
void write_list(std::ostream& out, const char* name, const Range& range, F write) {
    out << "  " << quoted(name) << ": [";
    const char* separator = "\n    ";
    for (const auto& element : range) {
        out << std::exchange(separator, ",\n    ");
        write(element);
    }
    out << "\n  ],\n";
}

inline void write_json(std::ostream& out, const Result& result) {
    const Summary sum = summarize(result);
    out << "{\n";
    write_list(out, "pages", sum.pages, [&](const Page* page) {
        out << "{\"url\": " << quoted(page->url) << ", \"title\": " << quoted(page->document.title)
            << ", \"bytes\": " << page->bytes << ", \"words\": " << page->document.words
            << ", \"links\": " << page->document.links.size() << '}';
    });
    write_list(out, "broken", sum.broken, [&](const auto& entry) {
        const auto& [url, broken] = entry;
        out << "{\"url\": " << quoted(url) << ", \"error\": " << quoted(broken.error)
            << ", \"at\": [";
        const char* separator = "";
        for (const auto& [page, line] : broken.places)
            out << std::exchange(separator, ", ") << '[' << quoted(page) << ", " << line << ']';
        out << "]}";
    });
    write_list(out, "asked", result.pages, [&](const auto& entry) {
        const auto& [url, page] = entry;
        out << "{\"url\": " << quoted(url) << ", \"status\": " << page.status
            << ", \"redirect\": " << quoted(page.redirect) << ", \"error\": " << quoted(page.error)
            << '}';
    });
    write_list(out, "disallowed", result.disallowed, [&](const auto& url) { out << quoted(url); });
    write_list(out, "external", result.external, [&](const auto& url) { out << quoted(url); });
    out << "  \"bytes\": " << sum.bytes << ", \"words\": " << sum.words << ",\n";
    out << "  \"timing\": {\"seconds\": " << result.seconds << ", \"killed\": " << result.killed
        << ", \"per_worker\": [";
    const char* separator = "";
    for (const std::size_t n : result.per_worker) out << std::exchange(separator, ", ") << n;
    out << "], \"slowest\": [";
    separator = "";
    for (const Page* page : slowest(result, 10))
        out << std::exchange(separator, ", ") << '[' << quoted(page->url) << ", " << page->seconds
            << ']';
    out << "]}\n}\n";
}

}  // namespace scraper
