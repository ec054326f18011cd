// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What a crawler wants to know of an HTML page, by gumbo: title, words, links. Gumbo accepts
/// everything and repairs it as a browser would.

#include <cctype>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <gumbo.h>

#include "url.hpp"

namespace scraper {

/// A link and the line of its page that it stands on.
struct Link {
    std::string url;
    std::uint32_t line = 0;
};

struct Document {
    std::string title = {};
    std::uint64_t words = 0;
    std::vector<Link> links = {};      // in normal form, each address once
    std::vector<Link> malformed = {};  // as they are written
};

namespace detail {

inline const GumboVector* children_of(const GumboNode& node) {
    switch (node.type) {
        case GUMBO_NODE_DOCUMENT:
            return &node.v.document.children;
        case GUMBO_NODE_ELEMENT:
        case GUMBO_NODE_TEMPLATE:
            return &node.v.element.children;
        default:
            return nullptr;
    }
}

/// The node after `node` in the order of the text. No recursion: pages may nest as deep as they
/// like.
inline const GumboNode* next_node(const GumboNode* node) {
    const GumboVector* children = children_of(*node);
    if (children && children->length > 0) return static_cast<const GumboNode*>(children->data[0]);
    for (; node->parent; node = node->parent) {
        const GumboVector* siblings = children_of(*node->parent);
        const std::size_t next = node->index_within_parent + 1;
        if (next < siblings->length) return static_cast<const GumboNode*>(siblings->data[next]);
    }
    return nullptr;
}

/// Calls f with each word of a text.
template <class F>
void for_each_word(std::string_view text, F f) {
    const auto blank = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
    for (auto at = text.begin(); (at = std::find_if_not(at, text.end(), blank)) != text.end();) {
        const auto end = std::find_if(at, text.end(), blank);
        f(std::string_view(at, end));
        at = end;
    }
}

inline const char* attribute(const GumboElement& element, const char* name) {
    const GumboAttribute* found = gumbo_get_attribute(&element.attributes, name);
    return found ? found->value : nullptr;
}

/// The address that an element leads to, if it leads anywhere.
inline const char* reference(const GumboElement& element) {
    switch (element.tag) {
        case GUMBO_TAG_A:
        case GUMBO_TAG_AREA:
            return attribute(element, "href");
        case GUMBO_TAG_FRAME:
        case GUMBO_TAG_IFRAME:
            return attribute(element, "src");
        default:
            return nullptr;
    }
}

}  // namespace detail

inline Document parse_html(std::string_view text, std::string base) {
    const auto free = [](GumboOutput* o) { gumbo_destroy_output(&kGumboDefaultOptions, o); };
    const std::unique_ptr<GumboOutput, decltype(free)> tree(
        gumbo_parse_with_options(&kGumboDefaultOptions, text.data(), text.size()), free);

    Document page;
    std::unordered_set<std::string> seen;
    bool has_base = false;
    for (const GumboNode* node = tree->document; node; node = detail::next_node(node)) {
        if (node->type == GUMBO_NODE_TEXT) {
            const GumboTag inside = node->parent->v.element.tag;
            if (inside == GUMBO_TAG_TITLE) {
                if (page.title.empty())
                    detail::for_each_word(node->v.text.text, [&](std::string_view word) {
                        page.title.append(page.title.empty() ? "" : " ").append(word);
                    });
            } else if (inside != GUMBO_TAG_SCRIPT && inside != GUMBO_TAG_STYLE) {
                detail::for_each_word(node->v.text.text, [&](std::string_view) { ++page.words; });
            }
        } else if (node->type == GUMBO_NODE_ELEMENT) {
            const GumboElement& element = node->v.element;
            if (element.tag == GUMBO_TAG_BASE && !has_base) {
                const char* href = detail::attribute(element, "href");
                const auto url = href ? resolve(base, href) : std::nullopt;
                has_base = url.has_value();
                if (url) base = *url;
            }
            const char* href = detail::reference(element);
            if (!href) continue;
            const std::uint32_t line = element.start_pos.line;
            if (auto url = resolve(base, href)) {
                if (seen.insert(*url).second) page.links.push_back({*std::move(url), line});
            } else {
                page.malformed.push_back({href, line});
            }
        }
    }
    return page;
}

}  // namespace scraper
