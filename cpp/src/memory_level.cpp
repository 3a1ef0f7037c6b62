// SPDX-License-Identifier: Apache-2.0
#include "memory_level.h"

#include <algorithm>
#include <cmath>

#include "json.h"
#include "melt/recorder.h"
#include "memory_records.h"

namespace melt {
namespace {

constexpr double kRateHz = 100.0;
constexpr std::size_t kMaxRows = 72'000;  // about 10 minutes of all sources; what does not fit is counted

std::unique_ptr<Sampler> make_sampler(const LoadedModel& model, MissingChannels& missing) {
  std::vector<std::unique_ptr<SensorSource>> sources;
  const auto add = [&](std::unique_ptr<SensorSource> source) {
    if (source)
      sources.push_back(std::move(source));
  };
  add(make_process_memory(missing));
  add(make_process_detail(model.options().path, missing));
  add(make_interference(missing));
  return std::make_unique<Sampler>(model.clock(), std::move(sources), kRateHz, kMaxRows);
}

}  // namespace

MemoryLevel::MemoryLevel(LoadedModel& model, TraceWriter& writer)
    : model_(model),
      writer_(writer),
      account_(model.allocations(), model.options().path, model.memory_before_load()),
      sampler_(make_sampler(model, missing_)) {
  write_channels();
  write_metadata();
  write_allocations();
}

void MemoryLevel::write_channels() {
  std::vector<ChannelRecord> rows;
  const auto add = [&](const std::vector<Channel>& channels) {
    const auto first = static_cast<std::uint32_t>(rows.size());
    for (const Channel& channel : channels) {
      ChannelRecord row{};
      row.channel = static_cast<std::uint32_t>(rows.size());
      set_text(row.site, channel.site);
      set_text(row.kind, channel.kind);
      set_text(row.unit, channel.unit);
      set_text(row.source, channel.source);
      rows.push_back(row);
    }
    return first;
  };
  for (const auto& source : sampler_->sources())
    first_channel_.push_back(add(source->channels()));
  account_channel_ = add(account_.channels());
  writer_.write(ChunkKind::kChannels, rows);
}

void MemoryLevel::start_run() {
  account_.reset_peak();
  sampler_->start();
}

void MemoryLevel::write_run() {
  const ClockCalibration& calibration = model_.calibration();
  std::vector<SampleRecord> rows;
  const auto add = [&](std::uint64_t ticks, std::uint32_t channel, double value) {
    if (std::isfinite(value))
      rows.push_back({calibration.to_ns(ticks), value, channel, 0});
  };
  for (std::size_t i = 0; i < sampler_->n_rows(); ++i) {
    const SampleRow row = sampler_->row(i);
    const auto n_channels = static_cast<std::uint32_t>(sampler_->sources()[row.source]->channels().size());
    for (std::uint32_t k = 0; k < n_channels; ++k)
      add(row.ticks, first_channel_[row.source] + k, row.values[k]);
  }
  const std::vector<double> held = account_.read();
  const std::uint64_t now = model_.clock().ticks();
  for (std::uint32_t k = 0; k < held.size(); ++k)
    add(now, account_channel_ + k, held[k]);
  writer_.write(ChunkKind::kSamples, rows);
  write_allocations();

  const SamplerReport report = sampler_->report();
  total_.n_rows += report.n_rows;
  total_.n_dropped += report.n_dropped;
  total_.n_late += report.n_late;
  total_.cpu_seconds += report.cpu_seconds;
  total_.wall_seconds += report.wall_seconds;
  total_.jitter_p95_ns = std::max(total_.jitter_p95_ns, report.jitter_p95_ns);
  write_metadata();
}

void MemoryLevel::write_metadata() {
  JsonObject missing;
  for (const auto& [channel, reason] : missing_)
    missing.add(channel.c_str(), reason);
  for (const auto& [channel, reason] : account_.missing())
    missing.add(channel.c_str(), reason);
  const double share = total_.wall_seconds > 0 ? total_.cpu_seconds / total_.wall_seconds : std::nan("");
  JsonObject sampler;
  sampler.add("rate_hz", kRateHz)
      .add("n_rows", total_.n_rows)
      .add("n_dropped", total_.n_dropped)
      .add("n_late", total_.n_late)
      .add("cpu_seconds", total_.cpu_seconds)
      .add("wall_seconds", total_.wall_seconds)
      .add("cpu_ratio", share)
      .add("jitter_p95_ns", total_.jitter_p95_ns);
  const MemoryBaseline& before = model_.memory_before_load().totals;
  JsonObject memory;
  memory.add("rss_before_load_bytes", before.rss_bytes)
      .add("rss_anon_before_load_bytes", before.rss_anon_bytes)
      .add("heap_before_load_bytes", before.heap_bytes)
      .add("n_allocations_lost", model_.allocations().n_lost());
  JsonObject sensors;
  sensors.add_raw("sampler", sampler.str()).add_raw("missing", missing.str());
  writer_.write_metadata(JsonObject().add_raw("sensors", sensors.str()).add_raw("memory", memory.str()).str());
}

void MemoryLevel::write_allocations() {
  const AllocationLog& log = model_.allocations();
  writer_.write(ChunkKind::kAllocations, allocation_rows(log, n_allocations_, model_.calibration()));
  n_allocations_ = log.events().size();
}

}  // namespace melt
