// SPDX-License-Identifier: Apache-2.0
// Which layer and which module of the model a call belongs to; the rules are those of docs/attribution.md.
#pragma once

#include <string>
#include <vector>

#include "calls.h"
#include "op_cost.h"

namespace melt::mlc {

/// A captured call as attribution and definition see it.
struct DescribedCall {
  const CapturedCall* call = nullptr;
  std::vector<std::string> op_types;
  Operands operands;
  int layer = -1;
  std::string module;
};

/// All calls of a slot, in order, with their layers and modules.
std::vector<DescribedCall> attribute(const CallStore& calls, std::uint32_t slot, const Weights* weights);

}  // namespace melt::mlc
