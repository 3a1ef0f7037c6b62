// SPDX-License-Identifier: Apache-2.0
// Writes a .melt file (trace_format.h) chunk by chunk, between runs and never during one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "melt/trace_format.h"

namespace melt {

/// Where trace bytes go. Writes are in order; there is no seeking.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  /// Raises: Error(kIo) naming the place and the system's reason; the bytes before stay valid.
  virtual void write(const void* bytes, std::size_t size) = 0;
  /// Hands everything written so far to the system, or to the disk if it was made so. Raises: Error(kIo).
  virtual void flush() = 0;
};

/// How far a flush goes.
enum class Flush {
  kToSystem,  ///< what was flushed survives the end of this process
  kToDisk,    ///< and a loss of power; the flush waits for the disk
};

/// Opens or creates the file at once, so that an unwritable path fails before anything is measured; what it held is
/// replaced with the first bytes that are written out. Raises: Error(kIo); Error(kBusy) while another sink has it.
std::unique_ptr<ByteSink> make_file_sink(const std::string& path, Flush flush = Flush::kToSystem);

/// Keeps the trace in memory: `bytes` grows as chunks are written. `bytes` must outlive the sink.
std::unique_ptr<ByteSink> make_memory_sink(std::vector<std::uint8_t>& bytes);

class TraceWriter {
 public:
  /// Writes the file header. `header` needs clock_id, counter_hz, start_wall_ns and trace_id; the rest is filled in.
  TraceWriter(ByteSink& sink, FileHeader header);

  /// Writes `count` records as one chunk or, above 16 MiB, as several. Nothing for count 0.
  void write(ChunkKind kind, const void* records, std::size_t record_bytes, std::size_t count);

  template <typename Record>
  void write(ChunkKind kind, const std::vector<Record>& records) {
    write(kind, records.data(), sizeof(Record), records.size());
  }

  /// Writes a JSON object; readers merge it into the trace's metadata.
  void write_metadata(std::string_view json);

  /// Hands what has been written to the system or the disk, as the sink was made. Raises: Error(kIo).
  void flush() { sink_.flush(); }

  /// Writes the kEnd chunk and flushes. Further writes raise Error(kInvalidArgument).
  void finish();

 private:
  void write_chunk(ChunkKind kind, const void* payload, std::size_t payload_bytes, std::size_t record_bytes,
                   std::size_t record_count);
  ByteSink& sink_;
  bool finished_ = false;
};

/// zlib's CRC-32 (polynomial 0xEDB88320), as in Python's zlib.crc32.
std::uint32_t crc32(const void* bytes, std::size_t size, std::uint32_t crc = 0) noexcept;

}  // namespace melt
