// SPDX-License-Identifier: Apache-2.0
#include "sensors/screening.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace melt {
namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;
constexpr std::size_t kMinChanges = 10;
constexpr std::size_t kMinForPercentile = 100;
constexpr double kJumpRatio = 10.0;
constexpr double kJumpKelvin = 30.0;
constexpr std::int64_t kJumpNs = 2 * kSecondNs;

/// Neighbouring readings with the same fault are one span.
void collect_failed(const std::vector<Reading>& readings, std::array<ChannelFault, 11>& found) {
  std::size_t i = 0;
  while (i < readings.size()) {
    const ReadingFault fault = fault_of(readings[i].value);
    std::size_t end = i + 1;
    while (end < readings.size() && fault_of(readings[end].value) == fault)
      ++end;
    if (fault != ReadingFault::kOk && fault != ReadingFault::kNotNew) {
      found[static_cast<std::size_t>(fault)].add_span(readings[i].time_ns, readings[end - 1].time_ns, end - i);
    }
    i = end;
  }
}

std::vector<Reading> sound(const std::vector<Reading>& readings) {
  std::vector<Reading> kept;
  for (const Reading& reading : readings) {
    if (fault_of(reading.value) == ReadingFault::kOk)
      kept.push_back(reading);
  }
  return kept;
}

/// How long a channel may stand still: fixed, and as a multiple of the median time between its changes before.
struct Patience {
  std::int64_t fixed_ns;
  double changes;  // 0: its past does not matter
};

Patience patience_of(const std::string& kind) {
  if (kind == "energy")
    return {kSecondNs, 0};
  if (kind == "temperature")
    return {30 * kSecondNs, 100};
  return {2 * kSecondNs, 20};
}

void collect_frozen(const std::vector<Reading>& readings, Patience patience, ChannelFault& found) {
  std::vector<std::int64_t> between;  // changes so far, ns
  std::size_t begin = 0;
  for (std::size_t i = 1; i <= readings.size(); ++i) {
    if (i < readings.size() && readings[i].value == readings[begin].value)
      continue;
    const std::int64_t stood_ns = readings[i - 1].time_ns - readings[begin].time_ns;
    bool long_enough = stood_ns >= patience.fixed_ns && i - begin >= 3;
    if (long_enough && patience.changes > 0) {
      long_enough = between.size() >= kMinChanges;
      if (long_enough) {
        std::vector<std::int64_t> sorted = between;
        std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2), sorted.end());
        long_enough =
            static_cast<double>(stood_ns) >= patience.changes * static_cast<double>(sorted[sorted.size() / 2]);
      }
    }
    if (long_enough)
      found.add_span(readings[begin].time_ns, readings[i - 1].time_ns, i - begin);
    if (i < readings.size())
      between.push_back(readings[i].time_ns - readings[begin].time_ns);
    begin = i;
  }
}

void collect_temperature_jumps(const std::vector<Reading>& readings, ChannelFault& found) {
  for (std::size_t i = 1; i < readings.size(); ++i) {
    if (std::abs(readings[i].value - readings[i - 1].value) > kJumpKelvin &&
        readings[i].time_ns - readings[i - 1].time_ns < kJumpNs)
      found.add_span(readings[i].time_ns, readings[i].time_ns, 1);
  }
}

void collect_power_jumps(const std::vector<Reading>& readings, ChannelFault& found) {
  if (readings.size() < kMinForPercentile)
    return;
  std::vector<double> sizes;
  sizes.reserve(readings.size());
  for (const Reading& reading : readings)
    sizes.push_back(std::abs(reading.value));
  const auto p99 = sizes.begin() + static_cast<std::ptrdiff_t>((sizes.size() - 1) * 99 / 100);
  std::nth_element(sizes.begin(), p99, sizes.end());
  const double limit = kJumpRatio * *p99;
  for (const Reading& reading : readings) {
    if (limit > 0 && std::abs(reading.value) > limit)
      found.add_span(reading.time_ns, reading.time_ns, 1);
  }
}

}  // namespace

void ChannelFault::add_span(std::int64_t first_ns, std::int64_t last_ns, std::uint64_t n) {
  n_readings += n;
  ++n_spans;
  if (spans_ns.size() < kMaxSpans)
    spans_ns.emplace_back(first_ns, last_ns);
}

void ChannelFault::merge(const ChannelFault& later) {
  n_readings += later.n_readings;
  n_spans += later.n_spans;
  for (const auto& span : later.spans_ns) {
    if (spans_ns.size() < kMaxSpans)
      spans_ns.push_back(span);
  }
}

std::vector<ChannelFault> screen(const Channel& channel, const std::vector<Reading>& readings) {
  std::array<ChannelFault, 11> found;
  for (std::size_t i = 0; i < found.size(); ++i)
    found[i].fault = static_cast<ReadingFault>(i);
  collect_failed(readings, found);
  const std::vector<Reading> numbers = sound(readings);
  const bool power = channel.kind == "power" || channel.kind == "current";
  if (power || channel.kind == "energy" || channel.kind == "temperature") {
    collect_frozen(numbers, patience_of(channel.kind), found[static_cast<std::size_t>(ReadingFault::kFrozen)]);
  }
  ChannelFault& jumps = found[static_cast<std::size_t>(ReadingFault::kJump)];
  if (power)
    collect_power_jumps(numbers, jumps);
  if (channel.kind == "temperature")
    collect_temperature_jumps(numbers, jumps);
  std::vector<ChannelFault> faults;
  for (ChannelFault& fault : found) {
    if (fault.n_readings != 0)
      faults.push_back(std::move(fault));
  }
  return faults;
}

}  // namespace melt
