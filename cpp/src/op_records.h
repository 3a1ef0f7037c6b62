// SPDX-License-Identifier: Apache-2.0
// From stamps to records: what is done after a run so that nothing of it is done during one.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "counters/switch_marks.h"
#include "counters/thread_events.h"
#include "melt/clock.h"
#include "melt/recorder.h"
#include "melt/trace_format.h"
#include "melt/trace_writer.h"

namespace melt {

/// Turns the recorder's log into graphs and ops tables, and gives op definitions their row numbers for a whole trace.
class OpRecordWriter {
 public:
  OpRecordWriter(TraceWriter& writer, const ClockCalibration& calibration)
      : writer_(writer), calibration_(calibration) {}

  struct Counts {
    std::uint32_t n_graphs = 0;
    std::uint64_t n_groups = 0;
    std::uint64_t n_records = 0;
    std::uint64_t n_dropped = 0;
    std::uint64_t n_scaled = 0;  ///< records whose counters were shared with others
  };

  /// Writes the definitions that are new, then graphs and ops, each with what `events` tell of it, then the switches of
  /// run number `run`. Rows of the run's steps begin at `first_token`.
  Counts write_run(const OpRecorder& recorder, const OpSource* source, const ThreadEvents& events,
                   std::uint32_t first_token, std::uint32_t run);

 private:
  struct Topology {
    std::uint32_t number = kNone;
    std::unordered_map<std::uint32_t, std::uint32_t> op_of_node;  ///< first node of a group -> row of its definition
    std::vector<OpDefinition> content;                            ///< with the `topology` fields left 0
  };

  /// One thread of a graph as it was logged.
  struct ThreadLog {
    const melt_stamp* head;        ///< its stamps follow
    const std::uint64_t* entries;  ///< counters when it began the graph, then after each group; null: not read
  };
  /// What one record says besides what it is of.
  struct Span {
    std::uint64_t start, end, wait_end;
    const std::uint64_t* before;  ///< counter entries at both ends; null: not read
    const std::uint64_t* after;
  };
  static bool ends_were_seen(const std::vector<ThreadLog>& logs);
  static std::uint64_t group_end_of(const std::vector<ThreadLog>& logs, std::uint32_t group);
  std::vector<ThreadLog> thread_logs(const OpRecorder& recorder, const LoggedGraph& graph) const;
  static Span span_of(const OpRecorder& recorder, const ThreadLog& log, std::uint32_t group, std::uint64_t group_start,
                      std::uint64_t group_end);
  std::uint16_t append_record(OpRecord record, unsigned thread, const Span& span, Counts& counts);
  void append_switches(std::uint32_t run);
  const Topology& topology_for(const OpRecorder& recorder, const OpSource& source, const LoggedGraph& graph);
  void check_coverage(std::size_t n_nodes, const std::vector<OpDefinition>& groups);
  void append_graph(const OpRecorder& recorder, const LoggedGraph& graph, const Topology& topology,
                    std::uint32_t token_row, Counts& counts);
  std::uint64_t append_ops(const OpRecorder& recorder, const LoggedGraph& graph, const std::vector<ThreadLog>& logs,
                           const Topology& topology, std::uint32_t graph_row, std::uint32_t token_row, Counts& counts);
  void append_host_ops(const OpRecorder& recorder, std::uint32_t first_token);
  std::uint32_t host_op_definition(HostOp op);
  void flush_ops();

  TraceWriter& writer_;
  const ClockCalibration& calibration_;
  std::uint32_t n_definitions_ = 0;
  std::uint32_t n_topologies_ = 0;
  std::uint32_t n_graphs_ = 0;
  std::uint32_t host_ops_[kHostOpKinds] = {kNone, kNone};
  bool warned_ = false;
  /// By hash of the content: the same definitions share one topology number, whichever run they came from.
  std::unordered_multimap<std::size_t, Topology> known_;
  std::unordered_map<std::uint32_t, const Topology*> by_slot_;  ///< of the run being written
  std::vector<OpDefinition> new_definitions_;
  std::vector<GraphRecord> graphs_;
  std::vector<OpRecord> ops_;
  std::vector<double> values_;  ///< of the counters, for each of ops_
  const ThreadEvents* events_ = nullptr;
  std::unique_ptr<SwitchMarks> marks_;  ///< of the run being written
};

}  // namespace melt
