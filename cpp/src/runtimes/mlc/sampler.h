// SPDX-License-Identifier: Apache-2.0
// From logits to a token, in plain C++: for runtimes that bring no sampler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "melt/runtime.h"

namespace melt::mlc {

class Sampler {
 public:
  explicit Sampler(std::size_t n_vocab) { candidates_.reserve(n_vocab); }
  void reset(const SamplerOptions& options);
  /// Temperature 0: the highest logit, the lowest id among equals. Else top-k, top-p, temperature, seeded draw.
  std::int32_t sample(const float* logits, std::size_t n) noexcept;

 private:
  SamplerOptions options_;
  std::mt19937 random_;
  std::vector<std::int32_t> candidates_;
};

}  // namespace melt::mlc
