// SPDX-License-Identifier: Apache-2.0
#include "melt/clock.h"

#include <cmath>
#include <ctime>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace melt {
namespace {

std::int64_t monotonic_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

/// The counter that melt_ticks() reads in the hot path.
class CounterClock final : public Clock {
 public:
  ClockId id() const noexcept override {
#if defined(__x86_64__)
    return ClockId::kTsc;
#elif defined(__aarch64__)
    return ClockId::kCntvct;
#else
    return ClockId::kSteady;
#endif
  }
  std::uint64_t ticks() const noexcept override { return melt_ticks(); }
  std::int64_t steady_ns() const noexcept override { return monotonic_ns(); }
};

}  // namespace

bool counter_is_invariant() noexcept {
#if defined(__x86_64__)
  // Intel SDM vol. 3B 17.17.1, AMD APM vol. 3 Fn8000_0007: EDX bit 8 is "invariant TSC".
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) != 0 && (edx & (1u << 8)) != 0;
#else
  return true;  // cntvct_el0 and CLOCK_MONOTONIC are by definition
#endif
}

std::unique_ptr<Clock> make_host_clock() {
  return std::make_unique<CounterClock>();
}

ClockAnchor read_anchor(const Clock& clock, int tries) noexcept {
  ClockAnchor best;
  std::int64_t best_width = INT64_MAX;
  for (int i = 0; i < tries; ++i) {
    const std::int64_t before = clock.steady_ns();
    const std::uint64_t ticks = clock.ticks();
    const std::int64_t after = clock.steady_ns();
    if (after - before < best_width) {
      best_width = after - before;
      best = {ticks, before + (after - before) / 2};
    }
  }
  return best;
}

namespace {

/// Nanoseconds of a tick between two anchors.
double slope(const ClockAnchor& from, const ClockAnchor& to) noexcept {
  return static_cast<double>(to.steady_ns - from.steady_ns) / static_cast<double>(to.ticks - from.ticks);
}

}  // namespace

ClockCalibration::ClockCalibration(const Clock& clock, std::int64_t interval_ns)
    : clock_(&clock), first_(read_anchor(clock)), epoch_ticks_(first_.ticks) {
  if (clock.id() == ClockId::kSimulated)
    return;  // 1 tick is 1 ns, and nobody advances it while we wait
  while (clock.steady_ns() - first_.steady_ns < interval_ns) {
  }
  refine();
}

void ClockCalibration::refine() noexcept {
  const ClockAnchor now = read_anchor(*clock_);
  if (now.ticks <= first_.ticks || now.steady_ns <= first_.steady_ns)
    return;
  ns_per_tick_ = slope(first_, now);
  constexpr std::int64_t kSecond = 1'000'000'000;
  if (middle_.steady_ns == 0) {
    if (now.steady_ns - first_.steady_ns >= kSecond)
      middle_ = now;
  } else if (now.steady_ns - middle_.steady_ns >= kSecond) {
    drift_ppm_ = (slope(middle_, now) / slope(first_, middle_) - 1.0) * 1e6;
  }
}

std::int64_t ClockCalibration::to_ns(std::uint64_t ticks) const noexcept {
  return std::llround(static_cast<double>(static_cast<std::int64_t>(ticks - epoch_ticks_)) * ns_per_tick_);
}

std::int64_t ClockCalibration::span_ns(std::uint64_t from, std::uint64_t to) const noexcept {
  return to_ns(to) - to_ns(from);
}

}  // namespace melt
