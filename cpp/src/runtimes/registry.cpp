// SPDX-License-Identifier: Apache-2.0
#include "melt/error.h"
#include "melt/runtime.h"
#include "runtimes/runtimes.h"
#include "text_list.h"

namespace melt {
namespace {

struct Entry {
  const char* name;
  std::unique_ptr<Runtime> (*make)();
};

constexpr Entry kRuntimes[] = {
    {"synthetic", make_synthetic_runtime},
#ifdef MELT_WITH_LLAMA_CPP
    {"llama.cpp", make_llama_cpp_runtime},
#endif
#ifdef MELT_WITH_MLC
    {"mlc", make_mlc_runtime},
#endif
};

}  // namespace

std::vector<std::string> runtime_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kRuntimes)
    names.emplace_back(entry.name);
  return names;
}

std::unique_ptr<Runtime> make_runtime(const std::string& name) {
  std::string names;
  for (const Entry& entry : kRuntimes) {
    if (name == entry.name)
      return entry.make();
    append_item(names, entry.name);
  }
  throw Error(ErrorKind::kInvalidArgument, "unknown runtime \"" + name + "\": this build has " + names);
}

}  // namespace melt
