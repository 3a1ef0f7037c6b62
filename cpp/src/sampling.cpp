// SPDX-License-Identifier: Apache-2.0
#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "json.h"
#include "melt/recorder.h"
#include "sensors/catalog.h"
#include "text_list.h"

namespace melt {
namespace {

constexpr double kMemoryHz = 100.0;
constexpr double kRoomS = 600.0;             // of one stretch; what does not fit is counted
constexpr std::size_t kMaxRows = 1'000'000;  // 40 MB with their values
constexpr std::size_t kMaxFaults = 64;       // channel and fault; more are counted
constexpr std::size_t kMaxWarnings = 20;

std::string seconds_text(std::int64_t time_ns) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f s", static_cast<double>(time_ns) / 1e9);
  return text;
}

}  // namespace

Sampling::Sampling(LoadedModel& model, TraceWriter& writer, bool memory, const SensorOptions& sensors)
    : model_(model), writer_(writer) {
  std::vector<std::unique_ptr<SensorSource>> sources;
  if (memory) {
    sources.push_back(make_process_memory(missing_));
    sources.push_back(make_process_detail(model.options().path, missing_));
    sources.push_back(make_interference(missing_));
    sources.erase(std::remove(sources.begin(), sources.end(), nullptr), sources.end());
  }
  rates_hz_.assign(sources.size(), kMemoryHz);
  if (!sensors.names.empty()) {
    SensorCatalog catalog = find_sensors(sensors);
    absent_ = catalog.absent();
    n_sensors_ = catalog.sources().size();
    for (auto& source : catalog.sources()) {
      sources.push_back(std::move(source));
      rates_hz_.push_back(sensors.rate_hz);
    }
  }
  double rows_per_s = 0;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    rates_hz_[i] = std::min(rates_hz_[i], sources[i]->max_rate_hz());
    rate_hz_ = std::max(rate_hz_, rates_hz_[i]);  // the thread wakes no more often than its fastest source may be read
    rows_per_s += rates_hz_[i];
  }
  const auto max_rows = std::min(static_cast<std::size_t>(rows_per_s * kRoomS) + 4 * sources.size(), kMaxRows);
  sampler_ = std::make_unique<Sampler>(model.clock(), std::move(sources), std::max(rate_hz_, kMinSensorHz), max_rows,
                                       rates_hz_);
  for (const auto& source : sampler_->sources())
    first_channel_.push_back(add_channels(source->channels()));
}

std::uint32_t Sampling::add_channels(const std::vector<Channel>& channels) {
  const auto first = static_cast<std::uint32_t>(channels_.size());
  std::vector<ChannelRecord> rows;
  for (const Channel& channel : channels) {
    ChannelRecord row{};
    row.channel = static_cast<std::uint32_t>(channels_.size());
    set_text(row.site, channel.site);
    set_text(row.kind, channel.kind);
    set_text(row.unit, channel.unit);
    set_text(row.source, channel.source);
    rows.push_back(row);
    channels_.push_back(channel);
  }
  writer_.write(ChunkKind::kChannels, rows);
  return first;
}

void Sampling::start() {
  if (!sampler_->sources().empty())
    sampler_->start();
}

void Sampling::write() {
  const ClockCalibration& calibration = model_.calibration();
  std::vector<SampleRecord> samples;
  std::vector<std::vector<Reading>> by_channel(channels_.size());
  for (std::size_t i = 0; i < sampler_->n_rows(); ++i) {
    const SampleRow row = sampler_->row(i);
    const std::int64_t time_ns = calibration.to_ns(row.ticks);
    const auto n_channels = static_cast<std::uint32_t>(sampler_->sources()[row.source]->channels().size());
    for (std::uint32_t k = 0; k < n_channels; ++k) {
      const std::uint32_t channel = first_channel_[row.source] + k;
      by_channel[channel].push_back({time_ns, row.values[k]});
      if (std::isfinite(row.values[k]))
        samples.push_back({time_ns, row.values[k], channel, 0});
    }
  }
  writer_.write(ChunkKind::kSamples, samples);
  const std::size_t n_sources = sampler_->sources().size();
  const std::uint32_t first_sensor =
      n_sensors_ == 0 ? static_cast<std::uint32_t>(channels_.size()) : first_channel_[n_sources - n_sensors_];
  for (std::uint32_t channel = first_sensor; channel < by_channel.size(); ++channel)
    screen_channel(channel, by_channel[channel]);

  const SamplerReport report = sampler_->report();
  total_.n_rows += report.n_rows;
  total_.n_dropped += report.n_dropped;
  total_.n_late += report.n_late;
  total_.cpu_seconds += report.cpu_seconds;
  total_.wall_seconds += report.wall_seconds;
  total_.jitter_p95_ns = std::max(total_.jitter_p95_ns, report.jitter_p95_ns);
  write_metadata();
}

