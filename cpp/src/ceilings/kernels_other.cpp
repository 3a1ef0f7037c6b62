// SPDX-License-Identifier: Apache-2.0
// For processors that have no kernels of their own here: plain C++, whatever the compiler makes of it.
#include "kernels.h"

#if !defined(__x86_64__) && !defined(__aarch64__)

namespace melt::ceilings {
namespace {

template <int kStreams>
std::uint64_t read_words(const std::uint64_t* words, std::size_t n_words) {
  std::uint64_t sums[8] = {};
  for (const std::uint64_t* end = words + n_words; words != end; words += Step<kStreams>::kWords) {
    MELT_EACH_CHAIN(i, Step<kStreams>::kLines) {
      MELT_EACH_CHAIN(word, 8) sums[word] += words[Step<kStreams>::word(i) + word];
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
  const char* const loads = "8-byte loads";
  return {{read_words<1>, loads, 1}, {read_words<2>, loads, 2}, {read_words<4>, loads, 4}};
}

std::vector<Family> families() {
  return {{"f32_scalar", "", 0, nullptr, "this version has kernels for x86-64 and arm64 only"}};
}

}  // namespace melt::ceilings

#endif
