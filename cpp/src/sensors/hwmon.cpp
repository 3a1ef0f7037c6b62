// SPDX-License-Identifier: Apache-2.0
// Power and energy of any other hwmon chip (Documentation/hwmon/sysfs-interface.rst): powerN_input or powerN_average in
// uW, energyN_input in uJ. INA238 and its kin (Jetson Thor), power supplies of servers, amd_energy.
#include <algorithm>

#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {
namespace {

constexpr std::size_t kMaxChannels = 16;  // of one chip: amd_energy has one for each core

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Batteries show themselves here once more, under the name of their power supply.
bool is_power_supply(const std::string& name) {
  const std::vector<std::string> supplies = sysfs_entries("class/power_supply");
  return std::any_of(supplies.begin(), supplies.end(),
                     [&](const std::string& supply) { return site_name(supply) == site_name(name); });
}

void add_value(FileSource& source, SensorCatalog& catalog, const std::string& chip, const std::string& name,
               const std::string& entry) {
  const std::string folder = "class/hwmon/" + chip + "/";
  const std::string number = entry.substr(0, entry.find('_'));
  const std::string label = sysfs_text(folder + number + "_label");
  const std::string site = site_name(label.empty() ? name : name + "-" + label);
  SysfsFile file(folder + entry);
  if (!file.reason().empty()) {
    catalog.absent("hwmon/" + site + "/" + number, file.reason());
    return;
  }
  const std::string path = file.path();
  if (entry.compare(0, 6, "energy") == 0) {
    source.add(catalog.channel(site, "energy", "J", path, number), make_counter_reader(std::move(file), 1e-6, 0));
  } else {
    source.add(catalog.channel(site, "power", "W", path, number),
               make_number_reader(std::move(file), 1e-6, kPowerRangeW));
  }
}

}  // namespace

void find_hwmon(SensorCatalog& catalog) {
  bool any = false;
  for (const std::string& chip : sysfs_entries("class/hwmon", "hwmon")) {
    const std::string name = sysfs_text("class/hwmon/" + chip + "/name");
    if (name == "ina3221" || is_power_supply(name))
      continue;
    auto source = std::make_unique<FileSource>(200.0);
    for (const char* kind : {"power", "energy"}) {
      for (const std::string& entry : sysfs_entries("class/hwmon/" + chip, kind)) {
        const std::string base = entry.substr(0, entry.find('_'));
        const bool wanted =
            ends_with(entry, "_input") ||
            (ends_with(entry, "_average") && sysfs_text("class/hwmon/" + chip + "/" + base + "_input").empty());
        if (!wanted)
          continue;
        any = true;
        if (source->channels().size() == kMaxChannels) {
          catalog.absent("hwmon/" + site_name(name), "it has more than 16 channels: the first 16 are read");
          break;
        }
        add_value(*source, catalog, chip, name.empty() ? chip : name, entry);
      }
    }
    catalog.add(std::move(source));
  }
  if (!any)
    catalog.absent("hwmon", sysfs_absence("class/hwmon", "chip with powerN_input, powerN_average or energyN_input"));
}

}  // namespace melt
