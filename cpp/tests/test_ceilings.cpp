// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <set>
#include <vector>

#include "ceilings/kernels.h"
#include "ceilings/rounds.h"
#include "melt/ceilings.h"
#include "melt/error.h"

namespace melt {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kMiB = 1 << 20;

/// A sysfs tree with the caches of `n_cpus` CPUs, two of which share a core where `smt`.
class FakeSysfs {
 public:
  FakeSysfs(int n_cpus, const std::string& l2, const std::string& l3, bool smt = false) {
    std::string pattern = (fs::temp_directory_path() / "melt-sysfs-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    root_ = pattern;
    for (int cpu = 0; cpu < n_cpus; ++cpu) {
      const int first = smt ? cpu / 2 * 2 : cpu;
      const std::string core = smt ? std::to_string(first) + "-" + std::to_string(first + 1) : std::to_string(cpu);
      const std::string folder = "devices/system/cpu/cpu" + std::to_string(cpu);
      write(folder + "/topology/thread_siblings_list", core);
      cache(folder + "/cache/index0", "1", "Data", "48K", core);
      cache(folder + "/cache/index1", "1", "Instruction", "32K", core);
      cache(folder + "/cache/index2", "2", "Unified", l2, core);
      if (!l3.empty())
        cache(folder + "/cache/index3", "3", "Unified", l3, "0-" + std::to_string(n_cpus - 1));
    }
  }
  ~FakeSysfs() { fs::remove_all(root_); }
  FakeSysfs(const FakeSysfs&) = delete;
  FakeSysfs& operator=(const FakeSysfs&) = delete;
  std::string path() const { return root_.string(); }

 private:
  void cache(const std::string& folder, const char* level, const char* type, const std::string& size,
             const std::string& cpus) {
    write(folder + "/level", level);
    write(folder + "/type", type);
    write(folder + "/size", size);
    write(folder + "/shared_cpu_list", cpus);
  }
  void write(const std::string& name, const std::string& text) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text << '\n';
  }
  fs::path root_;
};

TEST_CASE("each family's kernel gives the known value, and absent ones say why") {
  const auto families = arithmetic_families();
  CHECK(families.size() >= 5);
  std::set<std::string> names;
  for (const ArithmeticFamily& family : families) {
    INFO(family.name, " ", family.absent_reason);
    CHECK(names.insert(family.name).second);
    CHECK_FALSE(family.instructions.empty());
    if (!family.absent_reason.empty()) {
      CHECK_THROWS_AS(run_arithmetic(family.name, 1), Error);
      continue;
    }
    for (const double multiply_adds : {1.0, 100'000.0, 1e7}) {
      const auto [done, sum] = run_arithmetic(family.name, multiply_adds);
      CHECK(done > 0.0);
      CHECK(sum == done);
    }
  }
  CHECK_THROWS_AS(run_arithmetic("f32_abacus", 1), Error);
}

TEST_CASE("no kernel loses count in its longest run") {
  for (const ceilings::Family& family : ceilings::families()) {
    if (family.absent_reason != nullptr)
      continue;
    INFO(family.name);
    const std::uint64_t passes = ceilings::kMaxPasses;
    CHECK(family.run(passes) == static_cast<double>(passes * family.macs_per_pass));
  }
}

TEST_CASE("readers read every word once") {
  const std::size_t n = 16 * ceilings::kReadWords;
  struct alignas(64) Line {
    std::uint64_t words[8];
  };
  std::vector<Line> lines(n / 8);
  std::uint64_t* words = lines.front().words;
  for (std::size_t word = 0; word < n; ++word)
    words[word] = 3 * word + 1;
  REQUIRE(ceilings::readers().size() >= 2);
  CHECK(ceilings::readers().front().read(words, n) == 3 * (n * (n - 1) / 2) + n);
  for (const ceilings::Reader& reader : ceilings::readers()) {
    const ceilings::ReadKernel read = reader.read;
    for (std::size_t word = 0; word < n; word += 7) {
      const std::uint64_t before = read(words, n);
      words[word] += 1000;
      CHECK(read(words, n) == before + 1000);
    }
  }
}

TEST_CASE("working sets are inside each cache, and memory is four times the largest") {
  const FakeSysfs sysfs(2, "2048K", "266240K");
  const auto sets = choose_working_sets({0, 1}, 2048 * kMiB, sysfs.path());
  REQUIRE(sets.size() == 4);
  CHECK(sets[0].name == "L2");
  CHECK(sets[0].bytes == 2 * kMiB);
  CHECK(sets[1].name == "L3");
  CHECK(sets[1].bytes == 16 * kMiB);
  CHECK(sets[2].name == "L3");
  CHECK(sets[2].bytes == 130 * kMiB);
  CHECK(sets[3].name == "memory");
  CHECK(sets[3].bytes == 1040 * kMiB);
  const auto alone = choose_working_sets({0}, 2048 * kMiB, sysfs.path());
  CHECK(alone[0].bytes == 1 * kMiB);
  CHECK(alone[1].bytes == 8 * kMiB);
}

TEST_CASE("a cap is kept and named; too small a cap leaves memory out") {
  const FakeSysfs sysfs(2, "2048K", "266240K");
  const auto capped = choose_working_sets({0, 1}, 600 * kMiB, sysfs.path());
  CHECK(capped.back().bytes == 600 * kMiB);
  CHECK(capped.back().choice.find("capped at 600.0 MiB") != std::string::npos);
  const auto small = choose_working_sets({0, 1}, 100 * kMiB, sysfs.path());
  CHECK(small.back().name == "memory");
  CHECK(small.back().bytes == 0);
  CHECK_FALSE(small.back().choice.empty());
  for (const WorkingSet& set : small)
    CHECK(set.bytes <= 100 * kMiB);
}

TEST_CASE("no L3, an L3 no larger than L2, and no caches at all are stated") {
  const FakeSysfs without(2, "1024K", "");
  const auto sets = choose_working_sets({0, 1}, 2048 * kMiB, without.path());
  REQUIRE(sets.size() == 3);
  CHECK(sets[1].bytes == 0);
  CHECK(sets[1].choice == "sysfs names no L3 cache");
  CHECK(sets[2].bytes == 256 * kMiB);

  const FakeSysfs little(2, "2048K", "4096K");
  CHECK(choose_working_sets({0, 1}, 2048 * kMiB, little.path())[1].bytes == 0);

  const auto assumed = choose_working_sets({0, 1}, 2048 * kMiB, "/nonexistent");
  CHECK(assumed[0].bytes == kMiB / 2);
  CHECK(assumed[0].choice.find("assumed") != std::string::npos);
}

TEST_CASE("two CPUs of one core share its L2") {
  const FakeSysfs sysfs(4, "2048K", "65536K", true);
  CHECK(choose_working_sets({0, 1}, 2048 * kMiB, sysfs.path())[0].bytes == 1 * kMiB);
  CHECK(choose_working_sets({0, 2}, 2048 * kMiB, sysfs.path())[0].bytes == 2 * kMiB);
}

TEST_CASE("thread counts rise to the number of CPUs") {
  CHECK(default_thread_counts(1) == std::vector<std::uint32_t>{1});
  CHECK(default_thread_counts(3) == std::vector<std::uint32_t>{1, 2, 3});
  CHECK(default_thread_counts(20) == std::vector<std::uint32_t>{1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20});
  for (const std::uint32_t n : {8U, 9U, 12U, 13U, 64U, 100U, 192U}) {
    const auto counts = default_thread_counts(n);
    CHECK(std::is_sorted(counts.begin(), counts.end()));
    CHECK(std::adjacent_find(counts.begin(), counts.end()) == counts.end());
    CHECK(counts.back() == n);
    CHECK(counts.size() <= 20);
  }
}

TEST_CASE("rounds run all threads, stop on wrong work, and can be cancelled") {
  ceilings::RoundOptions options;
  options.n_threads = 2;
  options.round_ns = 200'000;
  options.total_ns = 2'000'000;
  std::atomic<std::uint64_t> done[2] = {{0}, {0}};
  const auto spin = [&](std::uint32_t thread, std::uint64_t amount) {
    for (std::uint64_t i = 0; i < amount * 100; ++i)
      done[thread].fetch_add(1, std::memory_order_relaxed);
    return true;
  };
  const ceilings::Rounds rounds = ceilings::time_rounds(options, spin);
  CHECK_FALSE(rounds.units_per_s.empty());
  CHECK(*std::min_element(rounds.units_per_s.begin(), rounds.units_per_s.end()) > 0.0);
  CHECK(done[0] == done[1]);
  CHECK_FALSE(rounds.pinned);  // no CPUs were named
  CHECK_THROWS_AS(ceilings::time_rounds(options, [](std::uint32_t thread, std::uint64_t) { return thread == 0; }),
                  Error);
  std::atomic<bool> cancel{true};
  options.cancel = &cancel;
  CHECK_THROWS_AS(ceilings::time_rounds(options, spin), Error);
}

TEST_CASE("a short measurement fills every row or says why it is absent") {
  CeilingOptions options;
  options.thread_counts = {1};
  options.measurement_s = 0.002;
  options.max_memory_bytes = 32 * kMiB;
  std::vector<double> steps;
  options.on_progress = [&](const std::string&, double done) { steps.push_back(done); };
  const CeilingResult result = measure_ceilings(options);
  std::set<std::string> named;
  for (const Ceiling& ceiling : result.ceilings) {
    named.insert(ceiling.name);
    CHECK(ceiling.n_threads == 1);
    CHECK(ceiling.n_rounds >= 1);
    CHECK(ceiling.median > 0.0);
    CHECK(ceiling.best >= ceiling.median);
    CHECK((ceiling.kind == CeilingKind::kReadBandwidth) == (ceiling.working_set_bytes > 0));
    CHECK(ceiling.working_set_bytes <= 32 * kMiB);
  }
  for (const AbsentCeiling& absent : result.absent) {
    named.insert(absent.name);
    CHECK_FALSE(absent.reason.empty());
  }
  for (const ArithmeticFamily& family : arithmetic_families())
    CHECK(named.count(family.name) == 1);
  for (const char* level : {"L2", "L3", "memory"})
    CHECK(named.count(level) == 1);
  CHECK_FALSE(result.read_instructions.empty());
  CHECK(std::is_sorted(steps.begin(), steps.end()));
  CHECK(steps.front() == 0.0);
  CHECK(steps.back() < 1.0);
}

TEST_CASE("what cannot be measured is refused, and a cancel ends it") {
  CeilingOptions options;
  options.thread_counts = {0};
  CHECK_THROWS_AS(measure_ceilings(options), Error);
  options.thread_counts = {100'000};
  CHECK_THROWS_AS(measure_ceilings(options), Error);
  options.thread_counts = {1};
  options.measurement_s = 0.0;
  CHECK_THROWS_AS(measure_ceilings(options), Error);
  options.measurement_s = 0.002;
  options.max_memory_bytes = 32 * kMiB;
  std::atomic<bool> cancel{false};
  options.cancel = &cancel;
  options.on_progress = [&](const std::string&, double done) { cancel = done > 0.0; };
  CHECK_THROWS_AS(measure_ceilings(options), Error);
}

}  // namespace
}  // namespace melt
