// SPDX-License-Identifier: Apache-2.0
// Readings taken while a run is measured: by one thread, at absolute deadlines, into memory reserved before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "melt/clock.h"

namespace melt {

/// What a series of readings is of; see ChannelRecord.
struct Channel {
  std::string site;
  std::string kind;
  std::string unit;
  std::string source;
};

/// Something that can be read many times a second: /proc/self/statm, a thermal zone, a power rail.
class SensorSource {
 public:
  virtual ~SensorSource() = default;
  /// Fixed from construction on. A source that is not there on this machine is not made; its factory says why.
  virtual const std::vector<Channel>& channels() const noexcept = 0;
  /// Writes one value for each channel, NaN where a reading failed, with the reason in it where the source knows it
  /// (sensors/fault.h). Allocation-free; called by the sampling thread.
  virtual void read(double* values) noexcept = 0;
  /// How often it may be read: a sampler that is faster reads it every so many times. Below 10 Hz also no more often
  /// than takes 0.025 % of one core.
  virtual double max_rate_hz() const noexcept { return 1e6; }
};

/// The readings of one source at one time; a row of values as channels() orders them.
struct SampleRow {
  std::uint64_t ticks;
  std::uint32_t source;
  const double* values;
};

struct SamplerReport {
  std::uint64_t n_rows = 0;
  std::uint64_t n_dropped = 0;  ///< the buffer was full
  std::uint64_t n_late = 0;     ///< deadlines missed by more than a period
  double cpu_seconds = 0;       ///< of the sampling thread
  double wall_seconds = 0;
  double jitter_p95_ns = 0;  ///< lateness against the deadline
};

constexpr double kMinSensorHz = 0.1;
constexpr double kMaxSensorHz = 1000.0;

/// Which sensors of power, heat, clocks and load to read while a run is measured, and how often.
struct SensorOptions {
  /// Of sensor_names(); "auto" takes all that this machine has. None: no sensor is read.
  std::vector<std::string> names;
  double rate_hz = 100.0;  ///< a source that is slower is read as often as it may be
};

/// What one kind of sensor is on this machine.
struct SensorStatus {
  std::string name;
  std::vector<Channel> channels;              ///< none: it is absent
  double max_rate_hz = 0;                     ///< of its fastest source
  std::map<std::string, std::string> absent;  ///< itself or a part of it -> why it cannot be read
};

/// "rapl", "ina3221", "power_supply", ...: every kind that this version knows.
std::vector<std::string> sensor_names();
/// Looks at each of them now, below MELT_SYSFS_ROOT (default /sys).
std::vector<SensorStatus> list_sensors();
/// The same as a JSON array: [{name, present, channels: [{site, kind, unit, source}], absent: {what: why},
/// max_rate_hz}].
std::string sensors_json();

/// Reads all sources `rate_hz` times a second, in a thread of its own, from start() to stop(). start() and stop() read
/// them once more in the caller's thread, so that even a short run has two readings. One sampler at a time per owner.
class Sampler {
 public:
  /// `rates_hz`: how often to read each source, at most `rate_hz`; all as often as that where it is empty. `max_rows`
  /// readings are kept; memory for them is reserved here.
  Sampler(const Clock& clock, std::vector<std::unique_ptr<SensorSource>> sources, double rate_hz, std::size_t max_rows,
          const std::vector<double>& rates_hz = {});
  ~Sampler();
  void start();
  void stop() noexcept;

  // After stop().
  std::size_t n_rows() const noexcept;
  SampleRow row(std::size_t i) const noexcept;
  SamplerReport report() const noexcept;
  const std::vector<std::unique_ptr<SensorSource>>& sources() const noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace melt
