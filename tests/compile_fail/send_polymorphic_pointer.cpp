// expect: multiprocessing: this type can't be sent because .*include <cereal/types/polymorphic.hpp>
// SPDX-License-Identifier: BSL-1.0
#include <memory>

#include <multiprocessing/detail/archive/memory.hpp>

struct shape {
    virtual ~shape() = default;
    virtual int area() const = 0;
    template <class Archive>
    void serialize(Archive&) {}
};

int main() {
    return static_cast<int>(multiprocessing::detail::encode(std::unique_ptr<shape>()).size());
}
