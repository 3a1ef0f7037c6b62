// SPDX-License-Identifier: Apache-2.0
// The sampling thread, and what its sources say where a file of /proc is absent.
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fake_root.h"
#include "melt/clock.h"
#include "melt/sensor.h"
#include "sensors/proc_file.h"
#include "sensors/sources.h"

namespace melt {
namespace {

class Counter final : public SensorSource {
 public:
  explicit Counter(double max_rate_hz) : max_rate_hz_(max_rate_hz), channels_{{"test", "count", "count", "test"}} {}
  const std::vector<Channel>& channels() const noexcept override { return channels_; }
  void read(double* values) noexcept override { *values = ++n_; }
  double max_rate_hz() const noexcept override { return max_rate_hz_; }

 private:
  double max_rate_hz_;
  std::vector<Channel> channels_;
  double n_ = 0;
};

std::vector<std::unique_ptr<SensorSource>> counters() {
  std::vector<std::unique_ptr<SensorSource>> sources;
  sources.push_back(std::make_unique<Counter>(1e6));
  sources.push_back(std::make_unique<Counter>(10));
  return sources;
}

double value_of(SensorSource& source, const std::string& kind) {
  std::vector<double> values(source.channels().size());
  source.read(values.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (source.channels()[i].kind == kind)
      return values[i];
  }
  return std::nan("");
}

TEST_CASE("sources are read from start to stop, each no faster than it may be") {
  const auto clock = make_host_clock();
  Sampler sampler(*clock, counters(), 200.0, 1000);
  sampler.start();
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  sampler.stop();
  std::size_t n_fast = 0, n_slow = 0;
  std::uint64_t last = 0;
  for (std::size_t i = 0; i < sampler.n_rows(); ++i) {
    const SampleRow row = sampler.row(i);
    (row.source == 0 ? n_fast : n_slow) += 1;
    CHECK(row.ticks >= last);
    CHECK(row.values[0] == (row.source == 0 ? n_fast : n_slow));
    last = row.ticks;
  }
  CHECK(n_fast >= 3);  // a loaded machine may sleep long
  CHECK(n_fast <= 27);
  CHECK(n_slow >= 2);  // at the start and at the end
  CHECK(n_slow <= 4);
  CHECK(sampler.report().n_rows == sampler.n_rows());
  CHECK(sampler.report().cpu_seconds >= 0);
}

/// Takes a while, as page tables of gigabytes do.
class Dear final : public SensorSource {
 public:
  Dear() : channels_{{"test", "dear", "count", "test"}} {}
  const std::vector<Channel>& channels() const noexcept override { return channels_; }
  void read(double* values) noexcept override {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    *values = ++n_;
  }
  double max_rate_hz() const noexcept override { return 9.0; }

 private:
  std::vector<Channel> channels_;
  double n_ = 0;
};

TEST_CASE("a source that takes long rests as much longer") {
  const auto clock = make_host_clock();
  std::vector<std::unique_ptr<SensorSource>> sources;
  sources.push_back(std::make_unique<Dear>());
  Sampler sampler(*clock, std::move(sources), 200.0, 1000);
  sampler.start();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // room for four readings at 9 Hz
  sampler.stop();
  CHECK(sampler.n_rows() >= 2);  // at the start and at the end...
  CHECK(sampler.n_rows() <= 3);  // ...and between them once, which is then 8 s of rest
  sampler.start();
  sampler.stop();
  CHECK(sampler.n_rows() == 2);  // the rest does not outlast the run
}

TEST_CASE("rows beyond the room reserved are counted, and a sampler can start again") {
  const auto clock = make_host_clock();
  Sampler sampler(*clock, counters(), 100.0, 2);
  sampler.start();
  sampler.stop();
  sampler.stop();  // twice is harmless
  CHECK(sampler.n_rows() == 2);
  CHECK(sampler.report().n_dropped >= 2);
  sampler.start();
  sampler.stop();
  CHECK(sampler.n_rows() == 2);
}

TEST_CASE("each source has a rate of its own, and a time within its reading") {
  const auto clock = make_host_clock();
  Sampler sampler(*clock, counters(), 200.0, 1000, {50.0, 200.0});
  const std::uint64_t before = clock->ticks();
  sampler.start();
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  sampler.stop();
  std::size_t n_first = 0;
  for (std::size_t i = 0; i < sampler.n_rows(); ++i) {
    n_first += sampler.row(i).source == 0 ? 1 : 0;
    CHECK(sampler.row(i).ticks >= before);
    CHECK(sampler.row(i).ticks <= clock->ticks());
  }
  CHECK(n_first >= 2);
  CHECK(n_first <= 9);
}

TEST_CASE("interference is read from /proc and /sys") {
  const FakeRoot root;
  root.write("stat", "cpu  1 2 3 4 5 6 7 800 9 10\ncpu0 0 0 0 0 0 0 0 0 0 0\n");
  root.write("pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0 total=7\n");
  root.write("pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=500\n");
  root.write("devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2600000\n");
  MissingChannels missing;
  const auto source = make_interference(missing);
  REQUIRE(source != nullptr);
  CHECK(missing.empty());
  CHECK(value_of(*source, "steal") == doctest::Approx(800.0 / static_cast<double>(sysconf(_SC_CLK_TCK))));
  CHECK(value_of(*source, "pressure_cpu") == doctest::Approx(2.5));
  CHECK(value_of(*source, "pressure_memory") == doctest::Approx(500e-6));
  CHECK(value_of(*source, "frequency") == doctest::Approx(2.6e9));
}

TEST_CASE("a kernel without these files: each channel is missing with its reason") {
  const FakeRoot root;
  MissingChannels missing;
  CHECK(make_interference(missing) == nullptr);
  const auto memory = make_process_memory(missing);
  const auto detail = make_process_detail("/no/such/model", missing);
  for (const char* name : {"machine/steal", "machine/pressure_cpu", "machine/pressure_memory", "cpu0/frequency",
                           "process/rss", "process/pss", "process/swap", "model_file/page_cache"}) {
    CAPTURE(name);
    REQUIRE(missing.count(name) == 1);
    CHECK(!missing.at(name).empty());
  }
  CHECK(value_of(*memory, "minor_faults") > 0);
  CHECK(std::isnan(read_memory_baseline().rss_bytes));

  const AllocationLog log;
  const MemoryBefore before = read_memory_before();
  CHECK(before.pages.missing.find("/self/maps cannot be read") != std::string::npos);
  MemoryAccount account(log, "/no/such/model", before);
  CHECK(account.missing().count("heap/resident") == 1);
  CHECK(account.missing().count("program/resident") == 1);
  CHECK(account.missing().count("buffers/kv/resident") == 1);
  CHECK(account.missing().count("process/peak_rss") == 1);
  for (std::size_t i = 0; i < account.channels().size(); ++i) {
    if (account.channels()[i].kind != "heap_after_run")
      CHECK(std::isnan(account.read()[i]));
  }
}

TEST_CASE("numbers that are not there are NaN") {
  CHECK(number_behind("Pss:   12 kB\nSwapPss: 3 kB\nSwap: 4 kB\n", "Swap:", 1024) == 4096);
  CHECK(std::isnan(number_behind("Pss: x", "Pss:")));
  CHECK(std::isnan(number_behind("SwapPss: 3", "Pss:")));
  CHECK(std::isnan(number_behind(nullptr, "Pss:")));
}

}  // namespace
}  // namespace melt
