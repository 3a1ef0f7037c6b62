// SPDX-License-Identifier: Apache-2.0
// Reads a .melt file (trace_format.h) from memory, for programs without Python. Analysis reads the same format with
// NumPy (src/melt_core/trace/), by the same rules.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "melt/error.h"
#include "melt/trace_format.h"

namespace melt {

/// One chunk; `payload` points into the bytes given to read_trace.
struct TraceChunk {
  ChunkHeader header;
  const std::uint8_t* payload;
};

struct TraceContents {
  FileHeader header{};
  std::vector<TraceChunk> chunks;     ///< complete, checksum right, kinds unknown included
  bool complete = false;              ///< the kEnd chunk was found
  std::vector<std::string> warnings;  ///< damaged or cut chunks, each with its byte offset
};

/// Finds the chunks in `size` bytes. A damaged chunk is skipped with a warning, and the search goes on at the next
/// chunk magic; bytes that were cut off cost only the chunk they belong to. Memory use is bounded by the input.
/// Raises: Error(kTrace) if the header is not a trace's, is damaged, or is of a newer major version.
TraceContents read_trace(const std::uint8_t* bytes, std::size_t size);

/// All records of one kind, in file order. Longer records of a newer minor version are cut to `Record`; shorter
/// ones of an older version are filled with zero bytes; those of less than a quarter of its size are no records of this
/// kind, and left out, so that memory stays within four times the input.
template <typename Record>
std::vector<Record> records_of(const TraceContents& trace, ChunkKind kind) {
  std::vector<Record> records;
  for (const TraceChunk& chunk : trace.chunks) {
    if (chunk.header.kind != static_cast<std::uint32_t>(kind))
      continue;
    const std::size_t stride = chunk.header.record_bytes;
    if (stride * 4 < sizeof(Record))
      continue;
    for (std::uint32_t i = 0; i < chunk.header.record_count; ++i) {
      Record record{};
      std::memcpy(&record, chunk.payload + i * stride, stride < sizeof(Record) ? stride : sizeof(Record));
      records.push_back(record);
    }
  }
  return records;
}

}  // namespace melt
