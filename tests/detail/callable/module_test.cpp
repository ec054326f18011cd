// SPDX-License-Identifier: BSL-1.0

#include "support/catch.hpp"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <multiprocessing/detail/callable/module.hpp>

using namespace multiprocessing;
using namespace multiprocessing::detail;
using Catch::Matchers::Contains;

namespace {

constexpr int constants[4] = {1, 2, 3, 4};
int variable = 5;
int function(int x) { return x + 1; }

/// Runs f in a forked child. \return what f returned, or -1 if it did not
template <class F>
int in_child(F f) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        int code = 99;
        try {
            code = f();
        } catch (...) {
        }
        ::_exit(code);
    }
    int status = 0;
    if (::waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
}

}  // namespace

TEST_CASE("module table: an address and its place name each other", "[callable]") {
    auto& table = module_table<>::get();
    const place constant = table.name_of(&constants[1]);
    CHECK(table.find(constant, 3 * sizeof(int), place_kind::constant) == &constants[1]);
    const place code = table.name_of(reinterpret_cast<const void*>(&function));
    CHECK(table.find(code, 1, place_kind::code) == reinterpret_cast<const void*>(&function));
    CHECK(constant.module == code.module);
}

TEST_CASE("module table: places in other modules have another module", "[callable]") {
    auto& table = module_table<>::get();
    void* const in_libc = ::dlsym(RTLD_DEFAULT, "gnu_get_libc_version");
    REQUIRE(in_libc != nullptr);
    const place at = table.name_of(in_libc);
    CHECK(at.module != table.name_of(&constants).module);
    CHECK(table.find(at, 1, place_kind::code) == in_libc);
}

TEST_CASE("module table: an address outside all modules can't be named", "[callable]") {
    const std::vector<int> on_the_heap(100);
    CHECK_THROWS_WITH(module_table<>::get().name_of(on_the_heap.data()), Contains("no module"));
    CHECK_THROWS_AS(module_table<>::get().name_of(nullptr), Error);
}

TEST_CASE("module table: a forged place is refused, with what is wrong", "[callable]") {
    auto& table = module_table<>::get();
    const place good = table.name_of(&constants);

    place other_build = good;
    other_build.module ^= 1;
    CHECK_THROWS_AS(table.find(other_build, 4, place_kind::constant), UnknownCallable);
    CHECK_THROWS_WITH(table.find(other_build, 4, place_kind::constant),
                      Contains("another build") && Contains(std::to_string(::getpid())));

    for (const std::uint64_t far :
         {std::uint64_t{1} << 40, ~std::uint64_t{0} / 2, 0 - good.offset - 4096}) {
        place outside = good;
        outside.offset += far;
        CHECK_THROWS_AS(table.find(outside, 4, place_kind::constant), UnknownCallable);
    }
    CHECK_THROWS_WITH(table.find(good, std::size_t{1} << 40, place_kind::constant),
                      Contains("no constant") && Contains("the program"));
    CHECK_THROWS_AS(table.find(good, ~std::size_t{0}, place_kind::constant), UnknownCallable);
}

TEST_CASE("module table: what can be written to is no constant, and data is no code",
          "[callable]") {
    auto& table = module_table<>::get();
    CHECK_THROWS_WITH(table.find(table.name_of(&variable), 4, place_kind::constant),
                      Contains("no constant"));
    CHECK_THROWS_WITH(table.find(table.name_of(&variable), 1, place_kind::code),
                      Contains("no code"));
}

TEST_CASE("module table: places hold in a forked child", "[callable]") {
    const place at = module_table<>::get().name_of(&constants);
    CHECK(in_child([&] {
              const void* here =
                  module_table<>::get().find(at, sizeof constants, place_kind::constant);
              return static_cast<const int*>(here)[3];
          }) == 4);
}

TEST_CASE("module table: an unknown place in a child of a busy program is refused at once",
          "[callable]") {
    // Threads that hold the loader's lock when the fork comes: asking the loader in the child
    // would hang.
    auto& table = module_table<>::get();
    place foreign = table.name_of(&constants);
    foreign.module ^= 1;
    std::atomic<bool> stop{false};
    std::vector<std::thread> busy;
    for (int i = 0; i < 2; ++i)
        busy.emplace_back([&] {
            const auto slow = [](dl_phdr_info*, std::size_t, void*) {
                for (volatile int n = 0; n < 2000;) n = n + 1;
                return 0;
            };
            while (!stop) ::dl_iterate_phdr(slow, nullptr);
        });
    int refused = 0;
    for (int i = 0; i < 50; ++i) {
        const int result = in_child([&] {
            ::alarm(10);
            try {
                table.find(foreign, 4, place_kind::constant);
            } catch (const UnknownCallable&) {
                return 1;
            }
            return 0;
        });
        if (result == 1) ++refused;
    }
    stop = true;
    for (auto& t : busy) t.join();
    CHECK(refused == 50);
}

TEST_CASE("module table: threads search while others ask the loader again", "[callable][threads]") {
    auto& table = module_table<>::get();
    const place at = table.name_of(&constants);
    place foreign = at;
    foreign.module ^= 1;
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&, i] {
            for (int n = 0; n < 500; ++n) {
                if (i == 0) {
                    void* const plugin = ::dlopen("libcrypt.so.1", RTLD_NOW | RTLD_LOCAL);
                    if (plugin) ::dlclose(plugin);
                }
                if (table.find(at, 4, place_kind::constant) != &constants) ++wrong;
                try {
                    table.find(foreign, 4, place_kind::constant);
                    ++wrong;
                } catch (const UnknownCallable&) {
                }
            }
        });
    for (auto& t : threads) t.join();
    CHECK(wrong == 0);
}
