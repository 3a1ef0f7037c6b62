// SPDX-License-Identifier: Apache-2.0
#include "op_records.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "json.h"

namespace melt {
namespace {

constexpr std::size_t kOpsPerWrite = 1 << 18;  // 10 MiB of records
constexpr double kClocksAgreeNs = 200.0;       // the counter and the clock of the switches, at their worst

std::vector<NodeRange> groups_of(const OpRecorder& recorder, const LoggedGraph& graph) {
  const melt_stamp* stamps = recorder.stamps(graph, 0);
  const std::uint32_t count = stamps[0].first_node;  // of the head stamp
  std::vector<NodeRange> groups;
  groups.reserve(count);
  for (std::uint32_t i = 1; i <= count; ++i)
    groups.emplace_back(stamps[i].first_node, stamps[i].last_node);
  return groups;
}

std::size_t content_hash(const std::vector<OpDefinition>& definitions) {
  const std::string_view bytes(reinterpret_cast<const char*>(definitions.data()),
                               definitions.size() * sizeof(OpDefinition));
  return std::hash<std::string_view>{}(bytes);
}

bool same_content(const std::vector<OpDefinition>& a, const std::vector<OpDefinition>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(OpDefinition)) == 0;
}

}  // namespace

OpRecordWriter::Counts OpRecordWriter::write_run(const OpRecorder& recorder, const OpSource* source,
                                                 const ThreadEvents& events, std::uint32_t first_token,
                                                 std::uint32_t run) {
  Counts counts;
  by_slot_.clear();
  events_ = &events;
  const auto margin = static_cast<std::uint64_t>(kClocksAgreeNs * 1e-9 * calibration_.counter_hz());
  marks_ = std::make_unique<SwitchMarks>(
      events.knows_switches() ? events.switches().intervals() : std::vector<std::vector<OffCpu>>{}, margin);
  for (const LoggedGraph& graph : recorder.graphs()) {
    static const Topology kUnknown;
    const bool logged = graph.offset != kNoStamps && source != nullptr;
    const Topology& topology = logged ? topology_for(recorder, *source, graph) : kUnknown;
    append_graph(recorder, graph, topology, first_token + graph.token, counts);
  }
  append_host_ops(recorder, first_token);
  flush_ops();
  append_switches(run);
  writer_.write(ChunkKind::kGraphs, graphs_);
  graphs_.clear();
  counts.n_graphs += static_cast<std::uint32_t>(recorder.lost().n_graphs);
  counts.n_groups += recorder.lost().n_groups;
  counts.n_dropped += recorder.lost().n_records;
  return counts;
}

const OpRecordWriter::Topology& OpRecordWriter::topology_for(const OpRecorder& recorder, const OpSource& source,
                                                             const LoggedGraph& graph) {
  const auto found = by_slot_.find(graph.topology);
  if (found != by_slot_.end())
    return *found->second;

  std::vector<OpDefinition> content = source.describe(graph.topology, groups_of(recorder, graph));
  if (!graph.aborted)
    check_coverage(source.n_nodes(graph.topology), content);
  const std::size_t hash = content_hash(content);
  const auto [begin, end] = known_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    if (same_content(it->second.content, content))
      return *(by_slot_[graph.topology] = &it->second);
  }
  Topology topology;
  topology.number = n_topologies_++;
  for (OpDefinition definition : content) {
    topology.op_of_node[definition.node] = n_definitions_++;
    definition.topology = topology.number;
    new_definitions_.push_back(definition);
  }
  topology.content = std::move(content);
  return *(by_slot_[graph.topology] = &known_.emplace(hash, std::move(topology))->second);
}

/// Conservation cannot tell that a group is missing: its time is in the one behind it. So nodes are counted.
void OpRecordWriter::check_coverage(std::size_t n_nodes, const std::vector<OpDefinition>& groups) {
  std::size_t n_covered = 0;
  for (const OpDefinition& group : groups)
    n_covered += group.n_fused;
  if (n_nodes == 0 || n_covered == n_nodes || warned_)
    return;
  warned_ = true;
  writer_.write_metadata(
      "{\"warnings\": [" +
      json_string("the hooks saw " + std::to_string(n_covered) + " of the " + std::to_string(n_nodes) +
                  " nodes that a graph executes: the time of the others counts to their neighbours") +
      "]}");
}

