// SPDX-License-Identifier: Apache-2.0
// Level `ops` for llama.cpp: connects the hook in ggml-cpu's node loop (ggml_hook.h) with the core's recorder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ggml_hook.h"
#include "melt/recorder.h"
#include "topology.h"

namespace melt::llama_cpp {

class OpHooks final : public OpSource {
 public:
  /// `nodes_hint`: executed nodes that one graph of this model may have. `pool`: the threads that compute, `n_threads`
  /// with the caller; it must outlive this. Null: only to learn what the hooks reserve.
  explicit OpHooks(std::size_t nodes_hint, ggml_threadpool* pool = nullptr, unsigned n_threads = 0);
  ~OpHooks() override;

  void start(OpRecorder& recorder) noexcept override;
  void stop() noexcept override;
  void clear(std::size_t n_topologies) override;
  std::vector<OpDefinition> describe(std::uint32_t slot, const std::vector<NodeRange>& groups) const override;
  std::size_t n_nodes(std::uint32_t slot) const override { return topologies_.at(slot).n_nodes; }
  std::size_t groups_hint() const noexcept override;
  bool on_each_thread(void (*work)(void* user, unsigned thread), void* user) override;

 private:
  static void on_graph_begin(void* user, const ggml_cgraph* graph);
  static void on_graph_end(void* user, int n_threads, int aborted);

  std::size_t nodes_hint_;
  ggml_threadpool* pool_;
  unsigned n_threads_;
  TopologyStore topologies_;
  OpRecorder* recorder_ = nullptr;
  ggml_melt_hook hook_{};
};

}  // namespace melt::llama_cpp
