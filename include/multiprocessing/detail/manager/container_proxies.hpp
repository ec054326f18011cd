// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// DictProxy, ListProxy, SetProxy, NamespaceProxy.

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <multiprocessing/detail/manager/containers.hpp>
#include <multiprocessing/detail/manager/proxy.hpp>
#include <multiprocessing/detail/platform/compiled.hpp>
#include <multiprocessing/detail/pool/ranges.hpp>

namespace multiprocessing {
namespace detail {

/// Walks over a copy that was made when the loop began.
template <class Container>
class snapshot_iterator {
public:
    using value_type = typename Container::value_type;
    using difference_type = std::ptrdiff_t;
    using reference = typename Container::const_reference;
    using iterator_concept = std::input_iterator_tag;

    snapshot_iterator() = default;
    explicit snapshot_iterator(Container of)
        : all_(std::make_shared<const Container>(std::move(of))), at_(all_->begin()) {}

    reference operator*() const { return *at_; }
    snapshot_iterator& operator++() {
        ++at_;
        return *this;
    }
    void operator++(int) { ++at_; }
    friend bool operator==(const snapshot_iterator& it, std::default_sentinel_t) {
        return it.at_ == it.all_->end();
    }

private:
    std::shared_ptr<const Container> all_;
    typename Container::const_iterator at_{};
};

template <class Container, class Range>
Container collected(Range&& range) {
    if constexpr (std::is_same_v<std::remove_cvref_t<Range>, Container>) {
        return std::forward<Range>(range);
    } else {
        Container all;
        for (auto&& each : range) all.insert(all.end(), std::forward<decltype(each)>(each));
        return all;
    }
}

}  // namespace detail

/// A std::map in a manager's server. Each call is one round trip, and atomic.
///
/// What is taken out is a copy: to change a container inside of a dict, keep a proxy of it there
/// (`DictProxy<std::string, ListProxy<int>>`).
template <class K, class V>
class DictProxy : public detail::proxy_of<detail::hosted_dict<K, V>> {
    using dict = detail::hosted_dict<K, V>;
    using base = detail::proxy_of<dict>;
    template <auto Method, class... Args>
    auto call(Args&&... args) const {
        return base::template call<Method>(std::forward<Args>(args)...);
    }

public:
    using key_type = K;
    using mapped_type = V;
    using value_type = std::pair<const K, V>;

    /// `d[k]`, on the left or on the right.
    using item = detail::proxied_item<DictProxy, K, V>;

    DictProxy() = default;
    using base::base;

    item operator[](K key) const { return item(*this, std::move(key)); }

    void set(const K& key, const V& value) const { call<&dict::set>(key, value); }
    /// Nothing if the key is not there.
    std::optional<V> get(const K& key) const { return call<&dict::get>(key); }
    V get(const K& key, V otherwise) const {
        auto found = get(key);
        return found ? *std::move(found) : std::move(otherwise);
    }
    /// \throws std::out_of_range, as Python's KeyError
    V at(const K& key) const { return call<&dict::at>(key); }
    /// What is there, which is `value` then if nothing was.
    V setdefault(const K& key, const V& value = V()) const {
        return call<&dict::setdefault>(key, value);
    }
    bool contains(const K& key) const { return call<&dict::contains>(key); }
    /// \return whether it was there
    bool erase(const K& key) const { return call<&dict::erase>(key); }
    /// \throws std::out_of_range
    V pop(const K& key) const { return call<&dict::pop>(key); }
    V pop(const K& key, V otherwise) const {
        std::optional<V> taken = call<&dict::take>(key);
        return taken ? *std::move(taken) : std::move(otherwise);
    }
    /// Takes the greatest key. \throws std::out_of_range if there is none
    std::pair<K, V> popitem() const { return call<&dict::popitem>(); }
    std::size_t size() const { return call<&dict::size>(); }
    bool empty() const { return size() == 0; }
    void clear() const { call<&dict::clear>(); }

    std::vector<K> keys() const { return call<&dict::keys>(); }
    std::vector<V> values() const { return call<&dict::values>(); }
    std::vector<std::pair<K, V>> items() const { return call<&dict::items>(); }
    std::map<K, V> copy() const { return call<&dict::copy>(); }
    /// Sets all of a map, or of a range of pairs, in one message.
    template <detail::input_range Range>
    void update(Range&& more) const {
        std::map<K, V> all;
        if constexpr (std::is_same_v<std::remove_cvref_t<Range>, std::map<K, V>>)
            return call<&dict::update>(more);
        for (auto&& [key, value] : more) all.insert_or_assign(key, value);
        call<&dict::update>(all);
    }
    void update(std::initializer_list<value_type> more) const {
        std::map<K, V> all;
        for (const auto& [key, value] : more) all.insert_or_assign(key, value);
        call<&dict::update>(all);
    }

    /// Over a copy, made now.
    auto begin() const { return detail::snapshot_iterator<std::map<K, V>>(copy()); }
    std::default_sentinel_t end() const noexcept { return {}; }
};

/// A std::vector in a manager's server. As DictProxy. Negative indices count from the end.
template <class T>
class ListProxy : public detail::proxy_of<detail::hosted_list<T>> {
    using list = detail::hosted_list<T>;
    using base = detail::proxy_of<list>;
    template <auto Method, class... Args>
    auto call(Args&&... args) const {
        return base::template call<Method>(std::forward<Args>(args)...);
    }

public:
    using value_type = T;

