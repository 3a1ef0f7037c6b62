// SPDX-License-Identifier: Apache-2.0
#include "session.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "melt/error.h"
#include "melt/gguf.h"
#include "memory_hooks.h"
#include "memory_parts.h"

namespace melt::llama_cpp {
namespace {

/// Index of the highest value, the lowest among equals: what llama.cpp's greedy sampler gives, without its copy of the
/// vocabulary. Blocks of 16 independent maxima vectorise.
std::int32_t argmax(const float* values, std::int32_t n) {
  constexpr std::int32_t kLanes = 16;
  float best[kLanes];
  std::fill(best, best + kLanes, -INFINITY);
  std::int32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int32_t lane = 0; lane < kLanes; ++lane) {
      best[lane] = values[i + lane] > best[lane] ? values[i + lane] : best[lane];
    }
  }
  float highest = *std::max_element(best, best + kLanes);
  for (; i < n; ++i)
    highest = values[i] > highest ? values[i] : highest;
  const float* found = std::find(values, values + n, highest);
  return found == values + n ? 0 : static_cast<std::int32_t>(found - values);
}

bool on_progress(float done, void* user) {
  return (*static_cast<const std::function<bool(float)>*>(user))(done);
}

bool should_abort(void* user) {
  return static_cast<const std::atomic<bool>*>(user)->load(std::memory_order_relaxed);
}

}  // namespace

LlamaSession::LlamaSession(const ModelOptions& options) : cancel_(options.cancel), allocations_(options.allocations) {
  initialise();
  kv_type(options);         // before the weights are read
  read_gguf(options.path);  // refuses what llama.cpp would abort on
  load_model(options);
  refuse_impossible_context(*model_, options);
  make_context(options);
  fill_info(options);
  batch_ = llama_batch_init(static_cast<std::int32_t>(info_.n_batch), 0, 1);
  text_ = std::make_unique<Text>(model_.get());
  ops_ = std::make_unique<OpHooks>(nodes_hint(info_.n_layer), pool_.get(), options.n_threads);
}

LlamaSession::~LlamaSession() {
  ops_.reset();
  if (batch_.token != nullptr)
    llama_batch_free(batch_);
}

void LlamaSession::load_model(const ModelOptions& options) {
  SetupGuard guard;
  const MemoryScope scope(allocations_, MemoryStage::kModel);
  llama_model_params params = model_params(options);
  bool cancelled = false;
  const std::function<bool(float)> progress = [&](float done) {
    cancelled = (options.on_progress && !options.on_progress(done)) || (cancel_ != nullptr && cancel_->load());
    return !cancelled;
  };
  params.progress_callback = on_progress;
  params.progress_callback_user_data = const_cast<std::function<bool(float)>*>(&progress);
  model_.reset(llama_model_load_from_file(options.path.c_str(), params));
  if (cancelled)
    throw Error(ErrorKind::kCancelled, "loading " + options.path + " was cancelled");
  if (!model_)
    throw guard.failure(ErrorKind::kModel, "llama.cpp cannot load " + options.path);
}

void LlamaSession::make_context(const ModelOptions& options) {
  SetupGuard guard;
  const MemoryScope scope(allocations_, MemoryStage::kContext);
  llama_context_params params = context_params(options);
  if (cancel_ != nullptr) {
    params.abort_callback = should_abort;
    params.abort_callback_data = const_cast<std::atomic<bool>*>(cancel_);
  }
  context_.reset(llama_init_from_model(model_.get(), params));
  if (!context_) {
    throw guard.failure(ErrorKind::kRuntime, "no context of " + std::to_string(options.n_ctx) + " tokens for " +
                                                 options.path + " (a shorter n_ctx takes less memory)");
  }
  // Without a pool of its own, ggml starts and joins threads for every graph.
  ggml_threadpool_params pool = ggml_threadpool_params_default(static_cast<int>(options.n_threads));
  pool_.reset(ggml_threadpool_new(&pool));
  if (!pool_)
    throw Error(ErrorKind::kRuntime, "no pool of " + std::to_string(options.n_threads) + " threads");
  llama_attach_threadpool(context_.get(), pool_.get(), nullptr);
}

