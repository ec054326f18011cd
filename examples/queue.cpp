// SPDX-License-Identifier: BSL-1.0
//
// Workers take jobs out of one queue and put answers into another. Prints
//
//     primes from     0 to  9999: 1229
//     primes from 10000 to 19999: 1033
//     primes from 20000 to 29999:  983
//     primes from 30000 to 39999:  958

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <vector>

#include <multiprocessing/process.hpp>
#include <multiprocessing/queues.hpp>

namespace mp = multiprocessing;

struct Job {
    int first = 0, last = 0;
};

struct Answer {
    Job job;
    std::vector<int> primes;
};

bool is_prime(int n) {
    for (int i = 2; i * i <= n; ++i)
        if (n % i == 0) return false;
    return n > 1;
}

void work(mp::Queue<std::optional<Job>>& jobs, mp::Queue<Answer>& answers) {
    while (const auto job = jobs.get()) {  // until there is none
        Answer answer{*job, {}};
        for (int n = job->first; n <= job->last; ++n)
            if (is_prime(n)) answer.primes.push_back(n);
        answers.put(answer);
    }
}

int main() {
    mp::Queue<std::optional<Job>> jobs;
    mp::Queue<Answer> answers;
    std::vector<mp::Process> workers;
    for (int i = 0; i < 2; ++i) workers.emplace_back(work, jobs, answers).start();

    for (int first = 0; first < 40'000; first += 10'000) jobs.put(Job{first, first + 9'999});
    for (std::size_t i = 0; i < workers.size(); ++i) jobs.put(std::nullopt);

    std::vector<Answer> all;
    while (all.size() < 4) all.push_back(answers.get());
    for (mp::Process& worker : workers) worker.join();

    std::ranges::sort(all, {}, [](const Answer& answer) { return answer.job.first; });
    for (const auto& [job, primes] : all)
        std::printf("primes from %5d to %5d: %4zu\n", job.first, job.last, primes.size());
}
