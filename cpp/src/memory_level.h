// SPDX-License-Identifier: Apache-2.0
// Level memory of one trace: samples a run from before its beginning to after its end, and writes what came of it.
#pragma once

#include <cstddef>
#include <memory>

#include "melt/run.h"
#include "melt/sensor.h"
#include "melt/trace_writer.h"
#include "sensors/sources.h"

namespace melt {

class MemoryLevel {
 public:
  /// Writes the channels and what is missing. All memory for sampling is reserved here.
  MemoryLevel(LoadedModel& model, TraceWriter& writer);

  /// Starts a sampling thread; costs under 0.5 % of one core (benchmarks/bench_memory_level.py).
  void start_run();
  void stop_run() noexcept { sampler_->stop(); }
  /// Call between runs: readings, buffers and what of them is resident.
  void write_run();
  /// The buffers that came or went since the last call.
  void write_allocations();

 private:
  void write_channels();
  void write_metadata();

  LoadedModel& model_;
  TraceWriter& writer_;
  MissingChannels missing_;
  MemoryAccount account_;
  std::unique_ptr<Sampler> sampler_;
  std::vector<std::uint32_t> first_channel_;  // of each source; the account's come behind them
  std::uint32_t account_channel_ = 0;
  std::size_t n_allocations_ = 0;  // events written
  SamplerReport total_;
};

/// Samples from construction to destruction, also when what happens between throws. A null level samples nothing.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryLevel* level) : level_(level) {
    if (level_ != nullptr)
      level_->start_run();
  }
  ~MemoryScope() {
    if (level_ != nullptr)
      level_->stop_run();
  }
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;

 private:
  MemoryLevel* level_;
};

}  // namespace melt
