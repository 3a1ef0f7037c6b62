// SPDX-License-Identifier: Apache-2.0
// What a run is asked to do: checked, and its prompt resolved.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "melt/error.h"
#include "run_options.h"

using namespace melt;

namespace {

ModelOptions model_options() {
  ModelOptions options;
  options.path = "layers=1";
  options.n_threads = 1;
  options.n_ctx = 32;
  return options;
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kInvalidArgument);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("run options: random ids are the same for a seed everywhere, and fill the vocabulary") {
  // The first outputs of mt19937 (those of numpy.random.RandomState(seed) too), times n_vocab, over 2^32.
  CHECK(random_token_ids(0, 49152, 4) == std::vector<std::int32_t>{26975, 29139, 35152, 41497});
  CHECK(random_token_ids(1234567890, 2048, 4) == std::vector<std::int32_t>{1267, 697, 1211, 305});
  CHECK(random_token_ids(2147483647, 256, 3) == std::vector<std::int32_t>{100, 228, 168});
  const std::vector<std::int32_t> many = random_token_ids(7, 10, 2000);
  CHECK(*std::min_element(many.begin(), many.end()) == 0);
  CHECK(*std::max_element(many.begin(), many.end()) == 9);
}

TEST_CASE("run options: so many random ids become the prompt, and end-of-text does not end it") {
  LoadedModel model("synthetic", model_options());
  RunOptions asked;
  asked.prompt_tokens = 5;
  asked.sampler.seed = 3;
  const RunOptions options = resolved_options(asked, model.session());
  CHECK(options.prompt_ids == random_token_ids(3, model.session().info().n_vocab, 5));
  CHECK(options.ignore_eos);
  CHECK(checked_prompt(options, model.session()) == options.prompt_ids);
}

TEST_CASE("run options: a message is put into the chat format, and ids win over both") {
  LoadedModel model("synthetic", model_options());
  RunOptions asked;
  asked.prompt = "Hi";
  CHECK(resolved_options(asked, model.session()).prompt == "Hi");
  asked.chat = true;
  CHECK(resolved_options(asked, model.session()).prompt == model.session().text().format_chat({{"user", "Hi"}}));
  asked.prompt_ids = {1, 2};
  asked.prompt_tokens = 3;
  const RunOptions options = resolved_options(asked, model.session());
  CHECK(options.prompt_ids == std::vector<std::int32_t>{1, 2});
  CHECK_FALSE(options.ignore_eos);
}

TEST_CASE("run options: what cannot be is refused by name") {
  LoadedModel model("synthetic", model_options());
  const auto says = [&](const std::string& text, const std::function<void(RunOptions&)>& change) {
    CAPTURE(text);
    RunOptions asked;
    asked.prompt = "p";
    change(asked);
    const std::string said =
        refusal([&] { checked_prompt(resolved_options(asked, model.session()), model.session()); });
    CHECK(said.find(text) != std::string::npos);
  };
  says("max_tokens is 0", [](RunOptions& o) { o.max_tokens = 0; });
  says("repeats is 0", [](RunOptions& o) { o.repeats = 0; });
  says("temperature", [](RunOptions& o) { o.sampler.temperature = -1; });
  says("top_p", [](RunOptions& o) { o.sampler.top_p = 1.5; });
  says("overhead_budget_s is nan", [](RunOptions& o) { o.overhead_budget_s = std::nan(""); });
  says("overhead_budget_s is 3601", [](RunOptions& o) { o.overhead_budget_s = 3601; });
  says("idling of nan s", [](RunOptions& o) { o.idle_s = std::nan(""); });
  says("a prompt of 0 tokens: this context takes 1 to 31", [](RunOptions& o) { o.prompt_tokens = 0; });
  says("a prompt of 32 tokens", [](RunOptions& o) { o.prompt_tokens = 32; });
  says("the prompt is empty", [](RunOptions& o) { o.prompt.clear(); });
  says("the prompt has 40 tokens, but the context holds 32", [](RunOptions& o) { o.prompt.assign(40, 'x'); });
  says("token id 256 is outside the vocabulary of 256", [](RunOptions& o) { o.prompt_ids = {1, 256}; });
  says("token id -1", [](RunOptions& o) { o.forced_ids = {-1}; });
}
