// SPDX-License-Identifier: BSL-1.0
#include <algorithm>
#include <array>
#include <atomic>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <forward_list>
#include <functional>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <span>
#include <stack>
#include <stdexcept>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <valarray>
#include <variant>
#include <vector>

#include <cereal/types/polymorphic.hpp>

#include <multiprocessing/detail/archive/memory.hpp>

#include "support/catch.hpp"

namespace mp = multiprocessing;
using mp::detail::decode;
using mp::detail::decode_into;
using mp::detail::encode;

namespace {

using bytes = std::vector<std::byte>;

bytes join(const mp::detail::encoded& message) {
    bytes all;
    for (const auto piece : message.pieces()) all.insert(all.end(), piece.begin(), piece.end());
    CHECK(all.size() == message.size());
    return all;
}

template <class... Ts>
bytes message_of(const Ts&... values) {
    return join(encode(values...));
}

template <class T>
T sent(const T& value) {
    return decode<T>(message_of(value));
}

enum class color : std::uint8_t { red, green };
enum plain_enum { zero, one };

struct point {
    double x, y;
    bool operator==(const point&) const = default;
};
/// An order with a value: the nearest is the greatest.
struct nearer_to {
    int to = 0;
    bool operator()(int a, int b) const { return std::abs(a - to) > std::abs(b - to); }
};
struct empty {
    bool operator==(const empty&) const = default;
};
struct record {
    int id = 0;
    std::string name;
    std::vector<point> points;
    color colors[2][2] = {};
    std::string words[2];
    std::optional<point> center;
    bool flag = false;
    empty nothing;
    bool operator==(const record&) const = default;
};
struct owner {
    std::unique_ptr<record> r;
    std::vector<std::unique_ptr<int>> many;
};
struct chain {
    int value = 0;
    std::unique_ptr<chain> next;
};
struct tree {
    int value = 0;
    std::vector<tree> children;
    bool operator==(const tree&) const = default;
};
struct shared_pair {
    std::shared_ptr<record> a, b;
    std::weak_ptr<record> c;
    std::shared_ptr<int> other;
};
struct cycle {
    int value = 0;
    std::shared_ptr<cycle> next;
};
struct flags {
    int i;
    bool b;
    bool operator==(const flags&) const = default;
};
struct bits {
    int a : 3;
    unsigned b : 5;
    bool operator==(const bits&) const = default;
};

class user {
public:
    user() = default;
    explicit user(int x) : x_(x) {}
    bool operator==(const user&) const = default;
    template <class Archive>
    void serialize(Archive& ar) {
        ar(cereal::make_nvp("x", x_), points_);
    }
    std::vector<point> points_;

private:
    int x_ = 0;
};
class split {
public:
    std::string text;
    bool operator==(const split&) const = default;
    template <class Archive>
    void save(Archive& ar) const {
        ar << cereal::make_size_tag(static_cast<cereal::size_type>(text.size()));
        ar(cereal::binary_data(text.data(), text.size()));
    }
    template <class Archive>
    void load(Archive& ar) {
        cereal::size_type n = 0;
        ar >> cereal::make_size_tag(n);
        text.resize(static_cast<std::size_t>(n));
        ar(cereal::binary_data(text.data(), text.size()));
    }
};
struct minimal {
    std::string text;
    bool operator==(const minimal&) const = default;
    template <class Archive>
    std::string save_minimal(const Archive&) const {
        return text;
    }
    template <class Archive>
    void load_minimal(const Archive&, const std::string& t) {
        text = t;
    }
};
struct versioned {
    int x = 0;
    bool operator==(const versioned&) const = default;
    template <class Archive>
    void serialize(Archive& ar, std::uint32_t version) {
        if (version != 3) throw std::logic_error("version");
        ar& x;
    }
};
struct base_part {
    int a = 0;
    char b = 0;
};
struct derived_part : base_part {
    char c = 0;
    template <class Archive>
    void serialize(Archive& ar) {
        ar(c, cereal::base_class<base_part>(this));
    }
};
struct writes_nothing {
    template <class Archive>
    void serialize(Archive&) {}
};
struct throws {
    template <class Archive>
    void serialize(Archive& ar) {
        int x = 1;
        ar(x);
        throw std::domain_error("mine");
    }
};
struct temporary {  // its vector dies before the message is copied
    template <class Archive>
    void save(Archive& ar) const {
        const std::vector<double> made(2000, 1.5);
        ar(made);
    }
    template <class Archive>
    void load(Archive& ar) {
        ar(values);
    }
    std::vector<double> values;
};
struct sends_another {  // encodes a message of its own while it is being encoded
    template <class Archive>
    void save(Archive& ar) const {
        ar(std::string(100, 'a'));
        const auto inner = encode(std::string(3000, 'i'));
        ar(static_cast<std::uint64_t>(inner.size()), std::string(100, 'b'));
    }
    template <class Archive>
    void load(Archive& ar) {
        ar(a, n, b);
    }
    std::string a, b;
    std::uint64_t n = 0;
};

struct shape {
    virtual ~shape() = default;
    virtual double area() const = 0;
};
struct square : shape {
    double side = 0;
    double area() const override { return side * side; }
    template <class Archive>
    void serialize(Archive& ar) {
        ar(side);
    }
};
struct unregistered : shape {
    double area() const override { return 0; }
    template <class Archive>
    void serialize(Archive&) {}
};
class built {
public:
    explicit built(int x) : x_(x) {}
    int x() const { return x_; }
    template <class Archive>
    void serialize(Archive& ar) {
        ar(x_);
    }
    template <class Archive>
    static void load_and_construct(Archive& ar, cereal::construct<built>& construct) {
        int x = 0;
        ar(x);
        construct(x);
    }

private:
    int x_;
};

record some_record() {
    record r;
    r.id = 7;
    r.name = "name";
    r.points = {{1, 2}, {3, 4}};
    r.colors[1][0] = color::green;
    r.words[1] = "word";
    r.center = point{5, 6};
    r.flag = true;
    return r;
}

template <class T>
void goes_round(const T& value) {
    CHECK(sent(value) == value);
}

}  // namespace

