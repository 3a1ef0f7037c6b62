// SPDX-License-Identifier: Apache-2.0
// What the sensors of a tree read, for tests.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "sensors/catalog.h"

namespace melt {

/// Reads every source of a catalog: "site/kind" -> value.
inline std::map<std::string, double> read_all(SensorCatalog& catalog) {
  std::map<std::string, double> found;
  for (const auto& source : catalog.sources()) {
    std::vector<double> values(source->channels().size());
    source->read(values.data());
    for (std::size_t i = 0; i < values.size(); ++i)
      found[source->channels()[i].site + "/" + source->channels()[i].kind] = values[i];
  }
  return found;
}

inline SensorCatalog found_by(void (*find)(SensorCatalog&)) {
  SensorCatalog catalog;
  find(catalog);
  return catalog;
}

}  // namespace melt
