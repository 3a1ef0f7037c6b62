// SPDX-License-Identifier: Apache-2.0
// Level memory on the synthetic runtime, whose buffers are known.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "counting_allocator.h"
#include "melt/memory.h"
#include "melt/run.h"
#include "melt/trace_reader.h"

namespace melt {
namespace {

constexpr const char* kModel = "layers=2,weights_bytes=1000000,kv_bytes=64,compute_bytes=50000";

std::vector<std::uint8_t> record(std::uint32_t levels, bool unload) {
  ModelOptions options;
  options.path = kModel;
  options.n_ctx = 128;
  LoadedModel model("synthetic", options);
  std::vector<std::uint8_t> bytes;
  const auto sink = make_memory_sink(bytes);
  Profiler profiler(model, *sink, levels);
  RunOptions run;
  run.prompt = "Hello";
  run.max_tokens = 4;
  run.overhead_budget_s = 0;
  profiler.run(run);
  if (unload)
    model.unload();
  profiler.finish();
  return bytes;
}

std::vector<AllocationRecord> allocations(std::uint32_t levels, bool unload) {
  const auto bytes = record(levels, unload);
  return records_of<AllocationRecord>(read_trace(bytes.data(), bytes.size()), ChunkKind::kAllocations);
}

TEST_CASE("every buffer of the synthetic runtime is an event with its category and size") {
  std::map<std::uint16_t, std::uint64_t> sizes;
  for (const AllocationRecord& row : allocations(kLevelMemory, false)) {
    CHECK(row.event == static_cast<std::uint16_t>(MemoryEvent::kAllocated));
    CHECK(std::string(row.backend) == "CPU");
    sizes[row.category] += row.bytes;
  }
  const std::map<std::uint16_t, std::uint64_t> truth = {{1, 1'000'000}, {3, 64 * 128}, {4, 50'000}, {5, 1024}};
  CHECK(sizes == truth);
}

TEST_CASE("after the unload every buffer is released, under its own id") {
  std::map<std::uint32_t, std::int64_t> held;
  const auto rows = allocations(kLevelTokens | kLevelMemory, true);
  CHECK(rows.size() == 8);
  for (const AllocationRecord& row : rows) {
    const bool gone = row.event == static_cast<std::uint16_t>(MemoryEvent::kReleased);
    held[row.buffer_id] += gone ? -static_cast<std::int64_t>(row.bytes) : static_cast<std::int64_t>(row.bytes);
  }
  for (const auto& [id, bytes] : held)
    CHECK(bytes == 0);
}

TEST_CASE("without the level nothing of memory is in the trace") {
  const auto bytes = record(kLevelTokens | kLevelOps, true);
  const TraceContents trace = read_trace(bytes.data(), bytes.size());
  for (const ChunkKind kind : {ChunkKind::kAllocations, ChunkKind::kChannels, ChunkKind::kSamples}) {
    CHECK(std::none_of(trace.chunks.begin(), trace.chunks.end(),
                       [&](const TraceChunk& chunk) { return chunk.header.kind == static_cast<std::uint32_t>(kind); }));
  }
}

TEST_CASE("noting a buffer allocates nothing, and a full log counts what it lost") {
  AllocationLog log(2);
  BufferInfo info;
  info.bytes = 7;
  const std::size_t before = allocated().count;
  CHECK(log.allocated(std::move(info), 1) == 0);
  log.released(0, 2);
  log.released(0, 3);  // twice is harmless
  CHECK(allocated().count == before);
  CHECK(log.events().size() == 2);
  CHECK(log.allocated({}, 4) == 1);
  CHECK(log.allocated({}, 5) == kNone);
  CHECK(log.n_lost() == 1);
  log.released(kNone, 6);
  CHECK(log.events().size() == 3);
}

}  // namespace
}  // namespace melt
