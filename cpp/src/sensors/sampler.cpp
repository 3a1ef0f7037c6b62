// SPDX-License-Identifier: Apache-2.0
#include <time.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "melt/sensor.h"

namespace melt {
namespace {

std::int64_t cpu_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

/// A source that may be read no more often than this may be a dear one: how long it rests after a reading then follows
/// from what the reading took, so that page tables of gigabytes do not cost more than those of megabytes.
constexpr double kDearBelowHz = 10.0;
constexpr std::int64_t kRestFactor = 4000;  // 0.025 % of one core

/// Lets the calling thread wake with a timer tick that comes anyway, up to 0.4 periods late: less than half as dear for
/// those that compute on all cores as an interrupt of its own (benchmarks/bench_sampler.py, which tries others too).
void wake_with_others(std::int64_t period_ns) noexcept {
#if defined(__linux__)
  prctl(PR_SET_TIMERSLACK, static_cast<unsigned long>(period_ns / 5 * 2), 0, 0, 0);
#else
  (void)period_ns;
#endif
}

#if defined(__linux__)
/// Waits for a time or for its end: what a condition variable does, with one call of the kernel and no more lines of
/// code, each of which has to come from memory.
class Alarm {
 public:
  void reset() noexcept { ended_.store(0); }
  void end() noexcept {
    ended_.store(1);
    syscall(SYS_futex, word(), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, nullptr, nullptr, 0);
  }
  /// Returns true once it has ended; false at `deadline_ns` of the monotonic clock.
  bool wait_until(std::int64_t deadline_ns) noexcept {
    const timespec deadline{static_cast<time_t>(deadline_ns / 1'000'000'000),
                            static_cast<long>(deadline_ns % 1'000'000'000)};
    constexpr int kWait = FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG;
    while (ended_.load() == 0) {
      if (syscall(SYS_futex, word(), kWait, 0, &deadline, nullptr, FUTEX_BITSET_MATCH_ANY) != 0 && errno == ETIMEDOUT)
        return ended_.load() != 0;
    }
    return true;
  }

 private:
  std::uint32_t* word() noexcept { return reinterpret_cast<std::uint32_t*>(&ended_); }
  std::atomic<std::uint32_t> ended_{0};
  static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));
};
#else
class Alarm {
 public:
  void reset() noexcept { ended_ = false; }
  void end() noexcept {
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      ended_ = true;
    }
    wake_.notify_one();
  }
  bool wait_until(std::int64_t deadline_ns) noexcept {
    std::unique_lock<std::mutex> lock(mutex_);
    const std::chrono::time_point<std::chrono::steady_clock> deadline{std::chrono::nanoseconds(deadline_ns)};
    return wake_.wait_until(lock, deadline, [this] { return ended_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ended_ = false;
};
#endif

std::int64_t steady_ns() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Row {
  std::uint64_t ticks;
  std::uint32_t source;
  std::size_t offset;  // of its values
};

}  // namespace

class Sampler::Impl {
 public:
  Impl(const Clock& clock, std::vector<std::unique_ptr<SensorSource>> sources, double rate_hz, std::size_t max_rows,
       const std::vector<double>& rates_hz)
      : clock_(clock),
        sources_(std::move(sources)),
        period_ns_(static_cast<std::int64_t>(1e9 / rate_hz)),
        max_rows_(max_rows) {
    double rows_per_tick = 0, values_per_tick = 0;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      const double wanted_hz = std::min(i < rates_hz.size() ? rates_hz[i] : rate_hz, rate_hz);
      every_.push_back(std::max(1L, std::lround(rate_hz / std::min(wanted_hz, sources_[i]->max_rate_hz()))));
      rows_per_tick += 1.0 / static_cast<double>(every_[i]);
      values_per_tick += static_cast<double>(sources_[i]->channels().size()) / static_cast<double>(every_[i]);
      widest_ = std::max(widest_, sources_[i]->channels().size());
    }
    rests_until_.resize(sources_.size());
    const double per_row = rows_per_tick > 0 ? values_per_tick / rows_per_tick : 0;
    rows_.resize(max_rows_);  // written here, as the values are: no page fault in the run
    values_.resize(static_cast<std::size_t>(std::ceil(static_cast<double>(max_rows_) * per_row)) + 2 * widest_ + 1);
    lateness_.resize(max_rows_);
  }

  ~Impl() { stop(); }

  void start() {
    stop();
    n_rows_ = n_values_ = n_waits_ = 0;
    report_ = {};
    alarm_.reset();
    std::fill(rests_until_.begin(), rests_until_.end(), 0);
    read_due(0);
    thread_ = std::thread([this] { work(); });
  }

  void stop() noexcept {
    if (!thread_.joinable())
      return;
    alarm_.end();
    thread_.join();
    read_due(0);
    report_.n_rows = n_rows_;
    if (n_waits_ != 0) {
      const auto end = lateness_.begin() + static_cast<std::ptrdiff_t>(n_waits_);
      const auto p95 = lateness_.begin() + static_cast<std::ptrdiff_t>((n_waits_ - 1) * 95 / 100);
      std::nth_element(lateness_.begin(), p95, end);
      report_.jitter_p95_ns = *p95;
    }
  }

  const std::vector<std::unique_ptr<SensorSource>>& sources() const noexcept { return sources_; }
  const SamplerReport& report() const noexcept { return report_; }
  std::size_t n_rows() const noexcept { return n_rows_; }
  SampleRow row(std::size_t i) const noexcept { return {rows_[i].ticks, rows_[i].source, &values_[rows_[i].offset]}; }

 private:
  void work() noexcept {
    wake_with_others(period_ns_);
    const std::int64_t cpu_begin = cpu_ns(), begin = steady_ns();
    std::int64_t deadline = begin + period_ns_;
    for (long tick = 1; !alarm_.wait_until(deadline); ++tick) {
      if (n_waits_ < lateness_.size())
        lateness_[n_waits_++] = static_cast<double>(steady_ns() - deadline);
      read_due(tick);
      deadline += period_ns_;
      const std::int64_t now = steady_ns();
      if (now > deadline + period_ns_) {  // deadlines that passed meanwhile are not made up for
        const std::int64_t missed = (now - deadline) / period_ns_;
        report_.n_late += static_cast<std::uint64_t>(missed);
        deadline += missed * period_ns_;
      }
    }
    report_.cpu_seconds = static_cast<double>(cpu_ns() - cpu_begin) / 1e9;
    report_.wall_seconds = static_cast<double>(steady_ns() - begin) / 1e9;
  }

  void read_due(long tick) noexcept {
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      const bool is_dear = tick > 0 && sources_[i]->max_rate_hz() < kDearBelowHz;
      const std::int64_t begin = is_dear ? steady_ns() : 0;
      if (tick % every_[i] != 0 || begin < rests_until_[i])
        continue;
      const std::size_t width = sources_[i]->channels().size();
      if (n_rows_ == max_rows_ || n_values_ + width > values_.size()) {
        ++report_.n_dropped;
        continue;
      }
      const std::uint64_t before = clock_.ticks();
      sources_[i]->read(&values_[n_values_]);
      const std::uint64_t took = clock_.ticks() - before;
      rows_[n_rows_++] = {before + took / 2, static_cast<std::uint32_t>(i), n_values_};
      n_values_ += width;
      if (is_dear)
        rests_until_[i] = begin + (steady_ns() - begin) * kRestFactor;
    }
  }

