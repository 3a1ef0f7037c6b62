// SPDX-License-Identifier: Apache-2.0
// The sensors of this machine: what each kind of them found, and why the others are absent. To add one: a file beside
// this with a `void find_NAME(SensorCatalog&)`, declared here, and its row in kFinders (catalog.cpp).
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "melt/sensor.h"

namespace melt {

/// Filled by the finders, one after the other.
class SensorCatalog {
 public:
  /// A channel whose site + kind no other has: where one is taken, `other` is put behind the site.
  Channel channel(const std::string& site, const std::string& kind, const std::string& unit, const std::string& source,
                  const std::string& other = "");
  /// Takes a source that can be read. One without channels is dropped.
  void add(std::unique_ptr<SensorSource> source);
  /// Notes why something of this kind cannot be read; `what` is the kind itself, or a part of it.
  void absent(const std::string& what, const std::string& reason) { absent_[what] = reason; }

  std::vector<std::unique_ptr<SensorSource>>& sources() noexcept { return sources_; }
  const std::map<std::string, std::string>& absent() const noexcept { return absent_; }

 private:
  std::vector<std::unique_ptr<SensorSource>> sources_;
  std::map<std::string, std::string> absent_;
  std::set<std::pair<std::string, std::string>> taken_;
};

void find_rapl(SensorCatalog& catalog);
void find_ina3221(SensorCatalog& catalog);
void find_hwmon(SensorCatalog& catalog);
void find_power_supply(SensorCatalog& catalog);
void find_odpm(SensorCatalog& catalog);
void find_thermal(SensorCatalog& catalog);
void find_cooling(SensorCatalog& catalog);
void find_cpufreq(SensorCatalog& catalog);
void find_adreno(SensorCatalog& catalog);
void find_mali(SensorCatalog& catalog);
void find_tegra_gpu(SensorCatalog& catalog);
void find_nvml(SensorCatalog& catalog);
void find_app(SensorCatalog& catalog);

/// What `options` asks for. Raises: Error(kInvalidArgument): an unknown name, a sensor asked for by name that is absent
/// (with the reason), or a rate out of range.
SensorCatalog find_sensors(const SensorOptions& options);

}  // namespace melt
