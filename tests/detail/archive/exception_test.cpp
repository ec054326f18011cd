// SPDX-License-Identifier: BSL-1.0
#include <any>
#include <filesystem>
#include <functional>
#include <future>
#include <ios>
#include <memory>
#include <new>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <typeinfo>
#include <variant>
#include <vector>

#include <multiprocessing/detail/archive/exception.hpp>

#include "support/catch.hpp"

namespace mp = multiprocessing;

namespace shop {

class out_of_stock : public std::runtime_error {
public:
    out_of_stock() : std::runtime_error("out of stock") {}
    explicit out_of_stock(int left_) : out_of_stock() { left = left_; }
    template <class Archive>
    void serialize(Archive& ar) {
        ar(left);
    }
    int left = 0;
};

struct plain {
    int code;
    std::string text;
};

struct derived_from_known : std::out_of_range {
    using std::out_of_range::out_of_range;
};

struct silent : std::exception {
    const char* what() const noexcept override { return nullptr; }
};

struct refuses : std::exception {
    template <class Archive>
    void save(Archive&) const {
        throw std::logic_error("no");
    }
    template <class Archive>
    void load(Archive&) {}
};

struct half_way : std::exception {
    const char* what() const noexcept override { return "half way"; }
    template <class Archive>
    void save(Archive& ar) const {
        ar(1);
    }
    template <class Archive>
    void load(Archive&) {
        throw std::logic_error("not here");
    }
};

MP_REGISTER_EXCEPTION(out_of_stock);
MP_REGISTER_EXCEPTION(plain);
MP_REGISTER_EXCEPTION(refuses);
MP_REGISTER_EXCEPTION(half_way);

}  // namespace shop
MP_REGISTER_EXCEPTION(shop::out_of_stock);

namespace {

std::exception_ptr sent(const std::exception_ptr& e) {
    return mp::detail::decode_exception(mp::detail::encode_exception(e), 4711);
}

/// The exact type arrives, with its text.
template <class T>
T arrives(const T& thrown) {
    try {
        std::rethrow_exception(sent(std::make_exception_ptr(thrown)));
    } catch (const T& e) {
        INFO(mp::detail::demangled(typeid(e)) << ": " << e.what());
        CHECK(typeid(e) == typeid(T));
        CHECK(std::string(e.what()) == thrown.what());
        return e;
    } catch (...) {
        FAIL("another type: " << mp::detail::current_text());
    }
    throw std::logic_error("not reached");
}

template <class F>
mp::RemoteError arrives_as_remote(F thrower) {
    try {
        thrower();
    } catch (...) {
        try {
            std::rethrow_exception(sent(std::current_exception()));
        } catch (const mp::RemoteError& e) {
            CHECK(typeid(e) == typeid(mp::RemoteError));
            return e;
        }
    }
    throw std::logic_error("not reached");
}

}  // namespace

TEST_CASE("exception: standard exceptions keep their type and text", "[exception]") {
    arrives(std::runtime_error("a"));
    arrives(std::logic_error("b"));
    arrives(std::invalid_argument(""));
    arrives(std::out_of_range("index 7"));
    arrives(std::domain_error("d"));
    arrives(std::length_error("e"));
    arrives(std::range_error("f"));
    arrives(std::overflow_error("g"));
    arrives(std::underflow_error("h"));
    arrives(std::exception());
    arrives(std::bad_alloc());
    arrives(std::bad_array_new_length());
    arrives(std::bad_cast());
    arrives(std::bad_any_cast());
    arrives(std::bad_typeid());
    arrives(std::bad_exception());
    arrives(std::bad_function_call());
    arrives(std::bad_weak_ptr());
    arrives(std::bad_optional_access());
    arrives(std::bad_variant_access());
    CHECK(arrives(std::future_error(std::future_errc::broken_promise)).code() ==
          std::future_errc::broken_promise);
}

TEST_CASE("exception: error codes of the standard categories arrive", "[exception]") {
    CHECK(arrives(std::system_error(ENOENT, std::generic_category(), "open")).code() ==
          std::error_code(ENOENT, std::generic_category()));
    CHECK(arrives(std::system_error(EIO, std::system_category())).code() ==
          std::error_code(EIO, std::system_category()));
    CHECK(arrives(std::ios_base::failure("stream")).code() == std::io_errc::stream);
    const auto e = arrives(std::filesystem::filesystem_error(
        "cannot", "/a", "/b", std::error_code(EPERM, std::generic_category())));
    CHECK(e.path1() == "/a");
    CHECK(e.path2() == "/b");
    arrives(std::filesystem::filesystem_error("cannot",
                                              std::error_code(EPERM, std::system_category())));
}

TEST_CASE("exception: what the standard library itself throws keeps its type", "[exception]") {
    const auto passes = []<class T>(std::type_identity<T>, auto f) {
        try {
            f();
        } catch (...) {
            CHECK_THROWS_AS(std::rethrow_exception(sent(std::current_exception())), T);
            return;
        }
        FAIL("nothing thrown");
    };
    passes(std::type_identity<std::out_of_range>{}, [] { (void)std::vector<int>().at(3); });
    passes(std::type_identity<std::invalid_argument>{}, [] { (void)std::stoi("x"); });
    passes(std::type_identity<std::bad_variant_access>{},
           [] { (void)std::get<0>(std::variant<int, char>('a')); });
    passes(std::type_identity<std::ios_base::failure>{}, [] {
        std::istringstream in;
        in.exceptions(std::ios::failbit);
        int i;
        in >> i;
    });
    passes(std::type_identity<std::filesystem::filesystem_error>{},
           [] { (void)std::filesystem::file_size("/no/such/file"); });
}

