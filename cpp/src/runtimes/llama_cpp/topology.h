// SPDX-License-Identifier: Apache-2.0
// Copies of ggml graphs, taken once per topology while a run is measured: plain bytes into memory reserved before.
// What they mean (attribution.h, op_cost.h) is worked out after the run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"

struct ggml_cgraph;

namespace melt::llama_cpp {

/// What a tensor was when its graph ran. Shapes in ggml's order here (ne[0] fastest); turned round in op_hooks.cpp.
struct CapturedTensor {
  const ggml_tensor* root;    ///< the tensor that owns the storage: itself, unless it is a view. Only an identity...
  const ggml_tensor* weight;  ///< ...but weights live as long as the model and may be asked; else null
  ggml_backend_buffer_type_t buffer_type;  ///< null if not in a buffer
  const void* activation;                  ///< where the root begins, if it lies in a compute buffer; else null
  std::uint64_t activation_bytes;          ///< of the root, as ggml's allocator was asked for
  ggml_type type;
  ggml_op op;
  std::int64_t ne[GGML_MAX_DIMS];
  char name[GGML_MAX_NAME];
};

struct CapturedNode {
  CapturedTensor tensor;
  std::uint32_t index;  ///< in the graph
  std::int32_t op_params[2];
  std::uint32_t first_source;  ///< in Topology::sources
  std::uint32_t n_sources;
  bool is_output;  ///< of the graph, or what an output is a view of: kept after the last op that reads it
};

/// A captured graph: its nodes that are executed (views and the like are not), in order.
struct Topology {
  const CapturedNode* nodes;
  std::uint32_t n_nodes;
  const CapturedTensor* all_sources;

  const CapturedTensor* sources(const CapturedNode& node) const { return all_sources + node.first_source; }
};

/// Reserved storage for the topologies of one run.
class TopologyStore {
 public:
  /// Room for `n_topologies` of about `n_nodes` executed nodes each; touches every page. Call between runs.
  void reserve(std::size_t n_topologies, std::size_t n_nodes);
  void clear() noexcept;

  /// The slot of this graph, captured now if it is new; UINT32_MAX if it had no room, and for each new one after that.
  /// Graphs are the same while (nodes pointer, uid, n_nodes) are: ggml renews uid whenever it splits or allocates.
  std::uint32_t slot_of(const ggml_cgraph* graph) noexcept;

  std::uint32_t size() const noexcept { return n_slots_; }
  Topology at(std::uint32_t slot) const noexcept;
  /// Executed nodes of the largest graph captured since the store was made.
  std::size_t max_nodes() const noexcept { return max_nodes_; }

 private:
  struct Slot {
    const void* nodes;
    std::uint64_t uid;
    std::int32_t n_graph_nodes;
    std::uint32_t first_node;
    std::uint32_t n_nodes;
  };
  static constexpr std::size_t kMaxNodes = std::size_t{1} << 18;  ///< 160 MB

  bool capture(const ggml_cgraph* graph) noexcept;

  std::vector<Slot> slots_;
  std::uint32_t n_slots_ = 0;
  bool is_full_ = false;
  std::vector<CapturedNode> nodes_;
  std::uint32_t n_nodes_ = 0;
  std::vector<CapturedTensor> sources_;
  std::uint32_t n_sources_ = 0;
  std::size_t max_nodes_ = 0;
};

}  // namespace melt::llama_cpp
