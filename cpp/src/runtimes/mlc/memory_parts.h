// SPDX-License-Identifier: Apache-2.0
// What a session holds, and what it would hold. Derived from the model's own description; level `memory` measures.
#pragma once

#include <cstdint>
#include <vector>

#include "calls.h"
#include "melt/runtime.h"
#include "model_folder.h"
#include "model_library.h"

namespace melt::mlc {

struct MemoryPlan {
  std::uint64_t weights_bytes = 0;
  std::uint64_t cache_bytes = 0;       ///< K and V of n_ctx tokens, rounded up to pages
  std::uint64_t activation_bytes = 0;  ///< as the library plans them; 0: it does not say
  std::uint32_t n_ctx = 0;
};

MemoryPlan plan_memory(const ModelFolder& folder, const LibraryMetadata& metadata, const ModelOptions& options);

/// Weights in the directory: packed ones counted one by one.
std::uint64_t count_weights(const ModelFolder& folder);

/// The pages of each layer, as the kernels that fill them were given them.
std::vector<CapturedTensor> cache_pages(const CallStore& calls);

/// See Runtime::predict_memory.
MemoryForecast predict_memory(const ModelOptions& options);

}  // namespace melt::mlc
