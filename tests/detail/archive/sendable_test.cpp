// SPDX-License-Identifier: BSL-1.0
#include <any>
#include <array>
#include <atomic>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstddef>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <forward_list>
#include <functional>
#include <initializer_list>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <set>
#include <span>
#include <stack>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <valarray>
#include <variant>
#include <vector>

#include <multiprocessing/detail/archive/memory.hpp>

#include "support/catch.hpp"

namespace mp = multiprocessing;
using mp::detail::decodes_in_place;
using mp::detail::flat;
using mp::detail::refused;

namespace {

template <class T>
constexpr refused why = decltype(mp::detail::inspect_message<T>())::why;

enum class color { red, green };
struct point {
    double x, y;
};
struct record {
    int id;
    std::string name;
    std::vector<point> points;
    color colors[3];
    std::optional<point> center;
};
struct nested {
    record r;
    std::map<std::string, record> more;
};
struct tree {
    int value;
    std::vector<tree> children;
    std::map<std::string, tree> named;
};
struct list_node {
    int value;
    std::unique_ptr<list_node> next;
};
struct ping;
struct pong {
    std::vector<ping> pings;
};
struct ping {
    std::vector<pong> pongs;
};
struct empty {};

class with_serialize {
public:
    template <class Archive>
    void serialize(Archive& ar) {
        ar(x_);
    }

private:
    int x_ = 0;
};
class with_private_serialize {
    friend class cereal::access;
    template <class Archive>
    void serialize(Archive& ar, std::uint32_t) {
        ar(x_);
    }
    int x_ = 0;
};
class handle {  // as our own
public:
    template <class Archive>
    void save(Archive&) const {}
    template <class Archive>
    void load(Archive&) {}
};
struct saves_only {
    template <class Archive>
    void save(Archive&) const {}
};
struct minimal {
    std::string text;
    template <class Archive>
    std::string save_minimal(const Archive&) const {
        return text;
    }
    template <class Archive>
    void load_minimal(const Archive&, const std::string& t) {
        text = t;
    }
};
struct unrelated_save {  // its functions are about something else
    std::string text;
    void save(const std::string&) const {}
    void load(const std::string&) {}
};
class no_functions {
public:
    no_functions() {}

private:
    [[maybe_unused]] int x_ = 0;
};
struct free_functions {
    explicit free_functions(int i = 0) : x(i) {}
    int x;
};
template <class Archive>
void serialize(Archive& ar, free_functions& f) {
    ar(f.x);
}

struct raw {
    int* p;
};
struct raw_within {
    std::vector<std::pair<int, raw>> v;
};
struct view_within {
    std::string_view s;
};
struct reference_within {
    const int& r;
};
struct const_within {
    const int c = 1;
    std::string s;
};
struct derived : point {
    int z;
};
union either {
    int i;
    float f;
};
struct anonymous_union {
    int kind;
    union {
        int i;
        float f;
    };
};
struct abstract {
    virtual ~abstract() = default;
    virtual void f() = 0;
};
class private_destructor {
    ~private_destructor() = default;
};
struct no_default {
    explicit no_default(int) {}
    template <class Archive>
    void serialize(Archive&) {}
};
struct thirty_two {
    int a[1], b, c, d, e, f, g, h, i, j, k, l, m, n, o, p;
    std::string A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P;
};
struct thirty_three {
    thirty_two t;
    int a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, A, B, C, D, E, F, G, H, I, J, K, L, M, N, O,
        P;
};
struct incomplete;
struct bits {
    int a : 3;
    bool b : 1;
};
struct initialized {
    int a = 3;
    std::string s = "not noexcept";
};
struct key {
    int k;
    bool operator<(const key& o) const { return k < o.k; }
};
template <class T>
struct own_allocator : std::allocator<T> {
    template <class U>
    struct rebind {
        using other = own_allocator<U>;
    };
};
struct closes {
    void operator()(std::FILE* f) const { std::fclose(f); }
};

}  // namespace

