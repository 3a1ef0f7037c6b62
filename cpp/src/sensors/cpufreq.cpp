// SPDX-License-Identifier: Apache-2.0
// The clock of each group of CPUs that share one (Documentation/admin-guide/pm/cpufreq.rst), in kHz.
#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {

void find_cpufreq(SensorCatalog& catalog) {
  const std::string base = "devices/system/cpu/cpufreq";
  const std::vector<std::string> policies = sysfs_entries(base, "policy");
  if (policies.empty())
    catalog.absent("cpufreq", sysfs_absence(base, "policies"));
  auto source = std::make_unique<FileSource>(100.0);
  for (const std::string& policy : policies) {
    const std::string site = "cpu-" + policy;
    SysfsFile file(base + "/" + policy + "/scaling_cur_freq");
    if (!file.reason().empty()) {
      catalog.absent("cpufreq/" + site, file.reason());
      continue;
    }
    const std::string cpus = sysfs_text(base + "/" + policy + "/related_cpus");
    source->add(catalog.channel(site, "frequency", "Hz", policy + " scaling_cur_freq, CPUs " + cpus),
                make_number_reader(std::move(file), 1e3, kFrequencyRangeHz));
  }
  catalog.add(std::move(source));
}

}  // namespace melt
