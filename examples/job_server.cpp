// SPDX-License-Identifier: BSL-1.0
//
// A job server and its workers, which are programs of their own, on this host or another:
//
//     job_server serve 0.0.0.0:8000 key       # makes the file `key`; copy it to the workers
//     job_server work example.org:8000 key
//
// Without arguments it serves on a free port of 127.0.0.1, starts two workers as separate programs,
// and prints
//
//     100 jobs done by 2 workers: the sum of the squares is 328350

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
#include <multiprocessing/tls.hpp>

namespace mp = multiprocessing;

/// Shared by everybody who connects; one call at a time.
class JobTable {
public:
    std::optional<int> next() {  // nothing: all are taken
        return given_ < count ? std::optional<int>(given_++) : std::nullopt;
    }
    void done(int job, long result, const std::string& worker) {
        results_[job] = result;
        ++by_[worker];
    }
    int missing() const { return count - static_cast<int>(results_.size()); }
    std::map<std::string, int> by_worker() const { return by_; }
    long sum() const {
        long all = 0;
        for (const auto& [job, result] : results_) all += result;
        return all;
    }

private:
    static constexpr int count = 100;
    int given_ = 0;
    std::map<int, long> results_;
    std::map<std::string, int> by_;
};

struct Jobs : mp::BaseManager<Jobs> {
    static void register_types(mp::Registry& r) {
        r.add<JobTable>(
            "jobs", mp::method<&JobTable::next>("next"), mp::method<&JobTable::done>("done"),
            mp::method<&JobTable::missing>("missing"),
            mp::method<&JobTable::by_worker>("by_worker"), mp::method<&JobTable::sum>("sum"));
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
    const auto jobs = remote.get<JobTable>("jobs");
    const std::string me = "worker " + std::to_string(::getpid());
    while (const auto job = jobs.call<&JobTable::next>())
        jobs.call<&JobTable::done>(*job, long{*job} * *job, me);
}

int main(int argc, char** argv) try {
    const std::string what = argc > 1 ? argv[1] : "";
    if (argc == 4 && what == "work") {
        work(argv[2], read_key(argv[3]));
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
        int failed = 0;
        for (const pid_t worker : workers) {
            int status = 0;
            failed += ::waitpid(worker, &status, 0) != worker || status != 0;
        }
        ::unlink(file.c_str());
        ::rmdir(directory);
        auto remote = Jobs::connect(address, {.authkey = key, .transport = mp::tls});
        const auto jobs = remote.get("jobs");  // by name alone
        if (failed != 0 || jobs.call<int>("missing") != 0) throw mp::Error("some jobs are missing");
        const auto by = jobs.call<std::map<std::string, int>>("by_worker");
        int done = 0;
        for (const auto& [worker, count] : by) done += count;
        std::printf("%d jobs done by 2 workers: the sum of the squares is %ld\n", done,
                    jobs.call<long>("sum"));
    } else {
        std::fprintf(stderr, "usage: %s [serve ADDRESS KEYFILE | work ADDRESS KEYFILE]\n", argv[0]);
        return 2;
    }
} catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
