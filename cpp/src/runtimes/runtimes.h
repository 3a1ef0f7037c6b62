// SPDX-License-Identifier: Apache-2.0
// The constructors that the registry lists.
#pragma once

#include <memory>

#include "melt/runtime.h"

namespace melt {

std::unique_ptr<Runtime> make_synthetic_runtime();
std::unique_ptr<Runtime> make_llama_cpp_runtime();
std::unique_ptr<Runtime> make_mlc_runtime();

}  // namespace melt
