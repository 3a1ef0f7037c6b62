// SPDX-License-Identifier: Apache-2.0
// The measured procedure by the C interface, without Python around it: what callgrind can look at.
// usage: profile_once REQUEST TRACE     REQUEST: JSON, as docs/agent_protocol.md has it for `start`
#include <cstdio>

#include "melt/melt.h"

int main(int argc, char** argv) {
  melt_model* model = nullptr;
  const bool done = argc == 3 && melt_model_load(argv[1], &model) == MELT_OK &&
                    melt_model_profile(model, argv[2], nullptr, nullptr) == MELT_OK;
  if (!done)
    std::fprintf(stderr, "%s\n", argc == 3 ? melt_last_error() : "usage: profile_once REQUEST TRACE");
  melt_model_free(model);
  return done ? 0 : 1;
}
