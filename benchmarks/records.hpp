// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// What the benchmarks of queues and archives carry.

#include <string>
#include <vector>

#include "support.hpp"

namespace bench {

struct record {
    int id = 0, kind = 0;
    std::string name;
};

/// The same for cereal's own archives, which want to be told the members.
struct told_record : record {
    template <class Archive>
    void serialize(Archive& archive) {
        archive(id, kind, name);
    }
};

}  // namespace bench
