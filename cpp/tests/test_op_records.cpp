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

}  // namespace
}  // namespace melt
