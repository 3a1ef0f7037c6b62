// SPDX-License-Identifier: Apache-2.0
#include "token_scores.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "json.h"
#include "text_list.h"

namespace melt {
namespace {

constexpr std::size_t kTop = 10;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return std::isfinite(value) ? text : "null";
}

class Scores {
 public:
  explicit Scores(std::size_t n_vocab) : order_(n_vocab) {}

  void add(const float* logits, std::int32_t token) {
    const std::size_t n = order_.size(), n_top = std::min(kTop, n);
    std::iota(order_.begin(), order_.end(), 0);
    std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(n_top), order_.end(),
                      [logits](std::int32_t a, std::int32_t b) {
                        return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
                      });
    const double highest = logits[order_[0]];
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i)
      sum += std::exp(logits[i] - highest);
    const double log_sum = highest + std::log(sum);
    append_item(tokens_, std::to_string(token));
    append_item(logprobs_, number(logits[token] - log_sum));
    append_item(log_sums_, number(log_sum));
    std::string ids, values;
    for (std::size_t i = 0; i < n_top; ++i) {
      append_item(ids, std::to_string(order_[i]));
      append_item(values, number(logits[order_[i]]));
    }
    append_item(top_ids_, "[" + ids + "]");
    append_item(top_logits_, "[" + values + "]");
  }

  std::string str() const {
    return JsonObject()
        .add_raw("token_ids", "[" + tokens_ + "]")
        .add_raw("logprobs", "[" + logprobs_ + "]")
        .add_raw("log_sums", "[" + log_sums_ + "]")
        .add_raw("top_ids", "[" + top_ids_ + "]")
        .add_raw("top_logits", "[" + top_logits_ + "]")
        .str();
  }

 private:
  std::vector<std::int32_t> order_;
  std::string tokens_, logprobs_, log_sums_, top_ids_, top_logits_;
};

std::string missing(const char* reason) {
  return JsonObject().add_raw("logits", JsonObject().add("missing", reason).str()).str();
}

}  // namespace

std::string score_tokens(LoadedModel& model, const std::vector<std::int32_t>& prompt,
                         const std::vector<std::int32_t>& forced) {
  Session& session = model.session();
  session.reset({});
  Scores scores(session.info().n_vocab);
  const std::size_t n_batch = session.info().n_batch;
  for (std::size_t done = 0; done < prompt.size(); done += n_batch) {
    if (session.evaluate(prompt.data() + done, std::min(n_batch, prompt.size() - done)) != EvalStatus::kOk)
      return missing("the scoring of the tokens was cut off");
  }
  for (const std::int32_t& token : forced) {
    const float* logits = session.logits();
    if (logits == nullptr)
      return missing("this runtime gives no logits");
    scores.add(logits, token);
    if (&token != &forced.back() && session.evaluate(&token, 1) != EvalStatus::kOk)
      return missing("the scoring of the tokens was cut off");
  }
  return JsonObject().add_raw("logits", scores.str()).str();
}

}  // namespace melt
