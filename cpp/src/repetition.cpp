// SPDX-License-Identifier: Apache-2.0
#include "repetition.h"

#include <algorithm>

namespace melt {
namespace {

bool was_cut(const Repetition& rep) {
  return rep.stop == StopReason::kCancelled || rep.stop == StopReason::kError || rep.stop == StopReason::kContextFull;
}

Phase step_phase(std::size_t index) {
  return index == 0 ? Phase::kPrefill : Phase::kDecode;
}

}  // namespace

std::uint64_t Repetition::end() const noexcept {
  return steps.empty() ? std::max({begin, tokenized, prefill_end}) : steps.back().end_ticks;
}

RunExtent run_extent(const ModelOptions& options, const ModelInfo& info, std::size_t n_prompt, std::size_t n_steps) {
  const auto graphs_of = [&](std::size_t n_tokens) { return (n_tokens + options.n_ubatch - 1) / options.n_ubatch; };
  const std::size_t n_whole = n_prompt / info.n_batch, n_rest = n_prompt % info.n_batch;
  return {n_whole * graphs_of(info.n_batch) + graphs_of(n_rest), n_steps};
}

std::vector<PromptRecord> prompt_rows(const Repetition& rep, std::uint32_t run) {
  std::vector<PromptRecord> rows;
  rows.reserve(rep.prompt.size());
  for (const std::int32_t id : rep.prompt)
    rows.push_back({run, id});
  return rows;
}

std::vector<PhaseRecord> phase_rows(const Repetition& rep, std::uint32_t run, const ClockCalibration& calibration) {
  std::vector<PhaseRecord> rows;
  const auto add = [&](Phase phase, std::uint64_t from, std::uint64_t to) {
    rows.push_back({run, static_cast<std::uint16_t>(phase), 0, calibration.to_ns(from), calibration.span_ns(from, to)});
  };
  if (rep.tokenized > rep.begin)
    add(Phase::kTokenize, rep.begin, rep.tokenized);
  if (rep.prefill_end != 0)
    add(Phase::kPrefill, rep.prefill_begin, rep.prefill_end);
  if (rep.steps.size() > 1)
    add(Phase::kDecode, rep.steps.front().end_ticks, rep.steps.back().end_ticks);
  return rows;
}

std::vector<PhaseRecord> phase_rows(Phase kind, const std::vector<std::pair<std::uint64_t, std::uint64_t>>& spans,
                                    const ClockCalibration& calibration) {
  std::vector<PhaseRecord> rows;
  for (const auto& [begin, end] : spans) {
    PhaseRecord row{};
    row.run = kNone;
    row.phase = static_cast<std::uint16_t>(kind);
    row.start_ns = calibration.to_ns(begin);
    row.duration_ns = calibration.span_ns(begin, end);
    rows.push_back(row);
  }
  return rows;
}

std::vector<TokenRecord> token_rows(const Repetition& rep, std::uint32_t run, const ClockCalibration& calibration) {
  std::vector<TokenRecord> rows;
  std::uint64_t begin = rep.begin;
  const auto add = [&](std::uint64_t end, std::int32_t id, std::uint16_t flags) {
    TokenRecord row{};
    row.run = run;
    row.index = static_cast<std::uint32_t>(rows.size());
    row.phase = static_cast<std::uint16_t>(step_phase(rows.size()));
    row.flags = flags;
    row.token_id = id;
    row.n_tokens = rows.empty() ? static_cast<std::uint32_t>(rep.prompt.size()) : 1;
    row.start_ns = calibration.to_ns(begin);
    row.duration_ns = calibration.span_ns(begin, end);
    rows.push_back(row);
    begin = end;
  };
  for (std::size_t i = 0; i < rep.steps.size(); ++i) {
    add(rep.steps[i].end_ticks, rep.steps[i].token_id, i < rep.n_output ? std::uint16_t{0} : kTokenEndOfText);
  }
  // The graphs of a step that gave no token refer to a row all the same.
  if (was_cut(rep))
    add(begin, -1, kTokenCut);
  return rows;
}

RunRecord run_row(const Repetition& rep, std::uint32_t run, const ClockCalibration& calibration) {
  RunRecord row{};
  row.run = run;
  row.flags = rep.warmup ? kRunWarmup : 0;
  row.stop_reason = static_cast<std::uint16_t>(rep.stop);
  row.n_prompt = static_cast<std::uint32_t>(rep.prompt.size());
  row.n_output = rep.n_output;
  row.start_ns = calibration.to_ns(rep.begin);
  row.duration_ns = calibration.span_ns(rep.begin, rep.end());
  row.prefill_ns = rep.prefill_end == 0 ? 0 : calibration.span_ns(rep.prefill_begin, rep.prefill_end);
  return row;
}

}  // namespace melt
