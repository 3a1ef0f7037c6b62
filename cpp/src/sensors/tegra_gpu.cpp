// SPDX-License-Identifier: Apache-2.0
// Load of a Jetson's integrated GPU, in thousandths; where its device lies differs between JetPack versions.
#include <utility>

#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {

void find_tegra_gpu(SensorCatalog& catalog) {
  std::string reason = sysfs_absence("devices/platform", "GPU with a load file");
  auto source = std::make_unique<FileSource>(50.0);
  for (const char* folder : {"devices/platform", "devices/platform/bus@0", "devices"}) {
    for (const std::string& device : sysfs_entries(folder)) {
      if (device.find("gpu") == std::string::npos || !source->channels().empty())
        continue;
      SysfsFile file(std::string(folder) + "/" + device + "/load");
      if (!file.reason().empty()) {
        reason = file.reason();
        continue;
      }
      const std::string path = file.path();
      source->add(catalog.channel("gpu", "load", "ratio", path),
                  make_number_reader(std::move(file), 1e-3, kShareRange));
    }
  }
  if (source->channels().empty())
    catalog.absent("tegra_gpu", reason);
  catalog.add(std::move(source));
}

}  // namespace melt
