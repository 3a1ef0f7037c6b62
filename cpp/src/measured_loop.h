// SPDX-License-Identifier: Apache-2.0
// The measured part of a run: tokenise -> prefill -> sample -> decode. Nothing of ours allocates, locks, formats or
// writes in it, but for the prompt's own tokenisation, which is part of what is measured.
#pragma once

#include "melt/recorder.h"
#include "melt/run.h"
#include "repetition.h"

namespace melt {

class MeasuredLoop {
 public:
  /// `recorder`: null where ops are not recorded. `options` are resolved ones.
  MeasuredLoop(LoadedModel& model, const RunOptions& options, OpRecorder* recorder);

  /// Fills `rep`, whose steps have been reserved; stops early at the end of the text, of the context, and on a cancel.
  /// Raises: what Session::evaluate raises; `rep` then holds what was measured before.
  void execute(Repetition& rep);

 private:
  bool prefill(Repetition& rep);
  void decode(Repetition& rep);
  bool keep_token(Repetition& rep);
  bool goes_on(EvalStatus status, Repetition& rep) const noexcept;

  const RunOptions& options_;
  Session& session_;
  const Clock& clock_;
  const std::atomic<bool>* cancel_;
  OpRecorder* recorder_;
};

}  // namespace melt
