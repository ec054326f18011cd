// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Lists that static objects enter before main: the types and the exceptions that this program
/// can name. Nothing in them is made on first use, so a forked child finds them ready (F1, F3).

#include <atomic>

namespace multiprocessing::detail {

/// An intrusive list. Any thread may read it at any time.
///
/// Writers  constructors and destructors of static objects: before main, in dlopen and dlclose,
///          at exit. Two constructors may meet, so push is an exchange; destructors run one after
///          the other (the loader's lock, or exit's), so unlinking needs none.
/// An unlinked node keeps its `next`: a reader that stands on it goes on.
template <class Node>
class static_list {
public:
    void push(Node& node) noexcept {
        Node* first = head_.load(std::memory_order_relaxed);  // a guess; the exchange checks it
        do {
            node.next.store(first, std::memory_order_relaxed);
        } while (!head_.compare_exchange_weak(first, &node, std::memory_order_release,
                                              std::memory_order_relaxed));  // (A)
    }

    void unlink(Node& node) noexcept {
        std::atomic<Node*>* at = &head_;
        for (Node* n; (n = at->load(std::memory_order_acquire)) != nullptr; at = &n->next) {
            if (n != &node) continue;
            at->store(node.next.load(std::memory_order_relaxed), std::memory_order_release);
            return;
        }
    }

    /// The first node that fits, or null. (B) pairs with (A): the node's contents.
    template <class Fits>
    const Node* find(Fits fits) const {
        const Node* n = head_.load(std::memory_order_acquire);  // (B)
        while (n != nullptr && !fits(*n)) n = n->next.load(std::memory_order_acquire);
        return n;
    }

private:
    std::atomic<Node*> head_{nullptr};
};

}  // namespace multiprocessing::detail
