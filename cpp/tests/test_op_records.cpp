// SPDX-License-Identifier: Apache-2.0
// From stamps to records: what a source says of its graphs against what was stamped.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "counters/thread_events.h"
#include "melt/trace_reader.h"
#include "melt/trace_writer.h"
#include "op_records.h"

namespace melt {
namespace {

/// A graph of two groups, one of them fused of two nodes; by its own account it executes `n` nodes.
class TwoGroups final : public OpSource {
 public:
  explicit TwoGroups(std::size_t n) : n_(n) {}
  void start(OpRecorder&) noexcept override {}
  void stop() noexcept override {}
  void clear(std::size_t) override {}
  std::vector<OpDefinition> describe(std::uint32_t, const std::vector<NodeRange>& groups) const override {
    std::vector<OpDefinition> definitions(groups.size());
    for (std::size_t i = 0; i < groups.size(); ++i) {
      definitions[i].node = groups[i].first;
      definitions[i].n_fused = static_cast<std::uint16_t>(groups[i].second - groups[i].first + 1);
    }
    return definitions;
  }
  std::size_t n_nodes(std::uint32_t) const override { return n_; }
  std::size_t groups_hint() const noexcept override { return 2; }

 private:
  std::size_t n_;
};

/// The metadata of a trace of one such graph.
std::string metadata(std::size_t n_nodes, bool aborted) {
  SimulatedClock clock;
  ClockCalibration calibration(clock);
  OpRecorder recorder(1, {});
  recorder.begin_run(1, 2);
  recorder.graph_begin(0);
  recorder.thread_stamps()[0].thread_begin = 10;
  melt_stamp_group(recorder.thread_stamps(), 20, 0, 0, 1);
  melt_stamp_group(recorder.thread_stamps(), 30, 0, 2, 2);
  recorder.graph_end(1, 10, 30, aborted);

  std::vector<std::uint8_t> bytes;
  const auto sink = make_memory_sink(bytes);
  TraceWriter writer(*sink, FileHeader{});
  const TwoGroups source(n_nodes);
  ThreadEvents events(1, {false, false, false});
  const auto counts = OpRecordWriter(writer, calibration).write_run(recorder, &source, events, 0, 0);
  CHECK(counts.n_records == 2);
  writer.finish();
  std::string text;
  for (const TraceChunk& chunk : read_trace(bytes.data(), bytes.size()).chunks) {
    if (chunk.header.kind == static_cast<std::uint32_t>(ChunkKind::kMetadata))
      text.append(reinterpret_cast<const char*>(chunk.payload), chunk.header.payload_bytes);
  }
  return text;
}

TEST_CASE("nodes that a graph executes and no group covers are a warning") {
  CHECK(metadata(3, false).empty());
  CHECK(metadata(0, false).empty());  // not known
  CHECK(metadata(4, false).find("the hooks saw 3 of the 4 nodes") != std::string::npos);
  CHECK(metadata(4, true).empty());  // it was cut short
}

/// The ops of a graph of two groups on three threads, begun at 10, of these stamps (group after group), in ticks.
std::vector<OpRecord> ops_of(const std::vector<std::pair<std::uint64_t, std::uint64_t>>& stamps, std::uint16_t& flags) {
  SimulatedClock clock;
  ClockCalibration calibration(clock);
  OpRecorder recorder(3, {});
  recorder.begin_run(1, 2);
  recorder.graph_begin(0);
  for (unsigned thread = 0; thread < 3; ++thread) {
    recorder.thread_stamps()[thread].thread_begin = 10;
    for (std::uint32_t group = 0; group < 2; ++group) {
      const auto& [ticks, released] = stamps[group * 3 + thread];
      melt_stamp_group(&recorder.thread_stamps()[thread], ticks, released, group, group);
    }
  }
  recorder.thread_stamps()[0].thread_end = 0;
  recorder.graph_end(3, 10, 100, false);
  std::vector<std::uint8_t> bytes;
  const auto sink = make_memory_sink(bytes);
  TraceWriter writer(*sink, FileHeader{});
  const TwoGroups source(2);
  OpRecordWriter(writer, calibration).write_run(recorder, &source, ThreadEvents(3, {false, false, false}), 0, 0);
  writer.finish();
  const TraceContents trace = read_trace(bytes.data(), bytes.size());
  flags = records_of<GraphRecord>(trace, ChunkKind::kGraphs).at(0).flags;
  return records_of<OpRecord>(trace, ChunkKind::kOps);
}

void check_times(const OpRecord& op, std::int64_t start_ns, std::int64_t compute_ns, std::int64_t wait_ns) {
  CHECK(op.start_ns == start_ns);
  CHECK(op.compute_ns == compute_ns);
  CHECK(op.wait_ns == wait_ns);
}

TEST_CASE("a group ends at the latest reading of its threads, or when those that waited saw the last one end") {
  std::uint16_t flags = 0;
  // Read by all; the second group left at 40 by the last.
  std::vector<OpRecord> ops = ops_of({{20, 0}, {30, 0}, {25, 0}, {40, 0}, {35, 0}, {32, 0}}, flags);
  REQUIRE(ops.size() == 6);
  CHECK(flags == 0);
  check_times(ops[0], 10, 10, 10);
  check_times(ops[1], 10, 20, 0);
  check_times(ops[4], 30, 5, 5);
  // The last one's not read: thread 1 at the first barrier, thread 0 at the second. Thread 2 had nothing to do in the
  // second and was there before thread 0 saw the first end.
  ops = ops_of({{20, 31}, {0, 0}, {25, 30}, {0, 0}, {35, 40}, {30, 39}}, flags);
  CHECK(flags == kGraphEndsSeen);
  check_times(ops[0], 10, 10, 11);
  check_times(ops[1], 10, 21, 0);
  check_times(ops[3], 31, 9, 0);
  check_times(ops[4], 31, 4, 5);
  check_times(ops[5], 31, 0, 9);
  // Thread 2 arrived as the last one did, and was interrupted before it could read: it did not look, others did.
  ops = ops_of({{20, 31}, {0, 0}, {90, 0}, {0, 0}, {95, 0}, {94, 0}}, flags);
  check_times(ops[2], 10, 21, 0);
  check_times(ops[3], 31, 64, 0);  // nobody looked: the latest end that was read
}

}  // namespace
}  // namespace melt
