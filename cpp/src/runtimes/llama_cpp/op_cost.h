// SPDX-License-Identifier: Apache-2.0
// FLOPs and bytes of an op, from its shapes and types (docs/op_costs.md): a multiply and an add count two; bytes are
// what the kernel must read and write once. NaN: this op has no formula.
#pragma once

#include "topology.h"

namespace melt::llama_cpp {

struct OpCost {
  double flops;
  double bytes_read;
  double bytes_written;
};

OpCost cost_of(const CapturedNode& node, const CapturedTensor* sources);

/// Adds a node of a fused group to the group's cost, which begins with zeros. The result of `before`, the node that the
/// group executes just before it (null for the first), is neither written nor read.
void add_to_group(OpCost& group, const CapturedNode& node, const CapturedTensor* sources, const CapturedNode* before);

/// Bytes of a tensor's elements: not the span of a view, and the real size of repacked weights.
double tensor_bytes(const CapturedTensor& tensor);

}  // namespace melt::llama_cpp
