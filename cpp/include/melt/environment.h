// SPDX-License-Identifier: Apache-2.0
// What the measurement ran on and what built it: without it a number cannot be compared.
#pragma once

#include <cstdint>
#include <string>

namespace melt {

/// JSON object: hostname, os, cpu_model, n_cpus, n_cpus_allowed, cpu_features, governor, mem_total_bytes, load_average.
/// What the system does not say is left out and named under "missing" with the reason.
std::string device_json();

/// JSON object: version, compiler, flags, processor, build type of this library.
std::string build_json();

/// Share of a file's pages that lie in the page cache, 0 to 1; NaN where the system does not say.
double page_cache_ratio(const std::string& path) noexcept;

/// Highest resident set of this process so far in bytes (VmHWM); NaN where the system does not say.
double peak_rss_bytes() noexcept;

}  // namespace melt
