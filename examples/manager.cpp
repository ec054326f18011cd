// SPDX-License-Identifier: BSL-1.0
//
// A shop in a manager: workers in other processes take orders from a queue, count what they sold in
// a dict, and one of them dies with the lock of the till. Prints
//
//     sold: 25 apples, 25 pears, 50 plums
//     the till holds 225
//     somebody died at the till; its lock was recovered

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include <multiprocessing/managers.hpp>
#include <multiprocessing/process.hpp>

namespace mp = multiprocessing;

/// Any class will do: its methods run in the server, one at a time.
class Till {
public:
    void take(int money) { money_ += money; }
    int total() const { return money_; }

private:
    int money_ = 0;
};

using Orders = mp::QueueProxy<std::string>;
using Sold = mp::DictProxy<std::string, int>;

void sell(Orders& orders, Sold& sold, mp::Proxy<Till>& till, mp::LockProxy& lock) {
    for (std::string what; !(what = orders.get()).empty();) {  // "": no more
        till.call<&Till::take>(what == "pears" ? 3 : 2);
        const std::lock_guard guard(lock);
        sold[what] = sold.get(what, 0) + 1;
    }
}

int main() {
    mp::Manager manager;
    const auto orders = manager.Queue<std::string>();
    const auto sold = manager.dict<std::string, int>();
    const auto till = manager.create<Till>();
    const auto lock = manager.Lock();

    std::vector<mp::Process> workers;
    for (int i = 0; i < 3; ++i) workers.emplace_back(sell, orders, sold, till, lock).start();
    for (int i = 0; i < 25; ++i)
        for (const char* what : {"apples", "pears", "plums", "plums"}) orders.put(what);
    for (std::size_t i = 0; i < workers.size(); ++i) orders.put("");
    for (mp::Process& worker : workers) worker.join();

    std::printf("sold: %d apples, %d pears, %d plums\n", sold.at("apples"), sold.at("pears"),
                sold.at("plums"));
    std::printf("the till holds %d\n", till.call<&Till::total>());

    mp::Process dies([](mp::LockProxy& of) { of.acquire(), std::_Exit(1); }, lock);
    dies.start();
    dies.join();
    try {
        lock.acquire();
    } catch (const mp::AbandonedLock&) {
        lock.recover();
        std::puts("somebody died at the till; its lock was recovered");
    }
    lock.release();
}
