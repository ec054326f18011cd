// expect: multiprocessing: this type can't be sent because .*that can't be default-constructed
// SPDX-License-Identifier: BSL-1.0
#include <vector>

#include <multiprocessing/pool.hpp>

namespace mp = multiprocessing;

class id {
public:
    explicit id(int x) : x_(x) {}
    template <class Archive>
    void serialize(Archive& archive) {
        archive(x_);
    }

private:
    int x_;
};

int main() {
    mp::Pool pool(2);
    pool.map([](int x) { return id(x); }, std::vector<int>{1, 2, 3});
}