CEREAL_CLASS_VERSION(versioned, 3)
CEREAL_REGISTER_TYPE(square)
CEREAL_REGISTER_POLYMORPHIC_RELATION(shape, square)

TEST_CASE("archive: values of every standard type come back", "[archive]") {
    goes_round(5);
    goes_round(true);
    goes_round(-1.5L);
    goes_round(u'x');
    goes_round(std::numeric_limits<std::uint64_t>::max());
    goes_round(std::byte{7});
    goes_round(color::green);
    goes_round(one);
    goes_round(std::string());
    goes_round(std::string(10000, 'x'));
    goes_round(std::u32string(U"wide"));
    goes_round(std::vector<int>{});
    goes_round(std::vector<int>{1, 2, 3});
    goes_round(std::vector<bool>{true, false, true, true, false, false, false, true, true});
    goes_round(std::vector<std::string>{"a", "", "c"});
    goes_round(std::vector<std::pair<int, char>>{{1, 'a'}, {2, 'b'}});
    goes_round(std::vector<point>{{1, 2}});
    goes_round(std::vector<flags>{{1, true}, {2, false}});
    goes_round(std::vector<empty>(5));
    goes_round(std::vector<std::tuple<>>(5));
    goes_round(std::deque<std::string>{"a", "b"});
    goes_round(std::list<int>{1, 2, 3});
    goes_round(std::forward_list<int>{1, 2, 3});
    goes_round(std::set<std::string>{"b", "a"});
    goes_round(std::set<int, std::greater<int>>{1, 3, 2});
    goes_round(std::multiset<int>{1, 1, 2});
    goes_round(std::unordered_set<int>{1, 2, 3});
    goes_round(std::unordered_multiset<std::string>{"a", "a"});
    goes_round(std::map<std::string, std::vector<int>>{{"a", {1}}, {"b", {}}});
    goes_round(std::multimap<int, int>{{1, 2}, {1, 3}});
    goes_round(std::unordered_map<std::string, int>{{"a", 1}, {"b", 2}});
    goes_round(std::unordered_multimap<int, int>{{1, 2}, {1, 2}});
    goes_round(std::pair<int, std::string>{1, "x"});
    goes_round(std::tuple<>());
    goes_round(std::tuple<int, std::string, double>{1, "x", 2});
    goes_round(std::array<int, 3>{1, 2, 3});
    goes_round(std::array<int, 0>{});
    goes_round(std::array<std::string, 2>{"a", "b"});
    goes_round(std::array<bool, 2>{true, false});
    goes_round(std::optional<std::string>());
    goes_round(std::optional<std::string>("x"));
    goes_round(std::optional<std::optional<int>>(std::optional<int>()));
    goes_round(std::variant<int, std::string>("x"));
    goes_round(std::variant<std::monostate, int>());
    goes_round(std::bitset<0>());
    goes_round(std::bitset<13>(0x1a5b));
    goes_round(std::bitset<200>().set(7).set(199));
    goes_round(std::complex<double>(1, 2));
    goes_round(std::chrono::milliseconds(5));
    goes_round(std::chrono::system_clock::now());
    goes_round(std::filesystem::path("/usr/share"));
    goes_round(empty());
    CHECK((sent(std::valarray<double>{1, 2}) == std::valarray<double>{1, 2}).min());
    CHECK(sent(std::valarray<std::string>{"a", "b"})[1] == "b");
    CHECK(sent(std::valarray<int>()).size() == 0);
    CHECK(sent(std::stack<int>({1, 2})).top() == 2);
    CHECK(sent(std::queue<std::string>({"a", "b"})).front() == "a");
    std::priority_queue<int> priorities;
    priorities.push(3);
    priorities.push(5);
    CHECK(sent(priorities).top() == 5);
    std::priority_queue<int, std::vector<int>, nearer_to> near(nearer_to{10});
    near.push(3);
    near.push(8);
    auto near_sent = sent(near);
    near_sent.push(12);
    near_sent.push(11);
    CHECK(near_sent.top() == 11);  // its order came along
    const auto number = sent(std::make_unique<std::atomic<int>>(4));
    CHECK(number->load() == 4);
}

