// SPDX-License-Identifier: Apache-2.0
// What recording costs, measured on this model, on this machine, just before the repetitions that are kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "melt/recorder.h"
#include "melt/run.h"

namespace melt {

struct OverheadResult {
  std::vector<OverheadRecord> pairs;
  std::string note;  ///< why there are no or few pairs; empty if all is well
};

/// Evaluates the prompt, then decode steps, in pairs with op recording off and on in seeded random order, for at most
/// `run.overhead_budget_s` each. Only whole evaluate calls are timed. Raises what Session::evaluate raises.
OverheadResult measure_overhead(LoadedModel& model, OpRecorder& recorder, const std::vector<std::int32_t>& prompt,
                                const RunOptions& run);

}  // namespace melt
