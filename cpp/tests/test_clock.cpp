// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>

#include "melt/clock.h"

namespace melt {
namespace {

TEST_CASE("a simulated clock converts one tick to one nanosecond, from its epoch on") {
  SimulatedClock clock;
  clock.advance_ns(500);
  ClockCalibration calibration(clock);
  calibration.set_epoch(clock.ticks());
  clock.advance_ns(1'000'000'007);
  calibration.refine();
  CHECK(calibration.to_ns(clock.ticks()) == 1'000'000'007);
  CHECK(calibration.span_ns(600, 850) == 250);
  CHECK(calibration.counter_hz() == doctest::Approx(1e9));
}

/// A counter that runs at 2.5 GHz, beside a steady clock in ns.
class FastCounter final : public Clock {
 public:
  ClockId id() const noexcept override { return ClockId::kSimulated; }
  std::uint64_t ticks() const noexcept override { return static_cast<std::uint64_t>(now_ns) * 5 / 2; }
  std::int64_t steady_ns() const noexcept override { return now_ns; }
  std::int64_t now_ns = 1'000'000;
};

TEST_CASE("the frequency is that of the line between the first anchor and the last") {
  FastCounter clock;
  ClockCalibration calibration(clock);
  clock.now_ns += 50'000'000;
  calibration.refine();
  CHECK(calibration.counter_hz() == doctest::Approx(2.5e9));
  CHECK(calibration.span_ns(0, 2'500'000'000) == 1'000'000'000);
  clock.now_ns += 50'000'000;
  calibration.refine();
  CHECK(std::abs(calibration.drift_ppm()) < 0.001);
}

TEST_CASE("the host's counter moves forward and agrees with the steady clock") {
  const auto clock = make_host_clock();
  ClockCalibration calibration(*clock);
  const std::int64_t steady_begin = clock->steady_ns();
  const std::uint64_t begin = clock->ticks();
  while (clock->steady_ns() - steady_begin < 5'000'000) {
  }
  const std::uint64_t end = clock->ticks();
  const std::int64_t steady_ns = clock->steady_ns() - steady_begin;
  CHECK(end > begin);
  // A thread that loses its CPU between two readings makes them differ: this bounds the unit, not the accuracy.
  CHECK(static_cast<double>(calibration.span_ns(begin, end)) ==
        doctest::Approx(static_cast<double>(steady_ns)).epsilon(0.2));
}

}  // namespace
}  // namespace melt
