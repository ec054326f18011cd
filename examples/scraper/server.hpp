// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// A small HTTP server for the files of a directory, on a free port of 127.0.0.1.

#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "url.hpp"

namespace scraper {

/// The port is open from construction on, so the address is good before anybody serves it: make
/// it, start a process that calls serve(), and close() the parent's copy.
class FileServer {
public:
    explicit FileServer(std::filesystem::path root) : root_(std::move(root)) {
        listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof address;
        auto* generic = reinterpret_cast<sockaddr*>(&address);
        if (listener_ < 0 || ::bind(listener_, generic, length) != 0 ||
            ::listen(listener_, 128) != 0 || ::getsockname(listener_, generic, &length) != 0)
            throw std::system_error(errno, std::generic_category(), "no server on 127.0.0.1");
        port_ = ntohs(address.sin_port);
    }
    ~FileServer() { close(); }
    FileServer(const FileServer&) = delete;
    FileServer& operator=(const FileServer&) = delete;

    std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + '/'; }

    void close() {
        if (listener_ >= 0) ::close(std::exchange(listener_, -1));
    }

    /// Answers until the process ends; a thread for each connection.
    [[noreturn]] void serve() const {
        for (;;) {
            const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            if (client >= 0) std::thread([this, client] { converse(client); }).detach();
        }
    }

private:
    struct Answer {
        std::string status, headers, body;
    };

    /// One request after the other, until the client goes away.
    void converse(int client) const {
        const int on = 1;
        ::setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        std::string input;
        std::array<char, 16384> buffer;
        for (;;) {
            const std::size_t end = input.find("\r\n\r\n");
            if (end == input.npos) {
                const ssize_t n = ::recv(client, buffer.data(), buffer.size(), 0);
                if (n <= 0 || input.size() > 65536) break;
                input.append(buffer.data(), static_cast<std::size_t>(n));
                continue;
            }
            const std::string_view line = std::string_view(input).substr(0, input.find("\r\n"));
            const std::size_t space = std::min(line.find(' '), line.size());
            const std::string_view method = line.substr(0, space);
            const std::string_view target = line.substr(std::min(space + 1, line.size()));
            const Answer answer =
                method == "GET" || method == "HEAD"
                    ? find(target.substr(0, target.find(' ')))
                    : Answer{"405 Method Not Allowed", "Allow: GET, HEAD\r\n", ""};
            std::string output = "HTTP/1.1 " + answer.status + "\r\n" + answer.headers +
                                 "Content-Length: " + std::to_string(answer.body.size()) +
                                 "\r\n\r\n";
            if (method != "HEAD") output += answer.body;
            input.erase(0, end + 4);
            if (!send_all(client, output)) break;
        }
        ::close(client);
    }

    /// The file behind the target of a request.
    Answer find(std::string_view target) const {
        namespace fs = std::filesystem;
        const std::string path = unescape(target.substr(0, target.find('?')));
        const fs::path inside = fs::path(path).lexically_normal().relative_path();
        fs::path file = root_ / inside;
        std::error_code error;
        const bool outside = !inside.empty() && *inside.begin() == "..";
        if (outside || !path.starts_with('/') || path.find('\0') != path.npos)
            return {"400 Bad Request", "", ""};
        if (fs::is_directory(file, error)) {
            if (!path.ends_with('/'))
                return {"301 Moved Permanently", "Location: " + path + "/\r\n", ""};
            file /= "index.html";
        }
        std::ifstream stream(file, std::ios::binary);
        if (!fs::is_regular_file(file, error) || !stream)
            return {"404 Not Found", "", "not found\n"};
        return {"200 OK", "Content-Type: " + type_of(file.extension().string()) + "\r\n",
                std::string(std::istreambuf_iterator<char>(stream), {})};
    }

    static std::string type_of(std::string_view extension) {
        if (extension == ".html" || extension == ".htm") return "text/html; charset=utf-8";
        if (extension == ".txt" || extension == ".py") return "text/plain; charset=utf-8";
        if (extension == ".css") return "text/css";
        if (extension == ".png") return "image/png";
        return "application/octet-stream";
    }

    static bool send_all(int client, std::string_view data) {
        while (!data.empty()) {
            const ssize_t n = ::send(client, data.data(), data.size(), MSG_NOSIGNAL);
            if (n <= 0) return false;
            data.remove_prefix(static_cast<std::size_t>(n));
        }
        return true;
    }

    std::filesystem::path root_;
    int listener_ = -1;
    std::uint16_t port_ = 0;
};

}  // namespace scraper
