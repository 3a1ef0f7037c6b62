// SPDX-License-Identifier: Apache-2.0
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace melt::mlc {
namespace {

/// Blocks of independent maxima vectorise; NaN never wins.
std::int32_t argmax(const float* values, std::size_t n) noexcept {
  constexpr std::size_t kLanes = 16;
  float best[kLanes];
  std::fill(best, best + kLanes, -INFINITY);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      best[lane] = values[i + lane] > best[lane] ? values[i + lane] : best[lane];
  }
  float highest = *std::max_element(best, best + kLanes);
  for (; i < n; ++i)
    highest = values[i] > highest ? values[i] : highest;
  const float* found = std::find(values, values + n, highest);
  return found == values + n ? 0 : static_cast<std::int32_t>(found - values);
}

}  // namespace

void Sampler::reset(const SamplerOptions& options) {
  options_ = options;
  random_.seed(options.seed);
}

std::int32_t Sampler::sample(const float* logits, std::size_t n) noexcept {
  if (options_.temperature <= 0.0f)
    return argmax(logits, n);
  candidates_.resize(n);
  std::iota(candidates_.begin(), candidates_.end(), 0);
  const std::size_t k = options_.top_k > 0 ? std::min<std::size_t>(n, static_cast<std::size_t>(options_.top_k)) : n;
  std::partial_sort(
      candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(k), candidates_.end(),
      [logits](std::int32_t a, std::int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
  const double highest = logits[candidates_[0]];
  const auto weight = [&](std::size_t i, double temperature) {
    return std::exp((logits[candidates_[i]] - highest) / temperature);
  };
  double total = 0, kept = 0, sum = 0;
  for (std::size_t i = 0; i < k; ++i)
    total += weight(i, 1.0);
  std::size_t n_kept = 0;
  while (n_kept < k && (n_kept == 0 || kept < options_.top_p * total))
    kept += weight(n_kept++, 1.0);
  for (std::size_t i = 0; i < n_kept; ++i)
    sum += weight(i, options_.temperature);
  double rest = sum * std::generate_canonical<double, 53>(random_);
  for (std::size_t i = 0; i < n_kept; ++i) {
    rest -= weight(i, options_.temperature);
    if (rest < 0)
      return candidates_[i];
  }
  return candidates_[n_kept - 1];
}

}  // namespace melt::mlc