TEST_CASE("archive: aggregates come back, arrays and nested ones too", "[archive]") {
    goes_round(some_record());
    goes_round(std::vector<record>(3, some_record()));
    goes_round(std::map<int, record>{{1, some_record()}});
    goes_round(flags{3, true});
    goes_round(bits{-2, 17});
    goes_round(tree{1, {{2, {}}, {3, {{4, {}}}}}});
}

TEST_CASE("archive: classes with functions come back, by cereal's rules", "[archive]") {
    user u(5);
    u.points_ = {{1, 2}};
    goes_round(u);
    goes_round(std::vector<user>{u, u});
    goes_round(split{"text"});
    goes_round(minimal{"text"});
    goes_round(std::map<std::string, minimal>{{"a", {"b"}}});
    goes_round(versioned{5});
    goes_round(std::vector<versioned>{{5}, {6}});
    CHECK(sent(std::vector<writes_nothing>(1000)).size() == 1000);
}

TEST_CASE("archive: a base class is read without touching the members after it", "[archive]") {
    derived_part d;
    d.a = 1;
    d.b = 'b';
    d.c = 'c';
    const auto back = sent(d);
    CHECK(back.a == 1);
    CHECK(back.b == 'b');
    CHECK(back.c == 'c');
}

TEST_CASE("archive: what can't be copied is moved", "[archive]") {
    owner o;
    o.r = std::make_unique<record>(some_record());
    o.many.push_back(std::make_unique<int>(5));
    o.many.push_back(nullptr);
    const auto back = sent(o);
    CHECK(*back.r == *o.r);
    CHECK(*back.many.at(0) == 5);
    CHECK(back.many.at(1) == nullptr);
    CHECK(*sent(std::make_unique<const int>(5)) == 5);
}