void OpRecordWriter::append_graph(const OpRecorder& recorder, const LoggedGraph& graph, const Topology& topology,
                                  std::uint32_t token_row, Counts& counts) {
  GraphRecord record{};
  record.topology = topology.number;
  record.token = token_row;
  record.n_threads = static_cast<std::uint16_t>(graph.n_threads);
  record.flags = graph.aborted ? kGraphAborted : 0;
  const std::vector<ThreadLog> logs =
      topology.number == kNone ? std::vector<ThreadLog>{} : thread_logs(recorder, graph);
  if (ends_were_seen(logs))
    record.flags |= kGraphEndsSeen;
  record.n_groups = graph.n_groups;
  record.n_dropped = graph.n_dropped;
  record.start_ns = calibration_.to_ns(graph.begin_ticks);
  record.duration_ns = calibration_.span_ns(graph.begin_ticks, graph.end_ticks);
  graphs_.push_back(record);
  const std::uint32_t graph_row = n_graphs_++;
  ++counts.n_graphs;
  counts.n_groups += graph.n_groups;
  counts.n_dropped += graph.n_dropped;
  if (topology.number == kNone)
    return;

  counts.n_records += append_ops(recorder, graph, logs, topology, graph_row, token_row, counts);
  if (ops_.size() >= kOpsPerWrite)
    flush_ops();
}

std::vector<OpRecordWriter::ThreadLog> OpRecordWriter::thread_logs(const OpRecorder& recorder,
                                                                   const LoggedGraph& graph) const {
  std::vector<ThreadLog> logs(graph.n_threads);
  for (unsigned thread = 0; thread < graph.n_threads; ++thread) {
    logs[thread].head = recorder.stamps(graph, thread);
    logs[thread].entries = recorder.entry_words() == 0 ? nullptr : recorder.entries(graph, thread);
  }
  return logs;
}

/// Whether the last thread at a barrier left its reading out: one of them was the last at the first.
bool OpRecordWriter::ends_were_seen(const std::vector<ThreadLog>& logs) {
  return std::any_of(logs.begin(), logs.end(),
                     [](const ThreadLog& log) { return log.head->first_node > 0 && log.head[1].ticks == 0; });
}

/// When a group was over for all threads: at the latest end; if the last thread did not read it, when the others saw
/// it.
std::uint64_t OpRecordWriter::group_end_of(const std::vector<ThreadLog>& logs, std::uint32_t group) {
  std::uint64_t released = 0, ended = 0;
  for (const ThreadLog& log : logs) {
    released = std::max(released, log.head[1 + group].released);
    ended = std::max(ended, log.head[1 + group].ticks);
  }
  return released != 0 ? released : ended;
}

/// When a thread began a group, ended it, and left the barrier: by its counter entries if it made any, which then are
/// part of its wait; else by the stamps of all threads.
OpRecordWriter::Span OpRecordWriter::span_of(const OpRecorder& recorder, const ThreadLog& log, std::uint32_t group,
                                             std::uint64_t group_start, std::uint64_t group_end) {
  const std::uint64_t start = group == 0 ? log.head->ticks : group_start;
  const std::uint64_t ticks = log.head[1 + group].ticks;
  // Threads see the end of a group some ns apart: one that had nothing to do in the next may have left it before that.
  const std::uint64_t end = std::max(start, ticks == 0 ? group_end : std::min(ticks, group_end));
  Span span{start, end, std::max(group_end, end), nullptr, nullptr};
  if (log.entries == nullptr)
    return span;
  const std::uint64_t* before = log.entries + static_cast<std::size_t>(group) * recorder.entry_words();
  const std::uint64_t* after = before + recorder.entry_words();
  if (before[0] == 0 || after[0] == 0)
    return span;
  span.start = std::min(before[0], span.end);
  span.wait_end = std::max(span.wait_end, after[0]);
  span.before = before + 1;
  span.after = after + 1;
  return span;
}

/// The records of one graph, group after group; returns how many.
std::uint64_t OpRecordWriter::append_ops(const OpRecorder& recorder, const LoggedGraph& graph,
                                         const std::vector<ThreadLog>& logs, const Topology& topology,
                                         std::uint32_t graph_row, std::uint32_t token_row, Counts& counts) {
  std::uint32_t n_groups = UINT32_MAX;
  for (const ThreadLog& log : logs)
    n_groups = std::min(n_groups, log.head->first_node);
  std::uint64_t group_start = 0;  // of all threads but in the first group, where each has its own
  for (std::uint32_t i = 0; i < n_groups; ++i) {
    const std::uint64_t group_end = std::max(group_start, group_end_of(logs, i));
    const bool is_last = i + 1 == graph.n_groups;
    OpRecord record{};
    record.op = topology.op_of_node.at(logs[0].head[1 + i].first_node);
    record.graph = graph_row;
    record.token = token_row;
    std::uint16_t flags = 0;
    for (std::uint32_t thread = 0; thread < graph.n_threads; ++thread) {
      Span span = span_of(recorder, logs[thread], i, group_start, group_end);
      // Only the last barrier's end is stamped, on thread 0; the others' ends are where the next group begins.
      if (is_last && thread == 0)
        span.wait_end = std::max(span.wait_end, graph.thread_end_ticks);
      flags |= append_record(record, thread, span, counts);
    }
    for (std::size_t row = ops_.size() - graph.n_threads; flags != 0 && row < ops_.size(); ++row) {
      if ((ops_[row].flags & (kOpSwitched | kOpMigrated)) == 0)
        ops_[row].flags |= kOpPeerDisturbed;  // it waited for one that was disturbed
    }
    group_start = group_end;
  }
  return static_cast<std::uint64_t>(n_groups) * graph.n_threads;
}

