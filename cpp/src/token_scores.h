// SPDX-License-Identifier: Apache-2.0
// What a model thinks of given tokens: after a run's repetitions, its prompt and output are evaluated once more, not
// timed, and of each step's logits what is needed to compare two traces of the same tokens is kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "melt/run.h"

namespace melt {

/// The metadata object {"logits": {...}}: for each token of `forced`, the logarithm of its probability, and the highest
/// logits with their tokens (docs/compare.md). With {"missing": reason} where the runtime gives no logits.
/// Raises: what Session::evaluate raises.
std::string score_tokens(LoadedModel& model, const std::vector<std::int32_t>& prompt,
                         const std::vector<std::int32_t>& forced);

}  // namespace melt
