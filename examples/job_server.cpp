// SPDX-License-Identifier: BSL-1.0
//
// A server of queues, who submits jobs, and workers: programs of their own, on this host or others:
//
//     job_server serve 0.0.0.0:8000 key       # makes the file `key`; copy it to the others
//     job_server work example.org:8000 key    # takes jobs for ever
//     job_server submit example.org:8000 key  # puts 100 jobs, and waits for their results
//
// Without arguments it does all of that, with two workers, on a free port of 127.0.0.1, and prints
//
//     100 jobs done: the sum of the squares is 328350

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <multiprocessing/managers.hpp>
#include <multiprocessing/queues.hpp>
#include <multiprocessing/tls.hpp>

namespace mp = multiprocessing;
using namespace std::chrono_literals;

struct Result {
    int job = 0;
    long square = 0;
};
using JobQueue = mp::Queue<int>;
using ResultQueue = mp::Queue<Result>;
static constexpr int stop = -1;  // a job that ends a worker

/// Two queues for everybody who connects. (A worker that is killed loses the job that it has
/// taken.)
struct Jobs : mp::BaseManager<Jobs> {
    static void register_types(mp::Registry& r) {
        r.add<JobQueue>("jobs", mp::method<&JobQueue::put_nowait>("put"),
                        mp::method<&JobQueue::try_get_for>("get"));
        r.add<ResultQueue>("results", mp::method<&ResultQueue::put_nowait>("put"),
                           mp::method<&ResultQueue::try_get_for>("get"));
    }
};

/// A key for this server, in a file for its owner alone. Not in argv: everybody can read that.
static mp::AuthKey make_key(const std::string& path) {
    const auto key = mp::AuthKey::generate();
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || ::write(fd, key.bytes().data(), key.bytes().size()) != 32)
        throw mp::Error("can't write " + path);
    ::close(fd);
    return key;
}
static mp::AuthKey read_key(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return mp::AuthKey(std::string(std::istreambuf_iterator<char>(file), {}));
}

static void work(const std::string& address, const mp::AuthKey& key) {
    auto remote = Jobs::connect(address, {.authkey = key, .transport = mp::tls});
    const auto jobs = remote.get<JobQueue>("jobs");
    const auto results = remote.get<ResultQueue>("results");
    for (;;) {
        const auto job = jobs.call<&JobQueue::try_get_for>(10s);
        if (job == stop) return;
        if (job) results.call<&ResultQueue::put_nowait>(Result{*job, long{*job} * *job});
    }
}

/// \param workers  to be stopped afterwards
static void submit(const std::string& address, const mp::AuthKey& key, int workers) {
    static constexpr int count = 100;
    auto remote = Jobs::connect(address, {.authkey = key, .transport = mp::tls});
    const auto jobs = remote.get<JobQueue>("jobs");
    for (int i = 0; i < count; ++i) jobs.call<&JobQueue::put_nowait>(i);
    const auto results = remote.get("results");  // by name alone
    std::map<int, long> squares;
    while (squares.size() < count)
        if (const auto result = results.call<std::optional<Result>>("get", mp::duration(10s)))
            squares[result->job] = result->square;
    for (int i = 0; i < workers; ++i) jobs.call<&JobQueue::put_nowait>(stop);
    long sum = 0;
    for (const auto& [job, square] : squares) sum += square;
    std::printf("%d jobs done: the sum of the squares is %ld\n", count, sum);
}

int main(int argc, char** argv) try {
    const std::string what = argc > 1 ? argv[1] : "";
    if (argc == 4 && what == "work") {
        work(argv[2], read_key(argv[3]));
    } else if (argc == 4 && what == "submit") {
        submit(argv[2], read_key(argv[3]), 0);
    } else if (argc == 4 && what == "serve") {
        auto server = Jobs::serve(argv[2], {.authkey = make_key(argv[3]), .transport = mp::tls});
        std::printf("serving at %s\n", server.address().to_string().c_str());
        std::fflush(stdout);
        server.wait();
    } else if (argc == 1) {
        char directory[] = "/tmp/job_server-XXXXXX";
        if (!::mkdtemp(directory)) throw mp::Error("mkdtemp");
        const std::string file = std::string(directory) + "/key";
        const auto key = make_key(file);
        auto server = Jobs::serve("127.0.0.1:0", {.authkey = key, .transport = mp::tls});
        const std::string address = server.address().to_string();
        std::vector<pid_t> workers;
        for (int i = 0; i < 2; ++i) {
            workers.push_back(::fork());
            if (workers.back() == 0) {
                ::execl("/proc/self/exe", argv[0], "work", address.c_str(), file.c_str(), nullptr);
                ::_exit(127);
            }
        }
        submit(address, key, 2);
        int failed = 0;
        for (const pid_t worker : workers) {
            int status = 0;
            failed += ::waitpid(worker, &status, 0) != worker || status != 0;
        }
        ::unlink(file.c_str());
        ::rmdir(directory);
        if (failed != 0) throw mp::Error("a worker failed");
    } else {
        std::fprintf(stderr, "usage: %s [serve|work|submit ADDRESS KEYFILE]\n", argv[0]);
        return 2;
    }
} catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