    /// `l[i]`, on the left or on the right.
    using item = detail::proxied_item<ListProxy, std::ptrdiff_t, T>;

    ListProxy() = default;
    using base::base;

    item operator[](std::ptrdiff_t index) const { return item(*this, index); }

    void append(const T& value) const { call<&list::append>(value); }
    /// Appends all of a range, in one message.
    template <detail::input_range Range>
    void extend(Range&& more) const {
        call<&list::extend>(detail::collected<std::vector<T>>(std::forward<Range>(more)));
    }
    void extend(std::initializer_list<T> more) const { call<&list::extend>(std::vector<T>(more)); }
    /// \throws std::out_of_range, as Python's IndexError; so do set() and pop()
    T at(std::ptrdiff_t index) const { return call<&list::at>(index); }
    void set(std::ptrdiff_t index, const T& value) const { call<&list::set>(index, value); }
    void insert(std::ptrdiff_t index, const T& value) const { call<&list::insert>(index, value); }
    T pop(std::ptrdiff_t index = -1) const { return call<&list::pop>(index); }
    /// The first that is equal. \throws std::invalid_argument if none is, as Python's ValueError
    void remove(const T& value) const { call<&list::remove>(value); }
    std::size_t index(const T& value) const { return call<&list::index>(value); }
    std::size_t count(const T& value) const { return call<&list::count>(value); }
    std::size_t size() const { return call<&list::size>(); }
    bool empty() const { return size() == 0; }
    void clear() const { call<&list::clear>(); }
    /// Equal ones keep their order.
    void sort(bool descending = false) const { call<&list::sort>(descending); }
    void reverse() const { call<&list::reverse>(); }
    std::vector<T> copy() const { return call<&list::copy>(); }

    /// Over a copy, made now.
    auto begin() const { return detail::snapshot_iterator<std::vector<T>>(copy()); }
    std::default_sentinel_t end() const noexcept { return {}; }
};

/// A std::set in a manager's server. As DictProxy.
template <class T>
class SetProxy : public detail::proxy_of<detail::hosted_set<T>> {
    using set = detail::hosted_set<T>;
    using base = detail::proxy_of<set>;
    template <auto Method, class... Args>
    auto call(Args&&... args) const {
        return base::template call<Method>(std::forward<Args>(args)...);
    }

public:
    using value_type = T;

    SetProxy() = default;
    using base::base;

    /// \return whether it is new
    bool add(const T& value) const { return call<&set::add>(value); }
    bool insert(const T& value) const { return add(value); }
    bool contains(const T& value) const { return call<&set::contains>(value); }
    /// \return whether it was there
    bool discard(const T& value) const { return call<&set::discard>(value); }
    bool erase(const T& value) const { return discard(value); }
    /// \throws std::out_of_range if it is not there, as Python's KeyError
    void remove(const T& value) const { call<&set::remove>(value); }
    /// Takes the smallest. \throws std::out_of_range if it is empty
    T pop() const { return call<&set::pop>(); }
    std::size_t size() const { return call<&set::size>(); }
    bool empty() const { return size() == 0; }
    void clear() const { call<&set::clear>(); }
    // With all of a range, in one message.
    template <detail::input_range Range>
    void update(Range&& more) const {
        call<&set::update>(detail::collected<std::set<T>>(std::forward<Range>(more)));
    }
    void update(std::initializer_list<T> more) const { call<&set::update>(std::set<T>(more)); }
    template <detail::input_range Range>
    void intersection_update(Range&& with) const {
        call<&set::intersection_update>(detail::collected<std::set<T>>(std::forward<Range>(with)));
    }
    template <detail::input_range Range>
    void difference_update(Range&& without) const {
        call<&set::difference_update>(detail::collected<std::set<T>>(std::forward<Range>(without)));
    }
    std::set<T> copy() const { return call<&set::copy>(); }

    /// Over a copy, made now.
    auto begin() const { return detail::snapshot_iterator<std::set<T>>(copy()); }
    std::default_sentinel_t end() const noexcept { return {}; }
};

namespace detail {

template <compiled When = compiled::when_used>
class namespace_proxy : public proxy_of<hosted_namespace<When>> {
    using names_type = hosted_namespace<When>;
    using base = proxy_of<names_type>;

public:
    namespace_proxy() = default;
    using base::base;

    template <class T>
    void set(const std::string& name, const T& value) const {
        using kept = sent_as<const T&>;
        this->template call<&names_type::template set<kept>>(name, kept(value));
    }
    /// \throws std::out_of_range if there is none, as Python's AttributeError; SerializationError
    ///     if it is of another type
    template <class T>
    T get(const std::string& name) const {
        return this->template call<&names_type::template get<T>>(name);
    }
    bool contains(const std::string& name) const {
        return this->template call<&names_type::contains>(name);
    }
    /// \throws std::out_of_range
    void erase(const std::string& name) const { this->template call<&names_type::erase>(name); }
    std::vector<std::string> names() const { return this->template call<&names_type::names>(); }
};

}  // namespace detail

/// Values of any Sendable types by name: `ns.set("x", 1); ns.get<int>("x")`.
class NamespaceProxy : public detail::namespace_proxy<> {
public:
    NamespaceProxy() = default;
    using namespace_proxy::namespace_proxy;
};

}  // namespace multiprocessing
