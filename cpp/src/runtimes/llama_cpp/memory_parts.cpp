// SPDX-License-Identifier: Apache-2.0
#include "memory_parts.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <unordered_map>

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "llama-ext.h"
#include "llama-model.h"
#include "melt/environment.h"
#include "melt/error.h"
#include "melt/gguf.h"
#include "memory_hooks.h"
#include "op_hooks.h"
#include "text_list.h"
#include "upstream.h"

namespace melt::llama_cpp {
namespace {

/// Types that llama.cpp's own tools offer for the cache (common/arg.cpp, kv_cache_types).
constexpr ggml_type kKvTypes[] = {GGML_TYPE_F32,  GGML_TYPE_F16,    GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0,
                                  GGML_TYPE_Q4_1, GGML_TYPE_IQ4_NL, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1};

struct ProcessMemory {
  double resident_bytes = std::nan("");
  double reserved_bytes = std::nan("");
};

ProcessMemory process_memory() {
  ProcessMemory memory;
  double size = 0, resident = 0, shared = 0, text = 0, lib = 0, data = 0;  // pages: proc(5), /proc/[pid]/statm
  if (std::ifstream("/proc/self/statm") >> size >> resident >> shared >> text >> lib >> data) {
    const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
    memory = {resident * page, data * page};
  }
  return memory;
}

/// Bytes of the buffers that are there, of one category.
double allocated_bytes(const AllocationLog& log, MemoryCategory category) {
  double total = 0;
  for (std::uint32_t id = 0; id < log.buffers().size(); ++id) {
    const BufferInfo& buffer = log.buffers()[id];
    total += log.is_live(id) && buffer.category == category ? static_cast<double>(buffer.bytes) : 0.0;
  }
  return total;
}

std::uint32_t context_length(const llama_model& model, const ModelOptions& options) {
  return options.n_ctx > 0 ? options.n_ctx : static_cast<std::uint32_t>(llama_model_n_ctx_train(&model));
}

/// Raises: Error(kOutOfMemory) if a context that needs `needed_bytes` cannot be.
void refuse_beyond_memory(std::uint32_t n_ctx, double needed_bytes) {
  const DeviceMemory memory = device_memory();
  const auto available = static_cast<double>(memory.available_bytes);
  if (needed_bytes <= available)
    return;
  throw Error(ErrorKind::kOutOfMemory, "a context of " + std::to_string(n_ctx) + " tokens needs at least " +
                                           std::to_string(static_cast<std::uint64_t>(needed_bytes) >> 20) + " MiB, " +
                                           std::to_string(static_cast<std::uint64_t>(available) >> 20) +
                                           " MiB of memory are available (" + memory.source +
                                           "): give a shorter n_ctx");
}

/// What the context of an ordinary transformer takes at most: every layer keeps K and V of all tokens; activations of
/// a whole batch with attention scores for all tokens, as without flash attention.
double most_context_bytes(const llama_model& model, const ModelOptions& options) {
  const llama_hparams& hparams = model.hparams;
  const ggml_type type = kv_type(options);
  const double value_bytes = static_cast<double>(ggml_type_size(type)) / static_cast<double>(ggml_blck_size(type));
  const double n_ctx = context_length(model, options);
  const double n_tokens = std::min(options.n_ubatch, options.n_batch);
  const auto n_layer = static_cast<std::uint32_t>(llama_model_n_layer(&model));
  double values = 0, heads = 0;
  for (std::uint32_t layer = 0; layer < n_layer; ++layer) {
    values += hparams.n_embd_k_gqa(layer) + hparams.n_embd_v_gqa(layer);
    heads = std::max<double>(heads, hparams.n_head(layer));
  }
  const double widest = std::max<double>(hparams.n_embd, hparams.n_ff()) * 8;
  const double states = sizeof(float) * static_cast<double>(hparams.n_embd_r() + hparams.n_embd_s()) * n_layer;
  return n_ctx * (kCellBytes + values * value_bytes) + states +
         n_tokens * sizeof(float) * (n_ctx * (heads + 1) + widest);
}

/// With mmap, llama.cpp's buffer spans the file from the first to the last tensor that stays in its file layout, with
/// the tensors in between that are copied elsewhere (llama_model_loader::get_mapping_range).
std::uint64_t mapped_bytes(const llama_model& model, const GgufHeader& header) {
  std::unordered_map<std::string, const GgufTensor*> by_name;
  for (const GgufTensor& tensor : header.tensors)
    by_name.emplace(tensor.name, &tensor);
  std::uint64_t first = UINT64_MAX, last = 0;
  for (const auto& [name, tensor] : llama_internal_get_tensor_map(&model)) {
    const auto found = by_name.find(name);
    if (found == by_name.end() || tensor->buffer == nullptr || !ggml_backend_buffer_is_host(tensor->buffer))
      continue;
    first = std::min(first, found->second->offset_bytes);
    last = std::max(last, found->second->offset_bytes + found->second->size_bytes);
  }
  return last > first ? last - first : 0;
}

void use_mapping(const llama_model& model, const GgufHeader& header, std::vector<MemoryPart>& parts) {
  const std::string* split = header.find("split.count");
  if (split != nullptr && *split != "0" && *split != "1")
    return;  // the sum of the tensors is a few bytes of padding away from the spans of several files
  for (MemoryPart& part : parts) {
    if (part.category == "weights") {
      part.bytes = mapped_bytes(model, header);
      part.buffer = "CPU_Mapped";
    }
  }
}

}  // namespace

ggml_type kv_type(const ModelOptions& options) {
  std::string names;
  for (const ggml_type type : kKvTypes) {
    if (options.kv_type == ggml_type_name(type))
      return type;
    append_item(names, ggml_type_name(type));
  }
  throw Error(ErrorKind::kInvalidArgument, "unknown kv_type \"" + options.kv_type + "\": choose one of " + names);
}

llama_model_params model_params(const ModelOptions& options) {
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  params.load_mode = options.use_mmap ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
  params.check_tensors = options.check_tensors;
  params.use_extra_bufts = options.repack;
  return params;
}

llama_context_params context_params(const ModelOptions& options) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = options.n_ctx;
  params.n_batch = options.n_batch;
  params.n_ubatch = std::min(options.n_ubatch, options.n_batch);
  params.n_outputs_max = 1;  // logits of the last token only: an 88 MB smaller compute buffer for the demo model
  params.n_threads = params.n_threads_batch = static_cast<std::int32_t>(options.n_threads);
  params.type_k = params.type_v = kv_type(options);
  params.no_perf = true;
  return params;
}

