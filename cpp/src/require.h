// SPDX-License-Identifier: Apache-2.0
// The check of an argument: one line each where many are checked; and a number as its complaint shows it.
#pragma once

#include <sstream>
#include <string>

#include "melt/error.h"

namespace melt {

inline void require(bool condition, const std::string& message) {
  if (!condition)
    throw Error(ErrorKind::kInvalidArgument, message);
}

/// "0.1", "600": six digits at most.
inline std::string short_text(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

}  // namespace melt
