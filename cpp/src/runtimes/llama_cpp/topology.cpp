// SPDX-License-Identifier: Apache-2.0
#include "topology.h"

#include <algorithm>
#include <cstring>

#include "ggml-impl.h"

namespace melt::llama_cpp {
namespace {

constexpr std::size_t kSourcesPerNode = 3;  // 2.2 on average in the transformers, up to 10 in the scans

CapturedTensor captured(const ggml_tensor* tensor) noexcept {
  CapturedTensor copy;
  copy.root = tensor->view_src != nullptr ? tensor->view_src : tensor;
  ggml_backend_buffer* buffer = copy.root->buffer;
  const bool is_weight =
      buffer != nullptr && ggml_backend_buffer_get_usage(buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
  copy.weight = is_weight ? copy.root : nullptr;
  copy.buffer_type = buffer != nullptr ? ggml_backend_buffer_get_type(buffer) : nullptr;
  const bool is_activation =
      buffer != nullptr && ggml_backend_buffer_get_usage(buffer) == GGML_BACKEND_BUFFER_USAGE_COMPUTE;
  copy.activation = is_activation ? copy.root->data : nullptr;
  copy.activation_bytes = is_activation ? ggml_nbytes(copy.root) : 0;
  copy.type = tensor->type;
  copy.op = tensor->op;
  std::memcpy(copy.ne, tensor->ne, sizeof copy.ne);
  std::memcpy(copy.name, tensor->name, sizeof copy.name);
  return copy;
}

bool is_executed(const ggml_tensor* node) noexcept {  // as ggml-cpu's node loop decides
  return !ggml_op_is_empty(node->op) && (node->flags & GGML_TENSOR_FLAG_COMPUTE) != 0;
}

bool is_output(const ggml_tensor* tensor) noexcept {
  return (tensor->flags & GGML_TENSOR_FLAG_OUTPUT) != 0 ||
         (tensor->view_src != nullptr && (tensor->view_src->flags & GGML_TENSOR_FLAG_OUTPUT) != 0);
}

/// An output that is a view, and so not executed: what it looks at has to stay.
void keep_viewed(const ggml_tensor* view, CapturedNode* nodes, std::uint32_t n_nodes) noexcept {
  if (view->view_src == nullptr || !is_output(view))
    return;
  for (std::uint32_t i = n_nodes; i-- > 0;) {
    if (nodes[i].tensor.root == view->view_src) {
      nodes[i].is_output = true;
      return;
    }
  }
}

}  // namespace

void TopologyStore::reserve(std::size_t n_topologies, std::size_t n_nodes) {
  slots_.resize(std::max(slots_.size(), n_topologies));
  nodes_.resize(std::max(nodes_.size(), std::min(n_topologies * n_nodes, kMaxNodes)));
  sources_.resize(nodes_.size() * kSourcesPerNode);
}

void TopologyStore::clear() noexcept {
  n_slots_ = n_nodes_ = n_sources_ = 0;
  is_full_ = false;
}

std::uint32_t TopologyStore::slot_of(const ggml_cgraph* graph) noexcept {
  // From the back: a decode step nearly always repeats the last graph.
  for (std::uint32_t i = n_slots_; i-- > 0;) {
    const Slot& slot = slots_[i];
    if (slot.nodes == graph->nodes && slot.uid == graph->uid && slot.n_graph_nodes == graph->n_nodes &&
        graph->uid != 0) {
      return i;
    }
  }
  // What had no room is not tried again: half a copy for each token would cost as much as a whole one.
  is_full_ = is_full_ || !capture(graph);
  return is_full_ ? UINT32_MAX : n_slots_ - 1;
}

Topology TopologyStore::at(std::uint32_t slot) const noexcept {
  return {nodes_.data() + slots_[slot].first_node, slots_[slot].n_nodes, sources_.data()};
}

bool TopologyStore::capture(const ggml_cgraph* graph) noexcept {
  if (n_slots_ == slots_.size())
    return false;
  std::uint32_t node = n_nodes_;
  std::uint32_t source = n_sources_;
  for (int i = 0; i < graph->n_nodes; ++i) {
    const ggml_tensor* tensor = graph->nodes[i];
    if (!is_executed(tensor)) {
      keep_viewed(tensor, nodes_.data() + n_nodes_, node - n_nodes_);
      continue;
    }
    if (node == nodes_.size())
      return false;
    CapturedNode& copy = nodes_[node++];
    copy.tensor = captured(tensor);
    copy.index = static_cast<std::uint32_t>(i);
    copy.is_output = is_output(tensor);
    std::memcpy(copy.op_params, tensor->op_params, sizeof copy.op_params);
    copy.first_source = source;
    for (const ggml_tensor* from : tensor->src) {
      if (from == nullptr)
        continue;
      if (source == sources_.size())
        return false;
      sources_[source++] = captured(from);
    }
    copy.n_sources = source - copy.first_source;
  }
  slots_[n_slots_++] = {graph->nodes, graph->uid, graph->n_nodes, n_nodes_, node - n_nodes_};
  max_nodes_ = std::max<std::size_t>(max_nodes_, node - n_nodes_);
  n_nodes_ = node;
  n_sources_ = source;
  return true;
}

}  // namespace melt::llama_cpp