void refuse_impossible_context(const llama_model& model, const ModelOptions& options) {
  const std::uint32_t n_ctx = context_length(model, options);
  refuse_beyond_memory(n_ctx, kCellBytes * n_ctx);
  if (most_context_bytes(model, options) <= 0.5 * static_cast<double>(device_memory().available_bytes))
    return;
  double needed = kCellBytes * n_ctx;
  for (const MemoryPart& part : predict_memory(options).parts) {
    if (part.category != "weights" && part.category != "repack")
      needed += static_cast<double>(part.bytes);
  }
  refuse_beyond_memory(n_ctx, needed);
}

std::vector<MemoryPart> memory_parts(const llama_model& model, const llama_context& context) {
  std::vector<MemoryPart> parts;
  const auto add = [&](const char* category, const std::string& buffer, std::uint64_t bytes) {
    if (bytes > 0)
      parts.push_back({category, buffer, bytes});
  };
  for (const auto& [type, sizes] : llama_get_memory_breakdown(&context)) {
    const std::string name = ggml_backend_buft_name(type);
    add(ggml_backend_buft_is_host(type) ? "weights" : "repack", name, sizes.model);
    add("kv", name, sizes.context);
    add("compute", name, sizes.compute);
  }
  const std::int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(&model));
  add("output", "CPU", static_cast<std::uint64_t>(n_vocab) * sizeof(float));
  return parts;
}

MemoryForecast predict_memory(const ModelOptions& options) {
  initialise();
  const llama_context_params context_options = context_params(options);
  const GgufHeader header = read_gguf(options.path);
  if (header.tensors.empty())
    throw Error(ErrorKind::kModel, options.path + " holds a vocabulary only: there are no weights to run");
  SetupGuard guard;
  AllocationLog allocated;  // upstream's dry run spares K and V, but allocates recurrent states and logits
  llama_model_params model_options = model_params(options);
  model_options.no_alloc = true;
  model_options.load_mode = LLAMA_LOAD_MODE_NONE;
  const Owned<llama_model> model(llama_model_load_from_file(options.path.c_str(), model_options));
  if (!model)
    throw guard.failure(ErrorKind::kModel, "llama.cpp cannot load " + options.path);
  const std::uint32_t n_ctx = context_length(*model, options);
  refuse_beyond_memory(n_ctx, kCellBytes * n_ctx);
  const Owned<llama_context> context = [&] {
    const MemoryScope scope(&allocated, MemoryStage::kContext);
    return Owned<llama_context>(llama_init_from_model(model.get(), context_options));
  }();
  if (!context)
    throw guard.failure(ErrorKind::kRuntime, "no context of " + std::to_string(n_ctx) + " tokens for " + options.path);

  MemoryForecast forecast;
  forecast.n_ctx = llama_n_ctx(context.get());
  forecast.parts = memory_parts(*model, *context);
  const OpHooks hooks(nodes_hint(static_cast<std::uint32_t>(llama_model_n_layer(model.get()))));  // as a session has
  const ProcessMemory process = process_memory();
  const double states = allocated_bytes(allocated, MemoryCategory::kKv);  // zeroed, so all of it resident
  forecast.process_resident_bytes = process.resident_bytes - states;
  forecast.process_reserved_bytes =
      process.reserved_bytes - states - allocated_bytes(allocated, MemoryCategory::kOutput);
  if (options.use_mmap)
    use_mapping(*model, header, forecast.parts);
  return forecast;
}

}  // namespace melt::llama_cpp
