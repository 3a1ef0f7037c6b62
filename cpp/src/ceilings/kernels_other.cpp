// SPDX-License-Identifier: Apache-2.0
// For processors that have no kernels of their own here: plain C++, whatever the compiler makes of it.
#include "kernels.h"

#if !defined(__x86_64__) && !defined(__aarch64__)

namespace melt::ceilings {
namespace {

template <ReadOrder kOrder>
std::uint64_t read_words(const std::uint64_t* words, std::size_t n_words) {
  std::uint64_t sums[8] = {};
  for (const std::uint64_t* end = words + n_words; words != end; words += kReadWords) {
    MELT_EACH_CHAIN(i, kReadLines) {
      MELT_EACH_CHAIN(word, 8) sums[word] += words[line_at<kOrder>(i) * 8 + word];
      keep_load_order();
    }
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums)
    sum += part;
  return sum;
}

}  // namespace

std::vector<Reader> readers() {
  return {{read_words<ReadOrder::kSequential>, "8-byte loads", ReadOrder::kSequential},
          {read_words<ReadOrder::kFourStreams>, "8-byte loads", ReadOrder::kFourStreams}};
}

std::vector<Family> families() {
  return {{"f32_scalar", "", 0, nullptr, "this version has kernels for x86-64 and arm64 only"}};
}

}  // namespace melt::ceilings

#endif
