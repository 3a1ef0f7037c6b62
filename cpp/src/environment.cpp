// SPDX-License-Identifier: Apache-2.0
#include "melt/environment.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <vector>

#include "json.h"
#include "melt_build_info.h"

namespace melt {
namespace {

#if defined(__linux__)
using ResidencyByte = unsigned char;
#else
using ResidencyByte = char;  // as Darwin's mincore has it
#endif

// Its malloc and memcpy are part of what is measured.
#if defined(__BIONIC__)
constexpr const char* kLibc = "bionic";
#elif defined(__GLIBC__)
constexpr const char* kLibc = "glibc";
#elif defined(__APPLE__)
constexpr const char* kLibc = "libSystem";
#elif defined(__linux__)
constexpr const char* kLibc = "musl";  // which does not name itself
#else
constexpr const char* kLibc = "unknown";
#endif

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// The value of the first "key : value" line of a /proc file; empty if there is none.
std::string proc_value(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key) != 0)
      continue;
    const std::size_t begin = line.find_first_not_of(" \t:", key.size());
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

int cpus_allowed() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    return CPU_COUNT(&set);
#endif
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

/// Of the last minute.
std::optional<double> load_average() {
#if defined(__linux__)  // bionic has getloadavg() since Android 10 only, and keeps the file from apps
  const std::string line = first_line("/proc/loadavg");
  char* end = nullptr;
  const double load = std::strtod(line.c_str(), &end);
  return end == line.c_str() ? std::nullopt : std::optional<double>(load);
#else
  double load = 0;
  return getloadavg(&load, 1) == 1 ? std::optional<double>(load) : std::nullopt;
#endif
}

}  // namespace

std::string device_json() {
  JsonObject device, missing;
  const auto add = [&](const char* key, const std::string& value, const char* reason) {
    if (value.empty()) {
      missing.add(key, reason);
    } else {
      device.add(key, value);
    }
  };
  utsname names{};
  uname(&names);
  device.add("hostname", names.nodename);
  device.add("os", std::string(names.sysname) + " " + names.release);
  device.add("machine", names.machine);
  add("cpu_model", proc_value("/proc/cpuinfo", "model name"), "/proc/cpuinfo has no \"model name\" line");
  std::string features = proc_value("/proc/cpuinfo", "flags");
  if (features.empty())
    features = proc_value("/proc/cpuinfo", "Features");
  add("cpu_features", features, "/proc/cpuinfo lists no CPU features");
  device.add("n_cpus", static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  device.add("n_cpus_allowed", cpus_allowed());
  add("governor", first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
      "no cpufreq in /sys: virtual machine, or a kernel without it");
  const std::string memory_kb = proc_value("/proc/meminfo", "MemTotal");
  if (memory_kb.empty()) {
    missing.add("mem_total_bytes", "/proc/meminfo cannot be read");
  } else {
    device.add("mem_total_bytes", static_cast<std::uint64_t>(std::strtoull(memory_kb.c_str(), nullptr, 10)) * 1024);
  }
  const std::optional<double> load = load_average();
  if (load)
    device.add("load_average", *load);
  else
    missing.add("load_average", "/proc/loadavg cannot be read");
  return device.add_raw("missing", missing.str()).str();
}

std::string build_json() {
  return JsonObject()
      .add("version", MELT_BUILD_VERSION)
      .add("type", MELT_BUILD_TYPE)
      .add("compiler", MELT_BUILD_COMPILER)
      .add("flags", MELT_BUILD_FLAGS)
      .add("instructions", MELT_BUILD_INSTRUCTIONS)
      .add("processor", MELT_BUILD_PROCESSOR)
      .add("sanitizers", MELT_BUILD_SANITIZE)
      .add("libc", kLibc)
      .str();
}

std::uint32_t default_thread_count() {
  return static_cast<std::uint32_t>(std::max(cpus_allowed(), 1));
}

const char* build_version() noexcept {
  return MELT_BUILD_VERSION;
}

double page_cache_ratio(const std::string& path) noexcept {
  double ratio = std::nan("");
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would wait for a writer
  if (file < 0)
    return ratio;
  struct stat status{};
  if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    const auto size = static_cast<std::size_t>(status.st_size);
    void* mapping = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
    if (mapping != MAP_FAILED) {
      const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
      std::vector<ResidencyByte> pages((size + page - 1) / page);
      if (mincore(mapping, size, pages.data()) == 0) {
        const auto resident = std::count_if(pages.begin(), pages.end(), [](ResidencyByte b) { return (b & 1) != 0; });
        ratio = static_cast<double>(resident) / static_cast<double>(pages.size());
      }
      munmap(mapping, size);
    }
  }
  close(file);
  return ratio;
}

double peak_rss_bytes() noexcept {
#if defined(__linux__)
  try {
    const std::string kb = proc_value("/proc/self/status", "VmHWM");
    if (!kb.empty()) {
      // Level memory makes the kernel forget the peak between runs: keep what was seen before.
      static std::atomic<double> highest{0.0};
      const double peak = std::max(highest.load(), std::strtod(kb.c_str(), nullptr) * 1024.0);
      highest.store(peak);
      return peak;
    }
  } catch (...) {
    return std::nan("");
  }
  return std::nan("");
#else
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<double>(usage.ru_maxrss) : std::nan("");  // bytes on Darwin
#endif
}

}  // namespace melt