TEST_CASE("sendable: values and what owns values", "[sendable]") {
    STATIC_REQUIRE(mp::Sendable<int>);
    STATIC_REQUIRE(mp::Sendable<bool>);
    STATIC_REQUIRE(mp::Sendable<long double>);
    STATIC_REQUIRE(mp::Sendable<char32_t>);
    STATIC_REQUIRE(mp::Sendable<std::byte>);
    STATIC_REQUIRE(mp::Sendable<color>);
    STATIC_REQUIRE(mp::Sendable<std::string>);
    STATIC_REQUIRE(mp::Sendable<std::u16string>);
    STATIC_REQUIRE(mp::Sendable<std::vector<bool>>);
    STATIC_REQUIRE(mp::Sendable<std::deque<std::list<std::forward_list<int>>>>);
    STATIC_REQUIRE(mp::Sendable<std::map<std::string, std::unordered_map<int, std::set<char>>>>);
    STATIC_REQUIRE(mp::Sendable<std::queue<int>>);
    STATIC_REQUIRE(mp::Sendable<std::stack<std::string>>);
    STATIC_REQUIRE(mp::Sendable<std::priority_queue<int>>);
    STATIC_REQUIRE(mp::Sendable<std::pair<int, std::tuple<>>>);
    STATIC_REQUIRE(mp::Sendable<std::array<std::string, 3>>);
    STATIC_REQUIRE(mp::Sendable<std::array<int, 0>>);
    STATIC_REQUIRE(mp::Sendable<std::bitset<7>>);
    STATIC_REQUIRE(mp::Sendable<std::complex<double>>);
    STATIC_REQUIRE(mp::Sendable<std::valarray<std::string>>);
    STATIC_REQUIRE(mp::Sendable<std::chrono::nanoseconds>);
    STATIC_REQUIRE(mp::Sendable<std::chrono::system_clock::time_point>);
    STATIC_REQUIRE(mp::Sendable<std::optional<std::variant<std::monostate, int, std::string>>>);
    STATIC_REQUIRE(mp::Sendable<std::unique_ptr<std::string>>);
    STATIC_REQUIRE(mp::Sendable<std::shared_ptr<const int>>);
    STATIC_REQUIRE(mp::Sendable<std::weak_ptr<int>>);
    STATIC_REQUIRE(mp::Sendable<std::filesystem::path>);
}

TEST_CASE("sendable: aggregates of these, without a function", "[sendable]") {
    STATIC_REQUIRE(mp::Sendable<point>);
    STATIC_REQUIRE(mp::Sendable<record>);
    STATIC_REQUIRE(mp::Sendable<nested>);
    STATIC_REQUIRE(mp::Sendable<empty>);
    STATIC_REQUIRE(mp::Sendable<bits>);
    STATIC_REQUIRE(mp::Sendable<initialized>);
    STATIC_REQUIRE(mp::Sendable<thirty_two>);
    STATIC_REQUIRE(mp::Sendable<std::vector<thirty_two>>);
    STATIC_REQUIRE(mp::Sendable<unrelated_save>);
}

TEST_CASE("sendable: types within themselves", "[sendable]") {
    STATIC_REQUIRE(mp::Sendable<tree>);
    STATIC_REQUIRE(mp::Sendable<list_node>);
    STATIC_REQUIRE(mp::Sendable<ping>);
    STATIC_REQUIRE(decodes_in_place<tree>);
    STATIC_REQUIRE(decodes_in_place<list_node>);
}

TEST_CASE("sendable: classes with functions", "[sendable]") {
    STATIC_REQUIRE(mp::Sendable<with_serialize>);
    STATIC_REQUIRE(mp::Sendable<with_private_serialize>);
    STATIC_REQUIRE(mp::Sendable<handle>);
    STATIC_REQUIRE(mp::Sendable<minimal>);
    STATIC_REQUIRE(mp::Sendable<free_functions>);
    STATIC_REQUIRE(mp::Sendable<std::vector<handle>>);
    STATIC_REQUIRE(mp::Sendable<std::map<int, with_serialize>>);
}

