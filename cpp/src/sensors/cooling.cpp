// SPDX-License-Identifier: Apache-2.0
// How hard the kernel throttles: the state of each cooling device, 0 for not at all.
#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {
namespace {

constexpr std::size_t kMaxDevices = 32;

}  // namespace

void find_cooling(SensorCatalog& catalog) {
  const std::vector<std::string> devices = sysfs_entries("class/thermal", "cooling_device");
  if (devices.empty())
    catalog.absent("cooling", sysfs_absence("class/thermal", "cooling devices"));
  auto source = std::make_unique<FileSource>(5.0);
  for (const std::string& device : devices) {
    const std::string folder = "class/thermal/" + device;
    const std::string site = site_name(sysfs_text(folder + "/type"));
    SysfsFile file(folder + "/cur_state");
    if (source->channels().size() == kMaxDevices) {
      catalog.absent("cooling/" + device, "there are more than 32 devices: the first 32 are read");
      break;
    }
    if (!file.reason().empty()) {
      catalog.absent("cooling/" + device, file.reason());
      continue;
    }
    const std::string path = file.path() + " of " + sysfs_text(folder + "/max_state");
    source->add(catalog.channel(site.empty() ? device : site, "throttle", "level", path, device),
                make_number_reader(std::move(file), 1.0, kLevelRange));
  }
  catalog.add(std::move(source));
}

}  // namespace melt
