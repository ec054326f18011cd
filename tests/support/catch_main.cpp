// SPDX-License-Identifier: BSL-1.0
//
// main() of every test program that uses Catch2. Catch2 must not handle signals: children that
// tests kill or let crash would report as if they were the test.

#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>

int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
#else
#define CATCH_CONFIG_MAIN
#define CATCH_CONFIG_NO_POSIX_SIGNALS
#include <catch2/catch.hpp>
#endif