TEST_CASE("exception: a category of the program's own becomes a RemoteError", "[exception]") {
    struct own : std::error_category {
        const char* name() const noexcept override { return "own"; }
        std::string message(int) const override { return "own message"; }
    };
    static const own category;
    const auto e = arrives_as_remote([] { throw std::system_error(3, category, "x"); });
    CHECK(e.type() == "std::system_error");
    CHECK(std::string(e.what()) == "x: own message");
}

TEST_CASE("exception: our own keep their type and what they carry", "[exception]") {
    arrives(mp::Error("a"));
    arrives(mp::ProcessError("b"));
    arrives(mp::ClosedError("c"));
    arrives(mp::TimeoutError("d"));
    arrives(mp::QueueEmpty("e"));
    arrives(mp::QueueFull("f"));
    arrives(mp::EndOfFile("g"));
    arrives(mp::SerializationError("h"));
    arrives(mp::UnknownCallable("i"));
    arrives(mp::AbandonedLock("j"));
    arrives(mp::BrokenBarrier("k"));
    arrives(mp::AuthenticationError("l"));
    arrives(mp::TaskTimeout("m"));
    arrives(mp::Cancelled("n"));
    arrives(mp::PoolBroken("o"));
    CHECK(arrives(mp::BufferTooShort("p", std::vector<std::byte>(5))).message().size() == 5);
    CHECK(arrives(mp::OsError(EAGAIN, "fork")).code().value() == EAGAIN);
    const auto crash = arrives(mp::WorkerCrashed("q", -11, 42));
    CHECK(crash.signal() == 11);
    CHECK(crash.worker_pid() == 42);
    const auto remote = arrives(mp::RemoteError("app::x", "r", 43));  // not wrapped once more
    CHECK(remote.type() == "app::x");
    CHECK(remote.worker_pid() == 43);
}

TEST_CASE("exception: registered types keep their type and members", "[exception]") {
    CHECK(arrives(shop::out_of_stock(7)).left == 7);
    try {
        std::rethrow_exception(sent(std::make_exception_ptr(shop::plain{4, "four"})));
    } catch (const shop::plain& e) {
        CHECK(e.code == 4);
        CHECK(e.text == "four");
    }
}

TEST_CASE("exception: an unregistered type becomes a RemoteError and is not sliced",
          "[exception]") {
    const auto e = arrives_as_remote([] { throw shop::derived_from_known("far out"); });
    CHECK(e.type() == "shop::derived_from_known");
    CHECK(std::string(e.what()) == "far out");
    CHECK(e.worker_pid() == 4711);
}

TEST_CASE("exception: anything can be thrown", "[exception]") {
    const auto number = arrives_as_remote([] { throw 42; });
    CHECK(number.type() == "int");
    CHECK(std::string(number.what()) == "an exception of type int");
    CHECK(std::string(arrives_as_remote([] { throw "words"; }).what()) == "words");
    CHECK(std::string(arrives_as_remote([] { throw std::string("words"); }).what()) == "words");
    CHECK_THROWS_AS(std::rethrow_exception(sent(nullptr)), mp::RemoteError);
}

TEST_CASE("exception: one that can't be told of becomes a RemoteError that says so",
          "[exception]") {
    CHECK_THAT(arrives_as_remote([] { throw shop::silent(); }).what(), Catch::Contains("null"));
    CHECK_THAT(arrives_as_remote([] { throw shop::refuses(); }).what(),
               Catch::Contains("serialize function threw: no"));
    const auto e = arrives_as_remote([] { throw shop::half_way(); });
    CHECK(e.type() == "shop::half_way");
    CHECK_THAT(e.what(), Catch::Contains("half way") && Catch::Contains("not here"));
}

TEST_CASE("exception: nested exceptions keep the outer type and all texts", "[exception]") {
    try {
        try {
            try {
                throw std::runtime_error("innermost");
            } catch (...) {
                std::throw_with_nested(shop::derived_from_known("inner"));
            }
        } catch (...) {
            std::throw_with_nested(std::invalid_argument("outer"));
        }
    } catch (...) {
        try {
            std::rethrow_exception(sent(std::current_exception()));
        } catch (const std::invalid_argument& e) {
            CHECK(typeid(e) == typeid(std::invalid_argument));
            CHECK(std::string(e.what()) == "outer: inner: innermost");
        }
    }
}

TEST_CASE("exception: damaged bytes give some exception, and nothing worse", "[exception]") {
    const std::exception_ptr originals[] = {
        std::make_exception_ptr(shop::out_of_stock(7)),
        std::make_exception_ptr(std::system_error(ENOENT, std::generic_category(), "open")),
        std::make_exception_ptr(mp::WorkerCrashed("q", -11, 42))};
    for (const auto& original : originals) {
        const auto bytes = mp::detail::encode_exception(original);
        for (std::size_t n = 0; n < bytes.size(); ++n) {
            CHECK(mp::detail::decode_exception({bytes.data(), n}, 1) != nullptr);
            auto flipped = bytes;
            for (const int bits : {1, 128, 255}) {
                flipped[n] = bytes[n] ^ std::byte(bits);
                CHECK(mp::detail::decode_exception(flipped, 1) != nullptr);
            }
        }
    }
}