TEST_CASE("archive: a shared object is shared again", "[archive]") {
    shared_pair s;
    s.a = s.b = std::make_shared<record>(some_record());
    s.c = s.a;
    const auto back = sent(s);
    CHECK(back.a == back.b);
    CHECK(back.c.lock() == back.a);
    CHECK(*back.a == *s.a);
    CHECK(back.other == nullptr);

    const auto ring = std::make_shared<cycle>();
    ring->value = 5;
    ring->next = ring;
    const auto ring_back = sent(ring);
    CHECK(ring_back->next == ring_back);
    ring->next.reset();
    ring_back->next.reset();
}

TEST_CASE("archive: classes with virtual functions travel by cereal's registry", "[archive]") {
    std::unique_ptr<shape> s = std::make_unique<square>();
    static_cast<square&>(*s).side = 3;
    CHECK(sent(s)->area() == 9);
    std::vector<std::shared_ptr<shape>> shapes{std::make_shared<square>(), nullptr};
    shapes.push_back(shapes[0]);
    const auto back = sent(shapes);
    CHECK(back.at(0) == back.at(2));
    CHECK(back.at(1) == nullptr);
    CHECK(sent(std::make_unique<built>(6))->x() == 6);
    CHECK_THROWS_AS(message_of(std::unique_ptr<shape>(new unregistered)), mp::SerializationError);
}

TEST_CASE("archive: several values make one message", "[archive]") {
    const auto message = message_of(1, std::string("x"), std::vector<double>(1000, 0.5));
    int i = 0;
    std::string s;
    std::vector<double> v;
    decode_into(message, i, s, v);
    CHECK(i == 1);
    CHECK(s == "x");
    CHECK(v == std::vector<double>(1000, 0.5));
    CHECK_THROWS_WITH(decode_into(message, i), Catch::Contains("left over"));
    CHECK_THROWS_WITH(decode_into(message, i, s, v, s), Catch::Contains("(int, std::string"));
    CHECK(message_of().empty());
    decode_into({});
}

TEST_CASE("archive: large blocks stay in place where no user code runs (F8)", "[archive]") {
    const std::vector<double> large(512);
    const auto in_place = encode(1, large, 2);
    REQUIRE(in_place.pieces().size() == 3);
    CHECK(static_cast<const void*>(in_place.pieces()[1].data()) == large.data());
    CHECK(in_place.pieces()[1].size() == 4096);
    CHECK(in_place.pieces()[2].size() == sizeof(int));
    CHECK(in_place.size() == 4 + 8 + 4096 + 4);

    CHECK(encode(std::vector<double>(511)).pieces().size() == 1);
    CHECK(encode(user(1), large).pieces().size() == 1);
    CHECK(encode(std::vector<user>{user(2)}).pieces().size() == 1);

    const std::array<char, 5000> array{};
    CHECK(static_cast<const void*>(encode(array).pieces()[0].data()) == &array);
}

TEST_CASE("archive: what a function makes for the message may be gone before it is copied",
          "[archive]") {
    CHECK(sent(temporary()).values == std::vector<double>(2000, 1.5));
}

TEST_CASE("archive: a function may send a message while it is being asked for one", "[archive]") {
    for (int i = 0; i < 3; ++i) {
        const auto back = sent(sends_another());
        CHECK(back.a == std::string(100, 'a'));
        CHECK(back.b == std::string(100, 'b'));
        CHECK(back.n == 3008);
    }
}

TEST_CASE("archive: encoded messages may be alive side by side, and be moved", "[archive]") {
    auto first = encode(std::string("first"));
    const auto second = encode(std::string("second"));
    const auto moved = std::move(first);
    CHECK(decode<std::string>(join(moved)) == "first");
    CHECK(decode<std::string>(join(second)) == "second");
}

TEST_CASE("archive: exceptions of users' functions pass, on both sides", "[archive]") {
    CHECK_THROWS_AS(message_of(throws()), std::domain_error);
    CHECK_THROWS_AS(decode<throws>(message_of(1)), std::domain_error);
    CHECK_THROWS_AS(message_of(std::vector<throws>(1)), std::domain_error);
    goes_round(1);  // the buffer came back
}

