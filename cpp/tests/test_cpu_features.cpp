// SPDX-License-Identifier: Apache-2.0
// Instructions compiled in against those of this CPU.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "melt/cpu_features.h"

using namespace melt;

namespace {

bool contains(const std::vector<std::string>& names, const char* name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

TEST_CASE("cpu features: this CPU has what every CPU of its kind has had for years") {
  const std::vector<std::string> here = cpu_features();
#if defined(__x86_64__)
  CHECK(contains(here, "sse3"));
#elif defined(__aarch64__)
  // MELT_TEST_CPU: the model that an emulator was told to be.
  const char* model = std::getenv("MELT_TEST_CPU");
  const bool old = model != nullptr && std::string(model) == "cortex-a53";
  CHECK(contains(here, "crc"));
  CHECK(contains(here, "dotprod") != old);
  CHECK(contains(here, "lse") != old);
#endif
}

TEST_CASE("cpu features: of those that are needed, the missing and the unknown are told") {
  const std::vector<std::string> here = cpu_features();
  CHECK(missing_cpu_features(here).empty());
  CHECK(missing_cpu_features({}).empty());
  std::vector<std::string> needed = here;
  needed.push_back("neon9");
  CHECK(missing_cpu_features(needed) == std::vector<std::string>{"neon9"});
}

TEST_CASE("cpu features: what is missing is named") {
  const std::vector<std::string> here = cpu_features(), missing = missing_cpu_features();
  for (const std::string& name : compiled_cpu_features())
    CHECK(contains(here, name.c_str()) != contains(missing, name.c_str()));
  const std::string message = missing_cpu_features_message();
  CHECK(message.empty() == missing.empty());
  for (const std::string& name : missing)
    CHECK(message.find(name) != std::string::npos);
}
