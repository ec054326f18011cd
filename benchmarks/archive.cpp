// SPDX-License-Identifier: BSL-1.0
//
// archive (ours|cereal) (record|text|array|map): microseconds to encode and decode a value: a
// struct of two ints and a short string, 64 KiB of text, 8 MB of doubles, 10,000 entries of
// map<string, int>. The peer is cereal's binary archive on a stringstream.

#include <sstream>

#include <cereal/archives/binary.hpp>
#include <cereal/types/map.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/vector.hpp>

#include <multiprocessing/detail/archive/memory.hpp>

#include "records.hpp"

namespace {

template <class T>
void ours(const T& value, T& back) {
    namespace mpd = multiprocessing::detail;
    static std::vector<std::byte> message;
    message.clear();
    const auto encoded = mpd::encode(value);
    for (const auto& piece : encoded.pieces())
        message.insert(message.end(), piece.begin(), piece.end());
    back = mpd::decode<T>(message);
}

template <class T>
void cereals(const T& value, T& back) {
    std::stringstream stream;
    cereal::BinaryOutputArchive{stream}(value);
    cereal::BinaryInputArchive{stream}(back);
}

template <class T>
double microseconds(void there_and_back(const T&, T&), const T& value, int many = 1) {
    T back{};
    std::vector<std::int64_t> times;
    const std::int64_t end = bench::now() + 100'000'000;
    for (std::int64_t before = bench::now(); before < end || times.size() < 5;) {
        for (int i = 0; i < many; ++i) {
            there_and_back(value, back);
            bench::keep(&back);
        }
        const std::int64_t after = bench::now();
        times.push_back((after - before) / many);
        before = after;
    }
    return static_cast<double>(bench::median(times)) / 1e3;
}

}  // namespace

int main(int, char** arguments) {
    return bench::program([&] {
        const bool is_ours = std::string(arguments[1]) == "ours";
        const auto either = [&]<class T>(const T& value) {
            return microseconds<T>(is_ours ? &ours<T> : &cereals<T>, value);
        };
        const std::string kind = arguments[2];
        double result = 0;
        if (kind == "record" && is_ours) {
            result = microseconds<bench::record>(ours, {1, 2, "three"}, 100);
        } else if (kind == "record") {
            result = microseconds<bench::told_record>(cereals, {{1, 2, "three"}}, 100);
        } else if (kind == "text") {
            result = either(std::string(64 << 10, 'x'));
        } else if (kind == "array") {
            result = either(std::vector<double>(1 << 20, 1.5));
        } else {
            std::map<std::string, int> map;
            for (int i = 0; i < 10'000; ++i) map["key number " + std::to_string(i)] = i;
            result = either(map);
        }
        std::printf("%.6g\n", result);
    });
}
