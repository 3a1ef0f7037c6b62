// SPDX-License-Identifier: Apache-2.0
// Pulses of load that an external power meter sees, by which its recording and the trace get one time axis.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "melt/clock.h"

namespace melt {

/// Computes on `n_threads` threads in three pulses of half a second, with rests between them that differ: there is one
/// place only where a recording fits them. Takes 4.8 s; ends early once `cancel` (may be null) is set. Returns when
/// each pulse began and ended.
std::vector<std::pair<std::uint64_t, std::uint64_t>> load_pulses(const Clock& clock, std::uint32_t n_threads,
                                                                 const std::atomic<bool>* cancel);

/// Sleeps for so long, or until `cancel` (may be null) is set.
void rest(double seconds, const std::atomic<bool>* cancel);

}  // namespace melt
