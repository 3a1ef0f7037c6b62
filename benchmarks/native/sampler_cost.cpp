// SPDX-License-Identifier: Apache-2.0
// What a thread that reads /proc/self/statm 100 times a second takes from threads that compute on all cores, by how it
// waits and how it is scheduled. The computing threads stream memory in ops of some 10 us with a barrier between, as a
// token's do; blocks of 0.2 s take turns in random order.
// usage: sampler_cost N_THREADS SECONDS     Prints JSON: variant -> one row for each block: us lost per s; lateness in
// us.
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "melt/clock.h"
#include "melt/sensor.h"
#include "sensors/sources.h"

namespace {

constexpr std::int64_t kPeriodNs = 10'000'000, kBlockNs = 200'000'000;
constexpr std::size_t kValues = 24 << 20, kValuesPerOp = 1 << 15;  // 96 MB; 128 KB an op and thread
/// An op that takes this much longer than the block's median was disturbed; beyond 1.5 ms by the hypervisor.
constexpr std::int64_t kDisturbedNs = 4'000, kStolenNs = 1'500'000;

const std::unique_ptr<melt::Clock>& host_clock() {
  static const std::unique_ptr<melt::Clock> clock = melt::make_host_clock();
  return clock;
}
std::int64_t now_ns() {
  return host_clock()->steady_ns();
}

std::unique_ptr<melt::SensorSource> source() {
  melt::MissingChannels missing;
  return melt::make_process_memory(missing);
}

/// The computing threads; the caller is thread 0.
class Team {
 public:
  explicit Team(int n_threads) : n_threads_(n_threads), values_(kValues, 1.0f) {
    for (int id = 1; id < n_threads; ++id)
      threads_.emplace_back([this, id] {
        for (std::size_t op = 0; meet() && !ending_; ++op) {
          stream(id, op);
          meet();
        }
      });
  }
  ~Team() {
    ending_ = true;
    meet();
    for (std::thread& thread : threads_)
      thread.join();
  }
  void run_op() {
    meet();
    stream(0, n_ops_++);
    meet();
  }

 private:
  bool meet() {
    const unsigned round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == n_threads_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.fetch_add(1, std::memory_order_release);
    } else {
      while (round_.load(std::memory_order_acquire) == round) {
      }
    }
    return true;
  }
  void stream(int id, std::size_t op) {
    const std::size_t begin =
        (op * static_cast<std::size_t>(n_threads_) + static_cast<std::size_t>(id)) * kValuesPerOp % kValues;
    float sums[16] = {};
    for (std::size_t i = 0; i < kValuesPerOp; i += 16)
      for (std::size_t lane = 0; lane < 16; ++lane)
        sums[lane] += values_[begin + i + lane];
    sink_.store(sums[op % 16], std::memory_order_relaxed);
  }

  int n_threads_;
  std::vector<float> values_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> round_{0};
  std::atomic<bool> ending_{false};
  std::atomic<float> sink_{0};
  std::size_t n_ops_ = 0;
  std::vector<std::thread> threads_;
};

struct Variant {
  const char* name;
  int slack_ns = 0;
  int nice = 0;
  int policy = SCHED_OTHER;
  bool plain_sleep = false;  // clock_nanosleep instead of a condition variable
};
const Variant kVariants[] = {{"condition variable"},
                             {"nanosleep", 0, 0, SCHED_OTHER, true},
                             {"slack 1 ms", 1'000'000},
                             {"slack 4 ms", 4'000'000},
                             {"slack 4 ms, nice 10", 4'000'000, 10},
                             {"nice 19", 0, 19},
                             {"SCHED_BATCH", 0, 0, SCHED_BATCH},
                             {"SCHED_IDLE", 0, 0, SCHED_IDLE}};

/// The simplest sampler: one source, absolute deadlines.
class Reader {
 public:
  explicit Reader(const Variant& variant) : variant_(variant), source_(source()), values_(source_->channels().size()) {
    thread_ = std::thread([this] { work(); });
  }
  void stop() {
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      ending_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  const std::vector<double>& lateness_us() const { return lateness_us_; }

 private:
  void work() {
    if (variant_.slack_ns > 0)
      prctl(PR_SET_TIMERSLACK, variant_.slack_ns, 0, 0, 0);
    if (variant_.nice > 0)
      setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), variant_.nice);
    const sched_param none{};
    if (variant_.policy != SCHED_OTHER)
      sched_setscheduler(0, variant_.policy, &none);
    for (std::int64_t deadline = now_ns() + kPeriodNs; !wait_until(deadline); deadline += kPeriodNs) {
      lateness_us_.push_back(static_cast<double>(now_ns() - deadline) / 1e3);
      source_->read(values_.data());
    }
  }
  bool wait_until(std::int64_t deadline) {
    if (variant_.plain_sleep) {
      const timespec time{deadline / 1'000'000'000, deadline % 1'000'000'000};
      clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
      const std::lock_guard<std::mutex> guard(mutex_);
      return ending_;
    }
    std::unique_lock<std::mutex> lock(mutex_);
    const std::chrono::time_point<std::chrono::steady_clock> time{std::chrono::nanoseconds(deadline)};
    return wake_.wait_until(lock, time, [this] { return ending_; });
  }

  Variant variant_;
  std::unique_ptr<melt::SensorSource> source_;
  std::vector<double> values_, lateness_us_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;
};

