// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <multiprocessing/detail/callable/descriptor.hpp>

using namespace multiprocessing;
using namespace multiprocessing::detail;
using Catch::Matchers::Contains;

namespace {

/// Where the thunks below put their result; a Pool's would be an archive.
struct number {
    int value = 0;
};

/// A thunk of a stateless callable: the bytes are its argument.
template <stateless F>
struct call_stateless {
    using output = number;
    static constexpr std::size_t size = sizeof(int);
    static void invoke(std::span<const std::byte> bytes, number& out) {
        int x;
        std::memcpy(&x, bytes.data(), sizeof x);
        out.value = F{}(x);
    }
};

/// A thunk of a function known at run time: the bytes are its place and its argument.
struct call_function {
    using output = number;
    static constexpr std::size_t size = sizeof(place) + sizeof(int);
    static void invoke(std::span<const std::byte> bytes, number& out) {
        place at;
        int x;
        std::memcpy(&at, bytes.data(), sizeof at);
        std::memcpy(&x, bytes.data() + sizeof at, sizeof x);
        out.value = function_at<int (*)(int)>(at)(x);
    }
};

template <class T>
void append(std::vector<std::byte>& bytes, const T& value) {
    const auto* const from = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof value);
}

template <class... Parts>
std::vector<std::byte> message(const Parts&... parts) {
    std::vector<std::byte> bytes;
    (append(bytes, parts), ...);
    return bytes;
}

template <class F>
std::vector<std::byte> message_for(F, int x) {
    return message(reference_to<call_stateless<F>>(), x);
}

int called(const std::vector<std::byte>& bytes) {
    number out;
    call(bytes, out);
    return out.value;
}

int twice(int x) { return 2 * x; }
int thrice(int x) { return 3 * x; }

struct another_output {};

}  // namespace

TEST_CASE("descriptor: a message calls the lambda that it was made for", "[callable]") {
    // Two lambdas of one function and one signature: with g++ their types have one name.
    const auto first = [](int x) { return x + 10; };
    const auto second = [](int x) { return x + 20; };
    CHECK(called(message_for(first, 1)) == 11);
    CHECK(called(message_for(second, 1)) == 21);
    CHECK(reference_to<call_stateless<decltype(first)>>() !=
          reference_to<call_stateless<decltype(second)>>());
}

TEST_CASE("descriptor: a function pointer travels as the place of its code", "[callable]") {
    const auto ref = reference_to<call_function>();
    CHECK(called(message(ref, place_of(&twice), 5)) == 10);
    CHECK(called(message(ref, place_of(&thrice), 5)) == 15);
    CHECK_THROWS_AS(called(message(ref, place{ref.module, ref.offset}, 5)), UnknownCallable);
}

TEST_CASE("descriptor: a forged reference is refused, never called", "[callable]") {
    const auto f = [](int x) { return x; };
    const auto good = reference_to<call_stateless<decltype(f)>>();
    REQUIRE(called(message(good, 7)) == 7);

    auto bad = good;
    bad.type ^= 1;
    CHECK_THROWS_WITH(called(message(bad, 7)), Contains("another type"));
    bad = good;
    bad.offset += 8;
    CHECK_THROWS_WITH(called(message(bad, 7)), Contains("no descriptor"));
    bad = good;
    bad.offset += 1;
    CHECK_THROWS_WITH(called(message(bad, 7)), Contains("misaligned"));
    bad = good;
    bad.offset += std::uint64_t{1} << 33;
    CHECK_THROWS_WITH(called(message(bad, 7)), Contains("no constant"));
    bad = good;
    bad.module += 1;
    CHECK_THROWS_WITH(called(message(bad, 7)), Contains("another build"));
}

TEST_CASE("descriptor: a forged copy of a descriptor in writable memory is refused", "[callable]") {
    const auto f = [](int x) { return x; };
    using thunk_type = call_stateless<decltype(f)>;
    static std::array<std::byte, sizeof(descriptor)> forged;
    std::memcpy(forged.data(), &descriptor_of<thunk_type>, sizeof(descriptor));
    const place at = module_table<>::get().name_of(&forged);
    const callable_ref ref{at.module, at.offset, reference_to<thunk_type>().type};
    CHECK_THROWS_WITH(called(message(ref, 7)), Contains("no constant"));
}

TEST_CASE("descriptor: a message too short for its thunk, or of another output, is refused",
          "[callable]") {
    const auto f = [](int x) { return x; };
    const auto good = reference_to<call_stateless<decltype(f)>>();
    CHECK_THROWS_WITH(called({}), Contains("too short"));
    CHECK_THROWS_WITH(called(message(good)), Contains("takes at least 4"));
    CHECK_THROWS_WITH(called(message(good, 'x')), Contains("the message has 1"));
    another_output out;
    CHECK_THROWS_WITH(call(message(good, 7), out), Contains("does not answer with"));
}

TEST_CASE("descriptor: texts name the type", "[callable]") {
    CHECK(type_text<int>() == "int");
    CHECK(type_text<std::vector<int>>().find("vector<int") != std::string_view::npos);
    CHECK(descriptor_of<call_function>.name.find("call_function") != std::string_view::npos);
}
