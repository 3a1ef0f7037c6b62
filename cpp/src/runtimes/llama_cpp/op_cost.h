// SPDX-License-Identifier: Apache-2.0
// FLOPs and bytes of an op, from its shapes and types (measuring.md): a multiply and an add count two; bytes are what
// the kernel must read and write once. docs/op_costs.md states the formulas. NaN: this op has none.
#pragma once

#include "topology.h"

namespace melt::llama_cpp {

struct OpCost {
  double flops;
  double bytes_read;
  double bytes_written;
};

OpCost cost_of(const CapturedNode& node, const CapturedTensor* sources);

}  // namespace melt::llama_cpp
