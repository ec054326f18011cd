// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// robots.txt as RFC 9309 has it, with the Crawl-delay that many sites add.

#include <charconv>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "url.hpp"

namespace scraper {

/// What a site allows one crawler to ask for.
class Robots {
public:
    /// Allows everything.
    Robots() = default;

    /// \param agent  product token of the crawler, in lower case
    Robots(std::string_view text, std::string_view agent) {
        if (!read(text, agent)) read(text, "*");
    }

    /// The longest rule that matches decides; a tie is an allowance.
    bool allows(std::string_view target) const {
        std::size_t longest = 0;
        bool allowed = true;
        for (const Rule& rule : rules_) {
            const std::size_t length = rule.pattern.size();
            if (length < longest || (length == longest && !rule.allow)) continue;
            if (!matches(rule.pattern, target)) continue;
            longest = length;
            allowed = rule.allow;
        }
        return allowed || target == "/robots.txt";
    }

    /// Wished for between two requests.
    std::chrono::milliseconds delay() const { return delay_; }

private:
    struct Rule {
        std::string pattern;
        bool allow;
    };

    static std::string_view trimmed(std::string_view text) {
        const std::size_t first = text.find_first_not_of(" \t\r");
        if (first == text.npos) return {};
        return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
    }

    /// Reads the groups of `agent`. \return whether there is one
    bool read(std::string_view text, std::string_view agent) {
        bool found = false, ours = false, in_rules = true;
        if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
        while (!text.empty()) {
            const std::size_t end = std::min(text.find('\n'), text.size());
            std::string_view line = text.substr(0, end);
            text.remove_prefix(std::min(end + 1, text.size()));
            line = line.substr(0, line.find('#'));
            const std::size_t colon = line.find(':');
            if (colon == line.npos) continue;
            const std::string key = detail::lower(trimmed(line.substr(0, colon)));
            const std::string_view value = trimmed(line.substr(colon + 1));
            if (key == "user-agent") {
                if (in_rules) ours = in_rules = false;  // the first line of the next group
                if (detail::lower(value) == agent) ours = found = true;
            } else if (key == "allow" || key == "disallow" || key == "crawl-delay") {
                in_rules = true;
                if (!ours || value.empty()) continue;
                if (key == "crawl-delay")
                    read_delay(value);
                else
                    rules_.push_back({pattern(value), key == "allow"});
            }
        }
        return found;
    }

    /// Same spelling as the targets that it is compared with; '*' and '$' stay what they are.
    static std::string pattern(std::string_view text) {
        const bool ends = text.ends_with('$');
        return normal_escapes(text.substr(0, text.size() - ends)) + (ends ? "$" : "");
    }

    void read_delay(std::string_view text) {
        double seconds = 0;
        std::from_chars(text.data(), text.data() + text.size(), seconds);
        if (seconds > 0) delay_ = std::chrono::milliseconds(long(std::min(seconds, 60.0) * 1000));
    }

    /// Is there a beginning of the text that the pattern describes? Linear: no pattern can hang us.
    static bool matches(std::string_view pattern, std::string_view text) {
        std::size_t p = 0, t = 0, star = pattern.npos, from = 0;
        for (;;) {
            if (p == pattern.size()) return true;
            if (pattern[p] == '$' && p + 1 == pattern.size()) {
                if (t == text.size()) return true;
            } else if (pattern[p] == '*') {
                star = p++;
                from = t;
                continue;
            } else if (t < text.size() && pattern[p] == text[t]) {
                ++p, ++t;
                continue;
            }
            if (star == pattern.npos || from >= text.size()) return false;
            p = star + 1;
            t = ++from;
        }
    }

    std::vector<Rule> rules_ = {};
    std::chrono::milliseconds delay_{0};
};

}  // namespace scraper
