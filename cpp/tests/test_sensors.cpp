// SPDX-License-Identifier: Apache-2.0
// Sensors of power on a tree laid out as the kernel's documents say, what breaks them, and what is found by name.
#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "counting_allocator.h"
#include "fake_root.h"
#include "melt/error.h"
#include "melt/sensor.h"
#include "sensor_readings.h"
#include "sensors/catalog.h"
#include "sensors/fault.h"
#include "sensors/sysfs_file.h"

namespace melt {
namespace {

void write_rapl(const FakeRoot& root, const std::string& zone, const std::string& name, const std::string& energy) {
  root.write("class/powercap/" + zone + "/name", name + "\n");
  root.write("class/powercap/" + zone + "/energy_uj", energy + "\n");
  root.write("class/powercap/" + zone + "/max_energy_range_uj", "262143328850\n");
}

TEST_CASE("numbers as drivers write them") {
  CHECK(parse_number("1234\n") == 1234);
  CHECK(parse_number("  -40000  \n") == -40000);
  CHECK(parse_number("25.6\n") == doctest::Approx(25.6));
  CHECK(parse_number("12%\n", '%') == 12);
  for (const char* text :
       {"", "\n", "-", ".", "12 34\n", "12%\n", "0x12", "<error>", "1e5", "nan", "inf", "123456789012345678901"}) {
    CAPTURE(text);
    CHECK(fault_of(parse_number(text)) == ReadingFault::kGarbage);
  }
}

TEST_CASE("RAPL: packages and their parts, the counter across its wrap, a reset, and a range that is not there") {
  const FakeRoot root;
  write_rapl(root, "intel-rapl:0", "package-0", "262143000000");
  write_rapl(root, "intel-rapl:0:0", "dram", "5000000");
  write_rapl(root, "intel-rapl-mmio:0", "package-0", "1");
  root.write("class/powercap/intel-rapl:1/name", "package-1\n");
  root.write("class/powercap/intel-rapl:1/energy_uj", "5\n");
  auto catalog = found_by(find_rapl);
  CHECK(catalog.sources().size() == 2);
  CHECK(catalog.absent().count("rapl/package-1") == 1);
  auto values = read_all(catalog);
  const double first = values.at("package-0/energy");
  CHECK(first == doctest::Approx(262143.0));
  CHECK(values.at("package-0-dram/energy") == doctest::Approx(5.0));
  root.write("class/powercap/intel-rapl:0/energy_uj", "100000\n");  // wrapped: 0.328850 + 0.1 J later
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  CHECK(read_all(catalog).at("package-0/energy") - first == doctest::Approx(0.42885));
  root.write("class/powercap/intel-rapl:0/energy_uj", "50000\n");  // fell by 50 mJ: a wrap would be 262 kJ
  CHECK(fault_of(read_all(catalog).at("package-0/energy")) == ReadingFault::kReset);
  root.write("class/powercap/intel-rapl:0/energy_uj", "150000\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  CHECK(read_all(catalog).at("package-0/energy") == doctest::Approx(0.1));  // anew, so that readers see the loss
  root.write("class/powercap/intel-rapl:0/energy_uj", "90000000000\n");     // 90 kJ within milliseconds
  CHECK(fault_of(read_all(catalog).at("package-0/energy")) == ReadingFault::kImpossible);
  root.write("class/powercap/intel-rapl:0/energy_uj", "junk\n");
  CHECK(fault_of(read_all(catalog).at("package-0/energy")) == ReadingFault::kGarbage);
  root.write("class/powercap/intel-rapl:0/energy_uj", "999143328850\n");  // beyond its own range
  CHECK(fault_of(read_all(catalog).at("package-0/energy")) == ReadingFault::kImpossible);
}

TEST_CASE("a counter that was not read for so long that it may have begun again twice") {
  const FakeRoot root;
  write_rapl(root, "intel-rapl:0", "package-0", "5000000");
  root.write("class/powercap/intel-rapl:0/max_energy_range_uj", "20000000\n");  // 20 J: 20 ms of 1 kW
  auto catalog = found_by(find_rapl);
  CHECK(read_all(catalog).at("package-0/energy") == doctest::Approx(5.0));
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  root.write("class/powercap/intel-rapl:0/energy_uj", "6000000\n");  // 1 J more, or 21
  CHECK(fault_of(read_all(catalog).at("package-0/energy")) == ReadingFault::kReset);
}

TEST_CASE("a sensor that vanishes is noticed, and read again when it comes back") {
  const FakeRoot root;
  root.write("class/hwmon/hwmon0/name", "ina238\n");
  root.write("class/hwmon/hwmon0/power1_input", "7500000\n");
  auto catalog = found_by(find_hwmon);
  CHECK(read_all(catalog).at("ina238/power") == doctest::Approx(7.5));
  root.remove("class/hwmon/hwmon0/power1_input");
  const auto faults_until = [&](ReadingFault wanted) {
    for (int i = 0; i < 40; ++i) {
      if (fault_of(read_all(catalog).at("ina238/power")) == wanted)
        return true;
    }
    return false;
  };
  CHECK(faults_until(ReadingFault::kVanished));
  CHECK(fault_of(read_all(catalog).at("ina238/power")) == ReadingFault::kVanished);
  root.write("class/hwmon/hwmon0/power1_input", "8500000\n");
  CHECK(faults_until(ReadingFault::kOk));
  CHECK(read_all(catalog).at("ina238/power") == doctest::Approx(8.5));
}

TEST_CASE("a permission that is taken away while a file is open") {
  if (geteuid() != 0)
    return;  // the file below belongs to root
  const FakeRoot root;
  // A number, and the kernel checks at each read whether the reader may see it.
  root.link("class/hwmon/hwmon0/power1_input", "/proc/1/timerslack_ns");
  SysfsFile file("class/hwmon/hwmon0/power1_input");
  if (!file.reason().empty())
    return;  // a kernel without it
  CHECK(file.read_number() > 0);
  REQUIRE(seteuid(65534) == 0);
  const double denied = file.read_number();
  REQUIRE(seteuid(0) == 0);
  CHECK(fault_of(denied) == ReadingFault::kDenied);
  CHECK(file.read_number() > 0);  // and back again
}

TEST_CASE("a driver that answers with an error, and files that may not be opened") {
  const FakeRoot root;
  root.link("class/hwmon/hwmon0/power1_input", "/proc/self/mem");  // EIO at offset 0
  root.write("class/hwmon/hwmon0/name", "ina238\n");
  auto catalog = found_by(find_hwmon);
  CHECK(catalog.sources().empty());
  CHECK(catalog.absent().at("hwmon/ina238/power1").find("Input/output error") != std::string::npos);

  write_rapl(root, "intel-rapl:0", "package-0", "1");
  chmod((root.path() / "class/powercap/intel-rapl:0/energy_uj").c_str(), 0);
  const bool is_root = geteuid() == 0;
  if (is_root)
    REQUIRE(seteuid(65534) == 0);
  auto rapl = found_by(find_rapl);
  if (is_root)
    REQUIRE(seteuid(0) == 0);
  CHECK(rapl.sources().empty());
  CHECK(rapl.absent().at("rapl/package-0").find("Permission denied: for root only") != std::string::npos);
}

TEST_CASE("INA3221: rails by label, the board's input or their sum, rails that are not connected") {
  const FakeRoot root;
  const auto rail = [&](const std::string& n, const char* label, const char* millivolts, const char* milliamperes) {
    root.write("class/hwmon/hwmon1/in" + n + "_label", label);
    root.write("class/hwmon/hwmon1/in" + n + "_input", millivolts);
    root.write("class/hwmon/hwmon1/curr" + n + "_input", milliamperes);
  };
  root.write("class/hwmon/hwmon1/name", "ina3221\n");
  rail("1", "VDD_GPU_SOC\n", "843\n", "6170\n");
  rail("2", "VDD_CPU_CV\n", "780\n", "3437\n");
  rail("3", "NC\n", "0\n", "0\n");
  root.write("class/hwmon/hwmon1/in7_label", "sum of shunt voltages\n");
  auto catalog = found_by(find_ina3221);
  auto values = read_all(catalog);
  CHECK(values.size() == 3);
  CHECK(values.at("vdd-gpu-soc/power") == doctest::Approx(5.20131));
  CHECK(values.at("board/power") == doctest::Approx(5.20131 + 2.68086));
  root.write("class/hwmon/hwmon1/curr2_input", "garbage\n");
  values = read_all(catalog);
  CHECK(fault_of(values.at("board/power")) == ReadingFault::kGarbage);  // a sum of what is left would be a lie
  CHECK(values.at("vdd-gpu-soc/power") == doctest::Approx(5.20131));

  rail("1", "VDD_IN\n", "5000\n", "1000\n");
  rail("2", "VDD_CPU_GPU_CV\n", "5000\n", "400\n");
  auto orin_nano = found_by(find_ina3221);
  values = read_all(orin_nano);
  CHECK(values.at("board/power") == doctest::Approx(5.0));
  CHECK(values.at("vdd-cpu-gpu-cv/power") == doctest::Approx(2.0));
  CHECK(values.size() == 2);

  root.remove("class/hwmon");
  root.write("bus/iio/devices/iio:device0/rail_name_0", "POM_5V_IN\n");  // JetPack 4
  root.write("bus/iio/devices/iio:device0/in_voltage0_input", "5000\n");
  root.write("bus/iio/devices/iio:device0/in_current0_input", "600\n");
  auto nano = found_by(find_ina3221);
  CHECK(read_all(nano).at("board/power") == doctest::Approx(3.0));
}

TEST_CASE("hwmon: power in uW, averages, labels, energy counters; a battery's own chip is left out") {
  const FakeRoot root;
  root.write("class/power_supply/BAT0/type", "Battery\n");
  root.write("class/hwmon/hwmon0/name", "BAT0\n");
  root.write("class/hwmon/hwmon0/power1_input", "1000000\n");
  root.write("class/hwmon/hwmon1/name", "pmbus\n");
  root.write("class/hwmon/hwmon1/power1_input", "123000000\n");
  root.write("class/hwmon/hwmon1/power1_label", "pin\n");
  root.write("class/hwmon/hwmon1/power2_average", "99000000\n");
  root.write("class/hwmon/hwmon1/power2_cap", "200000000\n");
  root.write("class/hwmon/hwmon2/name", "amd_energy\n");
  root.write("class/hwmon/hwmon2/energy1_input", "7000000\n");
  root.write("class/hwmon/hwmon3/name", "broken\n");
  root.write("class/hwmon/hwmon3/power1_input", "99999999999999\n");
  auto catalog = found_by(find_hwmon);
  auto values = read_all(catalog);
  CHECK(values.size() == 4);
  CHECK(values.at("pmbus-pin/power") == doctest::Approx(123));
  CHECK(values.at("pmbus/power") == doctest::Approx(99));
  CHECK(values.at("amd-energy/energy") == doctest::Approx(7));
  CHECK(fault_of(values.at("broken/power")) == ReadingFault::kImpossible);
}

TEST_CASE("NVML is looked for at run time; where it is not, the reason is the loader's") {
  setenv("MELT_NVML_LIBRARY", "/no/such/libnvidia-ml.so.1", 1);
  CHECK(found_by(find_nvml).absent().at("nvml").find("/no/such/libnvidia-ml.so.1") != std::string::npos);
  setenv("MELT_NVML_LIBRARY", "libc.so.6", 1);
  CHECK(found_by(find_nvml).absent().at("nvml").find("a function is missing") != std::string::npos);
  unsetenv("MELT_NVML_LIBRARY");
}

TEST_CASE("an empty machine: every kind is absent with a reason, and auto takes nothing") {
  const FakeRoot root;
  setenv("MELT_NVML_LIBRARY", "/no/such/library", 1);
  const std::vector<SensorStatus> sensors = list_sensors();
  CHECK(sensors.size() == sensor_names().size());
  for (const SensorStatus& sensor : sensors) {
    CAPTURE(sensor.name);
    CHECK(sensor.channels.empty());
    REQUIRE(sensor.absent.count(sensor.name) == 1);
    CHECK(!sensor.absent.at(sensor.name).empty());
  }
  CHECK(find_sensors({{"auto"}, 100.0}).sources().empty());
  CHECK(sensors_json().find("\"present\": false") != std::string::npos);
  unsetenv("MELT_NVML_LIBRARY");
}

TEST_CASE("what is asked for by name has to be there") {
  const FakeRoot root;
  CHECK_THROWS_AS(find_sensors({{"rapl"}, 100.0}), Error);
  CHECK_THROWS_AS(find_sensors({{"wattmeter"}, 100.0}), Error);
  CHECK_THROWS_AS(find_sensors({{"auto"}, 0.0}), Error);
  CHECK_THROWS_AS(find_sensors({{"auto"}, std::nan("")}), Error);
  CHECK_THROWS_AS(find_sensors({{"auto"}, 1e6}), Error);
  write_rapl(root, "intel-rapl:0", "package-0", "1");
  CHECK(find_sensors({{"rapl"}, 100.0}).sources().size() == 1);
}

TEST_CASE("reading allocates nothing, whatever is wrong with the files") {
  const FakeRoot root;
  write_rapl(root, "intel-rapl:0", "package-0", "1000");
  root.write("class/hwmon/hwmon1/name", "ina3221\n");
  root.write("class/hwmon/hwmon1/in1_label", "VDD_IN\n");
  root.write("class/hwmon/hwmon1/in1_input", "5000\n");
  root.write("class/hwmon/hwmon1/curr1_input", "1000\n");
  root.write("class/power_supply/battery/type", "Battery\n");
  root.write("class/power_supply/battery/current_now", "-850000\n");
  root.write("class/power_supply/battery/voltage_now", "3900000\n");
  root.write("class/power_supply/battery/status", "Discharging\n");
  root.write("class/thermal/thermal_zone0/type", "cpu\n");
  root.write("class/thermal/thermal_zone0/temp", "41500\n");
  SensorCatalog catalog = find_sensors({{"auto"}, 100.0});
  CHECK(catalog.sources().size() >= 4);
  std::vector<double> values(64);
  root.remove("class/hwmon/hwmon1/curr1_input");
  root.write("class/thermal/thermal_zone0/temp", "hot\n");
  const std::size_t n_before = allocated().count;
  for (int i = 0; i < 100; ++i) {
    for (const auto& source : catalog.sources())
      source->read(values.data());
  }
  CHECK(allocated().count == n_before);
}

}  // namespace
}  // namespace melt
