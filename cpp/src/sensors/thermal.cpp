// SPDX-License-Identifier: Apache-2.0
// Thermal zones (Documentation/driver-api/thermal/sysfs-api.rst): thousandths of a degree, but plain degrees with some
// drivers, and with others -40000, 0 or 150000 where nothing is connected or the sensor is switched off.
#include <algorithm>
#include <cmath>

#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {
namespace {

constexpr std::size_t kMaxZones = 64;
constexpr double kReadsPerS = 100.0;      // of all zones: each read may be a transfer on a slow bus
constexpr double kSmallestMilli = 200.0;  // below it a number is plain degrees: no zone is at 0.2 degC

class ZoneReader final : public ValueReader {
 public:
  ZoneReader(SysfsFile file, double scale) : file_(std::move(file)), scale_(scale) {}
  double read() noexcept override {
    const double raw = file_.read_number();
    if (std::isnan(raw))
      return raw;
    if (raw == 0)
      return fault_value(ReadingFault::kImpossible);
    return checked(raw * scale_, kTemperatureRangeC.low, kTemperatureRangeC.high);
  }

 private:
  SysfsFile file_;
  double scale_;
};

}  // namespace

void find_thermal(SensorCatalog& catalog) {
  const std::vector<std::string> zones = sysfs_entries("class/thermal", "thermal_zone");
  if (zones.empty())
    catalog.absent("thermal", sysfs_absence("class/thermal", "thermal zones"));
  const double n_read = static_cast<double>(std::min(zones.size(), kMaxZones));
  auto source = std::make_unique<FileSource>(std::clamp(kReadsPerS / std::max(n_read, 1.0), 1.0, 10.0));
  for (const std::string& zone : zones) {
    const std::string folder = "class/thermal/" + zone;
    const std::string type = sysfs_text(folder + "/type");
    const std::string site = site_name(type.empty() ? zone : type);
    if (source->channels().size() == kMaxZones) {
      catalog.absent("thermal/" + zone, "there are more than 64 zones: the first 64 are read");
      break;
    }
    SysfsFile file(folder + "/temp");
    if (!file.reason().empty()) {
      catalog.absent("thermal/" + site, file.reason());
      continue;
    }
    const double raw = file.read_number();
    const double scale = std::abs(raw) >= kSmallestMilli ? 1e-3 : 1.0;
    const double first = ZoneReader(std::move(file), scale).read();
    if (std::isnan(first)) {
      catalog.absent("thermal/" + site, folder + "/temp: " + fault_name(fault_of(first)) + ": reads \"" +
                                            sysfs_text(folder + "/temp") + "\"");
      continue;
    }
    SysfsFile again(folder + "/temp");
    const std::string path = again.path() + (scale == 1.0 ? ", plain degC" : "");
    source->add(catalog.channel(site, "temperature", "degC", path, zone),
                std::make_unique<ZoneReader>(std::move(again), scale));
  }
  catalog.add(std::move(source));
}

}  // namespace melt
