// SPDX-License-Identifier: Apache-2.0
// Level memory of one trace, but for its samples (sampling.h): the runtime's buffers and what of them is resident.
#pragma once

#include <cstddef>
#include <memory>

#include "melt/run.h"
#include "melt/trace_writer.h"
#include "sampling.h"
#include "sensors/sources.h"

namespace melt {

class MemoryLevel {
 public:
  /// Writes its channels, and notes with `sampling` what is missing.
  MemoryLevel(LoadedModel& model, TraceWriter& writer, Sampling& sampling);

  void start_run() { account_.reset_peak(); }
  /// Call between runs: buffers and what of them is resident.
  void write_run();
  /// The buffers that came or went since the last call.
  void write_allocations();

 private:
  void write_metadata();

  LoadedModel& model_;
  TraceWriter& writer_;
  MemoryAccount account_;
  std::uint32_t account_channel_ = 0;  // the first of the account's
  std::size_t n_allocations_ = 0;      // events written
};

}  // namespace melt
