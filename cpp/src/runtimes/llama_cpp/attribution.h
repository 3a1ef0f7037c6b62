// SPDX-License-Identifier: Apache-2.0
// Which layer and which module of the model an op belongs to. Weights say it best ("blk.3.ffn_up.weight"), then the
// kind of op, then the name that llama.cpp gave the node ("kq-3"), then the ops it takes its input from.
#pragma once

#include <string>
#include <vector>

#include "topology.h"

namespace melt::llama_cpp {

struct Attribution {
  int layer = -1;      ///< -1 outside the layers
  std::string module;  ///< attention, ffn, norm, rope, kv-cache, embedding, lm_head, ssm, residual, other
};

/// One attribution for each node of the topology.
std::vector<Attribution> attribute(const Topology& topology);

}  // namespace melt::llama_cpp