/// Computes for a block and returns the microseconds lost per second to disturbances; calls `after_op` after each op.
template <typename AfterOp>
double lost_us_per_s(Team& team, const AfterOp& after_op) {
  std::vector<std::int64_t> durations;
  durations.reserve(1 << 16);
  const std::int64_t begin = now_ns();
  std::int64_t last = begin;
  while (last - begin < kBlockNs) {
    team.run_op();
    after_op(last);
    const std::int64_t now = now_ns();
    durations.push_back(now - last);
    last = now;
  }
  std::vector<std::int64_t> sorted = durations;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  double lost_ns = 0;
  for (const std::int64_t duration : durations) {
    const std::int64_t longer = duration - *middle;
    lost_ns += longer > kDisturbedNs && longer < kStolenNs ? static_cast<double>(longer) : 0;
  }
  return lost_ns / 1e3 / (static_cast<double>(last - begin) / 1e9);
}

struct Result {
  std::string name;
  std::vector<double> lost_us_per_s;
  std::vector<double> lateness_us;
};

void measure(Team& team, Result& result) {
  const auto nothing = [](std::int64_t) {};
  if (result.name == "without" || result.name == "control") {
    result.lost_us_per_s.push_back(lost_us_per_s(team, nothing));
  } else if (result.name == "this core's sampler") {
    std::vector<std::unique_ptr<melt::SensorSource>> sources;
    sources.push_back(source());
    melt::Sampler sampler(*host_clock(), std::move(sources), 100.0, 1000);
    sampler.start();
    result.lost_us_per_s.push_back(lost_us_per_s(team, nothing));
    sampler.stop();
  } else if (result.name == "between ops, no thread") {
    const auto reader = source();
    std::vector<double> values(reader->channels().size());
    std::int64_t due = now_ns();
    result.lost_us_per_s.push_back(lost_us_per_s(team, [&](std::int64_t now) {
      if (now < due)
        return;
      reader->read(values.data());
      due += kPeriodNs;
    }));
  } else {
    const Variant* variant = kVariants;
    while (variant->name != result.name)
      ++variant;
    Reader reader(*variant);
    result.lost_us_per_s.push_back(lost_us_per_s(team, nothing));
    reader.stop();
    result.lateness_us.insert(result.lateness_us.end(), reader.lateness_us().begin(), reader.lateness_us().end());
  }
}

void print(const char* name, const std::vector<double>& values) {
  std::printf("\"%s\": [", name);
  for (std::size_t i = 0; i < values.size(); ++i)
    std::printf("%s%.1f", i == 0 ? "" : ", ", values[i]);
  std::printf("]");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: sampler_cost N_THREADS SECONDS\n");
    return 2;
  }
  const std::int64_t end = now_ns() + static_cast<std::int64_t>(std::atof(argv[2]) * 1e9);
  std::vector<Result> results;
  for (const char* name : {"without", "control", "this core's sampler", "between ops, no thread"})
    results.push_back({name, {}, {}});
  for (const Variant& variant : kVariants)
    results.push_back({variant.name, {}, {}});
  {
    Team team(std::max(std::atoi(argv[1]), 1));
    std::mt19937 random(0);
    while (now_ns() < end) {
      std::vector<Result*> order;
      for (Result& result : results)
        order.push_back(&result);
      std::shuffle(order.begin(), order.end(), random);
      for (Result* result : order)
        measure(team, *result);
    }
  }
  std::printf("{");
  for (const Result& result : results) {
    std::printf("%s\"%s\": {", &result == results.data() ? "" : ",\n", result.name.c_str());
    print("lost_us_per_s", result.lost_us_per_s);
    std::printf(", ");
    print("lateness_us", result.lateness_us);
    std::printf("}");
  }
  std::printf("}\n");
  return 0;
}
