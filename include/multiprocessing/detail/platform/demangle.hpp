// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Names of types at run time.

#include <string>
#include <typeinfo>

#include <cxxabi.h>
#include <stdlib.h>

namespace multiprocessing::detail {

/// A type as the compiler spells it in the source; at worst, without memory, it is mangled.
inline std::string demangled(const std::type_info& type) {
    struct owned {
        char* text;
        ~owned() { ::free(text); }
    };
    const owned name{abi::__cxa_demangle(type.name(), nullptr, nullptr, nullptr)};
    return name.text != nullptr ? name.text : type.name();
}

}  // namespace multiprocessing::detail
