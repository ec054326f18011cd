// SPDX-License-Identifier: BSL-1.0

#include <atomic>
#include <mutex>
#include <thread>

#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/queues.hpp>

#include "support/catch.hpp"
#include "support/child.hpp"

namespace mp = multiprocessing;
namespace detail = mp::detail;

namespace {

std::atomic<int> makers{0};
std::atomic<bool> may_end{false};

struct slowly_made {
    slowly_made() {
        if (makers++ == 0)  // the first one
            while (!may_end) test::pause_briefly();
    }
};

}  // namespace

TEST_CASE("only_one: a child does not wait for a maker that it has not got",
          "[platform][fork][process]") {
    using only = detail::only_one<slowly_made>;
    slowly_made* made = nullptr;
    std::thread maker([&] { made = &only::get(); });
    REQUIRE(test::eventually([] { return makers == 1; }));
    test::child child([] {
        const slowly_made& own = only::get();
        return &own == &only::get() ? 0 : 1;
    });
    CHECK(child.exit_status() == std::optional<int>(0));
    // Nor does another thread; and the slow one gets what that has made.
    const slowly_made& own = only::get();
    may_end = true;
    maker.join();
    CHECK(made == &own);
}

TEST_CASE("fork hooks: registered twice, they still run once in each fork",
          "[platform][fork][process]") {
    test::child twice([] {
        auto& identity = detail::process_identity::get();
        identity.begin();
        const auto before = identity.generation.load();
        int wrong = 0;
        for (int i = 0; i < 3; ++i) {  // the locks are free after each
            const int status = test::wait_status(test::fork_child([&] {
                mp::Queue<int> queue;
                queue.put(1);
                if (identity.pid != ::getpid()) return 1;
                if (identity.generation != before + 1) return 2;
                const std::unique_lock tables(identity.tables, std::try_to_lock);
                const std::unique_lock listeners(identity.listeners, std::try_to_lock);
                return tables && listeners && queue.get() == 1 ? 0 : 3;
            }));
            const std::unique_lock tables(identity.tables, std::try_to_lock);
            const std::unique_lock listeners(identity.listeners, std::try_to_lock);
            wrong += status != 0 || !tables || !listeners;
        }
        return wrong;
    });
    CHECK(twice.exit_status() == std::optional<int>(0));
}
