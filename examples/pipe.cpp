// SPDX-License-Identifier: BSL-1.0
//
// The sample of Python's manual: a child sends [42, None, 'hello'] through a pipe. Prints
//
//     [42, None, 'hello']
//     the child has closed its end

#include <cstdio>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/process.hpp>

namespace mp = multiprocessing;

using List = std::tuple<int, std::optional<double>, std::string>;

void f(mp::Connection<List> connection) {
    connection.send({42, std::nullopt, "hello"});
}  // its end is closed here

int main() {
    auto [parent, child] = mp::Pipe<List>();
    mp::Process p(f, std::move(child));  // the end is the child's now
    p.start();
    const auto [number, none, text] = parent.recv();
    std::printf("[%d, %s, '%s']\n", number, none ? "?" : "None", text.c_str());
    try {
        parent.recv();
    } catch (const mp::EndOfFile&) {
        std::puts("the child has closed its end");
    }
    p.join();
}
