// expect: multiprocessing: this type can't be sent because .*that can't be default-constructed
// SPDX-License-Identifier: BSL-1.0
#include <stdexcept>

#include <multiprocessing/detail/archive/exception.hpp>

class failure : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};
MP_REGISTER_EXCEPTION(failure);

int main() {}
