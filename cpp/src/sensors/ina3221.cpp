// SPDX-License-Identifier: Apache-2.0
// INA3221 power monitors of Jetson boards: mV and mA of three rails each (Documentation/hwmon/ina3221.rst; JetPack 4
// has them as IIO devices). The carrier board and what it feeds are not seen.
#include <array>
#include <utility>

#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {
namespace {

struct Rail {
  std::string label;
  SysfsFile millivolts, milliamperes;
};

// The board's whole input, where a board has a rail for it (jetson-stats names the same ones).
constexpr std::array kWholeInput = {"VDD_IN", "POM_5V_IN", "VIN"};

/// All rails in one source, so that their sum is of one time.
class Rails final : public SensorSource {
 public:
  explicit Rails(std::vector<Rail> rails) : rails_(std::move(rails)) {}

  void name_channels(SensorCatalog& catalog) {
    bool whole = false;
    for (const Rail& rail : rails_) {
      bool is_whole = false;
      for (const char* name : kWholeInput)
        is_whole |= rail.label == name;
      const std::string site = is_whole && !whole ? "board" : site_name(rail.label);
      whole |= is_whole;
      channels_.push_back(catalog.channel(site, "power", "W", rail.label + ", " + rail.milliamperes.path()));
    }
    has_sum_ = !whole && rails_.size() > 1;
    if (has_sum_)
      channels_.push_back(catalog.channel("board", "power", "W", "derived: sum of the INA3221 rails"));
  }

  const std::vector<Channel>& channels() const noexcept override { return channels_; }
  double max_rate_hz() const noexcept override { return 200.0; }  // its conversions take a few ms

  void read(double* values) noexcept override {
    double sum = 0;
    for (Rail& rail : rails_) {
      const double milliamperes = rail.milliamperes.read_number(), millivolts = rail.millivolts.read_number();
      double watts = milliamperes * millivolts * 1e-6;
      if (fault_of(milliamperes) != ReadingFault::kOk || fault_of(millivolts) != ReadingFault::kOk)
        watts = fault_of(milliamperes) != ReadingFault::kOk ? milliamperes : millivolts;
      watts = checked(watts, kPowerRangeW.low, kPowerRangeW.high);
      *values++ = watts;
      sum = fault_of(sum) != ReadingFault::kOk ? sum : fault_of(watts) != ReadingFault::kOk ? watts : sum + watts;
    }
    if (has_sum_)
      *values = sum;
  }

 private:
  std::vector<Rail> rails_;
  std::vector<Channel> channels_;
  bool has_sum_ = false;
};

void add_rail(std::vector<Rail>& rails, SensorCatalog& catalog, const std::string& label, const std::string& volts,
              const std::string& amperes) {
  if (label.empty() || label == "NC" || label.find("sum of shunt") != std::string::npos)
    return;
  Rail rail{label, SysfsFile(volts), SysfsFile(amperes)};
  const std::string& reason = rail.millivolts.reason().empty() ? rail.milliamperes.reason() : rail.millivolts.reason();
  if (reason.empty()) {
    rails.push_back(std::move(rail));
  } else {
    catalog.absent("ina3221/" + site_name(label), reason);
  }
}

}  // namespace

void find_ina3221(SensorCatalog& catalog) {
  std::vector<Rail> rails;
  for (const std::string& chip : sysfs_entries("class/hwmon", "hwmon")) {
    const std::string folder = "class/hwmon/" + chip + "/";
    if (sysfs_text(folder + "name") != "ina3221")
      continue;
    for (const char* n : {"1", "2", "3"})
      add_rail(rails, catalog, sysfs_text(folder + "in" + n + "_label"), folder + "in" + n + "_input",
               folder + "curr" + n + "_input");
  }
  for (const std::string& chip : sysfs_entries("bus/iio/devices", "iio:device")) {
    const std::string folder = "bus/iio/devices/" + chip + "/";
    for (const char* n : {"0", "1", "2"})
      add_rail(rails, catalog, sysfs_text(folder + "rail_name_" + n), folder + "in_voltage" + n + "_input",
               folder + "in_current" + n + "_input");
  }
  if (rails.empty()) {
    catalog.absent("ina3221", sysfs_absence("class/hwmon", "chip named ina3221 with a rail that can be read"));
    return;
  }
  auto source = std::make_unique<Rails>(std::move(rails));
  source->name_channels(catalog);
  catalog.add(std::move(source));
}

}  // namespace melt
