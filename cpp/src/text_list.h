// SPDX-License-Identifier: Apache-2.0
// Lists in words, and in JSON: items with commas between.
#pragma once

#include <string>
#include <string_view>

namespace melt {

/// Adds an item, behind a comma if there is one before it.
inline void append_item(std::string& list, std::string_view item) {
  if (!list.empty())
    list += ", ";
  list += item;
}

}  // namespace melt
