// SPDX-License-Identifier: Apache-2.0
#include "memory_level.h"

#include <cmath>

#include "json.h"
#include "memory_records.h"

namespace melt {

MemoryLevel::MemoryLevel(LoadedModel& model, TraceWriter& writer, Sampling& sampling)
    : model_(model), writer_(writer), account_(model.allocations(), model.options().path, model.memory_before_load()) {
  account_channel_ = sampling.add_channels(account_.channels());
  sampling.note_missing(account_.missing());
  write_metadata();
  write_allocations();
}

void MemoryLevel::write_run() {
  std::vector<SampleRecord> rows;
  const std::vector<double> held = account_.read();
  const std::int64_t now_ns = model_.calibration().to_ns(model_.clock().ticks());
  for (std::uint32_t k = 0; k < held.size(); ++k) {
    if (std::isfinite(held[k]))
      rows.push_back({now_ns, held[k], account_channel_ + k, 0});
  }
  writer_.write(ChunkKind::kSamples, rows);
  write_allocations();
  write_metadata();
}

void MemoryLevel::write_metadata() {
  const MemoryBaseline& before = model_.memory_before_load().totals;
  JsonObject memory;
  memory.add("rss_before_load_bytes", before.rss_bytes)
      .add("rss_anon_before_load_bytes", before.rss_anon_bytes)
      .add("heap_before_load_bytes", before.heap_bytes)
      .add("n_allocations_lost", model_.allocations().n_lost());
  writer_.write_metadata(JsonObject().add_raw("memory", memory.str()).str());
}

void MemoryLevel::write_allocations() {
  const AllocationLog& log = model_.allocations();
  writer_.write(ChunkKind::kAllocations, allocation_rows(log, n_allocations_, model_.calibration()));
  n_allocations_ = log.events().size();
}

}  // namespace melt
