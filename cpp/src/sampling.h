// SPDX-License-Identifier: Apache-2.0
// What is sampled beside a run, by one thread: the sources of level memory and the sensors of power, heat and clocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "melt/run.h"
#include "melt/sensor.h"
#include "melt/trace_writer.h"
#include "sensors/screening.h"
#include "sensors/sources.h"

namespace melt {

class Sampling {
 public:
  /// Finds the sources and writes their channels. All memory for sampling is reserved here.
  /// Raises: Error(kInvalidArgument) for sensor options that cannot be met.
  Sampling(LoadedModel& model, TraceWriter& writer, bool memory, const SensorOptions& sensors);

  /// Starts the sampling thread, if there is anything to read; ten sources at 100 Hz cost under 1 % of one core
  /// (benchmarks/bench_sensors.py).
  void start();
  void stop() noexcept { sampler_->stop(); }
  /// Call between runs: what was read since start(), and what was wrong with it.
  void write();
  /// What the trace says of sources, absences, faults and of the sampler itself; each call replaces the last.
  void write_metadata();

  /// Writes channels whose readings someone else takes; returns the first one's number.
  std::uint32_t add_channels(const std::vector<Channel>& channels);
  void note_missing(const MissingChannels& missing) { missing_.insert(missing.begin(), missing.end()); }
  /// Whether a sensor of power or energy is among the sources.
  bool has_sensors() const noexcept { return n_sensors_ != 0; }

 private:
  void screen_channel(std::uint32_t channel, const std::vector<Reading>& readings);
  std::string warning_of(std::uint32_t channel, const ChannelFault& fault) const;
  std::string sources_json() const;
  std::string faults_json() const;

  LoadedModel& model_;
  TraceWriter& writer_;
  MissingChannels missing_;
  std::map<std::string, std::string> absent_;
  std::unique_ptr<Sampler> sampler_;
  std::vector<double> rates_hz_;  // of each source
  double rate_hz_ = 0;
  std::size_t n_sensors_ = 0;                 // the last so many sources
  std::vector<std::uint32_t> first_channel_;  // of each source
  std::vector<Channel> channels_;             // by number
  std::map<std::pair<std::uint32_t, ReadingFault>, ChannelFault> faults_;
  std::size_t n_warnings_ = 0;
  SamplerReport total_;
};

/// Samples from construction to destruction, also when what happens between throws. Null samples nothing.
class SamplingScope {
 public:
  explicit SamplingScope(Sampling* sampling) : sampling_(sampling) {
    if (sampling_ != nullptr)
      sampling_->start();
  }
  ~SamplingScope() {
    if (sampling_ != nullptr)
      sampling_->stop();
  }
  SamplingScope(const SamplingScope&) = delete;
  SamplingScope& operator=(const SamplingScope&) = delete;

 private:
  Sampling* sampling_;
};

}  // namespace melt
