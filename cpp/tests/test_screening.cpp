// SPDX-License-Identifier: Apache-2.0
// Faults of sensors: carried in the reading, found in a series, and never raised for a sound one.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "sensors/fault.h"
#include "sensors/screening.h"

namespace melt {
namespace {

constexpr std::int64_t kTickNs = 10'000'000;  // 100 Hz

std::vector<Reading> series(std::size_t n, double (*value)(std::size_t)) {
  std::vector<Reading> readings;
  for (std::size_t i = 0; i < n; ++i)
    readings.push_back({static_cast<std::int64_t>(i) * kTickNs, value(i)});
  return readings;
}

Channel channel(const char* kind) {
  return {"test", kind, "?", "test"};
}

double noisy(std::size_t i) {
  return 5.0 + 0.01 * static_cast<double>(i % 7);
}

TEST_CASE("a reading carries its fault, and only ours is taken for one") {
  for (int i = 1; i <= static_cast<int>(ReadingFault::kJump); ++i) {
    const auto fault = static_cast<ReadingFault>(i);
    const double value = fault_value(fault);
    CHECK(std::isnan(value));
    CHECK(fault_of(value) == fault);
    volatile double copy = value;
    CHECK(fault_of(copy) == fault);
    CHECK(std::string(fault_name(fault)) != "none");
  }
  CHECK(fault_of(std::nan("")) == ReadingFault::kUnknown);
  CHECK(fault_of(std::nan("7")) == ReadingFault::kUnknown);
  CHECK(fault_of(0.0) == ReadingFault::kOk);
  CHECK(fault_of(std::numeric_limits<double>::infinity()) == ReadingFault::kImpossible);
  CHECK(fault_of(checked(2.0, 0.0, 1.0)) == ReadingFault::kImpossible);
  CHECK(fault_of(checked(fault_value(ReadingFault::kDenied), 0.0, 1.0)) == ReadingFault::kDenied);
  CHECK(fault_of_errno(ENODEV) == ReadingFault::kVanished);
  CHECK(fault_of_errno(EACCES) == ReadingFault::kDenied);
  CHECK(fault_of_errno(EPERM) == ReadingFault::kDenied);
  CHECK(fault_of_errno(EIO) == ReadingFault::kFailed);
}

TEST_CASE("failed readings become spans, of which a bounded number is kept") {
  auto readings = series(1000, noisy);
  for (std::size_t i = 0; i < readings.size(); i += 50)
    readings[i].value = readings[i + 1].value = fault_value(ReadingFault::kGarbage);
  readings[10].value = fault_value(ReadingFault::kNotNew);  // no fault
  const auto faults = screen(channel("power"), readings);
  REQUIRE(faults.size() == 1);
  CHECK(faults[0].fault == ReadingFault::kGarbage);
  CHECK(faults[0].n_readings == 40);
  CHECK(faults[0].n_spans == 20);
  CHECK(faults[0].spans_ns.size() == ChannelFault::kMaxSpans);
  CHECK(faults[0].spans_ns[1].first == 50 * kTickNs);
  CHECK(faults[0].spans_ns[1].second == 51 * kTickNs);
  CHECK_FALSE(faults[0].kept());
}

TEST_CASE("a power that stops moving is frozen; one that never moved much is steady") {
  auto readings = series(1000, noisy);
  for (std::size_t i = 400; i < 700; ++i)
    readings[i].value = readings[400].value;
  const auto faults = screen(channel("power"), readings);
  REQUIRE(faults.size() == 1);
  CHECK(faults[0].fault == ReadingFault::kFrozen);
  CHECK(faults[0].kept());
  CHECK(faults[0].spans_ns.front().first == 400 * kTickNs);
  CHECK(faults[0].spans_ns.front().second == 699 * kTickNs);
  CHECK(screen(channel("power"), series(1000, [](std::size_t) { return 5.0; })).empty());
  CHECK(screen(channel("power"), series(1000, [](std::size_t i) { return i < 500 ? 5.0 : 9.0; })).empty());
  // A gauge that takes a value each second is steady between them.
  CHECK(screen(channel("current"), series(3000, [](std::size_t i) { return static_cast<double>(i / 100); })).empty());
}

TEST_CASE("a counter of energy that stands still for a second is frozen at once") {
  const auto faults =
      screen(channel("energy"), series(500, [](std::size_t i) { return i < 300 ? static_cast<double>(i) : 300.0; }));
  REQUIRE(faults.size() == 1);
  CHECK(faults[0].fault == ReadingFault::kFrozen);
  CHECK(screen(channel("energy"), series(500, [](std::size_t i) { return static_cast<double>(i); })).empty());
}

TEST_CASE("jumps: of temperature within two seconds, of power far above all others") {
  auto heat = series(200, [](std::size_t i) { return 40.0 + 0.1 * static_cast<double>(i); });
  heat[100].value = 110.0;
  auto faults = screen(channel("temperature"), heat);
  REQUIRE(faults.size() == 1);
  CHECK(faults[0].fault == ReadingFault::kJump);
  CHECK(faults[0].n_readings == 2);  // there and back

  auto power = series(500, noisy);
  power[123].value = 163.0;
  faults = screen(channel("power"), power);
  REQUIRE(faults.size() == 1);
  CHECK(faults[0].fault == ReadingFault::kJump);
  CHECK(faults[0].spans_ns.front().first == 123 * kTickNs);
  // A load of 5 % of the time is no jump, however high.
  CHECK(screen(channel("power"), series(500, [](std::size_t i) { return i % 100 < 5 ? 90.0 : noisy(i); })).empty());
}

TEST_CASE("no alarm in 200 sound series") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> noise(0.0, 0.05);
    std::vector<Reading> power, energy, heat;
    double joules = 0, degrees = 40;
    for (std::size_t i = 0; i < 1500; ++i) {
      const double watts = (i / 200 % 2 == 0 ? 2.0 : 9.0) + noise(random);
      joules += watts * 0.01;
      degrees += (25 + 4 * watts - degrees) * 0.0005;
      const auto time_ns = static_cast<std::int64_t>(i) * kTickNs;
      power.push_back({time_ns, std::round(watts * 25) / 25});
      energy.push_back({time_ns, joules});
      heat.push_back({time_ns, std::round(degrees * 2) / 2});
    }
    CHECK(screen(channel("power"), power).empty());
    CHECK(screen(channel("energy"), energy).empty());
    CHECK(screen(channel("temperature"), heat).empty());
  }
}

}  // namespace
}  // namespace melt
