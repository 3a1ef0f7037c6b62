// SPDX-License-Identifier: Apache-2.0
#include "op_records.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

namespace melt {
namespace {

constexpr std::size_t kOpsPerWrite = 1 << 18;  // 10 MiB of records

std::vector<NodeRange> groups_of(const OpRecorder& recorder, const LoggedGraph& graph) {
  const melt_stamp* stamps = recorder.stamps(graph);
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
                                                 std::uint32_t first_token) {
  Counts counts;
  by_slot_.clear();
  for (const LoggedGraph& graph : recorder.graphs()) {
    static const Topology kUnknown;
    const bool logged = graph.offset != kNoStamps && source != nullptr;
    const Topology& topology = logged ? topology_for(recorder, *source, graph) : kUnknown;
    append_graph(recorder, graph, topology, first_token + graph.token, counts);
  }
  append_host_ops(recorder, first_token);
  flush_ops();
  writer_.write(ChunkKind::kGraphs, graphs_);
  graphs_.clear();
  counts.n_dropped += recorder.graphs_lost();
  return counts;
}

const OpRecordWriter::Topology& OpRecordWriter::topology_for(const OpRecorder& recorder, const OpSource& source,
                                                             const LoggedGraph& graph) {
  const auto found = by_slot_.find(graph.topology);
  if (found != by_slot_.end())
    return *found->second;

  std::vector<OpDefinition> content = source.describe(graph.topology, groups_of(recorder, graph));
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

void OpRecordWriter::append_graph(const OpRecorder& recorder, const LoggedGraph& graph, const Topology& topology,
                                  std::uint32_t token_row, Counts& counts) {
  GraphRecord record{};
  record.topology = topology.number;
  record.token = token_row;
  record.n_threads = static_cast<std::uint16_t>(graph.n_threads);
  record.flags = graph.aborted ? kGraphAborted : 0;
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

  counts.n_records += append_ops(recorder, graph, topology, graph_row, token_row);
  if (ops_.size() >= kOpsPerWrite)
    flush_ops();
}

/// The records of one graph, group after group; returns how many.
std::uint64_t OpRecordWriter::append_ops(const OpRecorder& recorder, const LoggedGraph& graph, const Topology& topology,
                                         std::uint32_t graph_row, std::uint32_t token_row) {
  std::vector<const melt_stamp*> heads(graph.n_threads);
  const melt_stamp* cursor = recorder.stamps(graph);
  std::uint32_t n_groups = UINT32_MAX;
  for (const melt_stamp*& head : heads) {
    head = cursor;
    cursor += 1 + head->first_node;
    n_groups = std::min(n_groups, head->first_node);
  }
  std::uint64_t group_start = 0;  // of all threads but in the first group, where each has its own
  for (std::uint32_t i = 0; i < n_groups; ++i) {
    std::uint64_t group_end = 0;
    for (const melt_stamp* head : heads)
      group_end = std::max(group_end, head[1 + i].ticks);
    const bool is_last = i + 1 == graph.n_groups;
    OpRecord record{};
    record.op = topology.op_of_node.at(heads[0][1 + i].first_node);
    record.graph = graph_row;
    record.token = token_row;
    for (std::uint32_t thread = 0; thread < graph.n_threads; ++thread) {
      const std::uint64_t start = i == 0 ? heads[thread]->ticks : group_start;
      const std::uint64_t end = heads[thread][1 + i].ticks;
      // Only the last barrier's end is stamped, on thread 0; the others' ends are where the next group begins.
      const std::uint64_t wait_end = is_last && thread == 0 ? std::max(group_end, graph.thread_end_ticks) : group_end;
      record.start_ns = calibration_.to_ns(start);
      record.compute_ns = calibration_.span_ns(start, end);
      record.wait_ns = calibration_.span_ns(end, wait_end);
      record.thread = static_cast<std::uint16_t>(thread);
      ops_.push_back(record);
    }
    group_start = group_end;
  }
  return static_cast<std::uint64_t>(n_groups) * graph.n_threads;
}

void OpRecordWriter::append_host_ops(const OpRecorder& recorder, std::uint32_t first_token) {
  for (const HostEvent& event : recorder.host_events()) {
    OpRecord record{};
    record.start_ns = calibration_.to_ns(event.begin_ticks);
    record.compute_ns = calibration_.span_ns(event.begin_ticks, event.end_ticks);
    record.op = host_op_definition(event.op);
    record.graph = kNone;
    record.token = first_token + event.token;
    ops_.push_back(record);
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

void OpRecordWriter::flush_ops() {
  writer_.write(ChunkKind::kOpDefinitions, new_definitions_);
  new_definitions_.clear();
  writer_.write(ChunkKind::kOps, ops_);
  ops_.clear();
}

}  // namespace melt
