// SPDX-License-Identifier: Apache-2.0
#include "sensors/file_source.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace melt {
namespace {

constexpr double kMaxPowerW = 5'000;   // of one counter: no package or rail draws more
constexpr double kMaxSteadyW = 1'000;  // nor so much for as long as a counter takes to begin again, minutes
constexpr double kMinElapsedS = 1e-3;  // counters are updated in steps of about this

class NumberReader final : public ValueReader {
 public:
  NumberReader(SysfsFile file, double scale, Range range) : file_(std::move(file)), scale_(scale), range_(range) {}
  double read() noexcept override {
    const double value = file_.read_number();
    return std::isnan(value) ? value : checked(value * scale_, range_.low, range_.high);
  }

 private:
  SysfsFile file_;
  double scale_;
  Range range_;
};

class ProductReader final : public ValueReader {
 public:
  ProductReader(SysfsFile a, SysfsFile b, double scale, Range range)
      : a_(std::move(a)), b_(std::move(b)), scale_(scale), range_(range) {}
  double read() noexcept override {
    const double a = a_.read_number(), b = b_.read_number();
    if (std::isnan(a) || std::isnan(b))
      return std::isnan(a) ? a : b;
    return checked(a * b * scale_, range_.low, range_.high);
  }

 private:
  SysfsFile a_, b_;
  double scale_;
  Range range_;
};

class CounterReader final : public ValueReader {
 public:
  CounterReader(SysfsFile file, double scale, double range)
      : file_(std::move(file)), scale_(scale), range_j_(range * scale) {}

  double read() noexcept override {
    const double raw = file_.read_number();
    if (std::isnan(raw))
      return raw;
    if (raw < 0 || (range_j_ > 0 && raw * scale_ > range_j_))
      return fault_value(ReadingFault::kImpossible);
    const double now_j = raw * scale_;
    const auto now = std::chrono::steady_clock::now();
    const double elapsed_s = std::max(std::chrono::duration<double>(now - last_time_).count(), kMinElapsedS);
    double step_j = known_ ? now_j - last_j_ : 0.0;
    const bool fell = step_j < 0;
    if (fell && range_j_ > 0)
      step_j += range_j_;
    last_time_ = now;
    last_j_ = now_j;
    if (!known_) {
      known_ = true;
      total_j_ = now_j;
      return total_j_;
    }
    if (range_j_ > 0 && elapsed_s * kMaxSteadyW > range_j_)  // it may have begun again once more, unseen
      return lost(ReadingFault::kReset);
    if (step_j < 0 || step_j / elapsed_s > kMaxPowerW)
      return lost(fell ? ReadingFault::kReset : ReadingFault::kImpossible);
    total_j_ += step_j;
    return total_j_;
  }

  /// What was used since the last reading is not known. The total begins anew: that it falls tells those who work with
  /// it that something is not in it, also where the list of faults is full.
  double lost(ReadingFault why) noexcept {
    total_j_ = 0;
    return fault_value(why);
  }

 private:
  SysfsFile file_;
  double scale_;
  double range_j_;
  double last_j_ = 0, total_j_ = 0;
  std::chrono::steady_clock::time_point last_time_;
  bool known_ = false;
};

}  // namespace

std::unique_ptr<ValueReader> make_number_reader(SysfsFile file, double scale, Range range) {
  return std::make_unique<NumberReader>(std::move(file), scale, range);
}

std::unique_ptr<ValueReader> make_product_reader(SysfsFile a, SysfsFile b, double scale, Range range) {
  return std::make_unique<ProductReader>(std::move(a), std::move(b), scale, range);
}

std::unique_ptr<ValueReader> make_counter_reader(SysfsFile file, double scale, double range) {
  return std::make_unique<CounterReader>(std::move(file), scale, range);
}

}  // namespace melt
