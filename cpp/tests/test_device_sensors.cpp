// SPDX-License-Identifier: Apache-2.0
// What phones, boards and laptops have beside sensors of power: batteries, ODPM, heat, clocks and loads, with the
// variants that drivers are known for.
#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "fake_root.h"
#include "melt/melt.h"
#include "sensor_readings.h"
#include "sensors/catalog.h"
#include "sensors/fault.h"

namespace melt {
namespace {

struct BatteryCase {
  const char* what;
  const char* current;
  const char* status;
  const char* voltage;
  double amperes;
};

TEST_CASE("batteries: unit and sign are probed, discharging is positive") {
  const BatteryCase cases[] = {
      {"kernel's rule", "-850000", "Discharging", "3900000", 0.85},
      {"kernel's rule, charging", "1200000", "Charging", "3900000", -1.2},
      {"positive while discharging", "850000", "Discharging", "3900000", 0.85},
      {"negative while charging", "-1200000", "Charging", "3900000", -1.2},
      {"mA", "-850", "Discharging", "3900000", 0.85},
      {"mA and mV, no sign", "850", "Discharging", "3900", 0.85},
      {"full, a trickle in uA", "-15000", "Full", "4400000", 0.015},
      {"full, nothing at all", "0", "Full", "4400000", 0},
  };
  for (const BatteryCase& one : cases) {
    CAPTURE(one.what);
    const FakeRoot root;
    const std::string folder = "class/power_supply/battery/";
    root.write(folder + "type", "Battery\n");
    root.write(folder + "current_now", std::string(one.current) + "\n");
    root.write(folder + "voltage_now", std::string(one.voltage) + "\n");
    root.write(folder + "status", std::string(one.status) + "\n");
    auto catalog = found_by(find_power_supply);
    auto values = read_all(catalog);
    CHECK(values.at("battery/current") == doctest::Approx(one.amperes));
    CHECK(values.at("battery/power") == doctest::Approx(one.amperes * (one.voltage[0] == '3' ? 3.9 : 4.4)));
    CHECK(values.at("battery/charging") == (std::string(one.status) == "Discharging" ? 0.0 : 1.0));
  }
}

TEST_CASE("a battery whose driver shows its sign later, and a charger that is plugged in meanwhile") {
  const FakeRoot root;
  const std::string folder = "class/power_supply/battery/";
  root.write(folder + "type", "Battery\n");
  root.write(folder + "current_now", "900000\n");
  root.write(folder + "voltage_now", "4000000\n");
  root.write(folder + "status", "Discharging\n");
  root.write("class/power_supply/usb/type", "USB\n");
  root.write("class/power_supply/usb/online", "0\n");
  root.write(folder + "capacity", "81\n");
  root.write(folder + "charge_counter", "3021000\n");
  root.write(folder + "temp", "291\n");
  auto catalog = found_by(find_power_supply);
  auto values = read_all(catalog);
  CHECK(values.at("battery/current") == doctest::Approx(0.9));
  CHECK(values.at("battery/charging") == 0);
  CHECK(values.at("battery/charge") == doctest::Approx(3.021));
  CHECK(values.at("battery/charge_share") == doctest::Approx(0.81));
  CHECK(values.at("battery/temperature") == doctest::Approx(29.1));
  root.write(folder + "current_now", "-1500000\n");  // the status lags behind
  root.write("class/power_supply/usb/online", "1\n");
  values = read_all(catalog);
  CHECK(values.at("battery/current") == doctest::Approx(-1.5));
  CHECK(values.at("battery/charging") == 1);
  root.write(folder + "current_now", "90000000\n");  // 90 A
  values = read_all(catalog);
  CHECK(fault_of(values.at("battery/current")) == ReadingFault::kImpossible);
  CHECK(fault_of(values.at("battery/power")) == ReadingFault::kImpossible);
}

TEST_CASE("a laptop's battery with power only; a mouse's battery is none; a slot without one") {
  const FakeRoot root;
  root.write("class/power_supply/BAT0/type", "Battery\n");
  root.write("class/power_supply/BAT0/power_now", "12500000\n");
  root.write("class/power_supply/BAT0/status", "Discharging\n");
  root.write("class/power_supply/BAT1/type", "Battery\n");
  root.write("class/power_supply/BAT1/present", "0\n");
  root.write("class/power_supply/hidpp/type", "Battery\n");
  root.write("class/power_supply/hidpp/scope", "Device\n");
  auto catalog = found_by(find_power_supply);
  auto values = read_all(catalog);
  CHECK(values.size() == 2);
  CHECK(values.at("battery/power") == doctest::Approx(12.5));
  root.write("class/power_supply/BAT0/status", "Charging\n");
  CHECK(read_all(catalog).at("battery/power") == doctest::Approx(-12.5));
}

TEST_CASE("ODPM: totals of each rail, a set that is not new, lines that are none") {
  const FakeRoot root;
  const std::string folder = "bus/iio/devices/iio:device0/";
  root.write(folder + "name", "s2mpg10-odpm\n");
  root.write(folder + "sampling_rate", "125.000000\n");
  root.write(folder + "energy_value",
             "t=358356\nCH0(T=358356)[S10M_VDD_TPU], 2500000\nCH1(T=358356)[S2M_VDD_CPUCL2], 86465323\n");
  auto catalog = found_by(find_odpm);
  auto values = read_all(catalog);
  CHECK(values.at("s10m-vdd-tpu/energy") == doctest::Approx(2.5));
  CHECK(values.at("s2m-vdd-cpucl2/energy") == doctest::Approx(86.465323));
  CHECK(fault_of(read_all(catalog).at("s10m-vdd-tpu/energy")) == ReadingFault::kNotNew);
  root.write(folder + "energy_value", "t=358400\nCH0(T=358400)[S10M_VDD_TPU], oops\nCH1(T=3\n");
  values = read_all(catalog);
  CHECK(fault_of(values.at("s10m-vdd-tpu/energy")) == ReadingFault::kGarbage);
  CHECK(fault_of(values.at("s2m-vdd-cpucl2/energy")) == ReadingFault::kGarbage);
  root.write(folder + "energy_value", "\n");
  CHECK(fault_of(read_all(catalog).at("s10m-vdd-tpu/energy")) == ReadingFault::kGarbage);
}

TEST_CASE("what an app tells: absent where it does not, then Apple's values as they are, and what is not known") {
  const FakeRoot root;
  CHECK(found_by(find_app).absent().at("app").find("melt_set_thermal_state") != std::string::npos);
  melt_set_thermal_state(0);
  auto heat = found_by(find_app);
  REQUIRE(heat.sources().size() == 1);
  REQUIRE(heat.sources()[0]->channels().size() == 1);
  CHECK(read_all(heat).at("soc/throttle") == 0);
  for (const int state : {1, 2, 3}) {
    melt_set_thermal_state(state);
    CHECK(read_all(heat).at("soc/throttle") == state);
  }
  for (const int none : {-1, 4, 1000, -1000}) {
    melt_set_thermal_state(none);
    CHECK(fault_of(read_all(heat).at("soc/throttle")) == ReadingFault::kImpossible);
  }
  melt_set_battery(0.85, 1);
  auto both = found_by(find_app);
  const auto told = read_all(both);
  CHECK(told.at("battery/charge_share") == 0.85);
  CHECK(told.at("battery/charging") == 0);
  for (const int plugged : {2, 3}) {
    melt_set_battery(1.0, plugged);
    CHECK(read_all(both).at("battery/charging") == 1);
  }
  melt_set_battery(-1.0, 0);
  CHECK(std::isnan(read_all(both).at("battery/charge_share")));
  CHECK(std::isnan(read_all(both).at("battery/charging")));
  CHECK(found_by(find_app).sources().empty());
}

TEST_CASE("thermal zones: thousandths, plain degrees, and what broken ones read") {
  const FakeRoot root;
  const char* temps[] = {"41500", "38", "-40000", "0", "150000", "-274000", "hot"};
  for (int i = 0; i < 7; ++i) {
    const std::string folder = "class/thermal/thermal_zone" + std::to_string(i);
    root.write(folder + "/type", "zone-" + std::to_string(i) + "\n");
    root.write(folder + "/temp", std::string(temps[i]) + "\n");
  }
  root.write("class/thermal/thermal_zone7/type", "zone-0\n");  // drivers repeat themselves
  root.write("class/thermal/thermal_zone7/temp", "52000\n");
  root.write("class/thermal/cooling_device0/type", "cpufreq-cpu0\n");
  root.write("class/thermal/cooling_device0/cur_state", "3\n");
  root.write("class/thermal/cooling_device0/max_state", "10\n");
  auto catalog = found_by(find_thermal);
  auto values = read_all(catalog);
  CHECK(values.size() == 3);
  CHECK(values.at("zone-0/temperature") == doctest::Approx(41.5));
  CHECK(values.at("zone-1/temperature") == doctest::Approx(38));
  CHECK(values.at("zone-0-thermal_zone7/temperature") == doctest::Approx(52));
  CHECK(catalog.absent().size() == 5);
  CHECK(catalog.absent().at("thermal/zone-2").find("\"-40000\"") != std::string::npos);
  root.write("class/thermal/thermal_zone0/temp", "-40000\n");
  CHECK(fault_of(read_all(catalog).at("zone-0/temperature")) == ReadingFault::kImpossible);
  auto cooling = found_by(find_cooling);
  CHECK(read_all(cooling).at("cpufreq-cpu0/throttle") == 3);
}

TEST_CASE("clocks and loads: cpufreq, Adreno, Mali, Tegra") {
  const FakeRoot root;
  root.write("devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1800000\n");
  root.write("devices/system/cpu/cpufreq/policy0/related_cpus", "0 1 2 3\n");
  root.write("devices/system/cpu/cpufreq/policy10/scaling_cur_freq", "0\n");
  auto cpu = found_by(find_cpufreq);
  CHECK(read_all(cpu).at("cpu-policy0/frequency") == doctest::Approx(1.8e9));
  CHECK(fault_of(read_all(cpu).at("cpu-policy10/frequency")) == ReadingFault::kImpossible);

  root.write("class/kgsl/kgsl-3d0/gpubusy", "  250000 1000000\n");
  root.write("class/kgsl/kgsl-3d0/gpuclk", "587000000\n");
  auto adreno = found_by(find_adreno);
  CHECK(read_all(adreno).at("gpu/load") == doctest::Approx(0.25));
  CHECK(read_all(adreno).at("gpu/frequency") == doctest::Approx(587e6));
  root.write("class/kgsl/kgsl-3d0/gpubusy", "      0       0\n");
  CHECK(read_all(adreno).at("gpu/load") == 0);
  root.write("class/kgsl/kgsl-3d0/gpubusy", "20 10\n");
  CHECK(fault_of(read_all(adreno).at("gpu/load")) == ReadingFault::kImpossible);
  root.write("class/kgsl/kgsl-3d0/gpubusy", "20\n");
  CHECK(fault_of(read_all(adreno).at("gpu/load")) == ReadingFault::kGarbage);

  root.write("kernel/gpu/gpu_busy", "12%\n");
  root.write("class/devfreq/1c500000.mali/cur_freq", "848000000\n");
  auto mali = found_by(find_mali);
  CHECK(read_all(mali).at("gpu/load") == doctest::Approx(0.12));
  CHECK(read_all(mali).at("gpu/frequency") == doctest::Approx(848e6));

  root.write("devices/platform/bus@0/17000000.gpu/load", "512\n");
  auto tegra = found_by(find_tegra_gpu);
  CHECK(read_all(tegra).at("gpu/load") == doctest::Approx(0.512));
}

}  // namespace
}  // namespace melt
