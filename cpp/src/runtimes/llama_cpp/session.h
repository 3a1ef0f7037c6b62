// SPDX-License-Identifier: Apache-2.0
// A llama.cpp model with its context, KV cache, thread pool and sampler.
#pragma once

#include <vector>

#include "llama.h"
#include "melt/runtime.h"
#include "op_hooks.h"
#include "text.h"
#include "upstream.h"

namespace melt::llama_cpp {

class LlamaSession final : public Session {
 public:
  /// Checks the file, loads it and makes the context. Raises what Runtime::load raises.
  explicit LlamaSession(const ModelOptions& options);
  ~LlamaSession() override;

  const ModelInfo& info() const noexcept override { return info_; }
  const TextCodec& text() const noexcept override { return *text_; }
  OpSource* ops() noexcept override { return ops_.get(); }
  void reset(const SamplerOptions& sampler) override;
  EvalStatus evaluate(const std::int32_t* ids, std::size_t n) override;
  std::int32_t sample() override;
  const float* logits() noexcept override { return has_logits_ ? llama_get_logits_ith(context_.get(), -1) : nullptr; }
  /// For benchmarks that let several sessions take turns: an idle pool's threads poll for a third of a second.
  ggml_threadpool* pool() noexcept { return pool_.get(); }

 private:
  void load_model(const ModelOptions& options);
  void make_context(const ModelOptions& options);
  void fill_info(const ModelOptions& options);

  const std::atomic<bool>* cancel_;
  AllocationLog* allocations_;
  ModelInfo info_;
  Owned<llama_model> model_;
  Owned<ggml_threadpool> pool_;  // freed after the context that it is attached to
  Owned<llama_context> context_;
  Owned<llama_sampler> sampler_;  // null: greedy
  llama_batch batch_{};
  std::unique_ptr<Text> text_;
  std::unique_ptr<OpHooks> ops_;
  std::uint32_t n_past_ = 0;
  bool has_logits_ = false;
};

}  // namespace melt::llama_cpp
