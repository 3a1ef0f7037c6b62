// SPDX-License-Identifier: Apache-2.0
// The inner loops that ceilings are measured with. Each is compiled for its own instructions, by target attributes, and
// run only where the CPU has them: one portable binary serves all machines.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace melt::ceilings {

/// Adds a multiple of kReadWords words, each read once. The sum keeps the loads alive, and is checked.
using ReadKernel = std::uint64_t (*)(const std::uint64_t* words, std::size_t n_words);
constexpr std::size_t kLineWords = 8, kReadWords = 16 * kLineWords;  ///< cache lines of 64 bytes

/// The lines that a step of a kernel reads, in streams of 256 bytes of which each gives a line in its turn. Prefetchers
/// tell the difference: from memory, one way to read was up to 40 % faster than another on a Xeon of the fourth
/// generation, and none is the fastest everywhere.
template <int kStreams>
struct Step {
  static constexpr int kLines = kStreams == 1 ? 16 : 4 * kStreams;
  static constexpr std::size_t kWords = kLines * kLineWords;
  static_assert(kReadWords % kWords == 0);
  /// Where the `i`-th line begins, in words.
  static constexpr std::size_t word(int i) { return kLineWords * (i % kStreams * (kLines / kStreams) + i / kStreams); }
};

struct Reader {
  ReadKernel read;
  const char* instructions;
  int n_streams;
};

/// All that this CPU can run, the widest loads first, of each width one stream first.
std::vector<Reader> readers();

/// Repeats independent chains of multiply-adds, all operands in registers. Every product is 1, so that the sum of the
/// accumulators is the number of multiply-adds. Exact for at most kMaxPasses passes.
using ArithmeticKernel = double (*)(std::uint64_t passes);
constexpr std::uint64_t kMaxPasses = 1 << 18;

struct Family {
  const char* name;
  const char* instructions;
  std::uint64_t macs_per_pass;  ///< multiply-adds
  ArithmeticKernel run;
  const char* absent_reason;  ///< nullptr: usable
};

std::vector<Family> families();

/// For operands and accumulators: the compiler takes the register's content for new. So it can neither hoist a product
/// out of the loop, nor share one between chains, nor see that all chains do the same and keep only one of them (GCC 12
/// did, and the rate was 1.6 times what the units can do). Costs no instruction.
#define MELT_OPAQUE(constraint, value) __asm__ volatile("" : "+" constraint(value))

/// Unrolled, also where the optimiser is told to keep code small.
#define MELT_EACH_CHAIN(i, n) _Pragma("GCC unroll 32") for (int i = 0; i < (n); ++i)

/// Loads before it stay before it: the compiler would order them as it likes.
inline void keep_load_order() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

template <typename T>
double sum_of(const T* values, std::size_t n) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i)
    sum += static_cast<double>(values[i]);
  return sum;
}

}  // namespace melt::ceilings
