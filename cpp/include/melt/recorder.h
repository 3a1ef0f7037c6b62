// SPDX-License-Identifier: Apache-2.0
// The seam between runtimes and recording. An adapter stamps groups into the threads' logs and commits whole graphs;
// nothing here allocates, locks or formats between begin_run and end_run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "melt/clock.h"
#include "melt/thread_stamps.h"
#include "melt/trace_format.h"

namespace melt {

/// Work of the procedure itself, outside any graph.
enum class HostOp : std::uint16_t { kTokenize = 0, kSample = 1 };
constexpr std::size_t kHostOpKinds = 2;

struct HostEvent {
  HostOp op;
  std::uint32_t token;  ///< step of the run it served: 0 is the prefill
  std::uint64_t begin_ticks;
  std::uint64_t end_ticks;
};

/// How one thread reads its counters (melt_thread_counters); null: it does not.
struct CounterReader {
  void (*read)(int file, std::uint64_t* words, std::uint32_t n_words) = nullptr;
  int file = -1;
};

/// Something that follows the computing threads while ops are recorded.
class ThreadWatch {
 public:
  virtual ~ThreadWatch() = default;
  /// Forgets the run before; may allocate.
  virtual void begin_run() = 0;
  virtual void start() noexcept = 0;
  virtual void stop() noexcept = 0;
  /// After each graph; allocation-free, no system call.
  virtual void drain() noexcept = 0;
};

/// One executed graph. In each thread's log it is a head stamp {thread_begin, count}, then the thread's stamps.
struct LoggedGraph {
  std::uint64_t begin_ticks;
  std::uint64_t end_ticks;
  std::uint64_t thread_end_ticks;  ///< when thread 0 was out of the last barrier
  std::uint32_t topology;          ///< the adapter's own slot number; kNone: not captured
  std::uint32_t token;             ///< step of the run it served
  std::uint32_t n_threads;
  std::uint32_t n_groups;   ///< groups executed
  std::uint32_t n_dropped;  ///< records lost, over all threads
  bool aborted;
  std::size_t offset;  ///< of the head stamps, the same in all logs; kNoStamps if they had no room for all of it
};
constexpr std::size_t kNoStamps = static_cast<std::size_t>(-1);

/// How much a run may record before graphs are dropped (and counted). Sizes are reserved and touched before the run.
struct RecorderLimits {
  std::size_t log_bytes = std::size_t{1} << 28;  ///< stamps and counters of one run, all threads
  bool watch_switches = true;                    ///< note when a computing thread loses its processor
  /// Of a graph's time: where readings of the counter take more, the last thread at each barrier leaves its own out.
  double most_reading_ratio = 0.001;
};

/// Runtimes round the positions that a graph attends to up to this, so that one topology serves as many tokens.
constexpr std::uint32_t kPositionStep = 256;

/// What a run may have to record, at most: how much is reserved before it.
struct RunExtent {
  std::size_t n_prefill_graphs = 1;
  std::size_t n_decode_graphs = 0;

  /// Some more than these two, for what a runtime may add of its own, or build anew at a phase's begin.
  static constexpr std::size_t kMargin = 8;
  std::size_t n_graphs() const noexcept { return n_prefill_graphs + n_decode_graphs + kMargin; }
  /// Graphs that differ.
  std::size_t n_topologies() const noexcept { return n_prefill_graphs + n_decode_graphs / kPositionStep + kMargin; }
};

/// Graphs that were executed, but found no room in the list of them.
struct LostGraphs {
  std::uint64_t n_graphs = 0;
  std::uint64_t n_groups = 0;
  std::uint64_t n_records = 0;  ///< over all threads
};

class OpRecorder {
 public:
  OpRecorder(unsigned n_threads, RecorderLimits limits);
  OpRecorder(const OpRecorder&) = delete;
  OpRecorder& operator=(const OpRecorder&) = delete;

  /// Lets the threads read their counters at each op boundary, `n_words` a reading; 0: no longer. Allocates.
  void count_with(const std::vector<CounterReader>& readers, std::uint32_t n_words);
  /// Starts, drains and stops `watch` with the recording; null: nothing. It must outlive the recorder's last run.
  void watch_with(ThreadWatch* watch) noexcept { watch_ = watch; }

  /// Empties the log and makes room for `n_graphs` graphs of about `n_groups` groups. Allocates; never call in a run.
  void begin_run(std::size_t n_graphs, std::size_t n_groups);

  // Hot path, all noexcept and allocation-free.
  melt_thread_stamps* thread_stamps() noexcept { return thread_stamps_.data(); }
  unsigned n_threads() const noexcept { return static_cast<unsigned>(thread_stamps_.size()); }
  void set_token(std::uint32_t token) noexcept { token_ = token; }
  /// Whether each thread can read the counter at each barrier of a graph without being felt, going by how long the same
  /// topology took just before.
  bool can_read_all(std::uint32_t topology) const noexcept;
  /// Points the threads' stamps behind what their logs hold. Call before any thread stamps.
  void graph_begin(std::uint32_t topology) noexcept;
  /// For a runtime that knows only in the end which topology it was: replaces what graph_begin() was given.
  void set_topology(std::uint32_t topology) noexcept { current_.topology = topology; }
  /// Keeps what `n_threads` threads stamped. Call after the last barrier, with the time from which thread 0 computed,
  /// as its caller saw it, and the time at which it returned.
  void graph_end(unsigned n_threads, std::uint64_t begin_ticks, std::uint64_t end_ticks, bool aborted) noexcept;
  void host_op(HostOp op, std::uint64_t begin_ticks, std::uint64_t end_ticks) noexcept;

