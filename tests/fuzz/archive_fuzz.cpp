// SPDX-License-Identifier: BSL-1.0
//
// Decodes any bytes as one of many types; the first byte selects. What decodes is encoded and
// decoded once more, which must give the same bytes. Only SerializationError may come out.

#include <algorithm>
#include <array>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <forward_list>
#include <iterator>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <span>
#include <stack>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <valarray>
#include <variant>
#include <vector>

#include <cereal/types/polymorphic.hpp>

#include <multiprocessing/detail/archive/exception.hpp>
#include <multiprocessing/detail/archive/memory.hpp>

namespace mp = multiprocessing;

namespace {

enum class color : std::uint8_t { red, green };
struct point {
    float x, y;
};
struct flags {
    char c;
    bool b[3];
};
struct empty {};
struct record {
    int id = 0;
    std::string name;
    std::vector<point> points;
    color colors[2] = {};
    std::string words[2];
    std::optional<flags> f;
    bool flag = false;
    empty nothing;
};
struct tree {
    std::uint8_t value = 0;
    std::vector<tree> children;
    std::map<std::uint8_t, tree> named;
};
struct chain {
    std::uint8_t value = 0;
    std::unique_ptr<chain> next;
};
struct graph {
    std::shared_ptr<std::string> name;
    std::vector<std::shared_ptr<std::string>> names;
    std::vector<std::weak_ptr<std::string>> weak;
    std::shared_ptr<std::vector<std::shared_ptr<std::string>>> more;
};
class user {
public:
    template <class Archive>
    void serialize(Archive& ar) {
        ar(x_, cereal::make_nvp("r", r_), u_);
    }

private:
    int x_ = 0;
    record r_;
    std::unique_ptr<user> u_;
};
class split {
public:
    template <class Archive>
    void save(Archive& ar) const {
        ar(cereal::make_size_tag(static_cast<cereal::size_type>(values_.size())));
        for (const auto& v : values_) ar(v);
    }
    template <class Archive>
    void load(Archive& ar) {
        cereal::size_type n = 0;
        ar(cereal::make_size_tag(n));
        values_.resize(static_cast<std::size_t>(n));
        for (auto& v : values_) ar(v);
    }

private:
    std::vector<short> values_;
};
struct shape {
    virtual ~shape() = default;
    virtual void f() = 0;
};
struct square : shape {
    double side = 0;
    void f() override {}
    template <class Archive>
    void serialize(Archive& ar) {
        ar(side);
    }
};

using bytes = std::vector<std::byte>;

template <class T>
bytes encoded_bytes(const T& value) {
    const auto message = mp::detail::encode(value);
    bytes all;
    for (const auto piece : message.pieces()) all.insert(all.end(), piece.begin(), piece.end());
    return all;
}

template <class T>
void decodes(std::span<const std::byte> input) {
    try {
        const T value = mp::detail::decode<T>(input);
        const bytes again = encoded_bytes(value);
        // Hash tables may order their elements anew, and maps drop what came twice; the second
        // time round nothing changes in size.
        if (encoded_bytes(mp::detail::decode<T>(again)).size() != again.size()) {
            std::fputs("decoded differently\n", stderr);
            std::abort();
        }
    } catch (const mp::SerializationError&) {
    }
}

void decodes_exception(std::span<const std::byte> input) {
    const auto e = mp::detail::decode_exception(input, 1);
    if (e == nullptr) std::abort();
    (void)mp::detail::encode_exception(e);
}

using decoder = void (*)(std::span<const std::byte>);

constexpr decoder decoders[] = {
    decodes<int>,
    decodes<bool>,
    decodes<std::string>,
    decodes<std::u32string>,
    decodes<std::vector<double>>,
    decodes<std::vector<bool>>,
    decodes<std::vector<flags>>,
    decodes<std::vector<std::string>>,
    decodes<std::vector<empty>>,
    decodes<record>,
    decodes<std::vector<record>>,
    decodes<std::map<std::string, record>>,
    decodes<std::unordered_map<std::string, std::vector<int>>>,
    decodes<std::set<std::set<std::string>>>,
    decodes<std::unordered_multiset<int>>,
    decodes<std::multimap<int, std::tuple<>>>,
    decodes<std::deque<std::list<std::forward_list<char>>>>,
    decodes<std::tuple<int, std::pair<char, std::string>, std::array<std::string, 2>>>,
    decodes<std::vector<std::variant<std::monostate, bool, std::string, std::vector<int>>>>,
    decodes<std::optional<std::optional<std::bitset<11>>>>,
    decodes<std::valarray<std::complex<float>>>,
    decodes<std::valarray<std::string>>,
    decodes<std::vector<std::chrono::system_clock::time_point>>,
    decodes<std::priority_queue<std::string>>,
    decodes<std::stack<std::queue<short>>>,
    decodes<std::filesystem::path>,
    decodes<tree>,
    decodes<chain>,
    decodes<graph>,
    decodes<user>,
    decodes<std::vector<user>>,
    decodes<split>,
    decodes<std::vector<split>>,
    decodes<std::unique_ptr<shape>>,
    decodes<std::vector<std::unique_ptr<shape>>>,
    decodes_exception,
};

}  // namespace

CEREAL_REGISTER_TYPE(square)
CEREAL_REGISTER_POLYMORPHIC_RELATION(shape, square)

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const auto input = std::as_bytes(std::span(data, size));
    decoders[data[0] % std::size(decoders)](input.subspan(1));
    return 0;
}
