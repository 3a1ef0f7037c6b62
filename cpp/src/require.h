// SPDX-License-Identifier: Apache-2.0
// The check of an argument: one line each where many are checked.
#pragma once

#include <string>

#include "melt/error.h"

namespace melt {

inline void require(bool condition, const std::string& message) {
  if (!condition)
    throw Error(ErrorKind::kInvalidArgument, message);
}

}  // namespace melt