TEST_CASE("sendable: what is refused has its reason", "[sendable]") {
    CHECK(why<int*> == refused::raw_pointer);
    CHECK(why<const char*> == refused::raw_pointer);
    CHECK(why<void (*)()> == refused::raw_pointer);
    CHECK(why<int point::*> == refused::raw_pointer);
    CHECK(why<std::nullptr_t> == refused::raw_pointer);
    CHECK(why<raw> == refused::raw_pointer);
    CHECK(why<raw_within> == refused::raw_pointer);
    CHECK(why<std::vector<raw>> == refused::raw_pointer);
    CHECK(why<std::optional<std::vector<raw*>>> == refused::raw_pointer);
    CHECK(why<int&> == refused::reference);
    CHECK(why<std::tuple<int&>> == refused::reference);
    CHECK(why<std::string_view> == refused::view);
    CHECK(why<view_within> == refused::view);
    CHECK(why<std::vector<std::span<int>>> == refused::view);
    CHECK(why<std::reference_wrapper<int>> == refused::view);
    CHECK(why<const int> == refused::constant);
    CHECK(why<const_within> == refused::constant);
    CHECK(why<std::pair<const int, int>> == refused::constant);
    CHECK(why<incomplete> == refused::incomplete);
    CHECK(why<std::unique_ptr<incomplete>> == refused::incomplete);
    CHECK(why<void> == refused::not_an_object);
    CHECK(why<int()> == refused::not_an_object);
    CHECK(why<int[3]> == refused::an_array);
    CHECK(why<int[]> == refused::incomplete);
    CHECK(why<either> == refused::a_union);
    CHECK(why<anonymous_union> == refused::a_union);
    CHECK(why<derived> == refused::base_class);
    CHECK(why<thirty_three> == refused::many_members);
    CHECK(why<no_functions> == refused::no_functions);
    CHECK(why<std::vector<no_functions>> == refused::no_functions);
    CHECK(why<std::any> == refused::no_functions);
    CHECK(why<std::function<void()>> == refused::no_functions);
    CHECK(why<saves_only> == refused::half_functions);
    CHECK(why<abstract> == refused::no_default_constructor);
    CHECK(why<private_destructor> == refused::no_default_constructor);
    CHECK(why<reference_within> == refused::no_default_constructor);
    CHECK(why<no_default> == refused::no_default_constructor);
    CHECK(why<std::vector<no_default>> == refused::no_default_constructor);
    CHECK(why<std::atomic<int>> == refused::immovable);
    CHECK(why<std::unique_ptr<int[]>> == refused::pointer_to_array);
    CHECK(why<std::unique_ptr<std::FILE, closes>> == refused::own_deleter);
    STATIC_REQUIRE(!mp::Sendable<std::mutex>);
    STATIC_REQUIRE(!mp::Sendable<std::initializer_list<int>>);
    int captured = 1;
    const auto lambda = [captured] { return captured; };
    STATIC_REQUIRE(!mp::Sendable<std::remove_const_t<decltype(lambda)>>);
}

TEST_CASE("sendable: the culprit is the type that is at fault", "[sendable]") {
    using verdict = decltype(mp::detail::inspect_message<raw_within>());
    STATIC_REQUIRE(std::is_same_v<verdict::culprit, int*>);
}

TEST_CASE("sendable: flat types are copied as one block", "[sendable]") {
    STATIC_REQUIRE(flat<int>);
    STATIC_REQUIRE(flat<point>);
    STATIC_REQUIRE(flat<point[2][3]>);
    STATIC_REQUIRE(flat<bits>);
    STATIC_REQUIRE(flat<std::array<point, 3>>);
    STATIC_REQUIRE(flat<std::complex<float>>);
    STATIC_REQUIRE(flat<std::chrono::seconds>);
    STATIC_REQUIRE(!flat<raw>);
    STATIC_REQUIRE(!flat<std::string>);
    STATIC_REQUIRE(!flat<std::optional<int>>);
    STATIC_REQUIRE(!flat<handle>);
    STATIC_REQUIRE(!flat<derived>);
    STATIC_REQUIRE(!flat<anonymous_union>);
}

TEST_CASE("sendable: only what runs no user code is decoded in place (F8)", "[sendable]") {
    STATIC_REQUIRE(decodes_in_place<int>);
    STATIC_REQUIRE(decodes_in_place<record>);
    STATIC_REQUIRE(decodes_in_place<std::vector<point>>);
    STATIC_REQUIRE(decodes_in_place<std::map<std::pair<int, std::string>, std::vector<record>>>);
    STATIC_REQUIRE(decodes_in_place<std::unordered_map<std::string, std::shared_ptr<point>>>);
    STATIC_REQUIRE(decodes_in_place<std::variant<std::monostate, std::string>>);
    STATIC_REQUIRE(!decodes_in_place<with_serialize>);
    STATIC_REQUIRE(!decodes_in_place<handle>);
    STATIC_REQUIRE(!decodes_in_place<std::vector<handle>>);
    STATIC_REQUIRE(!decodes_in_place<std::map<key, int>>);
    STATIC_REQUIRE(!decodes_in_place<std::map<color, int>>);
    STATIC_REQUIRE(!decodes_in_place<initialized>);
    STATIC_REQUIRE(!decodes_in_place<std::vector<int, own_allocator<int>>>);
    STATIC_REQUIRE(!decodes_in_place<int*>);
    STATIC_REQUIRE(!decodes_in_place<void>);
}
