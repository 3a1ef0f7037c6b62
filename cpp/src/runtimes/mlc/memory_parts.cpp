// SPDX-License-Identifier: Apache-2.0
#include "memory_parts.h"

#include <algorithm>

#include "library_file.h"
#include "melt/memory.h"

namespace melt::mlc {
namespace {

constexpr std::uint64_t kPageTokens = 16;

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// "q4f16_1" computes in f16 and caches in it.
std::uint64_t cache_value_bytes(const std::string& quantization) {
  return quantization.find("f32") != std::string::npos ? 4 : 2;
}

/// Bits of one weight in "q4f16_1"; 0 if they are not packed.
std::uint64_t packed_bits(const std::string& quantization) {
  if (quantization.size() < 3 || quantization[0] != 'q' || quantization[1] < '1' || quantization[1] > '8')
    return 0;
  return static_cast<std::uint64_t>(quantization[1] - '0');
}

}  // namespace

MemoryPlan plan_memory(const ModelFolder& folder, const LibraryMetadata& metadata, const ModelOptions& options) {
  MemoryPlan plan;
  plan.weights_bytes = folder.weights_bytes;
  plan.n_ctx = options.n_ctx == 0 ? folder.context_window_size : options.n_ctx;
  // paged_kv_cache.cc takes one page more than the tokens fill.
  const std::uint64_t n_tokens = ((plan.n_ctx + kPageTokens - 1) / kPageTokens + 1) * kPageTokens;
  plan.cache_bytes = 2 * n_tokens * metadata.n_layer * metadata.n_kv_heads * metadata.head_dim *
                     cache_value_bytes(folder.quantization);
  plan.activation_bytes = metadata.activation_bytes;
  return plan;
}

std::uint64_t count_weights(const ModelFolder& folder) {
  const std::uint64_t bits = packed_bits(folder.quantization);
  std::uint64_t n = 0;
  for (const Parameter& parameter : folder.parameters) {
    if (ends_with(parameter.name, "q_scale"))
      continue;
    const std::uint64_t stored_bits = static_cast<std::uint64_t>(parameter.type.bits) * parameter.type.lanes;
    const std::uint64_t n_stored = stored_bits > 0 ? parameter.bytes * 8 / stored_bits : 0;
    n += bits > 0 && ends_with(parameter.name, "q_weight") ? n_stored * (stored_bits / bits) : n_stored;
  }
  return n;
}

std::vector<CapturedTensor> cache_pages(const CallStore& calls) {
  std::vector<CapturedTensor> found;
  for (std::uint32_t slot = 0; slot < calls.n_slots(); ++slot) {
    for (std::uint32_t i = 0; i < calls.n_calls(slot); ++i) {
      const CapturedCall& call = calls.call(slot, i);
      if (call.function->name.find("transpose_append") == std::string::npos)
        continue;
      for (std::uint32_t k = 0; k < call.n_tensors; ++k) {
        const CapturedTensor& tensor = calls.tensors(call)[k];
        const bool known = std::any_of(found.begin(), found.end(),
                                       [&](const CapturedTensor& each) { return each.data == tensor.data; });
        if (tensor.ndim == 5 && !known)
          found.push_back(tensor);
      }
    }
  }
  return found;
}

MemoryForecast predict_memory(const ModelOptions& options) {
  const ModelFolder folder = read_model_folder(options.path);
  const std::string library = find_model_library(options.path, options.model_lib);
  open_tvm(options.runtime_path);
  OpHooks hooks(nullptr, nullptr);
  const ModelLibrary opened(library, hooks);
  check_fit(folder, opened.metadata());
  const MemoryPlan plan = plan_memory(folder, opened.metadata(), options);
  const MemoryBaseline now = read_memory_baseline();
  MemoryForecast forecast;
  forecast.n_ctx = plan.n_ctx;
  forecast.parts = {{"weights", "TVM weights", plan.weights_bytes}, {"kv", "TVM pages", plan.cache_bytes}};
  if (plan.activation_bytes > 0)
    forecast.parts.push_back({"compute", "TVM pool", plan.activation_bytes});
  forecast.process_resident_bytes = now.rss_bytes;
  forecast.process_reserved_bytes = now.rss_anon_bytes;
  return forecast;
}

}  // namespace melt::mlc
