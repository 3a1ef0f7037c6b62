// SPDX-License-Identifier: Apache-2.0
#include "sensors.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <system_error>
#include <vector>

#include "json.h"

namespace melt::agent {
namespace {

constexpr std::size_t kMaxSensors = 512;

/// A file `leaf` in each folder of `folder` whose name begins with `prefix` is one channel. `scale_name` is the file
/// that names the site; without one the folder's name does.
struct Pattern {
  const char* folder;
  const char* prefix;
  const char* leaf;
  const char* name_leaf;
  const char* kind;
  const char* unit;
};

// Documentation/ABI/testing: sysfs-class-thermal, sysfs-class-power, sysfs-class-hwmon, sysfs-class-powercap; and
// Documentation/admin-guide/pm/cpufreq.rst.
constexpr Pattern kPatterns[] = {
    {"class/thermal", "thermal_zone", "temp", "type", "temperature", "degC"},
    {"class/power_supply", "", "current_now", nullptr, "current", "A"},
    {"class/power_supply", "", "voltage_now", nullptr, "voltage", "V"},
    {"class/power_supply", "", "charge_counter", nullptr, "charge", "Ah"},
    {"class/power_supply", "", "capacity", nullptr, "charge_share", "ratio"},
    {"class/power_supply", "", "temp", nullptr, "temperature", "degC"},
    {"class/hwmon", "hwmon", "power1_input", "name", "power", "W"},
    {"class/hwmon", "hwmon", "curr1_input", "in1_label", "current", "A"},
    {"class/hwmon", "hwmon", "in1_input", "in1_label", "voltage", "V"},
    {"class/powercap", "intel-rapl:", "energy_uj", "name", "energy", "J"},
    {"bus/iio/devices", "iio:device", "energy_value", "name", "energy", "J"},
    {"devices/system/cpu/cpufreq", "policy", "scaling_cur_freq", nullptr, "frequency", "Hz"},
};

std::vector<std::string> entries(const std::string& folder, const std::string& prefix) {
  std::vector<std::string> names;
  DIR* directory = opendir(folder.c_str());
  if (directory == nullptr)
    return names;
  while (const dirent* entry = readdir(directory)) {
    const std::string name = entry->d_name;
    if (name[0] != '.' && name.compare(0, prefix.size(), prefix) == 0)
      names.push_back(name);
  }
  closedir(directory);
  std::sort(names.begin(), names.end());
  return names;
}

/// Why the file cannot be read now; empty if it can. A file that is not there is no sensor: `absent` is set.
std::string refusal(const std::string& path, bool& absent) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  absent = file < 0 && (errno == ENOENT || errno == ENOTDIR);
  std::string reason = file < 0 ? std::system_category().message(errno) : "";
  if (file >= 0) {
    char byte = 0;
    if (::read(file, &byte, 1) < 0)
      reason = std::system_category().message(errno);
    ::close(file);
  }
  return reason;
}

std::string site_of(const Pattern& pattern, const std::string& folder, const std::string& entry) {
  std::string site;
  if (pattern.name_leaf != nullptr) {
    std::ifstream file(folder + "/" + entry + "/" + pattern.name_leaf);
    std::getline(file, site);
  }
  if (site.empty())
    site = std::string(pattern.prefix) == "policy" ? "cpu-" + entry : entry;
  std::transform(site.begin(), site.end(), site.begin(), [](unsigned char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : static_cast<char>(c);
  });
  return site.substr(0, 64);
}

JsonObject channel(const Pattern& pattern, const std::string& site, const std::string& source) {
  JsonObject object;
  object.add("site", site).add("kind", pattern.kind).add("unit", pattern.unit).add("source", source);
  return object;
}

}  // namespace

std::string sensors_json(const std::string& root) {
  std::vector<std::string> found;
  for (const Pattern& pattern : kPatterns) {
    const std::string folder = root + "/" + pattern.folder;
    const std::size_t before = found.size();
    for (const std::string& entry : entries(folder, pattern.prefix)) {
      const std::string source = folder + "/" + entry + "/" + pattern.leaf;
      bool absent = false;
      const std::string reason = refusal(source, absent);
      if (absent || found.size() >= kMaxSensors)
        continue;
      JsonObject sensor = channel(pattern, site_of(pattern, folder, entry), source);
      sensor.add("available", reason.empty());
      if (!reason.empty())
        sensor.add("reason", reason);
      found.push_back(sensor.str());
    }
    if (found.size() == before)
      found.push_back(channel(pattern, "device", folder + "/" + pattern.prefix + "*/" + pattern.leaf)
                          .add("available", false)
                          .add("reason", "this system has no such file, or does not show it to this user")
                          .str());
  }
  std::string body;
  for (const std::string& sensor : found)
    body += (body.empty() ? "" : ", ") + sensor;
  return "[" + body + "]";
}

}  // namespace melt::agent
