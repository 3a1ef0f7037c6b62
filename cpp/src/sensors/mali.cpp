// SPDX-License-Identifier: Apache-2.0
// Mali GPUs (kernel driver kbase and what vendors made of it): load in percent, some with a '%' behind it; clock from
// devfreq in Hz.
#include <cmath>
#include <utility>

#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {
namespace {

class PercentReader final : public ValueReader {
 public:
  explicit PercentReader(SysfsFile file) : file_(std::move(file)) {}

  double read() noexcept override {
    char text[64];
    const ReadingFault fault = file_.read(text, sizeof text);
    if (fault != ReadingFault::kOk)
      return fault_value(fault);
    const double percent = parse_number(text, '%');
    return std::isnan(percent) ? percent : checked(percent / 100.0, kShareRange.low, kShareRange.high);
  }

 private:
  SysfsFile file_;
};

std::vector<std::string> load_files() {
  std::vector<std::string> files{"class/misc/mali0/device/utilization", "kernel/gpu/gpu_busy"};  // kbase; Samsung
  for (const std::string& device : sysfs_entries("devices/platform")) {
    if (device.find("mali") != std::string::npos)  // Pixel
      files.push_back("devices/platform/" + device + "/utilization");
  }
  return files;
}

}  // namespace

void find_mali(SensorCatalog& catalog) {
  auto source = std::make_unique<FileSource>(20.0);
  std::string reason;
  for (const std::string& path : load_files()) {
    SysfsFile file(path);
    if (file.reason().empty()) {
      source->add(catalog.channel("gpu", "load", "ratio", path), std::make_unique<PercentReader>(std::move(file)));
      break;
    }
    if (reason.empty() || file.reason().find("denied") != std::string::npos)
      reason = file.reason();
  }
  if (source->channels().empty())
    catalog.absent("mali", reason);
  for (const std::string& device : sysfs_entries("class/devfreq")) {
    if (device.find("mali") == std::string::npos)
      continue;
    SysfsFile file("class/devfreq/" + device + "/cur_freq");
    if (!file.reason().empty()) {
      catalog.absent("mali/frequency", file.reason());
      continue;
    }
    const std::string path = file.path();
    source->add(catalog.channel("gpu", "frequency", "Hz", path, device),
                make_number_reader(std::move(file), 1.0, kFrequencyRangeHz));
  }
  catalog.add(std::move(source));
}

}  // namespace melt
