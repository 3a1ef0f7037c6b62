// SPDX-License-Identifier: Apache-2.0
// Whose each resident page is: of this very process, by its own page table.
#include <doctest/doctest.h>
#include <sys/mman.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sensors/page_map.h"
#include "sensors/sources.h"

namespace melt {
namespace {

constexpr std::size_t kMiB = 1 << 20;
constexpr double kSlack = 1.5 * kMiB;  // what the test itself takes, and the kernel's counters per thread lag behind

/// Under an emulator of programs the kernel counts the emulator's memory too, which the emulated /proc does not show.
bool is_emulated() {
  std::ifstream status("/proc/self/status");
  std::string key, name;
  status >> key >> name;
  return name.rfind("qemu-", 0) == 0;
}

/// The readings by "site/kind"; empty where this process cannot be read (sanitizers reserve terabytes).
std::map<std::string, double> readings(const AllocationLog& log, const MemoryBefore& before) {
  MemoryAccount account(log, "", before);
  std::map<std::string, double> found;
  if (is_emulated())
    return found;
  if (account.missing().count("heap/resident") != 0 || account.missing().count("buffers/kv/resident") != 0)
    return found;
  const std::vector<double> values = account.read();
  for (std::size_t i = 0; i < values.size(); ++i)
    found[account.channels()[i].site + "/" + account.channels()[i].kind] = values[i];
  return found;
}

double unaccounted(const std::map<std::string, double>& found) {
  double rest = found.at("process/rss_after_run") - found.at("heap/resident") - found.at("program/resident");
  for (const auto& [name, bytes] : found)
    rest -= name.rfind("buffers/", 0) == 0 ? bytes : 0.0;
  return rest;
}

BufferInfo buffer_at(const void* address, std::uint64_t bytes) {
  BufferInfo info;
  info.bytes = bytes;
  info.address = address;
  info.category = MemoryCategory::kKv;
  return info;
}

bool same(const std::vector<PageRange>& a, const std::vector<PageRange>& b) {
  return a.size() == b.size() && total_bytes(without(a, b)) == 0 && total_bytes(without(b, a)) == 0;
}

}  // namespace

TEST_CASE("ranges of addresses: what of one lies in another") {
  const std::vector<PageRange> a = {{10, 20}, {30, 40}, {50, 60}};
  CHECK(same(without(a, {}), a));
  CHECK(without(a, a).empty());
  CHECK(same(without(a, {{12, 14}, {18, 33}, {55, 70}}), {{10, 12}, {14, 18}, {33, 40}, {50, 55}}));
  CHECK(same(without(a, {{0, 100}}), {}));
  CHECK(overlap_bytes(a, {{15, 35}}) == 10);
  CHECK(total_bytes(a) == 30);
}

TEST_CASE("what malloc took since is heap, what was there before is the program") {
  const AllocationLog log;
  const MemoryBefore before = read_memory_before();
  const auto first = readings(log, before);
  if (first.empty())
    return;
  CHECK(std::abs(unaccounted(first)) < kSlack);
  CHECK(first.at("heap/resident") < kSlack);
  const std::unique_ptr<char[]> taken(new char[32 * kMiB]);
  std::memset(taken.get(), 1, 24 * kMiB);  // the rest is not touched
  const auto second = readings(log, before);
  CHECK(second.at("heap/resident") - first.at("heap/resident") == doctest::Approx(24 * kMiB).epsilon(0.07));
  CHECK(std::abs(second.at("program/resident") - first.at("program/resident")) < kSlack);
  CHECK(std::abs(unaccounted(second)) < kSlack);
}

TEST_CASE("memory that nobody explains is not hidden in another row") {
  const AllocationLog log;
  const MemoryBefore before = read_memory_before();
  if (readings(log, before).empty())
    return;
  void* hidden = mmap(nullptr, 32 * kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(hidden != MAP_FAILED);
  std::memset(hidden, 1, 32 * kMiB);
  CHECK(unaccounted(readings(log, before)) == doctest::Approx(32 * kMiB).epsilon(0.05));
  munmap(hidden, 32 * kMiB);
}

TEST_CASE("memory that was freed before the load and is a buffer now counts once") {
  // GIVEN 32 MB in small blocks that malloc keeps when they are freed, because a later one is still in use
  std::vector<std::unique_ptr<char[]>> blocks;
  for (int i = 0; i < 512; ++i) {
    blocks.emplace_back(new char[64 << 10]);
    std::memset(blocks.back().get(), 1, 64 << 10);
  }
  const std::unique_ptr<char[]> last(new char[1000]);
  blocks.clear();
  const MemoryBefore before = read_memory_before();
  // WHEN buffers are made of it, none larger than what malloc takes from its own arena
  AllocationLog log;
  std::vector<std::unique_ptr<char[]>> buffers;
  for (int i = 0; i < 256; ++i) {
    buffers.emplace_back(new char[64 << 10]);
    std::memset(buffers.back().get(), 2, 64 << 10);
    log.allocated(buffer_at(buffers.back().get(), 64 << 10), 0);
  }
  const auto found = readings(log, before);
  if (found.empty())
    return;
  // THEN the buffers are the cache's, and nothing is missing or counted twice
  CHECK(found.at("buffers/kv/resident") == 256 * (64 << 10));
  CHECK(std::abs(unaccounted(found)) < kSlack);
}

TEST_CASE("the account finds what is resident of a buffer, page by page") {
  constexpr std::size_t kBytes = 1 << 24;
  // Not touched, and not what malloc has given out before.
  char* memory = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  REQUIRE(memory != MAP_FAILED);
  AllocationLog log;
  log.allocated(buffer_at(memory, kBytes), 0);
  const MemoryBefore before;
  MemoryAccount account(log, "", before);
  if (account.missing().count("buffers/kv/resident") != 0)
    return;
  const auto resident = [&] {
    for (std::size_t i = 0; i < account.channels().size(); ++i) {
      if (account.channels()[i].site == "buffers/kv")
        return account.read()[i];
    }
    return std::nan("");
  };
  CHECK(resident() < kBytes / 8);
  for (std::size_t i = 0; i < kBytes / 2; i += 1024)
    memory[i] = 1;
  CHECK(resident() == doctest::Approx(kBytes / 2).epsilon(0.13));  // huge pages round it up
  log.released(0, 1);
  CHECK(resident() == 0);
  munmap(memory, kBytes);
}

}  // namespace melt
