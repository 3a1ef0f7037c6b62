// SPDX-License-Identifier: Apache-2.0
// From captured calls to op definitions: op type, layer, module, shapes, bytes and FLOPs (docs/mlc.md).
#pragma once

#include <string>
#include <vector>

#include "calls.h"
#include "melt/recorder.h"
#include "weights.h"

namespace melt::mlc {

/// One definition for each node of the slot, the machine's own first. `weights` may be null: then no op has one.
std::vector<OpDefinition> define_ops(const CallStore& calls, std::uint32_t slot, const Weights* weights,
                                     const std::string& quantization);

}  // namespace melt::mlc
