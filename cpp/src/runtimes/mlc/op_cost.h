// SPDX-License-Identifier: Apache-2.0
// FLOPs and bytes of a kernel, from the tensors that it was called with: the formulas of docs/op_costs.md. NaN: none.
#pragma once

#include <string>
#include <vector>

#include "calls.h"
#include "weights.h"

namespace melt::mlc {

/// A kernel's tensors by what they are to it.
struct Operands {
  struct Weight {
    const CapturedTensor* tensor;
    const Parameter* parameter;
  };
  std::vector<Weight> weights;
  std::vector<const CapturedTensor*> inputs;  ///< activations, ids, page tables
  std::vector<const CapturedTensor*> outputs;
};

Operands operands_of(const CapturedTensor* tensors, std::uint32_t n_tensors, const std::string& op_type,
                     const Weights* weights);

struct OpCost {
  double flops;
  double bytes_read;
  double bytes_written;
};

/// `n_positions`: of the KV cache that attention attends to.
OpCost cost_of(const std::vector<std::string>& op_types, const Operands& operands, double n_positions);

/// The tensor that holds K and V by pages, [pages, 2, heads, positions of a page, head size]; null if none does.
const CapturedTensor* pages_of(const Operands& operands);

}  // namespace melt::mlc
