// SPDX-License-Identifier: Apache-2.0
// One perf_event_open group of one thread: all of its events are read by a single read(2) of the leader.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "melt/counters.h"

namespace melt {

struct PerfEvent {
  const char* name;       ///< as the column of the ops table
  const char* perf_name;  ///< as perf(1) writes it
  CounterKind kind;
  std::uint32_t type;    ///< perf_event_attr.type
  std::uint64_t config;  ///< perf_event_attr.config
  bool in_user_mode;     ///< whether it happens in user mode too, so that it may be counted without the kernel's part
};

/// cycles, instructions, llc_misses, branch_misses, then minor_faults, major_faults, context_switches, migrations.
const std::vector<PerfEvent>& perf_events();

/// Layout of a group's read (PERF_FORMAT_GROUP | ID | TOTAL_TIME_ENABLED | TOTAL_TIME_RUNNING), in 64-bit words:
///   number of events | ns enabled | ns counted (less: shared with others) | { value | id } per event
constexpr std::size_t kReadHeadWords = 3;
constexpr std::size_t kReadWordsPerEvent = 2;

class PerfGroup {
 public:
  PerfGroup() = default;
  ~PerfGroup();
  PerfGroup(PerfGroup&& other) noexcept;
  PerfGroup& operator=(PerfGroup&& other) noexcept;

  /// Adds an event of the calling thread, switched off. Returns 0, or the errno of perf_event_open. Hardware is counted
  /// in user mode only: then reading the counters is not among what they count.
  int add(const PerfEvent& event);
  void start() noexcept;
  void stop() noexcept;

  int leader() const noexcept { return files_.empty() ? -1 : files_.front(); }
  std::size_t size() const noexcept { return files_.size(); }
  /// Of the events, in the order in which they were added.
  const std::vector<std::uint64_t>& ids() const noexcept { return ids_; }
  /// As perf(1) writes them: page-faults:u where the kernel's part is not counted.
  const std::vector<std::string>& sources() const noexcept { return sources_; }

  /// Reads a group into `n_words` words; words[0] is 0 where that failed. One system call, no allocation.
  static void read(int leader, std::uint64_t* words, std::uint32_t n_words);

 private:
  std::vector<int> files_;
  std::vector<std::uint64_t> ids_;
  std::vector<std::string> sources_;
};

/// The software events without perf: getrusage(RUSAGE_THREAD) and the processor's number, in the same layout. Ids are
/// positions in rusage_counters(). `file` is not used.
void read_rusage(int file, std::uint64_t* words, std::uint32_t n_words);
/// Columns that read_rusage() can fill, in its order; empty where the system has no counts per thread. The last is
/// the processor that the thread was on, from which migrations follow.
const std::vector<const char*>& rusage_counters();

/// What an errno of perf_event_open means here, with the kernel's own word for it and the paranoid setting.
std::string perf_reason(int error);

}  // namespace melt
