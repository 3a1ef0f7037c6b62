// SPDX-License-Identifier: Apache-2.0
#include "sensors/catalog.h"

#include <algorithm>
#include <cmath>

#include "json.h"
#include "melt/error.h"
#include "require.h"
#include "text_list.h"

namespace melt {
namespace {

struct Finder {
  const char* name;
  void (*find)(SensorCatalog&);
};

// In the order in which they claim names: the battery's own gauge before a thermal zone of that name.
constexpr Finder kFinders[] = {
    {"rapl", find_rapl},
    {"ina3221", find_ina3221},
    {"hwmon", find_hwmon},
    {"power_supply", find_power_supply},
    {"odpm", find_odpm},
    {"thermal", find_thermal},
    {"cooling", find_cooling},
    {"cpufreq", find_cpufreq},
    {"adreno", find_adreno},
    {"mali", find_mali},
    {"tegra_gpu", find_tegra_gpu},
    {"nvml", find_nvml},
    {"app", find_app},
};

const Finder* finder_of(const std::string& name) {
  for (const Finder& finder : kFinders) {
    if (name == finder.name)
      return &finder;
  }
  return nullptr;
}

std::string all_names() {
  std::string names;
  for (const Finder& finder : kFinders)
    append_item(names, finder.name);
  return names;
}

/// Why a sensor is absent: its own reason, else that of its first part.
std::string reason_of(const SensorCatalog& catalog, const std::string& name) {
  const auto found = catalog.absent().lower_bound(name);
  const bool of_it = found != catalog.absent().end() && found->first.compare(0, name.size(), name) == 0;
  return of_it ? found->second : "it was not found";
}

}  // namespace

Channel SensorCatalog::channel(const std::string& site, const std::string& kind, const std::string& unit,
                               const std::string& source, const std::string& other) {
  std::string free_site = site.substr(0, 31);
  for (int number = 1; !taken_.insert({free_site, kind}).second; ++number) {
    const std::string suffix = "-" + (number == 1 && !other.empty() ? other : std::to_string(number));
    free_site = site.substr(0, suffix.size() < 31 ? 31 - suffix.size() : 0) + suffix;
  }
  return {free_site, kind, unit, source};
}

void SensorCatalog::add(std::unique_ptr<SensorSource> source) {
  if (!source->channels().empty())
    sources_.push_back(std::move(source));
}

std::vector<std::string> sensor_names() {
  std::vector<std::string> names;
  for (const Finder& finder : kFinders)
    names.emplace_back(finder.name);
  return names;
}

SensorCatalog find_sensors(const SensorOptions& options) {
  if (!(options.rate_hz >= kMinSensorHz && options.rate_hz <= kMaxSensorHz)) {
    throw Error(ErrorKind::kInvalidArgument,
                "a sensor rate of " + short_text(options.rate_hz) + " Hz: give one from 0.1 to 1000 (--sensor-hz)");
  }
  SensorCatalog catalog;
  for (const std::string& name : options.names) {
    if (name != "auto" && finder_of(name) == nullptr) {
      throw Error(ErrorKind::kInvalidArgument,
                  "unknown sensor \"" + name + "\": choose from auto, " + all_names() + " (`melt doctor` lists them)");
    }
  }
  const bool any = std::count(options.names.begin(), options.names.end(), "auto") != 0;
  for (const Finder& finder : kFinders) {
    const bool by_name = std::count(options.names.begin(), options.names.end(), finder.name) != 0;
    if (!any && !by_name)
      continue;
    const std::size_t n_before = catalog.sources().size();
    finder.find(catalog);
    if (by_name && catalog.sources().size() == n_before) {
      throw Error(ErrorKind::kInvalidArgument, std::string("sensor ") + finder.name +
                                                   " cannot be read here: " + reason_of(catalog, finder.name) +
                                                   "; use auto to take what there is");
    }
  }
  return catalog;
}

std::vector<SensorStatus> list_sensors() {
  std::vector<SensorStatus> found;
  for (const Finder& finder : kFinders) {
    SensorCatalog catalog;
    finder.find(catalog);
    SensorStatus status;
    status.name = finder.name;
    for (const auto& source : catalog.sources()) {
      status.channels.insert(status.channels.end(), source->channels().begin(), source->channels().end());
      status.max_rate_hz = std::max(status.max_rate_hz, std::min(source->max_rate_hz(), kMaxSensorHz));
    }
    status.absent = catalog.absent();
    found.push_back(std::move(status));
  }
  return found;
}

std::string sensors_json() {
  std::string list;
  for (const SensorStatus& status : list_sensors()) {
    std::string channels;
    for (const Channel& channel : status.channels) {
      append_item(channels, JsonObject()
                                .add("site", channel.site)
                                .add("kind", channel.kind)
                                .add("unit", channel.unit)
                                .add("source", channel.source)
                                .str());
    }
    JsonObject absent;
    for (const auto& [what, reason] : status.absent)
      absent.add(what.c_str(), reason);
    JsonObject row;
    row.add("name", status.name).add("present", !status.channels.empty());
    row.add_raw("channels", "[" + channels + "]").add_raw("absent", absent.str());
    row.add("max_rate_hz", status.channels.empty() ? std::nan("") : status.max_rate_hz);
    append_item(list, row.str());
  }
  return "[" + list + "]";
}

}  // namespace melt
