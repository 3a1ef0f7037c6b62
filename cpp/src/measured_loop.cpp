// SPDX-License-Identifier: Apache-2.0
#include "measured_loop.h"

#include <algorithm>

namespace melt {

MeasuredLoop::MeasuredLoop(LoadedModel& model, const RunOptions& options, OpRecorder* recorder)
    : options_(options),
      session_(model.session()),
      clock_(model.clock()),
      cancel_(model.options().cancel),
      recorder_(recorder) {}

void MeasuredLoop::execute(Repetition& rep) {
  session_.reset(options_.sampler);
  rep.begin = rep.tokenized = clock_.ticks();
  if (options_.prompt_ids.empty()) {
    rep.prompt = session_.text().encode(options_.prompt, true, options_.parse_special);
    rep.tokenized = clock_.ticks();
    if (recorder_ != nullptr)
      recorder_->host_op(HostOp::kTokenize, rep.begin, rep.tokenized);
  } else {
    rep.prompt = options_.prompt_ids;
  }
  if (prefill(rep) && keep_token(rep))
    decode(rep);
}

/// Whether the run may go on behind an evaluation; else why it stops is in `rep`.
bool MeasuredLoop::goes_on(EvalStatus status, Repetition& rep) const noexcept {
  const bool cancelled = cancel_ != nullptr && cancel_->load(std::memory_order_relaxed);
  if (status == EvalStatus::kOk && !cancelled)
    return true;
  rep.stop = status == EvalStatus::kContextFull ? StopReason::kContextFull : StopReason::kCancelled;
  return false;
}

/// Evaluates the prompt, n_batch tokens at a time. Returns whether it came to its end.
bool MeasuredLoop::prefill(Repetition& rep) {
  const std::size_t n_batch = session_.info().n_batch;
  rep.prefill_begin = clock_.ticks();
  for (std::size_t done = 0; done < rep.prompt.size(); done += n_batch) {
    const std::size_t n = std::min(n_batch, rep.prompt.size() - done);
    if (!goes_on(session_.evaluate(rep.prompt.data() + done, n), rep))
      return false;
  }
  rep.prefill_end = clock_.ticks();
  return true;
}

/// Samples the token after the last evaluated one. Returns whether another one is to follow.
bool MeasuredLoop::keep_token(Repetition& rep) {
  const std::uint64_t begin = clock_.ticks();
  const std::int32_t sampled = session_.sample();
  const std::uint64_t end = clock_.ticks();
  const bool is_forced = rep.n_output < options_.forced_ids.size();
  const std::int32_t id = is_forced ? options_.forced_ids[rep.n_output] : sampled;
  if (recorder_ != nullptr)
    recorder_->host_op(HostOp::kSample, begin, end);
  rep.steps.push_back({end, id});
  if (!is_forced && !options_.ignore_eos && session_.text().is_end_of_text(id)) {
    rep.stop = StopReason::kEndOfText;
    return false;
  }
  ++rep.n_output;
  return rep.n_output < options_.max_tokens &&
         (options_.forced_ids.empty() || rep.n_output < options_.forced_ids.size());
}

void MeasuredLoop::decode(Repetition& rep) {
  do {
    if (recorder_ != nullptr)
      recorder_->set_token(static_cast<std::uint32_t>(rep.steps.size()));
    if (!goes_on(session_.evaluate(&rep.steps.back().token_id, 1), rep))
      return;
  } while (keep_token(rep));
}

}  // namespace melt
