// SPDX-License-Identifier: Apache-2.0
// What only an app may ask its system for, and tells us (melt.h): on iOS there is no file to read. The values are those
// of Apple's ProcessInfo.ThermalState, UIDevice.batteryLevel and UIDevice.BatteryState.
#include <atomic>

#include "melt/melt.h"
#include "sensors/catalog.h"
#include "sensors/fault.h"

namespace melt {
namespace {

constexpr int kUnknown = -1;
constexpr int kMostThermal = 3;  // nominal 0, fair 1, serious 2, critical 3
constexpr int kUnplugged = 1;
constexpr int kFull = 3;  // unplugged 1, charging 2, full 3

std::atomic<int> thermal_state{kUnknown};
std::atomic<int> battery_state{kUnknown};
std::atomic<double> battery_level{-1.0};

class AppSource final : public SensorSource {
 public:
  explicit AppSource(SensorCatalog& catalog)
      : has_thermal_(thermal_state.load() != kUnknown), has_battery_(battery_state.load() != kUnknown) {
    if (has_thermal_)
      channels_.push_back(catalog.channel("soc", "throttle", "level", "app: thermal state, 0 nominal to 3 critical"));
    if (!has_battery_)
      return;
    channels_.push_back(catalog.channel("battery", "charge_share", "ratio", "app: battery level"));
    channels_.push_back(catalog.channel("battery", "charging", "flag", "app: battery state"));
  }

  const std::vector<Channel>& channels() const noexcept override { return channels_; }
  double max_rate_hz() const noexcept override { return 5.0; }

  void read(double* values) noexcept override {
    if (has_thermal_)
      *values++ = checked(thermal_state.load(), 0, kMostThermal);
    if (!has_battery_)
      return;
    *values++ = checked(battery_level.load(), 0.0, 1.0);
    const double state = checked(battery_state.load(), kUnplugged, kFull);
    *values = fault_of(state) == ReadingFault::kOk ? static_cast<double>(state > kUnplugged) : state;
  }

 private:
  const bool has_thermal_, has_battery_;
  std::vector<Channel> channels_;
};

}  // namespace

void find_app(SensorCatalog& catalog) {
  auto source = std::make_unique<AppSource>(catalog);
  if (source->channels().empty())
    catalog.absent("app", "no app tells of its device (melt_set_thermal_state, melt_set_battery)");
  catalog.add(std::move(source));
}

}  // namespace melt

void melt_set_thermal_state(int state) {
  melt::thermal_state.store(state >= 0 && state <= melt::kMostThermal ? state : melt::kUnknown);
}

void melt_set_battery(double level, int state) {
  melt::battery_level.store(level);
  melt::battery_state.store(state >= melt::kUnplugged && state <= melt::kFull ? state : melt::kUnknown);
}