void Sampling::screen_channel(std::uint32_t channel, const std::vector<Reading>& readings) {
  for (const ChannelFault& fault : screen(channels_[channel], readings)) {
    const auto [found, is_new] = faults_.try_emplace({channel, fault.fault});
    found->second.fault = fault.fault;
    found->second.merge(fault);
    if (is_new && n_warnings_++ < kMaxWarnings)
      writer_.write_metadata("{\"warnings\": [" + json_string(warning_of(channel, fault)) + "]}");
  }
}

std::string Sampling::warning_of(std::uint32_t channel, const ChannelFault& fault) const {
  const Channel& of = channels_[channel];
  const std::string what = fault.kept() ? "are suspect (" : "failed (";
  const std::string then = fault.kept() ? "); they are among the samples" : "); they are no samples";
  return "sensor " + of.site + "/" + of.kind + ": " + std::to_string(fault.n_readings) + " readings " + what +
         fault_name(fault.fault) + then + "; first from " + seconds_text(fault.spans_ns.front().first) + " to " +
         seconds_text(fault.spans_ns.front().second) + " (sensors.faults lists all)";
}

std::string Sampling::sources_json() const {
  std::string list;
  for (std::size_t i = 0; i < sampler_->sources().size(); ++i) {
    std::string names;
    for (std::size_t k = 0; k < sampler_->sources()[i]->channels().size(); ++k) {
      const Channel& channel = channels_[first_channel_[i] + k];
      append_item(names, json_string(channel.site + "/" + channel.kind));
    }
    append_item(list, JsonObject().add_raw("channels", "[" + names + "]").add("rate_hz", rates_hz_[i]).str());
  }
  return "[" + list + "]";
}

std::string Sampling::faults_json() const {
  std::string list;
  std::size_t n_listed = 0;
  for (const auto& [key, fault] : faults_) {
    if (n_listed++ == kMaxFaults)
      break;
    const Channel& channel = channels_[key.first];
    std::string spans;
    for (const auto& [first_ns, last_ns] : fault.spans_ns)
      spans += (spans.empty() ? "[" : ", [") + std::to_string(first_ns) + ", " + std::to_string(last_ns) + "]";
    append_item(list, JsonObject()
                          .add("channel", channel.site + "/" + channel.kind)
                          .add("source", channel.source)
                          .add("fault", fault_name(fault.fault))
                          .add("kept", fault.kept())
                          .add("n_readings", fault.n_readings)
                          .add("n_spans", fault.n_spans)
                          .add_raw("spans_ns", "[" + spans + "]")
                          .str());
  }
  return "[" + list + "]";
}

void Sampling::write_metadata() {
  JsonObject missing, absent;
  for (const auto& [channel, reason] : missing_)
    missing.add(channel.c_str(), reason);
  for (const auto& [what, reason] : absent_)
    absent.add(what.c_str(), reason);
  const double share = total_.wall_seconds > 0 ? total_.cpu_seconds / total_.wall_seconds : std::nan("");
  JsonObject sampler;
  sampler.add("rate_hz", rate_hz_)
      .add("n_rows", total_.n_rows)
      .add("n_dropped", total_.n_dropped)
      .add("n_late", total_.n_late)
      .add("cpu_seconds", total_.cpu_seconds)
      .add("wall_seconds", total_.wall_seconds)
      .add("cpu_ratio", share)
      .add("jitter_p95_ns", total_.jitter_p95_ns);
  const std::uint64_t n_left_out = faults_.size() > kMaxFaults ? faults_.size() - kMaxFaults : 0;
  JsonObject sensors;
  sensors.add_raw("sampler", sampler.str())
      .add_raw("sources", sources_json())
      .add_raw("missing", missing.str())
      .add_raw("absent", absent.str())
      .add_raw("faults", faults_json())
      .add("n_faults_left_out", n_left_out);
  writer_.write_metadata(JsonObject().add_raw("sensors", sensors.str()).str());
}

}  // namespace melt
