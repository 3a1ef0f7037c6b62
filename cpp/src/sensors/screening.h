// SPDX-License-Identifier: Apache-2.0
// What was wrong with the readings of one channel over one stretch of sampling; looked for after it, never during.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "melt/sensor.h"
#include "sensors/fault.h"

namespace melt {

struct Reading {
  std::int64_t time_ns;
  double value;  ///< a number, or a fault_value
};

/// All readings of a channel that are wrong in one way.
struct ChannelFault {
  static constexpr std::size_t kMaxSpans = 8;
  ReadingFault fault = ReadingFault::kOk;
  std::uint64_t n_readings = 0;
  std::uint64_t n_spans = 0;                                    ///< of which the first kMaxSpans are kept
  std::vector<std::pair<std::int64_t, std::int64_t>> spans_ns;  ///< first and last wrong reading of each

  void add_span(std::int64_t first_ns, std::int64_t last_ns, std::uint64_t n);
  /// Adds what a later stretch found.
  void merge(const ChannelFault& later);
  /// Whether the readings are samples all the same: a suspicion, for whoever works with them to judge.
  bool kept() const noexcept { return fault == ReadingFault::kFrozen || fault == ReadingFault::kJump; }
};

/// Returns what is wrong, in the order of ReadingFault; nothing for a sound channel.
///
/// Frozen: a counter of energy that stands still for a second; power or current that changed ten times at least and
/// then stands still for 2 s and for 20 times the median time between its changes (temperature: 30 s and 100 times).
/// Jump: a temperature that moves 30 degrees within 2 s; a power or current above 10 times the 99th percentile of at
/// least 100 readings.
std::vector<ChannelFault> screen(const Channel& channel, const std::vector<Reading>& readings);

}  // namespace melt
