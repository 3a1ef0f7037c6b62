// SPDX-License-Identifier: Apache-2.0
// On-device power meter of Pixel 6 and later (kernel driver odpm): a running total for each of eight rails and chip,
//   t=<ms>\nCH<N>(T=<ms>)[<rail>], <uWs>\n...
// It is the driver that decides when to take a new set; between, it repeats the old one, whose time t says so.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {
namespace {

constexpr std::size_t kTextBytes = 2048;

struct Line {
  double uws = 0;
  std::string_view rail;
};

/// Reads "CH3(T=358356)[S2M_VDD_CPUCL2], 86465323\n" and moves `at` behind it; false if it is no such line.
bool parse_line(const char*& at, Line& line) noexcept {
  const char* end = std::strchr(at, '\n');
  const char* open = std::strchr(at, '[');
  const char* close = std::strchr(at, ']');
  if (end == nullptr || open == nullptr || close == nullptr || close < open || end < close ||
      std::strncmp(at, "CH", 2) != 0 || close[1] != ',')
    return false;
  char number[32];
  const auto length = static_cast<std::size_t>(end - close - 2);
  if (length >= sizeof number)
    return false;
  std::memcpy(number, close + 2, length);
  number[length] = '\0';
  line = {parse_number(number), {open + 1, static_cast<std::size_t>(close - open - 1)}};
  at = end + 1;
  return true;
}

class Odpm final : public SensorSource {
 public:
  Odpm(const std::string& folder, SensorCatalog& catalog) : file_(folder + "/energy_value") {
    char text[kTextBytes];
    if (!file_.reason().empty() || file_.read(text, sizeof text) != ReadingFault::kOk) {
      catalog.absent("odpm", file_.reason());
      return;
    }
    const char* at = std::strchr(text, '\n');
    at = at == nullptr ? text : at + 1;
    for (Line line; parse_line(at, line);) {
      rails_.emplace_back(line.rail);
      channels_.push_back(catalog.channel(site_name(rails_.back()), "energy", "J", rails_.back() + ", " + folder));
    }
    if (rails_.empty())
      catalog.absent("odpm", folder + "/energy_value is not of the form \"CH0(T=..)[RAIL], uWs\"");
    const double rate_hz = SysfsFile(folder + "/sampling_rate").read_number();
    rate_hz_ = rate_hz > 0 ? std::clamp(rate_hz, 1.0, 100.0) : 10.0;
  }

  const std::vector<Channel>& channels() const noexcept override { return channels_; }
  double max_rate_hz() const noexcept override { return rate_hz_; }

  void read(double* values) noexcept override {
    char text[kTextBytes];
    const ReadingFault fault = file_.read(text, sizeof text);
    const double time_ms = fault == ReadingFault::kOk ? number_of_first_line(text) : fault_value(fault);
    const bool repeated = time_ms == last_ms_;
    const double all = std::isnan(time_ms) ? time_ms : fault_value(ReadingFault::kNotNew);
    std::fill(values, values + channels_.size(), all);
    if (std::isnan(time_ms) || repeated)
      return;
    last_ms_ = time_ms;
    std::fill(values, values + channels_.size(), fault_value(ReadingFault::kGarbage));
    const char* at = std::strchr(text, '\n') + 1;
    for (Line line; parse_line(at, line);) {
      const auto rail = std::find(rails_.begin(), rails_.end(), line.rail);
      if (rail != rails_.end() && !std::isnan(line.uws))
        values[rail - rails_.begin()] = line.uws * 1e-6;
    }
  }

 private:
  /// The 123 of "t=123"; a NaN that says kGarbage if the text does not begin so.
  static double number_of_first_line(char* text) noexcept {
    char* end = std::strchr(text, '\n');
    if (end == nullptr || std::strncmp(text, "t=", 2) != 0)
      return fault_value(ReadingFault::kGarbage);
    *end = '\0';
    const double value = parse_number(text + 2);
    *end = '\n';
    return value;
  }

  SysfsFile file_;
  std::vector<std::string> rails_;
  std::vector<Channel> channels_;
  double rate_hz_ = 10.0;
  double last_ms_ = std::numeric_limits<double>::quiet_NaN();
};

}  // namespace

void find_odpm(SensorCatalog& catalog) {
  bool any = false;
  for (const std::string& device : sysfs_entries("bus/iio/devices", "iio:device")) {
    const std::string folder = "bus/iio/devices/" + device;
    if (sysfs_text(folder + "/name").find("odpm") == std::string::npos)
      continue;
    any = true;
    catalog.add(std::make_unique<Odpm>(folder, catalog));
  }
  if (!any)
    catalog.absent("odpm", sysfs_absence("bus/iio/devices", "device whose name has odpm in it"));
}

}  // namespace melt
