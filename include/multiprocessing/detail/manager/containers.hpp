// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What lies in a manager's server behind dict, list, set and Namespace.

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include <multiprocessing/detail/archive/fingerprint.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

[[noreturn, gnu::cold]] inline void throw_no_key(const char* what) {
    throw std::out_of_range(std::string(what) + ": the dict of the manager has no such key");
}

template <class K, class V>
class hosted_dict {
public:
    hosted_dict() = default;
    explicit hosted_dict(std::map<K, V> items) : items_(std::move(items)) {}

    void set(K key, V value) { items_.insert_or_assign(std::move(key), std::move(value)); }
    std::optional<V> get(const K& key) const {
        const auto found = items_.find(key);
        return found != items_.end() ? std::optional<V>(found->second) : std::nullopt;
    }
    const V& at(const K& key) const {
        const auto found = items_.find(key);
        if (found == items_.end()) throw_no_key("at");
        return found->second;
    }
    const V& setdefault(K key, V value) {
        return items_.try_emplace(std::move(key), std::move(value)).first->second;
    }
    bool contains(const K& key) const { return items_.contains(key); }
    bool erase(const K& key) { return items_.erase(key) != 0; }
    std::size_t size() const { return items_.size(); }
    void clear() { items_.clear(); }
    std::vector<K> keys() const {
        std::vector<K> all;
        all.reserve(items_.size());
        for (const auto& [key, value] : items_) all.push_back(key);
        return all;
    }
    std::vector<V> values() const {
        std::vector<V> all;
        all.reserve(items_.size());
        for (const auto& [key, value] : items_) all.push_back(value);
        return all;
    }
    std::vector<std::pair<K, V>> items() const {
        return std::vector<std::pair<K, V>>(items_.begin(), items_.end());
    }
    void update(std::map<K, V> more) {
        more.merge(items_);  // what it has already is newer
        items_.swap(more);
    }
    V pop(const K& key) {
        auto node = items_.extract(key);
        if (node.empty()) throw_no_key("pop");
        return std::move(node.mapped());
    }
    std::optional<V> take(const K& key) {
        auto node = items_.extract(key);
        return node.empty() ? std::nullopt : std::optional<V>(std::move(node.mapped()));
    }
    std::pair<K, V> popitem() {
        if (items_.empty()) throw std::out_of_range("popitem: the dict of the manager is empty");
        auto node = items_.extract(std::prev(items_.end()));
        return {std::move(node.key()), std::move(node.mapped())};
    }
    const std::map<K, V>& copy() const { return items_; }

private:
    std::map<K, V> items_;
};

template <class T>
class hosted_list {
public:
    hosted_list() = default;
    explicit hosted_list(std::vector<T> items) : items_(std::move(items)) {}

    void append(T value) { items_.push_back(std::move(value)); }
    void extend(std::vector<T> more) {
        for (auto&& each : more) items_.push_back(std::move(each));
    }
    T at(std::ptrdiff_t index) const { return items_[place("at", index)]; }
    void set(std::ptrdiff_t index, T value) { items_[place("set", index)] = std::move(value); }
    void insert(std::ptrdiff_t index, T value) {
        const auto size = static_cast<std::ptrdiff_t>(items_.size());
        index = std::clamp<std::ptrdiff_t>(index < 0 ? index + size : index, 0, size);
        items_.insert(items_.begin() + index, std::move(value));
    }
    T pop(std::ptrdiff_t index) {
        const auto at = items_.begin() + static_cast<std::ptrdiff_t>(place("pop", index));
        T value = std::move(*at);
        items_.erase(at);
        return value;
    }
    void remove(const T& value) {
        const auto found = std::find(items_.begin(), items_.end(), value);
        if (found == items_.end())
            throw std::invalid_argument("remove: the list of the manager has no such item");
        items_.erase(found);
    }
    std::size_t index(const T& value) const {
        const auto found = std::find(items_.begin(), items_.end(), value);
        if (found == items_.end())
            throw std::invalid_argument("index: the list of the manager has no such item");
        return static_cast<std::size_t>(found - items_.begin());
    }
    std::size_t count(const T& value) const {
        return static_cast<std::size_t>(std::count(items_.begin(), items_.end(), value));
    }
    std::size_t size() const { return items_.size(); }
    void clear() { items_.clear(); }
    void sort(bool descending) {
        if (descending)
            std::stable_sort(items_.begin(), items_.end(),
                             [](const T& a, const T& b) { return b < a; });
        else
            std::stable_sort(items_.begin(), items_.end());
    }
    void reverse() { std::reverse(items_.begin(), items_.end()); }
    const std::vector<T>& copy() const { return items_; }

private:
    /// As in Python: negative ones count from the end.
    std::size_t place(const char* what, std::ptrdiff_t index) const {
        const auto size = static_cast<std::ptrdiff_t>(items_.size());
        if (index < -size || index >= size)
            throw std::out_of_range(std::string(what) + ": index " + std::to_string(index) +
                                    " of a list of the manager that has " + std::to_string(size) +
                                    " items");
        return static_cast<std::size_t>(index < 0 ? index + size : index);
    }

