// SPDX-License-Identifier: Apache-2.0
// What one repetition measures, in ticks, and how it becomes rows of the trace once it is over.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "melt/clock.h"
#include "melt/recorder.h"
#include "melt/runtime.h"
#include "melt/trace_format.h"

namespace melt {

/// One evaluation and the token sampled from it.
struct Step {
  std::uint64_t end_ticks;  ///< the token is known
  std::int32_t token_id;
};

struct Repetition {
  bool warmup = false;
  StopReason stop = StopReason::kLimit;
  std::uint64_t begin = 0;      ///< prompt handed over
  std::uint64_t tokenized = 0;  ///< equal to begin if ids were given
  std::uint64_t prefill_begin = 0;
  std::uint64_t prefill_end = 0;  ///< 0: not reached
  std::vector<std::int32_t> prompt;
  std::vector<Step> steps;  ///< reserved before the run
  std::uint32_t n_output = 0;

  std::uint64_t end() const noexcept;
};

/// The graphs of a prompt, which is evaluated n_batch tokens at a time, n_ubatch in a graph, and of the steps behind
/// it.
RunExtent run_extent(const ModelOptions& options, const ModelInfo& info, std::size_t n_prompt, std::size_t n_steps);

std::vector<PromptRecord> prompt_rows(const Repetition& rep, std::uint32_t run);
std::vector<PhaseRecord> phase_rows(const Repetition& rep, std::uint32_t run, const ClockCalibration& calibration);
/// Of phases that belong to no run; `spans` are their first and last ticks.
std::vector<PhaseRecord> phase_rows(Phase kind, const std::vector<std::pair<std::uint64_t, std::uint64_t>>& spans,
                                    const ClockCalibration& calibration);
std::vector<TokenRecord> token_rows(const Repetition& rep, std::uint32_t run, const ClockCalibration& calibration);
/// Without what only the caller knows: threads, counts of records, memory.
RunRecord run_row(const Repetition& rep, std::uint32_t run, const ClockCalibration& calibration);

}  // namespace melt
