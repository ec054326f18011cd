// SPDX-License-Identifier: BSL-1.0
#include <array>
#include <bitset>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

#include <multiprocessing/detail/archive/fingerprint.hpp>

#include "support/catch.hpp"

namespace mp = multiprocessing;
using mp::detail::fingerprint;
using mp::detail::name_of;
using mp::detail::type_name;

namespace app {
struct job {};
enum class color { red };
template <class T>
struct box {
    struct inner {};
};
template <int N>
struct numbered {};
struct asked_at_compile_time_only {};
struct never_asked {};
}  // namespace app

TEST_CASE("fingerprint: names read as they are written", "[fingerprint]") {
    CHECK(type_name<int>() == "int");
    CHECK(type_name<unsigned long>() == "unsigned long");
    CHECK(type_name<long long>() == "long long");
    CHECK(type_name<std::string>() == "std::string");
    CHECK(type_name<app::job>() == "app::job");
    CHECK(type_name<app::color>() == "app::color");
    CHECK(type_name<std::byte>() == "std::byte");
    CHECK(type_name<std::vector<int>>() == "std::vector<int>");
    CHECK(type_name<std::map<std::string, std::vector<app::job>>>() ==
          "std::map<std::string, std::vector<app::job>>");
    CHECK(type_name<std::unordered_map<int, char>>() == "std::unordered_map<int, char>");
    CHECK(type_name<std::set<int, std::greater<int>>>() == "std::set<int, std::greater<int>>");
    CHECK(type_name<std::unique_ptr<app::job>>() == "std::unique_ptr<app::job>");
    CHECK(type_name<std::array<int[2][3], 4>>() == "std::array<int[2][3], 4>");
    CHECK(type_name<std::bitset<12>>() == "std::bitset<12>");
    CHECK(type_name<std::tuple<>>() == "std::tuple<>");
    CHECK(type_name<std::variant<std::monostate, double>>() ==
          "std::variant<std::monostate, double>");
    CHECK(type_name<app::box<std::string>>() == "app::box<std::string>");
    CHECK(type_name<app::numbered<3>>() == "app::numbered<3>");
    CHECK(type_name<std::chrono::milliseconds>() ==
          "std::chrono::duration<long, std::ratio<1, 1000>>");
    CHECK(type_name<const char*>() == "const char*");
    CHECK(type_name<int(const std::string&)>() == "int(const std::string&)");
}

TEST_CASE("fingerprint: the number is the same in every build and with every compiler",
          "[fingerprint]") {
    STATIC_REQUIRE(fingerprint<int>() == 0x3dea98cd0aabaea8u);
    STATIC_REQUIRE(fingerprint<std::string>() == 0xc79041792005cf60u);
    STATIC_REQUIRE(fingerprint<std::map<std::string, std::vector<app::job>>>() ==
                   0x3d39b5f16d96ace5u);
}

TEST_CASE("fingerprint: different types differ", "[fingerprint]") {
    CHECK(fingerprint<int>() != fingerprint<unsigned>());
    CHECK(fingerprint<std::vector<int>>() != fingerprint<std::vector<long>>());
    CHECK(fingerprint<app::box<int>>() != fingerprint<app::box<int>::inner>());
    CHECK(fingerprint<std::vector<int>>() != fingerprint<std::set<int>>());
}

TEST_CASE("fingerprint: the name of a type that is used anywhere is found", "[fingerprint]") {
    CHECK(name_of(fingerprint<app::job>()) == "app::job");
    constexpr auto number = fingerprint<app::asked_at_compile_time_only>();
    CHECK(name_of(number) == "app::asked_at_compile_time_only");
    CHECK(name_of(mp::detail::fingerprint_of<app::never_asked>)
              .starts_with("a type unknown here (fingerprint 0x"));
    CHECK(name_of(0xab) == "a type unknown here (fingerprint 0x00000000000000ab)");
}

TEST_CASE("fingerprint: a mismatch names both types", "[fingerprint]") {
    CHECK_THROWS_WITH(
        mp::detail::throw_type_mismatch(type_name<app::job>(), fingerprint<std::string>(),
                                        "Queue::get"),
        "Queue::get: the message holds std::string, and app::job was asked for; receive it as the "
        "type that was sent");
}
