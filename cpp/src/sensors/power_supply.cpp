// SPDX-License-Identifier: Apache-2.0
// Batteries of laptops and phones (Documentation/ABI/testing/sysfs-class-power). By that document values are uA, uV,
// uAh and a discharging current is negative; drivers count in mA and mV as well, the other way round, or without any
// sign. Here a discharging current is positive, whatever the driver does. A fuel gauge takes new values every quarter
// of a second at best, many every few seconds: it serves long windows only.
#include <cmath>
#include <cstring>
#include <utility>

#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {
namespace {

constexpr const char* kFolder = "class/power_supply";
constexpr double kMaxBatteryA = 30.0;
constexpr Range kChargeRangeAh{0, 1'000};
// Below it a current is counted in mA: 20 mA are less than any machine needs that runs a model.
constexpr double kSmallestMicroamps = 20'000;

enum class Status {
  kUnknown,
  kCharging,
  kDischarging,
  kIdle
};  // kIdle: full, or not charging though a charger is there

Status status_of(const char* text) noexcept {
  const auto begins = [text](const char* word) { return std::strncmp(text, word, std::strlen(word)) == 0; };
  if (begins("Charging"))
    return Status::kCharging;
  if (begins("Discharging"))
    return Status::kDischarging;
  return begins("Full") || begins("Not charging") ? Status::kIdle : Status::kUnknown;
}

/// What is known of a driver's sign.
enum class Sign {
  kUnknown,   // no status has told yet
  kKernel,    // negative while discharging
  kReverse,   // positive while discharging, negative while charging
  kByStatus,  // positive either way so far: the status decides
};

const char* sign_text(Sign sign) {
  switch (sign) {
    case Sign::kKernel:
      return "discharging < 0";
    case Sign::kReverse:
      return "discharging > 0";
    case Sign::kByStatus:
      return "sign by status";
    case Sign::kUnknown:
      break;
  }
  return "sign not probed yet";
}

/// The next state of knowledge, from one reading and the status of that moment.
Sign learned(Sign sign, Sign positive_was, double raw, Status status) noexcept {
  if (sign == Sign::kByStatus && raw < 0)  // it has a sign after all
    return positive_was;
  if (sign != Sign::kUnknown || raw == 0)
    return sign;
  if (status == Status::kDischarging)
    return raw < 0 ? Sign::kKernel : Sign::kByStatus;
  if (status == Status::kCharging)
    return raw < 0 ? Sign::kReverse : Sign::kByStatus;
  return sign;
}

class Battery final : public SensorSource {
 public:
  Battery(const std::string& supply, std::vector<SysfsFile> chargers, SensorCatalog& catalog)
      : folder_(std::string(kFolder) + "/" + supply + "/"), chargers_(std::move(chargers)) {
    const std::string site = site_name(supply).compare(0, 3, "bat") == 0 ? "battery" : "battery-" + site_name(supply);
    open(voltage_, "voltage_now", catalog);
    open(current_, "current_now", catalog);
    open(power_, "power_now", catalog);
    open(status_, "status", catalog);
    open(charge_, "charge_counter", catalog);
    if (!charge_.is_open())
      open(charge_, "charge_now", catalog);
    open(capacity_, "capacity", catalog);
    open(temperature_, "temp", catalog);
    probe_units();
    name_channels(catalog, site, supply);
  }

  const std::vector<Channel>& channels() const noexcept override { return channels_; }
  double max_rate_hz() const noexcept override { return 10.0; }

  void read(double* values) noexcept override {
    const Status status = read_status();
    const double volts = scaled(voltage_, volt_scale_, kVoltageRangeV);
    const double amperes = read_current(status);
    if (voltage_.is_open())
      *values++ = volts;
    if (current_.is_open())
      *values++ = amperes;
    if (has_power_)
      *values++ = read_power(status, volts, amperes);
    if (charge_.is_open())
      *values++ = scaled(charge_, charge_scale_, kChargeRangeAh);
    if (capacity_.is_open())
      *values++ = scaled(capacity_, 0.01, kShareRange);
    if (temperature_.is_open())
      *values++ = scaled(temperature_, temperature_scale_, kTemperatureRangeC);
    if (has_flag_)
      *values = charging(status);
  }

 private:
  void open(SysfsFile& file, const char* name, SensorCatalog& catalog) const {
    SysfsFile opened(folder_ + name);
    if (opened.reason().empty()) {
      file = std::move(opened);
    } else if (opened.is_open() || opened.reason().find("denied") != std::string::npos) {  // not merely absent
      catalog.absent("power_supply/" + std::string(name), opened.reason());
    }
  }

  void probe_units() {
    const double volts = voltage_.is_open() ? std::abs(voltage_.read_number()) : 0;
    volt_scale_ = volts >= 100'000 ? 1e-6 : volts >= 1'000 ? 1e-3 : 1.0;
    const double amperes = current_.is_open() ? std::abs(current_.read_number()) : 0;
    const Status status = read_status();
    // With a charger that carries the load a battery's current may be nearly nothing, and says nothing of its unit.
    const bool telling = amperes > 0 && status != Status::kIdle;
    const bool small = telling ? amperes < kSmallestMicroamps : volts > 0 && volt_scale_ == 1e-3;
    current_scale_ = small ? 1e-3 : 1e-6;
    const double charge = charge_.is_open() ? charge_.read_number() : 0;
    charge_scale_ = charge >= kSmallestMicroamps ? 1e-6 : 1e-3;
    const double temperature = temperature_.is_open() ? std::abs(temperature_.read_number()) : 0;
    temperature_scale_ = temperature >= 2'000 ? 1e-3 : 0.1;
    if (current_.is_open())
      read_current(status);  // learns the sign
  }

  void name_channels(SensorCatalog& catalog, const std::string& site, const std::string& supply) {
    const std::string folder = "power_supply/" + supply + "/";
    const char* unit = current_scale_ == 1e-3 ? "mA, " : "uA, ";
    const std::string current = folder + "current_now " + unit + sign_text(sign_);
    has_power_ = power_.is_open() || (current_.is_open() && voltage_.is_open());
    has_flag_ = status_.is_open() || !chargers_.empty();
    const auto add = [&](bool there, const char* kind, const char* of, const std::string& source) {
      if (there)
        channels_.push_back(catalog.channel(site, kind, of, source, site_name(supply)));
    };
    add(voltage_.is_open(), "voltage", "V", folder + "voltage_now " + (volt_scale_ == 1e-6 ? "uV" : "mV"));
    add(current_.is_open(), "current", "A", current);
    add(has_power_, "power", "W",
        current_.is_open() && voltage_.is_open() ? "derived: current x voltage"
                                                 : folder + "power_now uW, sign by status");
    add(charge_.is_open(), "charge", "Ah", charge_.path() + ", as the gauge has it");
    add(capacity_.is_open(), "charge_share", "ratio", folder + "capacity %");
    add(temperature_.is_open(), "temperature", "degC", folder + "temp");
    add(has_flag_, "charging", "flag", "1: a charger is connected (status, online)");
  }

  static double scaled(SysfsFile& file, double scale, Range range) noexcept {
    const double raw = file.is_open() ? file.read_number() : fault_value(ReadingFault::kVanished);
    return std::isnan(raw) ? raw : checked(raw * scale, range.low, range.high);
  }

  Status read_status() noexcept {
    char text[32];
    if (!status_.is_open() || status_.read(text, sizeof text) != ReadingFault::kOk)
      return Status::kUnknown;
    return status_of(text);
  }

  double read_current(Status status) noexcept {
    const double raw = current_.read_number();
    if (std::isnan(raw))
      return raw;
    sign_ = learned(sign_, positive_was_, raw, status);
    if (sign_ == Sign::kByStatus && raw > 0)
      positive_was_ = status == Status::kCharging ? Sign::kKernel : Sign::kReverse;
    const double amperes = checked(raw * current_scale_, -kMaxBatteryA, kMaxBatteryA);
    if (std::isnan(amperes))
      return amperes;
    if (sign_ == Sign::kReverse)
      return amperes;
    if (sign_ == Sign::kByStatus)
      return status == Status::kDischarging ? amperes : -amperes;
    return -amperes;
  }

  double read_power(Status status, double volts, double amperes) noexcept {
    if (current_.is_open() && voltage_.is_open()) {
      if (std::isnan(volts) || std::isnan(amperes))
        return std::isnan(amperes) ? amperes : volts;
      return volts * amperes;
    }
    const double watts = scaled(power_, 1e-6, {-kPowerRangeW.high, kPowerRangeW.high});
    if (std::isnan(watts))
      return watts;
    return status == Status::kDischarging ? std::abs(watts) : -std::abs(watts);
  }

  double charging(Status status) noexcept {
    bool online = false;
    for (SysfsFile& charger : chargers_)
      online |= charger.read_number() >= 1;
    if (status == Status::kUnknown && chargers_.empty())
      return fault_value(ReadingFault::kFailed);
    return online || (status != Status::kDischarging && status != Status::kUnknown) ? 1.0 : 0.0;
  }

  std::string folder_;
  std::vector<SysfsFile> chargers_;
  SysfsFile voltage_, current_, power_, status_, charge_, capacity_, temperature_;
  std::vector<Channel> channels_;
  double volt_scale_ = 1e-6, current_scale_ = 1e-6, charge_scale_ = 1e-6, temperature_scale_ = 0.1;
  bool has_power_ = false, has_flag_ = false;
  Sign sign_ = Sign::kUnknown;
  Sign positive_was_ = Sign::kReverse;  // what a driver's sign is, should it turn out to have one
};

}  // namespace

void find_power_supply(SensorCatalog& catalog) {
  const std::vector<std::string> supplies = sysfs_entries(kFolder);
  bool any = false;
  for (const std::string& supply : supplies) {
    const std::string folder = std::string(kFolder) + "/" + supply;
    if (sysfs_text(folder + "/type") != "Battery" || sysfs_text(folder + "/scope") == "Device" ||
        sysfs_text(folder + "/present") == "0")  // scope Device: of a mouse
      continue;
    std::vector<SysfsFile> chargers;
    for (const std::string& other : supplies) {
      SysfsFile online(std::string(kFolder) + "/" + other + "/online");
      if (other != supply && online.reason().empty() &&
          sysfs_text(std::string(kFolder) + "/" + other + "/type") != "Battery")
        chargers.push_back(std::move(online));
    }
    any = true;
    auto source = std::make_unique<Battery>(supply, std::move(chargers), catalog);
    if (source->channels().empty())
      catalog.absent("power_supply", folder + " shows nothing that can be read");
    catalog.add(std::move(source));
  }
  if (!any)
    catalog.absent("power_supply", sysfs_absence(kFolder, "battery"));
}

}  // namespace melt
