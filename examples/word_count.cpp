// SPDX-License-Identifier: BSL-1.0
//
// Counts the words of text files, as `wc -w` does, and shows the most frequent ones. The text goes
// to a pool of workers in pieces, read while earlier ones are counted: files may be larger than
// memory. Prints a line for each FILE and
//
//       47948 total
//     most frequent: 3342 the, 1946 of, 1333 to, 1176 a, 1065 or
//
// Usage: word_count FILE...   (without: /usr/share/common-licenses/*)

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

struct Piece {
    std::size_t file = 0;
    std::string text;
};

struct Counted {
    std::size_t file = 0;
    std::uint64_t words = 0;
    std::map<std::string, std::uint64_t> of;  // in lower case
};

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

Counted count(const Piece& piece) {
    Counted counted{piece.file, 0, {}};
    const auto end = piece.text.end();
    for (auto at = std::find_if_not(piece.text.begin(), end, is_space); at != end;) {
        const auto behind = std::find_if(at, end, is_space);
        std::string word(at, behind);
        for (char& c : word) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        ++counted.of[word];
        ++counted.words;
        at = std::find_if_not(behind, end, is_space);
    }
    return counted;
}

/// Walks over the text of the files in pieces that end between words.
class PieceIterator {
public:
    using value_type = Piece;
    using difference_type = std::ptrdiff_t;

    explicit PieceIterator(const std::vector<std::string>& files) : files_(&files) { ++*this; }

    const Piece& operator*() const { return piece_; }
    PieceIterator& operator++() {
        while (!read() && open()) {
        }
        return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const PieceIterator& it, std::default_sentinel_t) {
        return it.piece_.text.empty();
    }

private:
    bool read() {
        std::string& text = piece_.text;
        text.resize(std::size_t{64} << 10);
        stream_.read(text.data(), static_cast<std::streamsize>(text.size()));
        text.resize(static_cast<std::size_t>(stream_.gcount()));
        char c;
        while (!text.empty() && !is_space(text.back()) && stream_.get(c)) text += c;
        return !text.empty();
    }
    bool open() {
        if (next_ == files_->size()) return false;
        stream_ = std::ifstream((*files_)[next_], std::ios::binary);
        if (!stream_) throw std::runtime_error("can't read " + (*files_)[next_]);
        piece_.file = next_++;
        return true;
    }

    const std::vector<std::string>* files_;
    std::size_t next_ = 0;  // file
    std::ifstream stream_;
    Piece piece_;
};

struct Pieces {
    const std::vector<std::string>& files;
    PieceIterator begin() const { return PieceIterator(files); }
    std::default_sentinel_t end() const { return {}; }
};

int main(int argc, char** argv) try {
    std::vector<std::string> files(argv + 1, argv + argc);
    if (files.empty()) {
        for (const auto& entry : std::filesystem::directory_iterator("/usr/share/common-licenses"))
            files.push_back(entry.path());
        std::sort(files.begin(), files.end());
    }

    mp::Pool pool;
    std::vector<std::uint64_t> words(files.size());
    std::uint64_t total = 0;
    std::map<std::string, std::uint64_t> of;
    for (const Counted& counted : pool.imap_unordered(count, Pieces{files})) {
        words[counted.file] += counted.words;
        total += counted.words;
        for (const auto& [word, times] : counted.of) of[word] += times;
    }

    for (std::size_t i = 0; i < files.size(); ++i)
        std::printf("%7ju %s\n", std::uintmax_t{words[i]}, files[i].c_str());
    std::printf("%7ju total\nmost frequent:", std::uintmax_t{total});
    std::multimap<std::uint64_t, std::string, std::greater<>> by_times;
    for (const auto& [word, times] : of) by_times.emplace(times, word);
    int shown = 0;
    for (auto at = by_times.begin(); at != by_times.end() && shown < 5; ++at, ++shown)
        std::printf("%s %ju %s", shown == 0 ? "" : ",", std::uintmax_t{at->first},
                    at->second.c_str());
    std::puts("");
} catch (const std::exception& error) {
    std::fprintf(stderr, "word_count: %s\n", error.what());
    return 1;
}
