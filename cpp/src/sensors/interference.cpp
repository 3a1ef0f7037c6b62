// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "sensors/proc_file.h"
#include "sensors/sources.h"

namespace melt {
namespace {

/// The eighth number of /proc/stat's first line: time that the hypervisor gave to others, all CPUs, in clock ticks.
double stolen_ticks(const char* text) noexcept {
  if (text == nullptr || std::string_view(text).substr(0, 4) != "cpu ")
    return std::nan("");
  text += 4;
  double value = std::nan("");
  for (int field = 0; field < 8; ++field) {
    char* end = nullptr;
    value = std::strtod(text, &end);
    if (end == text)
      return std::nan("");
    text = end;
  }
  return value;
}

class Interference final : public SensorSource {
 public:
  explicit Interference(MissingChannels& missing)
      : stat_(procfs_root() + "/stat"),
        cpu_pressure_(procfs_root() + "/pressure/cpu"),
        memory_pressure_(procfs_root() + "/pressure/memory"),
        frequency_(sysfs_root() + "/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq") {
    const auto add = [&](const ProcFile& file, const Channel& channel) {
      if (file.reason().empty()) {
        channels_.push_back(channel);
      } else {
        missing[channel.site + "/" + channel.kind] = file.reason();
      }
    };
    add(stat_, {"machine", "steal", "s", "/proc/stat, all CPUs"});
    add(cpu_pressure_, {"machine", "pressure_cpu", "s", "/proc/pressure/cpu some total"});
    add(memory_pressure_, {"machine", "pressure_memory", "s", "/proc/pressure/memory some total"});
    add(frequency_, {"cpu0", "frequency", "Hz", "cpufreq scaling_cur_freq"});
  }

  const std::vector<Channel>& channels() const noexcept override { return channels_; }
  double max_rate_hz() const noexcept override { return 10.0; }

  void read(double* values) noexcept override {
    if (stat_.reason().empty())
      *values++ = stolen_ticks(stat_.read()) / ticks_per_s_;
    if (cpu_pressure_.reason().empty())
      *values++ = number_behind(cpu_pressure_.read(), "total=", 1e-6);  // the first line: some
    if (memory_pressure_.reason().empty())
      *values++ = number_behind(memory_pressure_.read(), "total=", 1e-6);
    if (frequency_.reason().empty())
      *values++ = number_behind(frequency_.read(), "", 1e3);  // kHz
  }

 private:
  ProcFile stat_, cpu_pressure_, memory_pressure_, frequency_;
  double ticks_per_s_ = static_cast<double>(sysconf(_SC_CLK_TCK));
  std::vector<Channel> channels_;
};

}  // namespace

std::unique_ptr<SensorSource> make_interference(MissingChannels& missing) {
  auto source = std::make_unique<Interference>(missing);
  if (source->channels().empty())
    return nullptr;
  return source;
}

}  // namespace melt
