// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// When code of this library is compiled.

#include <multiprocessing/errors.hpp>

namespace multiprocessing::detail {

/// `template <compiled = compiled::when_used>` in front of a class or function that is no template
/// by nature: a file that includes its header and does not use it reads it and compiles nothing of
/// it. Its name is used with `<>` then. For what is large and not needed by everybody.
enum class MP_EXPORT compiled { when_used };

/// In a template of T, for what it is made of: when_used, which the compiler does not know before
/// it has T.
template <class>
inline constexpr compiled used_by = compiled::when_used;

/// T, in such a class or function: what is made of it, a std::vector for one, is compiled with it.
template <compiled, class T>
struct known_later {
    using type = T;
};
template <compiled When, class T>
using later = typename known_later<When, T>::type;

}  // namespace multiprocessing::detail
