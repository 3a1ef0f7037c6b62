// SPDX-License-Identifier: Apache-2.0
// Times rounds of work that several threads start together.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

namespace melt::ceilings {

/// Does `amount` units of work on one thread. False: its result was wrong.
using Work = std::function<bool(std::uint32_t thread, std::uint64_t amount)>;

struct RoundOptions {
  std::vector<int> cpus;  ///< for thread i, cpus[i]; empty: threads go where the system puts them
  std::uint32_t n_threads = 1;
  std::int64_t round_ns = 5'000'000;    ///< what a round is meant to take
  std::int64_t total_ns = 150'000'000;  ///< of all timed rounds; at least kMinRounds are timed, in at most 4 times that
  const std::atomic<bool>* cancel = nullptr;
};

constexpr std::uint32_t kMinRounds = 5;

struct Rounds {
  std::vector<double> units_per_s;  ///< of all threads together, one for each round
  bool pinned = false;              ///< every thread had its own CPU
};

/// Finds how much work a round takes, by untimed rounds that grow, and then times rounds. The time of a round is from
/// the first thread's start to the last one's end.
/// Raises: Error(kRuntime) if threads cannot be started or work was wrong; Error(kCancelled).
Rounds time_rounds(const RoundOptions& options, const Work& work);

/// Runs `work(thread)` once on each of the threads, where time_rounds would run it. Raises: Error(kRuntime).
void run_on_threads(const RoundOptions& options, const std::function<void(std::uint32_t thread)>& work);

}  // namespace melt::ceilings
