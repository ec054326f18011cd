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

}  // namespace multiprocessing::detail