TEST_CASE("archive: a message that ends early is refused at every byte", "[archive]") {
    const auto refuses = [](const auto& value) {
        using T = std::decay_t<decltype(value)>;
        const bytes whole = message_of(value);
        for (std::size_t n = 0; n < whole.size(); ++n) {
            const bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
            CHECK_THROWS_AS(decode<T>(part), mp::SerializationError);
        }
        bytes longer = whole;
        longer.push_back(std::byte{0});
        CHECK_THROWS_WITH(decode<T>(longer), Catch::Contains("1 bytes are left over"));
    };
    refuses(5);
    refuses(some_record());
    refuses(empty());
    refuses(std::vector<record>(2, some_record()));
    refuses(std::vector<bool>(13, true));
    refuses(std::vector<empty>(3));
    refuses(std::bitset<13>());
    refuses(std::map<std::string, std::vector<int>>{{"a", {1}}, {"b", {2, 3}}});
    refuses(std::variant<int, std::string>("x"));
    refuses(std::tuple<int, std::optional<std::string>>{1, "x"});
    refuses(user(1));
    refuses(split{"text"});
    refuses(minimal{"text"});
    refuses(std::vector<writes_nothing>(3));
    refuses(std::filesystem::path("/a"));
    refuses(tree{1, {{2, {}}, {3, {}}}});
    refuses(std::valarray<std::string>{"a", "b"});
}

TEST_CASE("archive: a flipped byte gives a value or a SerializationError", "[archive]") {
    const auto survives = [](const auto& value) {
        using T = std::decay_t<decltype(value)>;
        bytes message = message_of(value);
        std::size_t decoded = 0, refused = 0;
        for (auto& byte : message) {
            const std::byte right = byte;
            for (const int mask : {1, 2, 16, 128, 255}) {
                byte = right ^ std::byte(mask);
                try {
                    const T back = decode<T>(message);
                    CHECK(message_of(back).size() != 0);  // all of it can be read
                    ++decoded;
                } catch (const mp::SerializationError&) {
                    ++refused;
                }
            }
            byte = right;
        }
        CHECK(decoded + refused == 5 * message.size());
    };
    survives(some_record());
    survives(std::vector<record>(2, some_record()));
    survives(std::vector<bool>(13, true));
    survives(std::bitset<13>(5));
    survives(std::set<std::string>{"a", "b", "c"});
    survives(std::unordered_map<std::string, int>{{"a", 1}, {"b", 2}});
    survives(std::vector<std::variant<int, std::string, std::monostate>>{1, "x", {}});
    survives(std::vector<flags>(3));
    survives(user(1));
    survives(split{"text"});
    survives(tree{1, {{2, {}}, {3, {}}}});
    shared_pair s;
    s.a = s.b = std::make_shared<record>(some_record());
    s.other = std::make_shared<int>(1);
    survives(s);
}

