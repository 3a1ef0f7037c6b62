// SPDX-License-Identifier: Apache-2.0
// A model as MLC compiles it, with its weights, KV cache and TVM's virtual machine.
#pragma once

#include <memory>
#include <optional>
#include <thread>

#include "melt/runtime.h"
#include "model_library.h"
#include "op_hooks.h"
#include "sampler.h"
#include "text.h"
#include "weights.h"

namespace melt::mlc {

class MlcSession final : public Session {
 public:
  /// Checks all that can be checked before memory is taken, then loads. Raises what Runtime::load raises.
  /// `hooks_are_idle`: as OpHooks takes it.
  explicit MlcSession(const ModelOptions& options, bool hooks_are_idle = false);
  ~MlcSession() override;

  const ModelInfo& info() const noexcept override { return info_; }
  const TextCodec& text() const noexcept override { return *text_; }
  OpSource* ops() noexcept override { return &hooks_; }
  void reset(const SamplerOptions& sampler) override;
  EvalStatus evaluate(const std::int32_t* ids, std::size_t n) override;
  std::int32_t sample() override;
  const float* logits() noexcept override;
  /// For benchmarks.
  const ModelLibrary& library() const noexcept { return *library_; }

 private:
  struct Functions {
    Value embed, prefill, decode, reshape, begin_forward, end_forward, clear, add_sequence;
  };

  void find_functions();
  void make_cache(const ModelOptions& options);
  void load_weights(const ModelOptions& options);
  void try_out();
  void note_pages();
  void fill_info(const ModelOptions& options);
  void use_threads();
  Value token_tensor(const std::int32_t* ids, std::size_t n);
  void run(const std::int32_t* ids, std::size_t n);

  const std::atomic<bool>* cancel_;
  AllocationLog* allocations_;
  std::uint32_t n_threads_;
  std::thread::id configured_for_;  // TVM keeps a pool of threads for each thread that calls it
  ModelFolder folder_;
  OpHooks hooks_;  // outlives whatever of TVM's may call it
  std::unique_ptr<Weights> weights_;
  std::uint32_t weights_buffer_ = kNone;
  std::vector<std::uint32_t> page_buffers_;
  std::optional<ModelLibrary> library_;
  Functions functions_;
  Value parameters_;
  Value cache_;
  Value sequence_;  // shape {0}: the one sequence there is
  Value logits_;
  std::unique_ptr<Text> text_;
  std::optional<Sampler> sampler_;
  ModelInfo info_;
  std::uint32_t n_past_ = 0;
};

}  // namespace melt::mlc