  const Clock& clock_;
  std::vector<std::unique_ptr<SensorSource>> sources_;
  std::int64_t period_ns_;
  std::size_t max_rows_;
  std::size_t widest_ = 1;
  std::vector<long> every_;
  std::vector<std::int64_t> rests_until_;  // steady ns
  std::vector<Row> rows_;                  // n_rows_ of them are filled
  std::vector<double> values_;             // n_values_
  std::vector<double> lateness_;           // n_waits_, in ns
  std::size_t n_rows_ = 0, n_values_ = 0, n_waits_ = 0;
  SamplerReport report_;
  std::thread thread_;
  Alarm alarm_;
};

Sampler::Sampler(const Clock& clock, std::vector<std::unique_ptr<SensorSource>> sources, double rate_hz,
                 std::size_t max_rows, const std::vector<double>& rates_hz)
    : impl_(std::make_unique<Impl>(clock, std::move(sources), rate_hz, max_rows, rates_hz)) {}

Sampler::~Sampler() = default;

void Sampler::start() {
  impl_->start();
}

void Sampler::stop() noexcept {
  impl_->stop();
}

std::size_t Sampler::n_rows() const noexcept {
  return impl_->n_rows();
}

SampleRow Sampler::row(std::size_t i) const noexcept {
  return impl_->row(i);
}

SamplerReport Sampler::report() const noexcept {
  return impl_->report();
}

const std::vector<std::unique_ptr<SensorSource>>& Sampler::sources() const noexcept {
  return impl_->sources();
}

}  // namespace melt
