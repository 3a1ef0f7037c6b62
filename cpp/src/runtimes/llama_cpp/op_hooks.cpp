// SPDX-License-Identifier: Apache-2.0
#include "op_hooks.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>

#include "attribution.h"
#include "ggml-cpu.h"
#include "liveness.h"
#include "op_cost.h"

namespace melt::llama_cpp {
namespace {

std::string op_type_of(const CapturedNode& node) {
  if (node.tensor.op == GGML_OP_UNARY)
    return ggml_unary_op_name(static_cast<ggml_unary_op>(node.op_params[0]));
  if (node.tensor.op == GGML_OP_GLU)
    return ggml_glu_op_name(static_cast<ggml_glu_op>(node.op_params[0]));
  return ggml_op_name(node.tensor.op);
}

void set_shape(std::int64_t (&shape)[4], const CapturedTensor& tensor) {
  for (int axis = 0; axis < 4; ++axis)
    shape[axis] = tensor.ne[3 - axis];  // ggml's ne[0] is the fastest axis
}

const char* buffer_name(const CapturedTensor& tensor) {
  return tensor.buffer_type == nullptr ? "none" : ggml_backend_buft_name(tensor.buffer_type);
}

}  // namespace

OpHooks::OpHooks(std::size_t nodes_hint, ggml_threadpool* pool, unsigned n_threads)
    : nodes_hint_(nodes_hint), pool_(pool), n_threads_(n_threads) {
  hook_.user = this;
  hook_.graph_begin = on_graph_begin;
  hook_.graph_end = on_graph_end;
}

OpHooks::~OpHooks() {
  stop();
}

void OpHooks::start(OpRecorder& recorder) noexcept {
  recorder_ = &recorder;
  hook_.threads = recorder.thread_stamps();
  hook_.n_threads = static_cast<int>(recorder.n_threads());
  ggml_melt_active = &hook_;
}

void OpHooks::stop() noexcept {
  if (ggml_melt_active == &hook_)
    ggml_melt_active = nullptr;
}

void OpHooks::clear(std::size_t n_topologies) {
  topologies_.clear();
  topologies_.reserve(n_topologies, groups_hint());
}

std::size_t OpHooks::groups_hint() const noexcept {
  return topologies_.max_nodes() > 0 ? topologies_.max_nodes() : nodes_hint_;
}

void OpHooks::on_graph_begin(void* user, const ggml_cgraph* graph) {
  OpHooks& self = *static_cast<OpHooks*>(user);
  const std::uint32_t slot = self.topologies_.slot_of(graph);
  self.hook_.last_reads = self.recorder_->can_read_all(slot) ? 1 : 0;
  self.recorder_->graph_begin(slot);
}

void OpHooks::on_graph_end(void* user, int n_threads, int aborted) {
  OpHooks& self = *static_cast<OpHooks*>(user);
  self.recorder_->graph_end(static_cast<unsigned>(n_threads), self.hook_.begin_ticks, self.hook_.end_ticks,
                            aborted != 0);
}

/// By a graph of one node, a custom op that every thread of the pool computes.
bool OpHooks::on_each_thread(void (*work)(void* user, unsigned thread), void* user) {
  if (pool_ == nullptr)
    return false;
  struct Call {
    void (*work)(void* user, unsigned thread);
    void* user;
    std::atomic<unsigned> n_threads{0};
  } call{work, user};
  const auto op = [](ggml_tensor*, const ggml_tensor*, int thread, int, void* data) {
    auto& called = *static_cast<Call*>(data);
    called.work(called.user, static_cast<unsigned>(thread));
    called.n_threads.fetch_add(1);
  };
  constexpr std::size_t kNodes = 4;
  const std::size_t bytes =
      kNodes * (ggml_tensor_overhead() + GGML_MEM_ALIGN) + ggml_graph_overhead_custom(kNodes, false);
  const std::unique_ptr<ggml_context, decltype(&ggml_free)> context(ggml_init({bytes, nullptr, false}), ggml_free);
  if (!context)
    return false;
  ggml_tensor* nothing = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 1);
  ggml_cgraph* graph = ggml_new_graph_custom(context.get(), kNodes, false);
  ggml_build_forward_expand(graph, ggml_map_custom1(context.get(), nothing, op, GGML_N_TASKS_MAX, &call));
  ggml_cplan plan = ggml_graph_plan(graph, static_cast<int>(n_threads_), pool_);
  std::vector<std::uint8_t> scratch(plan.work_size);
  plan.work_data = scratch.data();
  return ggml_graph_compute(graph, &plan) == GGML_STATUS_SUCCESS && call.n_threads.load() == n_threads_;
}

std::vector<OpDefinition> OpHooks::describe(std::uint32_t slot, const std::vector<NodeRange>& groups) const {
  const Topology topology = topologies_.at(slot);
  const std::vector<Attribution> attributions = attribute(topology);
  const std::vector<double> live_bytes = live_activation_bytes(topology);
  std::unordered_map<std::uint32_t, std::uint32_t> row_of_index;
  for (std::uint32_t i = 0; i < topology.n_nodes; ++i)
    row_of_index[topology.nodes[i].index] = i;

  std::vector<OpDefinition> definitions;
  definitions.reserve(groups.size());
  for (const auto& [first, last] : groups) {
    OpDefinition definition{};
    std::string op_type;
    OpCost cost{};
    const CapturedNode* before = nullptr;
    for (std::uint32_t index = first; index <= last; ++index) {
      const auto found = row_of_index.find(index);
      if (found == row_of_index.end())
        continue;  // a view between fused nodes
      const CapturedNode& node = topology.nodes[found->second];
      add_to_group(cost, node, topology.sources(node), before);
      op_type += (op_type.empty() ? "" : "+") + op_type_of(node);
      ++definition.n_fused;
      definition.live_bytes = std::max(definition.live_bytes, live_bytes[found->second]);
      before = &node;
    }
    const CapturedNode& first_node = topology.nodes[row_of_index.at(first)];
    const CapturedNode& result = *before;
    const Attribution& attribution = attributions[row_of_index.at(last)];
    definition.node = first;
    definition.flops = cost.flops;
    definition.bytes_read = cost.bytes_read;
    definition.bytes_written = cost.bytes_written;
    definition.layer = attribution.layer;
    set_text(definition.op, result.tensor.name);
    set_text(definition.op_type, op_type);
    set_text(definition.module, attribution.module);
    set_text(definition.backend, "CPU");
    set_text(definition.buffer, buffer_name(result.tensor));
    set_text(definition.dtype, ggml_type_name(result.tensor.type));
    set_shape(definition.shape, result.tensor);
    const CapturedTensor* sources = topology.sources(first_node);
    for (std::uint32_t i = 0; i < std::min<std::uint32_t>(first_node.n_sources, 3); ++i) {
      set_text(definition.src_dtype[i], ggml_type_name(sources[i].type));
      set_shape(definition.src_shape[i], sources[i]);
    }
    for (std::uint32_t index = first; index <= last; ++index) {
      const auto found = row_of_index.find(index);
      if (found == row_of_index.end())
        continue;
      const CapturedNode& node = topology.nodes[found->second];
      for (std::uint32_t i = 0; i < node.n_sources; ++i) {
        const CapturedTensor& source = topology.sources(node)[i];
        if (source.weight == nullptr)
          continue;
        set_text(definition.weight, source.name);
        set_text(definition.buffer, buffer_name(source));
      }
    }
    definitions.push_back(definition);
  }
  return definitions;
}

}  // namespace melt::llama_cpp
