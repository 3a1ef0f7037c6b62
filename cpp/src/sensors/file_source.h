// SPDX-License-Identifier: Apache-2.0
// A source made of files that hold one number each, which most sensors are.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "melt/sensor.h"
#include "sensors/sysfs_file.h"

namespace melt {

/// What a reading of a kind can be at all; outside of it the driver is wrong.
struct Range {
  double low;
  double high;
};
constexpr Range kPowerRangeW{-20'000, 20'000};
constexpr Range kVoltageRangeV{0, 1'000};
constexpr Range kTemperatureRangeC{-39.9, 149.9};  // -40 and 150 are what broken sensors read
constexpr Range kFrequencyRangeHz{1, 20e9};
constexpr Range kShareRange{0, 1};
constexpr Range kLevelRange{0, 1e6};

/// One value of a source.
class ValueReader {
 public:
  virtual ~ValueReader() = default;
  /// A number in the channel's unit, or a fault_value.
  virtual double read() noexcept = 0;
};

/// A file's number times `scale`.
std::unique_ptr<ValueReader> make_number_reader(SysfsFile file, double scale, Range range);
/// The product of two files' numbers times `scale`: current and voltage.
std::unique_ptr<ValueReader> make_product_reader(SysfsFile a, SysfsFile b, double scale, Range range);
/// The running total of a counter that begins again at 0 after `range` (0: it does not), each times `scale`, in J.
/// Where a step cannot be told the reading is a fault, and the total begins at 0 anew: one that would be more than 5 kW
/// (the counter was reset, or its driver is wrong), and one over so long that 1 kW would have gone through the whole
/// range.
std::unique_ptr<ValueReader> make_counter_reader(SysfsFile file, double scale, double range);

/// Several values that are read one after the other.
class FileSource final : public SensorSource {
 public:
  explicit FileSource(double max_rate_hz) : max_rate_hz_(max_rate_hz) {}
  void add(Channel channel, std::unique_ptr<ValueReader> reader) {
    channels_.push_back(std::move(channel));
    readers_.push_back(std::move(reader));
  }
  const std::vector<Channel>& channels() const noexcept override { return channels_; }
  double max_rate_hz() const noexcept override { return max_rate_hz_; }
  void read(double* values) noexcept override {
    for (const auto& reader : readers_)
      *values++ = reader->read();
  }

 private:
  double max_rate_hz_;
  std::vector<Channel> channels_;
  std::vector<std::unique_ptr<ValueReader>> readers_;
};

}  // namespace melt
