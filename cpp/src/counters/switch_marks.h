// SPDX-License-Identifier: Apache-2.0
// Which op records a thread's switches fall into.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "counters/switch_watch.h"
#include "melt/trace_format.h"

namespace melt {

/// What the switches did to one record.
struct Disturbance {
  std::uint16_t flags = 0;       ///< kOpSwitched, kOpMigrated: the thread was without a processor within the record
  std::uint32_t switches = 0;    ///< that began within it
  std::uint32_t migrations = 0;  ///< of these, to another processor
};

class SwitchMarks {
 public:
  /// An overlap of up to `margin_ticks` is not known to be one: the two clocks agree no better.
  SwitchMarks(std::vector<std::vector<OffCpu>> intervals, std::uint64_t margin_ticks)
      : intervals_(std::move(intervals)), next_(intervals_.size(), 0), margin_(margin_ticks) {}

  /// Of a record from `begin` to `end` ticks. The records of a thread must come in order of time, until rewind().
  Disturbance of(unsigned thread, std::uint64_t begin, std::uint64_t end) noexcept {
    Disturbance found;
    if (thread >= intervals_.size())
      return found;
    const std::vector<OffCpu>& all = intervals_[thread];
    std::size_t& next = next_[thread];
    while (next < all.size() && all[next].end_ticks <= begin)
      ++next;
    for (std::size_t i = next; i < all.size() && all[i].begin_ticks < end; ++i) {
      const OffCpu& off = all[i];
      const bool moved = off.cpu_before != off.cpu_after;
      if (off.begin_ticks >= begin) {
        ++found.switches;
        found.migrations += moved ? 1 : 0;
      }
      const std::uint64_t overlap = std::min(end, off.end_ticks) - std::max(begin, off.begin_ticks);
      if (overlap > margin_)
        found.flags |= moved ? kOpSwitched | kOpMigrated : kOpSwitched;
    }
    return found;
  }

  void rewind() noexcept { next_.assign(next_.size(), 0); }
  const std::vector<std::vector<OffCpu>>& intervals() const noexcept { return intervals_; }

 private:
  std::vector<std::vector<OffCpu>> intervals_;
  std::vector<std::size_t> next_;  // of each thread, the first interval that may still matter
  std::uint64_t margin_;
};

}  // namespace melt
