// SPDX-License-Identifier: Apache-2.0
#include "run_options.h"

#include <cmath>
#include <random>
#include <utility>

#include "require.h"
#include "text_list.h"

namespace melt {
namespace {

constexpr double kMaxOverheadBudgetS = 3600.0;

bool lies_in(double value, double low, double high) {
  return value >= low && value <= high;  // NaN does not
}

}  // namespace

std::string level_list() {
  std::string list;
  for (const LevelName& each : kLevelNames)
    append_item(list, each.name);
  return list;
}

void check_options(const RunOptions& options) {
  require(options.max_tokens >= 1, "max_tokens is 0: ask for at least 1 output token");
  require(options.repeats >= 1, "repeats is 0: ask for at least 1 repetition");
  require(std::isfinite(options.sampler.temperature) && options.sampler.temperature >= 0.0f,
          "temperature must be a number, 0 or more");
  require(options.sampler.top_p > 0.0f && options.sampler.top_p <= 1.0f, "top_p must lie in (0, 1]");
  require(lies_in(options.overhead_budget_s, 0, kMaxOverheadBudgetS),
          "overhead_budget_s is " + short_text(options.overhead_budget_s) + ": give 0 to " +
              short_text(kMaxOverheadBudgetS) + " seconds");
  check_idle(options.idle_s);
}

void check_idle(double seconds) {
  require(lies_in(seconds, 0, kMaxIdleS),
          "idling of " + short_text(seconds) + " s: give 0 to " + short_text(kMaxIdleS) + " (idle_s)");
}

RunOptions resolved_options(RunOptions options, const Session& session) {
  check_options(options);
  if (!options.prompt_ids.empty())
    return options;
  if (options.prompt_tokens) {
    const ModelInfo& info = session.info();
    const std::uint32_t n = *options.prompt_tokens;
    require(n >= 1 && n < info.n_ctx, "a prompt of " + std::to_string(n) + " tokens: this context takes 1 to " +
                                          std::to_string(info.n_ctx - 1) + " (n_ctx or --ctx sets its length)");
    options.prompt_ids = random_token_ids(options.sampler.seed, info.n_vocab, n);
    options.ignore_eos = true;
  } else if (options.chat) {
    options.prompt = session.text().format_chat({{"user", options.prompt}});
  }
  return options;
}

std::vector<std::int32_t> checked_prompt(const RunOptions& options, const Session& session) {
  const ModelInfo& info = session.info();
  std::vector<std::int32_t> ids = options.prompt_ids.empty()
                                      ? session.text().encode(options.prompt, true, options.parse_special)
                                      : options.prompt_ids;
  require(!ids.empty(), "the prompt is empty: give at least one token");
  require(ids.size() < info.n_ctx, "the prompt has " + std::to_string(ids.size()) + " tokens, but the context holds " +
                                       std::to_string(info.n_ctx) +
                                       ": shorten it or raise the context length (n_ctx, --ctx)");
  for (const std::vector<std::int32_t>* given : {&std::as_const(ids), &options.forced_ids}) {
    for (const std::int32_t id : *given)
      require(id >= 0 && static_cast<std::uint32_t>(id) < info.n_vocab,
              "token id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(info.n_vocab));
  }
  return ids;
}

std::vector<std::int32_t> random_token_ids(std::uint32_t seed, std::uint32_t n_vocab, std::uint32_t n) {
  std::mt19937 draw(seed);  // not uniform_int_distribution: what that makes of it is each library's own
  std::vector<std::int32_t> ids;
  ids.reserve(n);
  for (std::uint32_t i = 0; i < n; ++i)
    ids.push_back(static_cast<std::int32_t>((std::uint64_t{draw()} * n_vocab) >> 32));
  return ids;
}

}  // namespace melt
