// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A guard: at its end the process has the descriptors, children and mappings of ours that it had
/// at its start, and no new name of ours is in /dev/shm.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include <multiprocessing/process.hpp>

#include "support/catch.hpp"

namespace test {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool address_sanitizer = true;
#elif defined(__has_feature)
inline constexpr bool address_sanitizer = __has_feature(address_sanitizer);
#else
inline constexpr bool address_sanitizer = false;
#endif

/// Number and target of each open descriptor of this process.
inline std::map<int, std::string> open_descriptors() {
    std::map<int, std::string> found;
    std::error_code gone;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        const std::string target = std::filesystem::read_symlink(entry, gone).string();
        if (!gone) found.emplace(std::stoi(entry.path().filename().string()), target);
    }
    // The one of the iteration itself.
    std::erase_if(found, [](const auto& fd) { return ::fcntl(fd.first, F_GETFD) == -1; });
    return found;
}

/// Files of shared memory of ours that this process has mapped.
inline long our_mappings() {
    long n = 0;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) n += line.find("/memfd:mp:") != line.npos;
    return n;
}

/// Children of this process, zombies too.
inline std::set<int> children() {
    std::set<int> found;
    std::error_code none;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", none)) {
        std::ifstream list(task.path() / "children");
        for (int pid = 0; list >> pid;) found.insert(pid);
    }
    return found;
}

/// Whether it has the number of a process that runs beside this one: a name of another test's.
inline bool is_of_another(const std::string& name) {
    for (std::size_t at = 0; (at = name.find_first_of("0123456789", at)) != name.npos;) {
        const std::size_t end = std::min(name.find_first_not_of("0123456789", at), name.size());
        const std::string number = name.substr(at, end - at);
        if (number != std::to_string(::getpid()) && std::filesystem::exists("/proc/" + number))
            return true;
        at = end;
    }
    return false;
}

/// Names in /dev/shm that a process of this program may have made. Others work on the machine too.
inline std::set<std::string> shared_names() {
    std::set<std::string> found;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", none)) {
        const std::string name = entry.path().filename().string();
        if (is_of_another(name) || !std::filesystem::exists(entry.path(), none)) continue;
        if (name.starts_with("mp") || name.find(std::to_string(::getpid())) != std::string::npos)
            found.insert(name);
    }
    return found;
}

class no_leaks {
public:
    no_leaks() {
        {  // what the library opens once for each process
            multiprocessing::Process first(multiprocessing::ProcessOptions{.daemon = true}, [] {});
            first.start();
        }
        descriptors_ = open_descriptors();
        children_ = children();
        names_ = shared_names();
        mappings_ = our_mappings();
    }
    no_leaks(const no_leaks&) = delete;
    no_leaks& operator=(const no_leaks&) = delete;
    ~no_leaks() {
        for (const auto& [fd, target] : open_descriptors())
            if (!descriptors_.contains(fd))
                FAIL_CHECK("descriptor left open: " << fd << ' ' << target);
        for (const auto& [fd, target] : descriptors_)
            if (::fcntl(fd, F_GETFD) == -1)
                FAIL_CHECK("descriptor closed: " << fd << ' ' << target);
        for (const int pid : children())
            if (!children_.contains(pid)) FAIL_CHECK("child left: " << pid);
        for (const std::string& name : shared_names())
            if (!names_.contains(name)) FAIL_CHECK("left in /dev/shm: " << name);
        if (our_mappings() != mappings_)
            FAIL_CHECK("mappings: " << our_mappings() << " instead of " << mappings_);
    }

private:
    std::map<int, std::string> descriptors_;
    std::set<int> children_;
    std::set<std::string> names_;
    long mappings_;
};

}  // namespace test