TEST_CASE("archive: a huge count is refused before anything is allocated", "[archive]") {
    const auto refuses = []<class T>(std::type_identity<T>) {
        for (const std::uint64_t count :
             {std::uint64_t{100}, std::uint64_t{1} << 32, std::uint64_t{1} << 61,
              std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
            bytes message(16);
            std::memcpy(message.data(), &count, 8);
            CHECK_THROWS_AS(decode<T>(message), mp::SerializationError);
        }
    };
    refuses(std::type_identity<std::vector<char>>{});
    refuses(std::type_identity<std::vector<double>>{});
    refuses(std::type_identity<std::vector<std::string>>{});
    refuses(std::type_identity<std::vector<empty>>{});
    refuses(std::type_identity<std::vector<std::tuple<>>>{});
    refuses(std::type_identity<std::vector<writes_nothing>>{});
    refuses(std::type_identity<std::vector<bool>>{});
    refuses(std::type_identity<std::string>{});
    refuses(std::type_identity<std::list<empty>>{});
    refuses(std::type_identity<std::set<int>>{});
    refuses(std::type_identity<std::unordered_set<int>>{});
    refuses(std::type_identity<std::unordered_map<int, empty>>{});
    refuses(std::type_identity<std::valarray<double>>{});
    refuses(std::type_identity<std::queue<empty>>{});
    refuses(std::type_identity<split>{});
}

TEST_CASE("archive: objects nested too deep are refused on both sides", "[archive]") {
    const auto chain_of = [](int n) {
        chain first;
        for (chain* at = &first; n > 1; --n) {
            at->next = std::make_unique<chain>();
            at = at->next.get();
        }
        return first;
    };
    CHECK(sent(chain_of(256)).next != nullptr);
    CHECK_THROWS_WITH(message_of(chain_of(257)),
                      Catch::Contains("chain") && Catch::Contains("deep"));
    bytes forged;
    for (int i = 0; i < 100000; ++i) {
        const bytes link{std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{1}};
        forged.insert(forged.end(), link.begin(), link.end());
    }
    CHECK_THROWS_WITH(decode<chain>(forged), Catch::Contains("deep"));
}

TEST_CASE("archive: a bool that is neither true nor false is refused", "[archive]") {
    bytes message = message_of(true);
    message[0] = std::byte{2};
    CHECK_THROWS_AS(decode<bool>(message), mp::SerializationError);
    message = message_of(std::vector<flags>{{1, true}, {2, true}});
    message[8 + 8 + 4] = std::byte{3};
    CHECK_THROWS_AS(decode<std::vector<flags>>(message), mp::SerializationError);
}

TEST_CASE("archive: an object shared under another type is refused", "[archive]") {
    struct two {
        std::shared_ptr<int> a;
        std::shared_ptr<std::string> b;
    };
    bytes message = message_of(two{std::make_shared<int>(1), std::make_shared<std::string>("x")});
    message[8] = std::byte{1};  // b's number: that of a
    message.resize(12);
    CHECK_THROWS_WITH(decode<two>(message), Catch::Contains("shared"));
}

TEST_CASE("archive: the error names the type and what is wrong", "[archive]") {
    CHECK_THROWS_WITH(decode<std::vector<int>>(bytes(3)),
                      "a message of 3 bytes is not std::vector<int>: it ends too early; it was "
                      "damaged, or sent as another type");
}

TEST_CASE("archive: misaligned messages are read", "[archive]") {
    const std::vector<double> values(100, 2.5);
    for (std::size_t offset = 0; offset < 8; ++offset) {
        bytes message = message_of(values);
        message.insert(message.begin(), offset, std::byte{0});
        CHECK(decode<std::vector<double>>(std::span(message).subspan(offset)) == values);
        const auto text = message_of(std::u32string(100, U'x'));
        bytes shifted(offset);
        shifted.insert(shifted.end(), text.begin(), text.end());
        CHECK(decode<std::u32string>(std::span(shifted).subspan(offset)) ==
              std::u32string(100, U'x'));
    }
}

TEST_CASE("archive: random bytes are survived by every type", "[archive]") {
    const auto seed = std::random_device()();
    INFO("seed " << seed);
    std::mt19937 random(seed);
    const auto survive = [&]<class T>(std::type_identity<T>) {
        for (int i = 0; i < 300; ++i) {
            bytes message(random() % 64);
            for (auto& b : message)
                b = std::byte(random() % 4 == 0 ? random() % 256 : random() % 3);
            try {
                (void)decode<T>(message);
            } catch (const mp::SerializationError&) {
            }
        }
    };
    survive(std::type_identity<record>{});
    survive(std::type_identity<std::vector<record>>{});
    survive(std::type_identity<tree>{});
    survive(std::type_identity<chain>{});
    survive(std::type_identity<std::shared_ptr<cycle>>{});
    survive(std::type_identity<shared_pair>{});
    survive(std::type_identity<std::map<std::string, std::set<int>>>{});
    survive(std::type_identity<std::vector<std::variant<bool, std::string, std::bitset<9>>>>{});
    survive(std::type_identity<std::unique_ptr<shape>>{});
    survive(std::type_identity<std::vector<user>>{});
}
