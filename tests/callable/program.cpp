// SPDX-License-Identifier: BSL-1.0
//
// program [PLUGIN]: sends tasks to a forked child and to two that run the program anew, where the
// loader puts everything elsewhere. Each child calls them all and reports how many went wrong.
// Built by matrix.sh in every way that could spoil the identity of a function.

#include "tasks.hpp"

#include <cstdio>
#include <cstdlib>

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mp = multiprocessing;

static int same_name(int x) { return x + 1; }

template <int N>
int times(int x) {
    return x * N;
}

template <class T>
struct add {
    T k;
    int operator()(int x) const { return static_cast<int>(static_cast<T>(x) + k); }
};

// The same code twice: linkers may fold them.
static int folded_a(int x) { return x + 77; }
static int folded_b(int x) { return x + 77; }

static std::vector<task> all_tasks(const char* plugin) {
    std::vector<task> tasks;
    const auto put = [&](const char* name, const auto& f, int result) {
        tasks.push_back(make_task(name, f, result));
    };
    int k = 9;
    double d = 2;
    struct {
        long values[6];
    } big{{1, 2, 3, 4, 5, 6}};
    put("static function", &same_name, 6);
    put("function template 3", &times<3>, 15);
    put("function template 4", &times<4>, 20);
    put(
        "lambda", [](int x) { return x + 10; }, 15);
    put(
        "lambda of the same signature", [](int x) { return x + 11; }, 16);
    put(
        "lambda with captures", [k, d](int x) { return static_cast<int>(x + k + d); }, 16);
    put(
        "lambda with an array", [big](int x) { return static_cast<int>(x + big.values[5]); }, 11);
    put("object of double", add<double>{1.5}, 6);
    put("object of int", add<int>{2}, 7);
    put("folded a", &folded_a, 82);
    put("folded b", &folded_b, 82);
    put("shared lambda", shared_lambda(), 4005);
    other_unit_tasks(tasks);
#ifdef WITH_LIBRARY
    linked_tasks(&tasks);
    put("library function from the program", &linked_function, 105);
    put("function of libc", static_cast<int (*)(int)>(&std::abs), 5);
    if (void* const opened = ::dlopen(plugin, RTLD_NOW | RTLD_LOCAL)) {
        reinterpret_cast<void (*)(std::vector<task>*)>(::dlsym(opened, "plugin_tasks"))(&tasks);
    } else {
        std::printf("%s\n", ::dlerror());
        std::exit(1);
    }
#else
    (void)plugin;
#endif

    const auto forge = [&](const char* name, std::size_t word, std::uint64_t change) {
        task t = tasks[3];
        t.name = name;
        t.result = task::refused;
        std::uint64_t value;
        std::memcpy(&value, t.message.data() + 8 * word, sizeof value);
        value += change;
        std::memcpy(t.message.data() + 8 * word, &value, sizeof value);
        tasks.push_back(t);
    };
    forge("forged: another build", 0, 1);
    forge("forged: past the module", 1, std::uint64_t{1} << 40);
    forge("forged: before the module", 1, ~std::uint64_t{0} / 2);
    forge("forged: shifted", 1, 8);
    forge("forged: misaligned", 1, 1);
    forge("forged: another type", 2, 1);
    task data = tasks[0];  // a function pointer that leads into data
    std::memcpy(data.message.data() + 24, tasks[3].message.data(), 16);
    data.name = "forged: a function in data";
    data.result = task::refused;
    tasks.push_back(data);
    return tasks;
}

static int run(const std::vector<task>& tasks) {
    int wrong = 0;
    for (const task& t : tasks) {
        int result = 0;
        std::string why;
        try {
            number out;
            mpd::call(t.message, out);
            result = out.value;
        } catch (const mp::UnknownCallable& e) {
            result = task::refused;
            why = e.what();
        }
        if (result == t.result) continue;
        ++wrong;
        std::printf("    %s: %d, not %d %s\n", t.name, result, t.result, why.c_str());
    }
    std::fflush(stdout);
    return wrong;
}

static bool read_all(int fd, void* to, std::size_t size) {
    return ::read(fd, to, size) == static_cast<ssize_t>(size);
}

/// In a child that runs the program anew: tasks come through stdin.
static int run_received(const char* plugin) {
    std::vector<task> tasks = all_tasks(plugin);  // the same program offers the same tasks ...
    for (task& t : tasks) {                       // ... but calls what the parent has named
        if (!read_all(STDIN_FILENO, t.message.data(), t.message.size())) return 120;
    }
    return run(tasks);
}

static int status_of(pid_t pid) {
    int status = 0;
    if (::waitpid(pid, &status, 0) != pid) return 121;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int main(int argc, char** argv) {
    const char* const plugin = argc > 1 ? argv[1] : "";
    if (std::getenv("MP_TEST_CHILD")) return run_received(plugin);
    const std::vector<task> tasks = all_tasks(plugin);

    int mixed_up = 0;
    for (std::size_t i = 0; i < tasks.size(); ++i)
        for (std::size_t j = 0; j < i; ++j)
            mixed_up += tasks[i].result != tasks[j].result && tasks[i].message == tasks[j].message;

    std::fflush(stdout);
    const pid_t forked = ::fork();
    if (forked == 0) ::_exit(run(tasks));
    const int in_fork = status_of(forked);

    int in_exec[2] = {};
    ::setenv("MP_TEST_CHILD", "1", 1);
    for (int& result : in_exec) {
        int pipe[2];
        if (::pipe2(pipe, O_CLOEXEC) != 0) return 1;
        for (const task& t : tasks)
            if (::write(pipe[1], t.message.data(), t.message.size()) < 0) return 1;
        posix_spawn_file_actions_t actions;
        ::posix_spawn_file_actions_init(&actions);
        ::posix_spawn_file_actions_adddup2(&actions, pipe[0], STDIN_FILENO);
        pid_t pid = -1;
        if (::posix_spawn(&pid, "/proc/self/exe", &actions, nullptr, argv, environ) != 0) return 1;
        ::posix_spawn_file_actions_destroy(&actions);
        ::close(pipe[0]);
        ::close(pipe[1]);
        result = status_of(pid);
    }
    std::printf("%zu tasks, wrong: %d forked, %d and %d run anew, %d mixed up\n", tasks.size(),
                in_fork, in_exec[0], in_exec[1], mixed_up);
    return in_fork || in_exec[0] || in_exec[1] || mixed_up;
}
