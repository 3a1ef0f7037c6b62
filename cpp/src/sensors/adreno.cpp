// SPDX-License-Identifier: Apache-2.0
// Adreno GPUs (kernel driver kgsl): gpubusy is "busy total" in us over the driver's last window, "0 0" while the GPU is
// switched off; clock in Hz, temperature in thousandths of a degree.
#include <cmath>
#include <cstring>
#include <utility>

#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {
namespace {

class BusyReader final : public ValueReader {
 public:
  explicit BusyReader(SysfsFile file) : file_(std::move(file)) {}

  double read() noexcept override {
    char text[64];
    const ReadingFault fault = file_.read(text, sizeof text);
    if (fault != ReadingFault::kOk)
      return fault_value(fault);
    char* first = text;
    while (*first == ' ')
      ++first;
    char* blank = std::strchr(first, ' ');
    if (blank == nullptr)
      return fault_value(ReadingFault::kGarbage);
    *blank = '\0';
    const double busy = parse_number(first), total = parse_number(blank + 1);
    if (std::isnan(busy) || std::isnan(total))
      return fault_value(ReadingFault::kGarbage);
    return total == 0 && busy == 0 ? 0.0 : checked(busy / total, kShareRange.low, kShareRange.high);
  }

 private:
  SysfsFile file_;
};

}  // namespace

void find_adreno(SensorCatalog& catalog) {
  const std::string folder = "class/kgsl/kgsl-3d0";
  SysfsFile busy(folder + "/gpubusy"), clock(folder + "/gpuclk"), temperature(folder + "/temp");
  auto source = std::make_unique<FileSource>(10.0);
  if (!busy.reason().empty())
    catalog.absent("adreno", busy.reason());
  else
    source->add(catalog.channel("gpu", "load", "ratio", busy.path()), std::make_unique<BusyReader>(std::move(busy)));
  if (clock.reason().empty()) {
    source->add(catalog.channel("gpu", "frequency", "Hz", clock.path()),
                make_number_reader(std::move(clock), 1.0, kFrequencyRangeHz));
  }
  if (temperature.reason().empty()) {
    source->add(catalog.channel("gpu", "temperature", "degC", temperature.path()),
                make_number_reader(std::move(temperature), 1e-3, kTemperatureRangeC));
  }
  catalog.add(std::move(source));
}

}  // namespace melt
