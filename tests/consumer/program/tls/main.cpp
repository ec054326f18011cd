// Programs with one key talk to each other through TCP.

#include <cstdio>
#include <string>

#include <multiprocessing/process.hpp>
#include <multiprocessing/tls.hpp>

namespace mp = multiprocessing;

static void ask(const mp::Address& where, const mp::AuthKey& key) {
    auto connection = mp::Client(where, {.authkey = key, .transport = mp::tls});
    connection.send(std::string("who are you?"));
    if (connection.recv<std::string>() != "a consumer") throw mp::Error("somebody else");
}

int main() {
    const auto key = mp::AuthKey::generate();
    mp::Listener listener("127.0.0.1:0", {.authkey = key, .transport = mp::tls});
    mp::Process client([&] { ask(listener.address(), key); });
    client.start();
    auto connection = listener.accept();
    std::puts(connection.recv<std::string>().c_str());
    connection.send(std::string("a consumer"));
    client.join();
    return *client.exitcode();
}
