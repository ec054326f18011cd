// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// One GET request at a time, by libcurl. Whatever goes wrong is a part of the answer.

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include <curl/curl.h>

#include "url.hpp"

namespace scraper {

struct Response {
    long status = 0;            // 0: no answer
    std::string error = {};     // why there is none, or none of use
    std::string type = {};      // Content-Type
    std::string redirect = {};  // where a 3xx leads
    std::string body = {};      // of HTML pages and robots.txt; the rest is not transferred

    bool html() const {
        return (type.empty() && status != 204) || type.starts_with("text/html") ||
               type.starts_with("application/xhtml");
    }
};

/// Keeps its connections open between requests. One for each process: not shared over a fork.
class Fetcher {
public:
    static constexpr const char* agent = "multiprocessing-scraper";
    static constexpr std::size_t largest = 16 << 20;

    explicit Fetcher(std::chrono::milliseconds timeout)
        : timeout_(timeout), curl_(curl_easy_init(), curl_easy_cleanup) {
        if (!curl_) throw std::runtime_error("curl_easy_init failed");
        set(CURLOPT_USERAGENT, agent);
        set(CURLOPT_TIMEOUT_MS, static_cast<long>(timeout.count()));
        set(CURLOPT_NOSIGNAL, 1L);
        set(CURLOPT_PATH_AS_IS, 1L);
        set(CURLOPT_ACCEPT_ENCODING, "");  // whatever libcurl can decode
        set(CURLOPT_WRITEFUNCTION, &Fetcher::on_data);
        set(CURLOPT_WRITEDATA, this);
    }
    Fetcher(const Fetcher&) = delete;
    Fetcher& operator=(const Fetcher&) = delete;

    /// Does not follow redirects: who asks decides whether to go there.
    /// \param only_html  leave the body of everything else where it is
    Response get(const std::string& url, bool only_html = true) {
        response_ = {};
        only_html_ = only_html;
        refused_ = false;
        set(CURLOPT_URL, url.c_str());
        set(CURLOPT_PROXY, is_loopback(url) ? "" : static_cast<const char*>(nullptr));
        const CURLcode code = curl_easy_perform(curl_.get());
        read_head();
        if (code == CURLE_OPERATION_TIMEDOUT)
            response_.error = "no answer within " + std::to_string(timeout_.count()) + " ms";
        else if (code != CURLE_OK && !refused_)
            response_.error = detail::lower(curl_easy_strerror(code));
        const char* target = nullptr;
        curl_easy_getinfo(curl_.get(), CURLINFO_REDIRECT_URL, &target);
        if (target) response_.redirect = target;
        return std::move(response_);
    }

private:
    template <class T>
    void set(CURLoption option, T value) {
        if (const CURLcode code = curl_easy_setopt(curl_.get(), option, value); code != CURLE_OK)
            throw std::runtime_error(std::string("curl_easy_setopt: ") + curl_easy_strerror(code));
    }

    void read_head() {
        const char* type = nullptr;
        curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &response_.status);
        curl_easy_getinfo(curl_.get(), CURLINFO_CONTENT_TYPE, &type);
        response_.type = type ? detail::lower(type) : "";
    }

    /// libcurl has some of the body. To take less of it than there is ends the transfer.
    static std::size_t on_data(char* data, std::size_t, std::size_t size, void* self) {
        Fetcher& fetcher = *static_cast<Fetcher*>(self);
        Response& response = fetcher.response_;
        if (response.body.empty()) fetcher.read_head();
        fetcher.refused_ = response.status / 100 == 2 && fetcher.only_html_ && !response.html();
        if (response.body.size() + size > largest) {
            fetcher.refused_ = true;
            response.body.clear();
            response.error = "larger than " + std::to_string(largest >> 20) + " MiB";
        }
        if (fetcher.refused_) return 0;
        response.body.append(data, size);
        return size;
    }

    std::chrono::milliseconds timeout_;
    std::unique_ptr<CURL, void (*)(CURL*)> curl_;
    Response response_ = {};
    bool only_html_ = true;
    bool refused_ = false;  // we ended the transfer ourselves
};

}  // namespace scraper
