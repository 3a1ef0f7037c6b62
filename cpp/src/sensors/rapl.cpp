// SPDX-License-Identifier: Apache-2.0
// RAPL by the kernel's powercap interface (Documentation/power/powercap): one running counter of energy for each
// package and its parts, Intel and AMD. It begins again after max_energy_range_uj, which is minutes at full load.
#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {
namespace {

constexpr const char* kFolder = "class/powercap";

/// "package-0" for a package, "package-0-dram" for its part.
std::string site_of(const std::string& zone) {
  const std::string name = site_name(sysfs_text(std::string(kFolder) + "/" + zone + "/name"));
  const std::size_t last = zone.rfind(':');
  if (last == zone.find(':'))
    return name;
  return site_of(zone.substr(0, last)) + "-" + name;
}

}  // namespace

void find_rapl(SensorCatalog& catalog) {
  const std::vector<std::string> zones = sysfs_entries(kFolder, "intel-rapl:");  // AMD's too; -mmio shows them again
  if (zones.empty())
    catalog.absent("rapl", sysfs_absence(kFolder, "intel-rapl zones"));
  for (const std::string& zone : zones) {
    const std::string folder = std::string(kFolder) + "/" + zone;
    const std::string site = site_of(zone);
    SysfsFile file(folder + "/energy_uj");
    if (!file.reason().empty()) {
      const bool denied = file.reason().find("denied") != std::string::npos;
      catalog.absent("rapl/" + site, file.reason() + (denied ? ": for root only, unless chmod a+r is done" : ""));
      continue;
    }
    const double range = SysfsFile(folder + "/max_energy_range_uj").read_number();
    if (!(range > 0)) {
      catalog.absent("rapl/" + site, folder + "/max_energy_range_uj does not say where the counter begins again");
      continue;
    }
    auto source = std::make_unique<FileSource>(kMaxSensorHz);
    const Channel channel = catalog.channel(site, "energy", "J", file.path(), zone);
    source->add(channel, make_counter_reader(std::move(file), 1e-6, range));
    catalog.add(std::move(source));
  }
}

}  // namespace melt
