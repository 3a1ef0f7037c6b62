// SPDX-License-Identifier: Apache-2.0
#include "session.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "capabilities.h"
#include "library_file.h"
#include "melt/environment.h"
#include "melt/error.h"
#include "memory_parts.h"
#include "threads.h"

namespace melt::mlc {
namespace {

constexpr std::int64_t kPageTokens = 16;
constexpr std::size_t kFirstHint = 16384;  // stamps of an evaluation, until one has been seen

void refuse_beyond_memory(double needed_bytes, const std::string& path) {
  const DeviceMemory memory = device_memory();
  if (memory.available_bytes == UINT64_MAX || needed_bytes <= static_cast<double>(memory.available_bytes))
    return;
  throw Error(ErrorKind::kOutOfMemory, "the weights and the KV cache of " + path + " take " +
                                           std::to_string(needed_bytes / 1e9) + " GB, " +
                                           std::to_string(static_cast<double>(memory.available_bytes) / 1e9) +
                                           " GB are available: a shorter n_ctx or a smaller quantisation takes less");
}

/// For errors of the KV cache's constructor: what a library of another TVM gives it does not fit.
[[noreturn]] void refuse_cache(const std::string& what) {
  throw Error(ErrorKind::kModel,
              "the model library's KV cache does not fit TVM " +
                  (tvm().tvm_version.empty() ? tvm().path : tvm().tvm_version) +
                  ": the library was compiled for another release of TVM. Run it with that one, or compile it again (" +
                  what + ")");
}

}  // namespace

MlcSession::MlcSession(const ModelOptions& options, bool hooks_are_idle)
    : cancel_(options.cancel),
      allocations_(options.allocations),
      n_threads_(options.n_threads),
      folder_(read_model_folder(options.path)),
      hooks_(options.allocations, options.cancel, hooks_are_idle) {
  const std::string library = find_model_library(options.path, options.model_lib);
  open_tvm(options.runtime_path);
  check_capabilities();
  library_.emplace(library, hooks_);
  check_fit(folder_, library_->metadata());
  find_functions();
  const MemoryPlan plan = plan_memory(folder_, library_->metadata(), options);
  refuse_beyond_memory(static_cast<double>(plan.weights_bytes + plan.cache_bytes), options.path);
  check_shards(folder_);
  fill_info(options);
  make_cache(options);
  load_weights(options);
  text_ = std::make_unique<Text>(folder_, options.text);
  sampler_.emplace(info_.n_vocab);
  try_out();
  info_.memory = {{"weights", "TVM weights", weights_->bytes()}, {"kv", "TVM pages", plan.cache_bytes}};
  if (hooks_.storage().bytes() > 0)
    info_.memory.push_back({"compute", "TVM pool", hooks_.storage().bytes()});
}

MlcSession::~MlcSession() {
  logits_ = Value();
  cache_ = Value();
  parameters_ = Value();
  functions_ = Functions();
  library_.reset();
  try {
    call_global("vm.builtin.memory_manager.clear", {});  // else its pool keeps what the machine used
  } catch (const Error&) {                               // then it is kept: nothing else depends on it
  }
  if (allocations_ == nullptr)
    return;
  hooks_.storage().released();
  for (const std::uint32_t buffer : page_buffers_)
    allocations_->released(buffer, melt_ticks());
  weights_.reset();
  allocations_->released(weights_buffer_, melt_ticks());
}

void MlcSession::find_functions() {
  functions_.embed = library_->function("embed");
  functions_.prefill = library_->function("prefill");
  functions_.decode = library_->function("decode");
  library_->function("create_tir_paged_kv_cache");
  const auto hooked = [&](const char* name) { return hooks_.hooked(name, global_function(name)); };
  functions_.reshape = hooked("vm.builtin.reshape");
  functions_.begin_forward = hooked("vm.builtin.kv_state_begin_forward");
  functions_.end_forward = hooked("vm.builtin.kv_state_end_forward");
  functions_.clear = global_function("vm.builtin.kv_state_clear");
  functions_.add_sequence = global_function("vm.builtin.kv_state_add_sequence");
  sequence_ = make_shape({0});
}

void MlcSession::fill_info(const ModelOptions& options) {
  const LibraryMetadata& metadata = library_->metadata();
  info_.name = folder_.path.substr(folder_.path.find_last_of('/') + 1);
  info_.architecture = folder_.model_type;
  info_.quantization = folder_.quantization;
  info_.size_bytes = folder_.weights_bytes;
  info_.n_params = count_weights(folder_);
  info_.n_layer = metadata.n_layer;
  info_.n_vocab = folder_.vocab_size;
  info_.n_ctx_train = folder_.context_window_size;
  info_.n_ctx = options.n_ctx == 0 ? folder_.context_window_size : options.n_ctx;
  info_.n_batch = std::min(options.n_batch, info_.n_ctx);
  if (metadata.prefill_chunk_size > 0)
    info_.n_batch = std::min(info_.n_batch, metadata.prefill_chunk_size);
}

void MlcSession::make_cache(const ModelOptions&) {
  const std::int64_t capacity = (info_.n_ctx + kPageTokens - 1) / kPageTokens * kPageTokens;
  try {
    cache_ = call("create_tir_paged_kv_cache", library_->function("create_tir_paged_kv_cache"),
                  {make_shape({1}).any(), make_shape({capacity}).any(), make_shape({info_.n_batch}).any(),
                   make_shape({kPageTokens}).any(), make_shape({0}).any()});
  } catch (const Error& error) {
    refuse_cache(error.what());
  }
}

void MlcSession::load_weights(const ModelOptions& options) {
  weights_ = std::make_unique<Weights>(folder_, options.on_progress, options.cancel);
  if (allocations_ != nullptr) {
    BufferInfo buffer;
    buffer.bytes = weights_->bytes();
    buffer.address = weights_->address();
    buffer.category = MemoryCategory::kWeights;
    buffer.backend = "CPU";
    buffer.type = "TVM weights";
    weights_buffer_ = allocations_->allocated(std::move(buffer), melt_ticks());
  }
  std::vector<std::string> names;
  for (const ExpectedParameter& parameter : library_->metadata().parameters)
    names.push_back(parameter.name);
  parameters_ = weights_->array(names);
  hooks_.set_weights(weights_.get(), folder_.quantization);
}

/// Evaluates one token: how many calls a step has, and where the pages of the KV cache lie, cannot be asked for.
void MlcSession::try_out() {
  hooks_.set_groups_hint(kFirstHint);
  hooks_.clear(1);
  OpRecorder scratch(1, {});
  scratch.begin_run(1, kFirstHint);
  reset({});
  const std::int32_t id = 0;
  {
    const RecordingScope recording(&hooks_, scratch);
    if (evaluate(&id, 1) == EvalStatus::kCancelled)
      throw Error(ErrorKind::kCancelled, "loading " + folder_.path + " was cancelled");
  }
  if (logits_.as_tensor() == nullptr)
    throw Error(ErrorKind::kModel, "the function decode of the model library gives no logits");
  hooks_.set_groups_hint(scratch.max_groups_seen() + scratch.max_groups_seen() / 4 + 64);
  note_pages();
  reset({});
}

void MlcSession::note_pages() {
  if (allocations_ == nullptr)
    return;
  for (const CapturedTensor& pages : cache_pages(hooks_.calls())) {
    BufferInfo buffer;
    buffer.bytes = static_cast<std::uint64_t>(pages.bytes());
    buffer.address = pages.data;
    buffer.category = MemoryCategory::kKv;
    buffer.backend = "CPU";
    buffer.type = "TVM pages";
    page_buffers_.push_back(allocations_->allocated(std::move(buffer), melt_ticks()));
  }
}

void MlcSession::use_threads() {
  if (configured_for_ == std::this_thread::get_id())
    return;
  configure_threads(n_threads_);
  configured_for_ = std::this_thread::get_id();
}

void MlcSession::reset(const SamplerOptions& sampler) {
  call("vm.builtin.kv_state_clear", functions_.clear, {cache_.any()});
  call("vm.builtin.kv_state_add_sequence", functions_.add_sequence, {cache_.any(), any_of(0)});
  n_past_ = 0;
  logits_ = Value();
  sampler_->reset(sampler);
}

Value MlcSession::token_tensor(const std::int32_t* ids, std::size_t n) {
  struct Tokens {
    DLManagedTensor view{};
    std::int64_t shape = 0;
    std::int64_t stride = 1;
    alignas(64) std::int32_t first = 0;
  };
  // One block of header and ids, given back when TVM lets go of it.
  const std::size_t size = (sizeof(Tokens) + n * sizeof(std::int32_t) + 63) / 64 * 64;
  void* block = nullptr;
  if (::posix_memalign(&block, 64, size) != 0)  // bionic has aligned_alloc since Android 9 only
    throw Error(ErrorKind::kOutOfMemory, "no memory for " + std::to_string(n) + " token ids");
  auto* tokens = new (block) Tokens;
  std::memcpy(&tokens->first, ids, n * sizeof(std::int32_t));
  tokens->shape = static_cast<std::int64_t>(n);
  tokens->view.dl_tensor.data = &tokens->first;
  tokens->view.dl_tensor.device = {kDLCPU, 0};
  tokens->view.dl_tensor.ndim = 1;
  tokens->view.dl_tensor.dtype = {kDLInt, 32, 1};
  tokens->view.dl_tensor.shape = &tokens->shape;
  tokens->view.dl_tensor.strides = &tokens->stride;
  tokens->view.manager_ctx = block;
  tokens->view.deleter = [](DLManagedTensor* self) { std::free(self->manager_ctx); };
  TVMFFIObjectHandle handle = nullptr;
  if (tvm().ffi.make_tensor(&tokens->view, 64, 1, &handle) != 0) {
    std::free(block);
    throw Error(ErrorKind::kRuntime, "TVM takes no tensor of token ids: " + raised_error());
  }
  TVMFFIAny any{};
  any.type_index = kTVMFFITensor;
  any.v_obj = static_cast<TVMFFIObject*>(handle);
  return Value(any);
}

void MlcSession::run(const std::int32_t* ids, std::size_t n) {
  const Value tokens = token_tensor(ids, n);
  const Value length = make_shape({static_cast<std::int64_t>(n)});
  call("vm.builtin.kv_state_begin_forward", functions_.begin_forward, {cache_.any(), sequence_.any(), length.any()});
  Value embedded = call("embed", functions_.embed, {tokens.any(), parameters_.any()});
  const DLTensor* shape = embedded.as_tensor();
  if (shape == nullptr || shape->ndim < 2)
    throw Error(ErrorKind::kModel, "the function embed of the model library gives no embeddings");
  if (shape->ndim == 2) {
    const Value batch = make_shape({1, shape->shape[0], shape->shape[1]});
    embedded = call("vm.builtin.reshape", functions_.reshape, {embedded.any(), batch.any()});
  }
  const Value& function = n == 1 && n_past_ > 0 ? functions_.decode : functions_.prefill;
  const Value result = call("the model", function, {embedded.any(), cache_.any(), parameters_.any()});
  call("vm.builtin.kv_state_end_forward", functions_.end_forward, {cache_.any()});
  logits_ = call_global("ffi.ArrayGetItem", {result.any(), any_of(0)});
}

EvalStatus MlcSession::evaluate(const std::int32_t* ids, std::size_t n) {
  if (n == 0 || n > info_.n_batch) {
    throw Error(ErrorKind::kInvalidArgument, std::to_string(n) + " tokens in one evaluation: 1 to n_batch = " +
                                                 std::to_string(info_.n_batch) + " are possible");
  }
  for (std::size_t i = 0; i < n; ++i) {  // compiled lookups do not check
    if (ids[i] < 0 || static_cast<std::uint32_t>(ids[i]) >= info_.n_vocab)
      throw Error(ErrorKind::kInvalidArgument, "token id " + std::to_string(ids[i]) + " is outside the vocabulary");
  }
  if (n > info_.n_ctx - n_past_)
    return EvalStatus::kContextFull;
  use_threads();
  logits_ = Value();
  EvaluationKey key;
  key.n_tokens = static_cast<std::uint32_t>(n);
  key.is_decode = n == 1 && n_past_ > 0;
  key.n_positions = (n_past_ + key.n_tokens + kPositionStep - 1) / kPositionStep * kPositionStep;
  hooks_.begin(key);
  try {
    run(ids, n);
  } catch (const Error&) {
    hooks_.end(true);
    if (cancel_ != nullptr && cancel_->load())
      return EvalStatus::kCancelled;
    throw;
  }
  hooks_.end(false);
  n_past_ += static_cast<std::uint32_t>(n);
  return EvalStatus::kOk;
}

const float* MlcSession::logits() noexcept {
  const DLTensor* tensor = logits_.as_tensor();
  if (tensor == nullptr || tensor->dtype.code != kDLFloat || tensor->dtype.bits != 32 || tensor->ndim == 0)
    return nullptr;
  // [1, 1, vocabulary], or a row for each token of which the last counts.
  std::int64_t n_rows = 1;
  for (std::int32_t axis = 0; axis + 1 < tensor->ndim; ++axis)
    n_rows *= tensor->shape[axis];
  const char* values = static_cast<const char*>(tensor->data) + tensor->byte_offset;
  return reinterpret_cast<const float*>(values) + (n_rows - 1) * tensor->shape[tensor->ndim - 1];
}

std::int32_t MlcSession::sample() {
  const float* values = logits();
  if (values == nullptr)
    throw Error(ErrorKind::kRuntime, "nothing has been evaluated: there are no logits to sample from");
  return sampler_->sample(values, info_.n_vocab);
}

}  // namespace melt::mlc
