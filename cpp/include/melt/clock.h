// SPDX-License-Identifier: Apache-2.0
// Time. The hot path reads a raw counter; nanoseconds are made from it after the run (docs/measuring_honestly.md).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "melt/thread_stamps.h"

namespace melt {

/// Which counter the ticks of a trace come from. Stored in the trace header: never reuse a value.
enum class ClockId : std::uint32_t {
  kTsc = 1,        ///< x86-64 time stamp counter, invariant
  kCntvct = 2,     ///< arm64 virtual counter
  kSteady = 3,     ///< CLOCK_MONOTONIC in ns, on processors without such a counter
  kSimulated = 4,  ///< a test's own clock
};

/// A monotonic counter and the steady clock it is calibrated against. Thread-safe for reading.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual ClockId id() const noexcept = 0;
  /// The raw counter. Costs 8 to 40 ns, the more where it is virtualised.
  virtual std::uint64_t ticks() const noexcept = 0;
  /// The operating system's steady clock in ns; the reference that ticks are converted with.
  virtual std::int64_t steady_ns() const noexcept = 0;
};

/// The clock of this machine: the counter that melt_ticks() reads.
std::unique_ptr<Clock> make_host_clock();

/// Whether that counter runs at one rate whatever the core's frequency and sleep state. If not, times are wrong, and
/// the trace carries a warning.
bool counter_is_invariant() noexcept;

/// A clock that moves only when told to: 1 tick = 1 ns. The truth of the deterministic tests.
class SimulatedClock final : public Clock {
 public:
  ClockId id() const noexcept override { return ClockId::kSimulated; }
  std::uint64_t ticks() const noexcept override { return static_cast<std::uint64_t>(steady_ns()); }
  std::int64_t steady_ns() const noexcept override { return now_ns_.load(std::memory_order_relaxed); }
  void advance_ns(std::int64_t ns) noexcept { now_ns_.fetch_add(ns, std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> now_ns_{0};
};

/// A counter value and the steady time at which it was read.
struct ClockAnchor {
  std::uint64_t ticks = 0;
  std::int64_t steady_ns = 0;
};

/// Reads both clocks as closely together as `tries` attempts allow.
ClockAnchor read_anchor(const Clock& clock, int tries = 16) noexcept;

/// Converts ticks to ns since an epoch, by the line through two anchors.
class ClockCalibration {
 public:
  /// Spins for `interval_ns` to find the counter's frequency. Time 0 is now.
  explicit ClockCalibration(const Clock& clock, std::int64_t interval_ns = 20'000'000);

  /// Makes `epoch_ticks` time 0.
  void set_epoch(std::uint64_t epoch_ticks) noexcept { epoch_ticks_ = epoch_ticks; }

  /// Takes a later anchor: the frequency becomes that of the longer line. Call between runs.
  void refine() noexcept;

  std::int64_t to_ns(std::uint64_t ticks) const noexcept;
  /// Length of an interval in ns: the difference of its ends, so that where one ends another begins to the nanosecond.
  std::int64_t span_ns(std::uint64_t from, std::uint64_t to) const noexcept;
  double counter_hz() const noexcept { return 1e9 / ns_per_tick_; }
  /// By how much the counter has been slower since than in its first second or more, in parts per million; 0 before
  /// another second has gone by.
  double drift_ppm() const noexcept { return drift_ppm_; }

 private:
  const Clock* clock_;
  ClockAnchor first_;
  std::uint64_t epoch_ticks_;
  double ns_per_tick_ = 1.0;
  ClockAnchor middle_;  // the first one a second or more behind first_
  double drift_ppm_ = 0.0;
};

}  // namespace melt
