// SPDX-License-Identifier: Apache-2.0
#include "rounds.h"

#include <algorithm>
#include <memory>
#include <system_error>
#include <thread>

#include "melt/clock.h"
#include "melt/error.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace melt::ceilings {
namespace {

bool pin_to(int cpu) noexcept {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu < 0 || cpu >= CPU_SETSIZE)
    return false;
  CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof set, &set) == 0;
#else
  static_cast<void>(cpu);
  return false;
#endif
}

/// Threads leave it within a microsecond of each other; they yield only where somebody is late.
class SpinBarrier {
 public:
  explicit SpinBarrier(std::uint32_t n) : n_(n) {}
  void wait() noexcept {
    const std::uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (std::uint32_t spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
      if (spins > 10'000)
        std::this_thread::yield();
    }
  }

 private:
  const std::uint32_t n_;
  std::atomic<std::uint32_t> arrived_{0};
  std::atomic<std::uint32_t> phase_{0};
};

struct alignas(64) Span {
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;
};

/// One measurement: what its threads share. Thread 0 alone decides, between two barriers.
class Measurement {
 public:
  Measurement(const RoundOptions& options, const Work& work)
      : options_(options),
        work_(work),
        clock_(make_host_clock()),
        barrier_(options.n_threads),
        spans_(options.n_threads) {
    units_per_s_.reserve(kMaxRounds);
  }

  void run(std::uint32_t thread) noexcept {
    for (;;) {
      barrier_.wait();
      if (stop_)
        return;
      Span& span = spans_[thread];
      span.begin_ns = clock_->steady_ns();
      const bool right = work_(thread, amount_);
      span.end_ns = clock_->steady_ns();
      if (!right)
        wrong_.store(true, std::memory_order_relaxed);
      barrier_.wait();
      if (thread == 0)
        decide();
    }
  }

  bool wrong() const noexcept { return wrong_.load(); }
  bool cancelled() const noexcept { return options_.cancel != nullptr && options_.cancel->load(); }
  std::vector<double> units_per_s() && { return std::move(units_per_s_); }

 private:
  static constexpr std::size_t kMaxRounds = 1000;

  /// Takes the last round in, and says what the next one is.
  void decide() noexcept {
    std::int64_t begin = spans_[0].begin_ns, end = spans_[0].end_ns, fastest_ns = end - begin;
    for (const Span& span : spans_) {
      begin = std::min(begin, span.begin_ns);
      end = std::max(end, span.end_ns);
      fastest_ns = std::min(fastest_ns, span.end_ns - span.begin_ns);
    }
    const std::int64_t round_ns = std::max<std::int64_t>(end - begin, 1);
    stop_ = wrong() || cancelled();
    // A thread that lost its CPU makes little work look enough: rounds that turn out short are calibrated again.
    if (!calibrated_ || round_ns * 4 < options_.round_ns) {
      calibrate(std::max<std::int64_t>(fastest_ns, 1));
      return;
    }
    units_per_s_.push_back(static_cast<double>(amount_) * options_.n_threads * 1e9 / static_cast<double>(round_ns));
    const std::int64_t spent_ns = end - timed_from_ns_;
    const bool enough = spent_ns >= options_.total_ns && units_per_s_.size() >= kMinRounds;
    stop_ = stop_ || enough || spent_ns >= 4 * options_.total_ns || units_per_s_.size() >= kMaxRounds;
  }

  /// Grows the work until a round can be timed, then sets it to what fits the wanted time.
  void calibrate(std::int64_t work_ns) noexcept {
    units_per_s_.clear();
    calibrated_ = work_ns * 4 >= options_.round_ns;
    if (!calibrated_) {
      amount_ *= 2;
      return;
    }
    const double wanted = static_cast<double>(amount_) * static_cast<double>(options_.round_ns);
    amount_ = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(wanted / static_cast<double>(work_ns)));
    timed_from_ns_ = clock_->steady_ns();
  }

  const RoundOptions& options_;
  const Work& work_;
  const std::unique_ptr<Clock> clock_;
  SpinBarrier barrier_;
  std::vector<Span> spans_;
  std::vector<double> units_per_s_;
  std::uint64_t amount_ = 1;
  std::int64_t timed_from_ns_ = 0;
  bool calibrated_ = false;
  bool stop_ = false;
  std::atomic<bool> wrong_{false};
};

/// Starts all threads or none: one that never came would leave the others waiting. Returns whether all were pinned.
bool on_threads(const RoundOptions& options, const std::function<void(std::uint32_t)>& work) {
  enum : int { kWait, kGo, kGiveUp };
  std::atomic<int> go{kWait};
  std::atomic<std::uint32_t> n_pinned{0};
  std::vector<std::thread> threads;
  threads.reserve(options.n_threads);
  const auto body = [&](std::uint32_t thread) {
    if (thread < options.cpus.size() && pin_to(options.cpus[thread]))
      n_pinned.fetch_add(1);
    while (go.load(std::memory_order_acquire) == kWait)
      std::this_thread::yield();
    if (go.load() == kGo)
      work(thread);
  };
  std::string failure;
  try {
    for (std::uint32_t thread = 0; thread < options.n_threads; ++thread)
      threads.emplace_back(body, thread);
  } catch (const std::system_error& error) {
    failure = error.what();
  }
  go.store(failure.empty() ? kGo : kGiveUp, std::memory_order_release);
  for (std::thread& thread : threads)
    thread.join();
  if (!failure.empty())
    throw Error(ErrorKind::kRuntime, "cannot start " + std::to_string(options.n_threads) +
                                         " threads: measure with fewer, or raise the limit of processes: " + failure);
  return n_pinned.load() == options.n_threads;
}

}  // namespace

Rounds time_rounds(const RoundOptions& options, const Work& work) {
  Measurement measurement(options, work);
  Rounds rounds;
  rounds.pinned = on_threads(options, [&](std::uint32_t thread) { measurement.run(thread); });
  if (measurement.wrong())
    throw Error(ErrorKind::kRuntime,
                "a ceiling's kernel gave a wrong result: memory or CPU fault, or a defect of this build");
  if (measurement.cancelled())
    throw Error(ErrorKind::kCancelled, "cancelled while measuring ceilings");
  rounds.units_per_s = std::move(measurement).units_per_s();
  return rounds;
}

void run_on_threads(const RoundOptions& options, const std::function<void(std::uint32_t thread)>& work) {
  on_threads(options, work);
}

}  // namespace melt::ceilings
