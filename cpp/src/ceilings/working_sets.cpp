// SPDX-License-Identifier: Apache-2.0
// Which CPUs, and how many bytes: from sysfs (Documentation/ABI/testing/sysfs-devices-system-cpu), with fallbacks.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>

#include "melt/ceilings.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace melt {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kAssumedL2 = kMiB / 2, kAssumedL3 = 8 * kMiB;
/// Enough to be memory on machines that do not say, or understate, what they cache.
constexpr std::uint64_t kLeastMemorySet = 256 * kMiB;

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// "2048K" -> 2097152; 0 if it is no size.
std::uint64_t size_of(const std::string& text) {
  char* unit = nullptr;
  const std::uint64_t number = std::strtoull(text.c_str(), &unit, 10);
  const std::uint64_t scale = *unit == 'K' ? 1024 : *unit == 'M' ? kMiB : *unit == 'G' ? 1024 * kMiB : 1;
  return number * scale;
}

/// Bytes of all caches of a level that these CPUs reach; 0 where sysfs names none.
std::uint64_t cache_bytes(const std::string& sysfs, int level, const std::vector<int>& cpus) {
  std::set<std::string> seen;  // caches are told apart by who shares them
  std::uint64_t total = 0;
  for (const int cpu : cpus) {
    for (int index = 0; index < 16; ++index) {
      const std::string cache =
          sysfs + "/devices/system/cpu/cpu" + std::to_string(cpu) + "/cache/index" + std::to_string(index) + "/";
      const std::string found = first_line(cache + "level");
      if (found.empty())
        break;
      if (found != std::to_string(level) || first_line(cache + "type") == "Instruction")
        continue;
      const std::string sharing = first_line(cache + "shared_cpu_list");
      if (seen.insert(sharing.empty() ? std::to_string(cpu) : sharing).second)
        total += size_of(first_line(cache + "size"));
    }
  }
  return total;
}

std::string in_mib(std::uint64_t bytes) {
  const std::uint64_t tenths = bytes * 10 / kMiB;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " MiB";
}

/// A file's number; 0 if there is none, as in "max".
std::uint64_t number_in(const std::string& path) {
  return std::strtoull(first_line(path).c_str(), nullptr, 10);
}

std::uint64_t free_memory_bytes() {
  std::uint64_t free_bytes = 0;
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("MemAvailable:", 0) == 0)
      free_bytes = std::strtoull(line.c_str() + 13, nullptr, 10) * 1024;
  }
  if (free_bytes == 0) {
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    free_bytes =
        pages > 0 && page > 0 ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page) / 2 : kMiB;
  }
  for (const char* limit_file : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const std::uint64_t limit = number_in(limit_file);
    free_bytes = limit > 0 ? std::min(free_bytes, limit) : free_bytes;
  }
  return free_bytes;
}

/// Whether another CPU comes first on the same core.
bool second_on_its_core(const std::string& sysfs, int cpu) {
  const std::string list =
      first_line(sysfs + "/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
  return !list.empty() && std::atoi(list.c_str()) != cpu;
}

std::uint64_t whole_blocks(std::uint64_t bytes, std::uint64_t n_threads) {
  const std::uint64_t block = 65536 * n_threads;
  return std::max<std::uint64_t>(bytes / block, 1) * block;
}

}  // namespace

std::vector<int> usable_cpus(const std::string& sysfs) {
  std::vector<int> cpus;
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set))
        cpus.push_back(cpu);
    }
  }
#endif
  if (cpus.empty()) {
    const long n = std::max(sysconf(_SC_NPROCESSORS_ONLN), 1L);
    for (int cpu = 0; cpu < n; ++cpu)
      cpus.push_back(cpu);
  }
  std::stable_partition(cpus.begin(), cpus.end(), [&](int cpu) { return !second_on_its_core(sysfs, cpu); });
  return cpus;
}

std::vector<std::uint32_t> default_thread_counts(std::uint32_t n_cpus) {
  std::vector<std::uint32_t> counts;
  for (std::uint32_t n = 1; n <= std::min(n_cpus, 8U); ++n)
    counts.push_back(n);
  for (std::uint32_t n = 8; n < n_cpus; n *= 2) {
    for (const std::uint32_t more : {n + n / 2, 2 * n}) {
      if (more < n_cpus)
        counts.push_back(more);
    }
  }
  if (n_cpus > 8)
    counts.push_back(n_cpus);
  return counts;
}

std::uint64_t memory_cap_bytes() {
  return std::min(free_memory_bytes() / 4, 2048 * kMiB);
}

std::vector<WorkingSet> choose_working_sets(const std::vector<int>& cpus, std::uint64_t cap_bytes,
                                            const std::string& sysfs) {
  const std::uint64_t n = cpus.size();
  std::uint64_t l2 = cache_bytes(sysfs, 2, cpus), l3 = cache_bytes(sysfs, 3, cpus);
  const bool assumed = l2 == 0;
  if (assumed) {
    l2 = n * kAssumedL2;
    l3 = kAssumedL3;
  }
  const std::string l2_text = in_mib(l2) + " of L2" + (assumed ? " (assumed: sysfs names no caches)" : "");
  const std::string l3_text = in_mib(l3) + " of L3" + (assumed ? " (assumed: sysfs names no caches)" : "");
  std::vector<WorkingSet> sets{{"L2", whole_blocks(std::min(l2 / 2, cap_bytes), n), "half of " + l2_text}};

  const std::uint64_t near = std::min({4 * l2, l3 / 2, cap_bytes}), far = std::min(l3 / 2, cap_bytes);
  if (l3 == 0) {
    sets.push_back({"L3", 0, "sysfs names no L3 cache"});
  } else if (near < 2 * l2) {
    sets.push_back({"L3", 0, "half of " + l3_text + " is less than twice the " + in_mib(l2) + " of L2"});
  } else {
    sets.push_back({"L3", whole_blocks(near, n), "the least of 4 x " + l2_text + " and half of " + l3_text});
    if (far >= 2 * near)
      sets.push_back({"L3", whole_blocks(far, n), "half of " + l3_text});
  }
  const std::uint64_t caches = std::max(l2, l3), wanted = std::max(4 * caches, kLeastMemorySet);
  const std::string rule = "the greater of 4 x " + (l3 > l2 ? l3_text : l2_text) + " and " + in_mib(kLeastMemorySet);
  if (wanted <= cap_bytes) {
    sets.push_back({"memory", whole_blocks(wanted, n), rule});
  } else if (cap_bytes >= 2 * caches) {
    sets.push_back({"memory", whole_blocks(cap_bytes, n), rule + ", capped at " + in_mib(cap_bytes)});
  } else {
    sets.push_back({"memory", 0,
                    "it would take " + in_mib(2 * caches) + ", twice the caches, and " + in_mib(cap_bytes) +
                        " is the most that may be taken: free some memory"});
  }
  return sets;
}

}  // namespace melt