void LlamaSession::fill_info(const ModelOptions& options) {
  const auto text_of = [&](const char* key) {
    char value[256] = "";
    llama_model_meta_val_str(model_.get(), key, value, sizeof value);
    return std::string(value);
  };
  info_.name = text_of("general.name");
  info_.architecture = text_of("general.architecture");
  info_.quantization = llama_ftype_name(llama_model_ftype(model_.get()));
  info_.n_params = llama_model_n_params(model_.get());
  info_.size_bytes = llama_model_size(model_.get());
  info_.n_layer = static_cast<std::uint32_t>(llama_model_n_layer(model_.get()));
  info_.n_vocab = static_cast<std::uint32_t>(llama_vocab_n_tokens(llama_model_get_vocab(model_.get())));
  info_.n_ctx_train = static_cast<std::uint32_t>(llama_model_n_ctx_train(model_.get()));
  info_.n_ctx = llama_n_ctx(context_.get());  // rounded up by llama.cpp: keep to what was asked for
  if (options.n_ctx > 0)
    info_.n_ctx = std::min(info_.n_ctx, options.n_ctx);
  info_.n_batch = llama_n_batch(context_.get());
  info_.memory = memory_parts(*model_, *context_);
  if (info_.name.empty())
    info_.name = options.path.substr(options.path.find_last_of('/') + 1);
}

void LlamaSession::reset(const SamplerOptions& options) {
  llama_memory_clear(llama_get_memory(context_.get()), false);
  n_past_ = 0;
  has_logits_ = false;
  sampler_.reset();
  if (options.temperature <= 0.0f)
    return;
  sampler_.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
  llama_sampler_chain_add(sampler_.get(), llama_sampler_init_top_k(options.top_k));
  llama_sampler_chain_add(sampler_.get(), llama_sampler_init_top_p(options.top_p, 1));
  llama_sampler_chain_add(sampler_.get(), llama_sampler_init_temp(options.temperature));
  llama_sampler_chain_add(sampler_.get(), llama_sampler_init_dist(options.seed));
}

EvalStatus LlamaSession::evaluate(const std::int32_t* ids, std::size_t n) {
  if (n == 0 || n > info_.n_batch) {
    throw Error(ErrorKind::kInvalidArgument, std::to_string(n) + " tokens in one evaluation: 1 to n_batch = " +
                                                 std::to_string(info_.n_batch) + " are possible");
  }
  if (n > info_.n_ctx - n_past_)
    return EvalStatus::kContextFull;
  has_logits_ = false;
  const MemoryScope scope(allocations_, MemoryStage::kEvaluation);
  batch_.n_tokens = static_cast<std::int32_t>(n);
  for (std::size_t i = 0; i < n; ++i) {
    batch_.token[i] = ids[i];
    batch_.pos[i] = static_cast<llama_pos>(n_past_ + i);
    batch_.n_seq_id[i] = 1;
    batch_.seq_id[i][0] = 0;
    batch_.logits[i] = i + 1 == n ? 1 : 0;
  }
  std::int32_t status = 0;
  try {
    status = llama_decode(context_.get(), batch_);
    llama_synchronize(context_.get());
  } catch (const std::exception& error) {
    throw reworded(ErrorKind::kRuntime, "llama.cpp failed while it evaluated " + std::to_string(n) + " tokens",
                   error.what());
  }
  switch (status) {
    case 0:
      break;
    case 1:
      return EvalStatus::kContextFull;
    case 2:
      return EvalStatus::kCancelled;
    case -1:
      throw Error(ErrorKind::kInvalidArgument, "llama.cpp refused the tokens: an id is outside the vocabulary");
    default:
      throw Error(ErrorKind::kRuntime, "llama_decode failed with status " + std::to_string(status));
  }
  n_past_ += static_cast<std::uint32_t>(n);
  has_logits_ = true;
  return EvalStatus::kOk;
}

std::int32_t LlamaSession::sample() {
  if (!has_logits_)
    throw Error(ErrorKind::kRuntime, "nothing has been evaluated: there are no logits to sample from");
  if (sampler_)
    return llama_sampler_sample(sampler_.get(), context_.get(), -1);
  const float* logits = llama_get_logits_ith(context_.get(), -1);
  if (logits == nullptr)
    throw Error(ErrorKind::kRuntime, "llama.cpp kept no logits for the last token");
  return argmax(logits, static_cast<std::int32_t>(info_.n_vocab));
}

}  // namespace melt::llama_cpp
