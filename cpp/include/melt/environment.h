// SPDX-License-Identifier: Apache-2.0
// What the measurement ran on and what built it: without it a number cannot be compared.
#pragma once

#include <cstdint>
#include <string>

namespace melt {

/// JSON object: hostname, os, cpu_model, n_cpus, n_cpus_allowed, cpu_features, governor, mem_total_bytes, load_average.
/// What the system does not say is left out and named under "missing" with the reason.
std::string device_json();

/// JSON object: version, compiler, flags, processor, build type, C library of this library.
std::string build_json();

/// The version alone.
const char* build_version() noexcept;

/// CPUs that this process may run on, at least 1: the number of threads where nobody names one.
std::uint32_t default_thread_count();

/// Share of a file's pages that lie in the page cache, 0 to 1; NaN where the system does not say.
double page_cache_ratio(const std::string& path) noexcept;

/// Memory that this process may use. A limit of its cgroup (version 1 or 2, or of any cgroup above it) counts as the
/// device's memory; page cache that the kernel would give up counts as available.
struct DeviceMemory {
  std::uint64_t total_bytes = UINT64_MAX;      ///< UINT64_MAX: the system does not say
  std::uint64_t available_bytes = UINT64_MAX;  ///< UINT64_MAX: the system does not say
  std::string source;                          ///< the file that decided, or why there is none
};

/// Reads <root>/proc and <root>/sys/fs/cgroup; without a root those that MELT_PROCFS_ROOT and MELT_SYSFS_ROOT name.
DeviceMemory device_memory(const std::string& root = "");

/// Highest resident set of this process so far in bytes (VmHWM); NaN where the system does not say.
double peak_rss_bytes() noexcept;

}  // namespace melt
