// SPDX-License-Identifier: Apache-2.0
// What a run is asked to do, checked, and its prompt in the form that it takes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "melt/run.h"

namespace melt {

/// "tokens, ops, ...": the levels there are, for messages.
std::string level_list();

/// What can be told without a model. Raises: Error(kInvalidArgument) that names the option.
void check_options(const RunOptions& options);
void check_idle(double seconds);

/// The options with `chat` and `prompt_tokens` resolved: the prompt is what is evaluated, as text or as ids.
/// Raises: Error(kInvalidArgument); Error(kModel) where the model has no chat format.
RunOptions resolved_options(RunOptions options, const Session& session);

/// The ids of a resolved prompt. Raises: Error(kInvalidArgument) for one, or a forced output, that cannot be evaluated.
std::vector<std::int32_t> checked_prompt(const RunOptions& options, const Session& session);

/// `n` token ids below `n_vocab`, the same for a seed on every machine.
std::vector<std::int32_t> random_token_ids(std::uint32_t seed, std::uint32_t n_vocab, std::uint32_t n);

}  // namespace melt