    std::vector<T> items_;
};

template <class T>
class hosted_set {
public:
    hosted_set() = default;
    explicit hosted_set(std::set<T> items) : items_(std::move(items)) {}

    bool add(T value) { return items_.insert(std::move(value)).second; }
    bool contains(const T& value) const { return items_.contains(value); }
    bool discard(const T& value) { return items_.erase(value) != 0; }
    void remove(const T& value) {
        if (items_.erase(value) == 0)
            throw std::out_of_range("remove: the set of the manager has no such item");
    }
    T pop() {
        if (items_.empty()) throw std::out_of_range("pop: the set of the manager is empty");
        return std::move(items_.extract(items_.begin()).value());
    }
    std::size_t size() const { return items_.size(); }
    void clear() { items_.clear(); }
    void update(std::set<T> more) { items_.merge(more); }
    void intersection_update(const std::set<T>& with) {
        std::erase_if(items_, [&](const T& each) { return !with.contains(each); });
    }
    void difference_update(const std::set<T>& without) {
        std::erase_if(items_, [&](const T& each) { return without.contains(each); });
    }
    const std::set<T>& copy() const { return items_; }

private:
    std::set<T> items_;
};

/// Values of any types by name. Each is kept as its type, since it may be a proxy.
template <compiled = compiled::when_used>
class hosted_namespace {
    struct slot {
        virtual ~slot() = default;
        virtual const std::type_info& type() const noexcept = 0;
        virtual std::string_view name() const noexcept = 0;
    };
    template <class T>
    struct slot_of final : slot {
        explicit slot_of(T one) : value(std::move(one)) {}
        const std::type_info& type() const noexcept override { return typeid(T); }
        std::string_view name() const noexcept override { return type_name<T>(); }
        T value;
    };

public:
    template <class T>
    void set(std::string name, T value) {
        slots_[std::move(name)] = std::make_unique<slot_of<T>>(std::move(value));
    }
    template <class T>
    const T& get(const std::string& name) const {
        const auto found = slots_.find(name);
        if (found == slots_.end()) throw_no_name(name);
        if (found->second->type() != typeid(T))
            throw SerializationError("\"" + name + "\" of a Namespace is of type " +
                                     std::string(found->second->name()) + ", and " +
                                     std::string(type_name<T>()) + " was asked for");
        return static_cast<const slot_of<T>&>(*found->second).value;
    }
    bool contains(const std::string& name) const { return slots_.contains(name); }
    void erase(const std::string& name) {
        if (slots_.erase(name) == 0) throw_no_name(name);
    }
    std::vector<std::string> names() const {
        std::vector<std::string> all;
        for (const auto& [name, value] : slots_) all.push_back(name);
        return all;
    }

private:
    [[noreturn]] static void throw_no_name(const std::string& name) {
        throw std::out_of_range("a Namespace of a manager has no \"" + name + "\"");
    }

    std::map<std::string, std::unique_ptr<slot>> slots_;
};

}  // namespace multiprocessing::detail
