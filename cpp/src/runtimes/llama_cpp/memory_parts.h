// SPDX-License-Identifier: Apache-2.0
// What a model and its context hold, and what they would hold: llama.cpp's own dry run (llama_model_params.no_alloc,
// as common/fit.cpp uses it) builds every tensor and the largest graph without allocating or reading weights.
#pragma once

#include <vector>

#include "llama.h"
#include "melt/runtime.h"

namespace melt::llama_cpp {

/// Bookkeeping of the cache for one token, touched at once (llama-kv-cells.h).
constexpr double kCellBytes = 50.0;

/// The settings of a session: the prediction and the real load share them, so they cannot drift apart.
llama_model_params model_params(const ModelOptions& options);
/// Raises: Error(kInvalidArgument) for an unknown kv_type.
llama_context_params context_params(const ModelOptions& options);
/// Raises: Error(kInvalidArgument) that lists the types there are.
ggml_type kv_type(const ModelOptions& options);

/// A generous bound of the executed nodes; the first graph tells the real number. 40 a layer, of which a transformer
/// has 17. What OpHooks reserves by it is part of a session's memory.
inline std::size_t nodes_hint(std::uint32_t n_layer) {
  return static_cast<std::size_t>(n_layer) * 40 + 64;
}

/// Call before the context of a loaded model is made: llama.cpp touches its bookkeeping before it asks for the cache,
/// and the cache before it asks for the rest. Where the context could take more than half of the memory at hand, the
/// dry run says to the byte what it takes; elsewhere nothing is run twice.
/// Raises: Error(kOutOfMemory) if it is more than there is.
void refuse_impossible_context(const llama_model& model, const ModelOptions& options);

/// By llama_get_memory_breakdown, which leaves out the output buffer: that is one row of logits.
std::vector<MemoryPart> memory_parts(const llama_model& model, const llama_context& context);

/// See Runtime::predict_memory.
MemoryForecast predict_memory(const ModelOptions& options);

}  // namespace melt::llama_cpp
