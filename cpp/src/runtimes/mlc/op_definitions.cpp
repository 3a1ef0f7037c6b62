// SPDX-License-Identifier: Apache-2.0
#include "op_definitions.h"

#include <cmath>
#include <unordered_set>

#include "attribution.h"

namespace melt::mlc {
namespace {

void set_shape(std::int64_t (&shape)[4], const CapturedTensor& tensor) {
  for (int axis = 0; axis < 4; ++axis) {
    const int at = axis - 4 + tensor.ndim;
    shape[axis] = at < 0 ? 1 : tensor.shape[at];
  }
  for (int axis = 0; axis < tensor.ndim - 4; ++axis)
    shape[0] *= tensor.shape[axis];
}

OpDefinition blank(std::uint32_t node) {
  OpDefinition definition{};
  definition.node = node;
  definition.layer = -1;
  definition.n_fused = 1;
  definition.flops = definition.bytes_read = definition.bytes_written = definition.live_bytes = std::nan("");
  set_text(definition.backend, "CPU");
  set_text(definition.buffer, "none");
  for (std::int64_t& extent : definition.shape)
    extent = 1;
  return definition;
}

OpDefinition machine_definition() {
  OpDefinition definition = blank(kMachineNode);
  set_text(definition.op, "vm");
  set_text(definition.op_type, "VM_OVERHEAD");
  set_text(definition.module, "runtime");
  return definition;
}

class Sources {
 public:
  explicit Sources(OpDefinition& definition) : definition_(definition) {}

  void add(const CapturedTensor& tensor, const std::string& dtype) {
    if (n_ == 3)
      return;
    set_text(definition_.src_dtype[n_], dtype);
    set_shape(definition_.src_shape[n_], tensor);
    ++n_;
  }
  void add(const CapturedTensor& tensor) { add(tensor, short_dtype(tensor.type)); }

 private:
  OpDefinition& definition_;
  int n_ = 0;
};

/// As FLASH_ATTN_EXT of llama.cpp shows them: Q [1, heads, tokens, size], K and V [1, heads, positions, size].
void set_attention_sources(OpDefinition& definition, const Operands& operands, std::uint32_t n_positions) {
  const CapturedTensor& q = *operands.inputs.front();
  Sources sources(definition);
  CapturedTensor view = q;
  if (q.ndim == 3) {
    view.shape[0] = q.shape[1];
    view.shape[1] = q.shape[0];
  }
  sources.add(view);
  if (const CapturedTensor* pages = pages_of(operands)) {
    CapturedTensor cache = *pages;
    cache.ndim = 3;
    cache.shape[0] = pages->shape[2];
    cache.shape[1] = n_positions;
    cache.shape[2] = pages->shape[4];
    sources.add(cache);
    sources.add(cache);
    return;
  }
  for (const CapturedTensor* input : operands.inputs) {
    if (input == &q || input->ndim != 3)
      continue;
    CapturedTensor swapped = *input;
    std::swap(swapped.shape[0], swapped.shape[1]);
    sources.add(swapped);
  }
}

/// The weight first where it is the operand of a product or a lookup, as ggml has it: with the shape it stands for.
void set_sources(OpDefinition& definition, const DescribedCall& described, const EvaluationKey& key,
                 const std::string& quantization) {
  const Operands& operands = described.operands;
  const std::string& first = described.op_types.front();
  if (first == "FLASH_ATTN_EXT" && !operands.inputs.empty()) {
    set_attention_sources(definition, operands, key.n_positions);
    return;
  }
  Sources sources(definition);
  if (!operands.weights.empty() && (first == "MUL_MAT" || first == "GET_ROWS")) {
    CapturedTensor weight = *operands.weights.front().tensor;
    const bool packed = operands.weights.size() > 1;
    const CapturedTensor* model = first == "MUL_MAT" && !operands.inputs.empty() ? operands.inputs.front()
                                  : operands.outputs.empty()                     ? nullptr
                                                                                 : operands.outputs.front();
    if (packed && model != nullptr && weight.ndim > 0 && model->ndim > 0)
      weight.shape[weight.ndim - 1] = model->shape[model->ndim - 1];
    sources.add(weight, packed ? quantization : short_dtype(weight.type));
  }
  for (const CapturedTensor* input : operands.inputs)
    sources.add(*input);
}

OpDefinition define(const DescribedCall& described, const EvaluationKey& key, const std::string& quantization) {
  OpDefinition definition = blank(described.call->node);
  const FunctionInfo& function = *described.call->function;
  std::string op_type;
  for (const std::string& each : described.op_types)
    op_type += (op_type.empty() ? "" : "+") + each;
  definition.layer = described.layer;
  set_text(definition.op, function.name);
  set_text(definition.op_type, op_type);
  set_text(definition.module, described.module);
  if (function.kind != FunctionKind::kKernel)
    return definition;
  definition.n_fused = static_cast<std::uint32_t>(described.op_types.size());
  const Operands& operands = described.operands;
  const OpCost cost = cost_of(described.op_types, operands, key.n_positions);
  definition.flops = cost.flops;
  definition.bytes_read = cost.bytes_read;
  definition.bytes_written = cost.bytes_written;
  set_sources(definition, described, key, quantization);
  if (!operands.weights.empty()) {
    set_text(definition.weight, operands.weights.front().parameter->name);
    set_text(definition.buffer, "TVM weights");
  }
  const CapturedTensor* result = !operands.outputs.empty()  ? operands.outputs.front()
                                 : !operands.inputs.empty() ? operands.inputs.front()
                                                            : nullptr;
  if (result != nullptr) {
    set_text(definition.dtype, short_dtype(result->type));
    set_shape(definition.shape, *result);
  }
  return definition;
}

}  // namespace

std::vector<OpDefinition> define_ops(const CallStore& calls, std::uint32_t slot, const Weights* weights,
                                     const std::string& quantization) {
  std::vector<OpDefinition> definitions{machine_definition()};
  std::unordered_set<std::uint32_t> defined{kMachineNode};
  for (const DescribedCall& described : attribute(calls, slot, weights)) {
    if (defined.insert(described.call->node).second)
      definitions.push_back(define(described, calls.key(slot), quantization));
  }
  return definitions;
}

}  // namespace melt::mlc
