// SPDX-License-Identifier: Apache-2.0
// What can be counted per op here: the processor's counters and the kernel's software events, each with where it is
// read or why it is absent. docs/counters.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace melt {

/// Stored: never reuse a value.
enum class CounterKind : std::uint32_t { kHardware = 1, kSoftware = 2 };

struct CounterStatus {
  std::string name;    ///< as the column of the ops table: cycles, minor_faults
  CounterKind kind;    ///< of the processor, or of the kernel
  std::string source;  ///< perf cycles:u, getrusage; empty: absent...
  std::string reason;  ///< ...and this is why, in the kernel's words and ours
};

/// Every counter that level `counters` knows, in the order of its columns. Opens each for the calling thread, and
/// closes it again.
std::vector<CounterStatus> probe_counters();

/// Why context switches of a thread cannot be timed here; empty if they can.
std::string probe_switches();

/// Value of /proc/sys/kernel/perf_event_paranoid; "absent" where the kernel has no such file.
std::string perf_event_paranoid();

/// JSON object for `melt doctor`: "counters", a list of {name, kind, source, reason}; "switches_reason";
/// "perf_event_paranoid".
std::string counters_json();

}  // namespace melt
