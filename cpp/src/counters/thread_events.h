// SPDX-License-Identifier: Apache-2.0
// What the kernel tells about each computing thread of one profiler: when it lost its processor (level `ops`), and how
// its counters stood at each op boundary (level `counters`).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "counters/perf_group.h"
#include "counters/switch_watch.h"
#include "melt/counters.h"
#include "melt/recorder.h"
#include "melt/trace_format.h"

namespace melt {

struct ThreadEventOptions {
  bool switches = true;   ///< note when a thread loses its processor
  bool counters = false;  ///< level `counters`
  bool is_real = true;    ///< false on a simulated clock: the kernel knows nothing of such times
};

/// A counter of the ops table, and where it comes from.
struct OpCounter {
  std::string name;
  CounterKind kind;
  std::string source;
  enum class From { kGroup, kRusage, kRusageProcessor, kSwitches, kSwitchesMoved } from;
  std::uint64_t event = 0;  ///< position in perf_events(), or in rusage_counters()
};

class ThreadEvents final : public ThreadWatch {
 public:
  ThreadEvents(unsigned n_threads, const ThreadEventOptions& options);

  /// Opens what is wanted on each computing thread, and gives the recorder what it is to read; the first time, and when
  /// another thread than before evaluates. Call between runs, from the thread that will evaluate.
  void prepare(OpSource& source, OpRecorder& recorder);

  void begin_run() override { switches_.clear(); }
  void start() noexcept override;
  void stop() noexcept override;
  void drain() noexcept override { switches_.drain(); }

  /// Columns of level `counters`, fixed from construction on; empty without that level.
  const std::vector<OpCounter>& counters() const noexcept { return counters_; }
  std::vector<CounterRecord> definitions() const;
  bool knows_switches() const noexcept { return watching_; }
  const SwitchWatch& switches() const noexcept { return switches_; }

  /// Counts between two readings of a thread, one for each of counters(): NaN where it was not read, and for those that
  /// do not come from readings. Scaled where the processor's counters were shared. Returns whether they were.
  bool difference(unsigned thread, const std::uint64_t* before, const std::uint64_t* after, double* values) const;

  /// JSON object with "disturbed" and, at level `counters`, "counters". Call between runs.
  std::string metadata(std::uint64_t n_scaled) const;
  /// Adds what the run just over noted; call once per run.
  void count_run() noexcept;

 private:
  struct Thread {
    std::int64_t id = -1;
    PerfGroup group;
    std::vector<std::size_t> position;  ///< of each counter's value in a reading; SIZE_MAX: not in it
    std::string reason;                 ///< why this thread is not counted
  };
  void plan_counters();
  void open(unsigned thread);
  void open_group(Thread& thread);
  bool uses_rusage() const noexcept;
  std::uint32_t reading_words() const noexcept;
  void close() noexcept;

  ThreadEventOptions options_;
  std::vector<Thread> threads_;
  SwitchWatch switches_;
  std::vector<OpCounter> counters_;
  std::vector<CounterStatus> absent_;
  bool watching_ = false;
  bool prepared_ = false;
  std::string switches_reason_;
  std::uint64_t n_switches_ = 0;
  std::uint64_t n_lost_ = 0;
};

}  // namespace melt