  void start() noexcept {
    if (watch_ != nullptr)
      watch_->start();
  }
  void stop() noexcept {
    if (watch_ != nullptr)
      watch_->stop();
  }

  // After the run.
  const std::vector<LoggedGraph>& graphs() const noexcept { return graphs_; }
  const std::vector<HostEvent>& host_events() const noexcept { return host_events_; }
  /// The head stamp of one thread; `first_node` of it is how many stamps follow.
  const melt_stamp* stamps(const LoggedGraph& graph, unsigned thread) const noexcept {
    return log_.data() + slot(thread, graph.offset);
  }
  /// 64-bit words of a counter entry; 0: counters are not read.
  std::uint32_t entry_words() const noexcept { return entry_words_; }
  /// The counter entries that belong to stamps(graph, thread), one for each of them: for the head stamp the entry when
  /// the thread began the graph. Ticks 0: not read.
  const std::uint64_t* entries(const LoggedGraph& graph, unsigned thread) const noexcept {
    return counter_log_.data() + slot(thread, graph.offset) * entry_words_;
  }
  const LostGraphs& lost() const noexcept { return lost_; }
  /// Most groups seen in one graph so far; a better hint for the next begin_run.
  std::size_t max_groups_seen() const noexcept { return max_groups_seen_; }

 private:
  RecorderLimits limits_;
  std::vector<melt_thread_stamps> thread_stamps_;
  std::vector<melt_stamp> log_;   ///< one thread's log after the other
  std::size_t thread_slots_ = 0;  ///< stamps in each of them
  std::size_t slots_used_ = 0;
  std::uint32_t entry_words_ = 0;
  std::vector<melt_thread_counters> thread_counters_;
  std::vector<std::uint64_t> counter_log_;  ///< an entry for each stamp of log_
  ThreadWatch* watch_ = nullptr;
  std::vector<LoggedGraph> graphs_;
  std::vector<HostEvent> host_events_;
  LoggedGraph current_{};  ///< or the last one
  double reading_ticks_;   ///< what a reading of the counter takes
  std::uint32_t token_ = 0;
  LostGraphs lost_;
  std::size_t max_groups_seen_ = 0;

  std::size_t slot(unsigned thread, std::size_t offset) const noexcept { return thread * thread_slots_ + offset; }
  void clear_unread_counters(unsigned thread) noexcept;
};

/// A group of graph nodes that ran as one: first and last node index.
using NodeRange = std::pair<std::uint32_t, std::uint32_t>;

/// What a runtime adapter offers for the level `ops`.
class OpSource {
 public:
  virtual ~OpSource() = default;
  /// Starts stamping what the calling thread evaluates from now on; cheap enough to switch between two tokens.
  virtual void start(OpRecorder& recorder) noexcept = 0;
  /// Call from the thread that called start().
  virtual void stop() noexcept = 0;
  /// Forgets the topologies captured so far and makes room for so many; call between runs.
  virtual void clear(std::size_t n_topologies) = 0;
  /// Describes the groups of a topology slot captured since clear(); `topology` fields are left 0.
  virtual std::vector<OpDefinition> describe(std::uint32_t slot, const std::vector<NodeRange>& groups) const = 0;
  /// Nodes that a graph of this topology executes by the runtime's own account, apart from the stamps; 0: not known.
  virtual std::size_t n_nodes(std::uint32_t slot) const {
    static_cast<void>(slot);
    return 0;
  }
  /// Upper bound of the groups in one graph, known before any ran.
  virtual std::size_t groups_hint() const noexcept = 0;
  /// Calls `work` once on each thread that computes, with its number, all at the same time; call between runs. False:
  /// this runtime cannot tell. `work` must not throw.
  virtual bool on_each_thread(void (*work)(void* user, unsigned thread), void* user) {
    static_cast<void>(work);
    static_cast<void>(user);
    return false;
  }
};

/// Records from construction to destruction, also when what happens between throws. A null source records nothing.
class RecordingScope {
 public:
  RecordingScope(OpSource* source, OpRecorder& recorder) noexcept : source_(source), recorder_(recorder) {
    if (source_ == nullptr)
      return;
    recorder_.start();
    source_->start(recorder);
  }
  ~RecordingScope() {
    if (source_ == nullptr)
      return;
    source_->stop();
    recorder_.stop();
  }
  RecordingScope(const RecordingScope&) = delete;
  RecordingScope& operator=(const RecordingScope&) = delete;

 private:
  OpSource* source_;
  OpRecorder& recorder_;
};

/// Copies `text` into a fixed field of a record, cut at a UTF-8 character if it is too long, padded with zero bytes.
void set_text(char* field, std::size_t size, const std::string& text) noexcept;
template <std::size_t N>
void set_text(char (&field)[N], const std::string& text) noexcept {
  set_text(field, N, text);
}

}  // namespace melt
