// SPDX-License-Identifier: Apache-2.0
// Trace writing: CRC-32, the sink in memory, and the chunk framing of trace_format.h. Nothing here runs while a run is
// measured; a chunk costs one pass over its payload for the checksum and one write to the sink.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>

#include "melt/error.h"
#include "melt/trace_writer.h"

// Records are written as they lie in memory.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the trace format is little-endian");

namespace melt {
namespace {

constexpr std::size_t kMaxPayloadBytes = std::size_t{16} << 20;  // a cut file loses at most one such chunk
constexpr std::size_t kSlices = 8;

using CrcTables = std::array<std::array<std::uint32_t, 256>, kSlices>;

// Slicing-by-8 (Kounavis and Berry, "Novel table lookup-based algorithms for high-performance CRC
// generation"): tables[k][b] is the checksum of byte b followed by k zero bytes, so eight lookups take in
// eight bytes at once.
constexpr CrcTables make_crc_tables() {
  CrcTables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit)
      crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0xEDB88320u : 0u);
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < kSlices; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFFu];
    }
  }
  return tables;
}

constexpr CrcTables kCrcTables = make_crc_tables();

class MemorySink final : public ByteSink {
 public:
  explicit MemorySink(std::vector<std::uint8_t>& bytes) : bytes_(bytes) {}

  void write(const void* bytes, std::size_t size) override {
    const auto* first = static_cast<const std::uint8_t*>(bytes);
    try {
      bytes_.insert(bytes_.end(), first, first + size);
    } catch (const std::bad_alloc&) {
      raise(size);
    } catch (const std::length_error&) {
      raise(size);
    }
  }

  void flush() override {}

 private:
  [[noreturn]] void raise(std::size_t size) const {
    throw Error(ErrorKind::kOutOfMemory, "no memory for " + std::to_string(size) + " more bytes of a trace of " +
                                             std::to_string(bytes_.size()) +
                                             " bytes kept in memory; record to a file, or fewer runs");
  }

  std::vector<std::uint8_t>& bytes_;
};

}  // namespace

std::uint32_t crc32(const void* bytes, std::size_t size, std::uint32_t crc) noexcept {
  const CrcTables& t = kCrcTables;
  const auto* next = static_cast<const std::uint8_t*>(bytes);
  crc = ~crc;
  for (; size >= 8; size -= 8, next += 8) {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    std::memcpy(&low, next, 4);
    std::memcpy(&high, next + 4, 4);
    low ^= crc;
    crc = t[7][low & 0xFFu] ^ t[6][(low >> 8) & 0xFFu] ^ t[5][(low >> 16) & 0xFFu] ^ t[4][low >> 24] ^
          t[3][high & 0xFFu] ^ t[2][(high >> 8) & 0xFFu] ^ t[1][(high >> 16) & 0xFFu] ^ t[0][high >> 24];
  }
  for (; size > 0; --size, ++next)
    crc = (crc >> 8) ^ t[0][(crc ^ *next) & 0xFFu];
  return ~crc;
}

std::unique_ptr<ByteSink> make_memory_sink(std::vector<std::uint8_t>& bytes) {
  return std::make_unique<MemorySink>(bytes);
}

TraceWriter::TraceWriter(ByteSink& sink, FileHeader header) : sink_(sink) {
  std::memcpy(header.magic, kTraceMagic, sizeof(kTraceMagic));
  header.major = kTraceMajor;
  header.minor = kTraceMinor;
  header.header_bytes = sizeof(FileHeader);
  header.reserved0 = 0;
  header.reserved1 = 0;
  header.crc32 = crc32(&header, offsetof(FileHeader, crc32));
  sink_.write(&header, sizeof(header));
}

void TraceWriter::write(ChunkKind kind, const void* records, std::size_t record_bytes, std::size_t count) {
  if (kind == ChunkKind::kMetadata || kind == ChunkKind::kEnd) {
    throw Error(ErrorKind::kInvalidArgument, "chunk kind " + std::to_string(static_cast<std::uint32_t>(kind)) +
                                                 " holds no records; call write_metadata() or finish()");
  }
  if (record_bytes == 0 || record_bytes > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(ErrorKind::kInvalidArgument,
                "a trace record of " + std::to_string(record_bytes) + " bytes cannot be written; pass sizeof(Record)");
  }
  const std::size_t per_chunk = std::max<std::size_t>(1, kMaxPayloadBytes / record_bytes);
  const auto* next = static_cast<const std::uint8_t*>(records);
  while (count > 0) {
    const std::size_t n = std::min(count, per_chunk);
    write_chunk(kind, next, n * record_bytes, record_bytes, n);
    next += n * record_bytes;
    count -= n;
  }
}

void TraceWriter::write_metadata(std::string_view json) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::size_t first = json.find_first_not_of(kSpace);
  const std::size_t last = json.find_last_not_of(kSpace);
  if (first == std::string_view::npos || json[first] != '{' || json[last] != '}') {
    throw Error(ErrorKind::kInvalidArgument, "trace metadata must be a JSON object, from '{' to '}'");
  }
  write_chunk(ChunkKind::kMetadata, json.data(), json.size(), 0, 0);
}

void TraceWriter::finish() {
  write_chunk(ChunkKind::kEnd, nullptr, 0, 0, 0);
  finished_ = true;
  sink_.flush();
}

void TraceWriter::write_chunk(ChunkKind kind, const void* payload, std::size_t payload_bytes, std::size_t record_bytes,
                              std::size_t record_count) {
  if (finished_) {
    throw Error(ErrorKind::kInvalidArgument, "the trace was finished already; start a new trace for more data");
  }
  ChunkHeader header{};
  header.magic = kChunkMagic;
  header.kind = static_cast<std::uint32_t>(kind);
  header.record_bytes = static_cast<std::uint32_t>(record_bytes);
  header.record_count = static_cast<std::uint32_t>(record_count);
  header.payload_bytes = payload_bytes;
  header.payload_crc32 = crc32(payload, payload_bytes);
  header.header_crc32 = crc32(&header, offsetof(ChunkHeader, header_crc32));
  constexpr std::uint8_t kZeros[8] = {};
  sink_.write(&header, sizeof(header));
  if (payload_bytes > 0)
    sink_.write(payload, payload_bytes);
  sink_.write(kZeros, (8 - payload_bytes % 8) % 8);
}

}  // namespace melt