/// Adds `record` with its times, counters and marks; returns the marks.
std::uint16_t OpRecordWriter::append_record(OpRecord record, unsigned thread, const Span& span, Counts& counts) {
  record.start_ns = calibration_.to_ns(span.start);
  record.compute_ns = calibration_.span_ns(span.start, span.end);
  record.wait_ns = calibration_.span_ns(span.end, span.wait_end);
  record.thread = static_cast<std::uint16_t>(thread);
  const Disturbance disturbance = marks_->of(thread, span.start, span.wait_end);
  record.flags = disturbance.flags;

  const std::vector<OpCounter>& counters = events_->counters();
  values_.resize(values_.size() + counters.size(), std::nan(""));
  double* values = values_.data() + values_.size() - counters.size();
  if (span.before != nullptr && events_->difference(thread, span.before, span.after, values))
    ++counts.n_scaled;
  for (std::size_t i = 0; i < counters.size(); ++i) {
    const bool moved = counters[i].name == "migrations";
    if (events_->knows_switches()) {
      if (counters[i].from == OpCounter::From::kSwitches || counters[i].from == OpCounter::From::kSwitchesMoved)
        values[i] = moved ? disturbance.migrations : disturbance.switches;
    } else if ((moved || counters[i].name == "context_switches") && values[i] > 0) {
      record.flags |= moved ? kOpMigrated : kOpSwitched;
    }
  }
  ops_.push_back(record);
  return record.flags;
}

/// The intervals in which a computing thread had no processor.
void OpRecordWriter::append_switches(std::uint32_t run) {
  std::vector<SwitchRecord> rows;
  for (std::size_t thread = 0; thread < marks_->intervals().size(); ++thread) {
    for (const OffCpu& off : marks_->intervals()[thread]) {
      SwitchRecord row{};
      row.start_ns = calibration_.to_ns(off.begin_ticks);
      row.duration_ns = calibration_.span_ns(off.begin_ticks, off.end_ticks);
      row.run = run;
      row.thread = static_cast<std::uint16_t>(thread);
      row.flags = off.preempted ? kSwitchPreempted : 0;
      row.cpu_before = off.cpu_before;
      row.cpu_after = off.cpu_after;
      rows.push_back(row);
    }
  }
  writer_.write(ChunkKind::kSwitches, rows);
}

void OpRecordWriter::append_host_ops(const OpRecorder& recorder, std::uint32_t first_token) {
  marks_->rewind();  // host ops have their times between the graphs'
  Counts counts;
  for (const HostEvent& event : recorder.host_events()) {
    OpRecord record{};
    record.op = host_op_definition(event.op);
    record.graph = kNone;
    record.token = first_token + event.token;
    append_record(record, 0, {event.begin_ticks, event.end_ticks, event.end_ticks, nullptr, nullptr}, counts);
  }
}

std::uint32_t OpRecordWriter::host_op_definition(HostOp op) {
  std::uint32_t& row = host_ops_[static_cast<std::size_t>(op)];
  if (row != kNone)
    return row;
  OpDefinition definition{};
  definition.topology = kNone;
  definition.layer = -1;
  definition.n_fused = 1;
  definition.flops = definition.bytes_read = definition.bytes_written = std::nan("");
  set_text(definition.op, op == HostOp::kTokenize ? "tokenize" : "sample");
  set_text(definition.op_type, op == HostOp::kTokenize ? "TOKENIZE" : "SAMPLE");
  // Text to ids is the first half of the embedding; there is no module of its own for it in the vocabulary.
  set_text(definition.module, op == HostOp::kTokenize ? "embedding" : "sampling");
  set_text(definition.backend, "host");
  new_definitions_.push_back(definition);
  return row = n_definitions_++;
}

/// Level counters makes the records longer: a double for each counter behind the fields of an OpRecord.
void OpRecordWriter::flush_ops() {
  writer_.write(ChunkKind::kOpDefinitions, new_definitions_);
  new_definitions_.clear();
  const std::size_t value_bytes = events_->counters().size() * sizeof(double);
  if (value_bytes == 0) {
    writer_.write(ChunkKind::kOps, ops_);
  } else {
    const std::size_t record_bytes = sizeof(OpRecord) + value_bytes;
    std::vector<std::uint8_t> rows(ops_.size() * record_bytes);
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      std::memcpy(&rows[i * record_bytes], &ops_[i], sizeof(OpRecord));
      std::memcpy(&rows[i * record_bytes + sizeof(OpRecord)], &values_[i * events_->counters().size()], value_bytes);
    }
    writer_.write(ChunkKind::kOps, rows.data(), record_bytes, ops_.size());
  }
  ops_.clear();
  values_.clear();
}

}  // namespace melt
