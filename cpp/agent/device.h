// SPDX-License-Identifier: Apache-2.0
// What this machine and this build are, and its clocks, as the agent tells them.
#pragma once

#include <cstdint>
#include <string>

namespace melt::agent {

/// CLOCK_MONOTONIC: the clock of traces.
std::int64_t steady_ns();
std::int64_t wall_ns();
/// A clock that goes on while the device sleeps (CLOCK_BOOTTIME on Linux).
std::int64_t awake_and_asleep_ns();
/// Names this start of the system; empty where it has no such name.
std::string boot_id();

/// version, build, runtimes, arch, cpu_features, missing_features, os, page_size, n_cpus, pid: members of the answer
/// to hello, as an object. Executes code of the runtimes.
std::string describe_json();

}  // namespace melt::agent
