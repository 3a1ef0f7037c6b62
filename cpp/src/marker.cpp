// SPDX-License-Identifier: Apache-2.0
#include "marker.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace melt {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr double kPulseS = 0.5;                // five readings of a meter at 10 Hz
constexpr double kRestsS[] = {0.9, 0.7, 1.1};  // before each pulse
constexpr double kRestAfterS = 0.6;
constexpr double kSliceS = 0.1;  // between two looks for a cancel

bool is_set(const std::atomic<bool>* cancel) {
  return cancel != nullptr && cancel->load(std::memory_order_relaxed);
}

/// Draws as much as a core that computes does: multiplications and additions that follow from each other in four
/// chains.
void compute_until(SteadyClock::time_point end, std::atomic<double>& result) {
  double a = 1.0, b = 1.1, c = 1.2, d = 1.3;
  while (SteadyClock::now() < end) {
    for (int i = 0; i < 1000; ++i) {
      a = a * 0.999 + 0.1;
      b = b * 0.998 + 0.2;
      c = c * 0.997 + 0.3;
      d = d * 0.996 + 0.4;
    }
  }
  result.store(a + b + c + d, std::memory_order_relaxed);  // or the compiler would leave it all out
}

void pulse(std::uint32_t n_threads) {
  std::atomic<double> result{0};
  const auto end =
      SteadyClock::now() + std::chrono::duration_cast<SteadyClock::duration>(std::chrono::duration<double>(kPulseS));
  std::vector<std::thread> threads;
  for (std::uint32_t i = 1; i < n_threads; ++i)
    threads.emplace_back([&] { compute_until(end, result); });
  compute_until(end, result);
  for (std::thread& thread : threads)
    thread.join();
}

}  // namespace

void rest(double seconds, const std::atomic<bool>* cancel) {
  const auto end = SteadyClock::now() + std::chrono::duration<double>(seconds);
  while (SteadyClock::now() < end && !is_set(cancel)) {
    const std::chrono::duration<double> left = end - SteadyClock::now();
    std::this_thread::sleep_for(std::min(left, std::chrono::duration<double>(kSliceS)));
  }
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> load_pulses(const Clock& clock, std::uint32_t n_threads,
                                                                 const std::atomic<bool>* cancel) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> pulses;
  for (const double rest_s : kRestsS) {
    rest(rest_s, cancel);
    if (is_set(cancel))
      break;
    const std::uint64_t begin = clock.ticks();
    pulse(n_threads);
    pulses.emplace_back(begin, clock.ticks());
  }
  rest(kRestAfterS, cancel);
  return pulses;
}

}  // namespace melt
