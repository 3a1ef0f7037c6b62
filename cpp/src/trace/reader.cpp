// SPDX-License-Identifier: Apache-2.0
// Trace reading (trace_format.h). The bytes may come from a device that lost power or from a broken transfer:
// every length is checked against what is there, and a chunk counts only if both of its checksums are right.
#include <algorithm>
#include <optional>

#include "melt/trace_reader.h"
#include "melt/trace_writer.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the trace format is little-endian");

namespace melt {
namespace {

constexpr std::size_t kMaxWarnings = 64;  // a file of noise must not give a warning per byte
constexpr std::uint64_t kMaxPasses = 16;  // bytes checksummed per byte of input, all overlapping candidates together

std::string at_byte(std::size_t offset) {
  return " at byte " + std::to_string(offset);
}

/// Says what happened to the file where its first bytes show it.
[[noreturn]] void fail_magic(const std::uint8_t* bytes, std::size_t size) {
  static constexpr std::uint8_t kTextMode[7] = {0x89, 'M', 'E', 'L', 'T', '\n', 0x1A};
  std::string message = "not a trace: the first 8 bytes are not those of a .melt file";
  if (size >= sizeof(kTextMode) && std::memcmp(bytes, kTextMode, sizeof(kTextMode)) == 0) {
    message = "the trace was damaged in transfer: its line ends were changed; copy the file again in binary mode";
  } else if (size < sizeof(FileHeader)) {
    message +=
        " (it has " + std::to_string(size) + " bytes, a trace at least " + std::to_string(sizeof(FileHeader)) + ")";
  }
  throw Error(ErrorKind::kTrace, message);
}

FileHeader read_file_header(const std::uint8_t* bytes, std::size_t size) {
  if (size < sizeof(kTraceMagic) || std::memcmp(bytes, kTraceMagic, sizeof(kTraceMagic)) != 0) {
    fail_magic(bytes, size);
  }
  if (size < sizeof(FileHeader)) {
    throw Error(ErrorKind::kTrace, "the trace is cut short inside its file header: " + std::to_string(size) +
                                       " bytes of " + std::to_string(sizeof(FileHeader)) + "; record it again");
  }
  FileHeader header;
  std::memcpy(&header, bytes, sizeof(header));
  const bool damaged = crc32(bytes, offsetof(FileHeader, crc32)) != header.crc32;
  // A later major version may place its checksum elsewhere: name the version before calling the header
  // damaged.
  if (header.major > kTraceMajor) {
    throw Error(ErrorKind::kTrace, "the trace has format version " + std::to_string(header.major) + "." +
                                       std::to_string(header.minor) + ", this reader knows up to " +
                                       std::to_string(kTraceMajor) + ".x; " +
                                       (damaged ? "or its header is damaged; " : "") + "update melt_core");
  }
  if (damaged || header.major == 0 || header.header_bytes < sizeof(FileHeader)) {
    throw Error(ErrorKind::kTrace, "the trace's file header (bytes 0 to 63) is damaged; copy the file again");
  }
  return header;
}

class ChunkScanner {
 public:
  ChunkScanner(const std::uint8_t* bytes, std::size_t size, TraceContents& contents)
      : bytes_(bytes), size_(size), checksum_budget_(kMaxPasses * size + 4096), contents_(contents) {}

  void scan(std::size_t offset) {
    while (offset < size_ && !contents_.complete) {
      const std::optional<ChunkHeader> header = header_at(offset);
      if (!header) {
        const std::size_t next = find_header(offset + 1);
        warn("damaged or cut chunk" + at_byte(offset) + ": no valid chunk header; " + std::to_string(next - offset) +
             " bytes skipped");
        offset = next;
      } else if (payload_is_right(*header, offset)) {
        contents_.chunks.push_back({*header, bytes_ + offset + sizeof(ChunkHeader)});
        contents_.complete = header->kind == static_cast<std::uint32_t>(ChunkKind::kEnd);
        offset = end_of(*header, offset);
      } else if (checksum_budget_ == 0) {
        warn("too much damage before byte " + std::to_string(offset) + ": the rest is not searched");
        return;
      } else {
        offset = after_damaged(*header, offset);
      }
    }
    if (offset < size_)
      warn(std::to_string(size_ - offset) + " bytes after the end chunk ignored");
    if (!contents_.complete)
      warn("the trace was not closed in order: no end chunk up to byte " + std::to_string(size_));
  }

  void warn(const std::string& text) {
    if (contents_.warnings.size() < kMaxWarnings)
      contents_.warnings.push_back(text);
    if (contents_.warnings.size() == kMaxWarnings)
      contents_.warnings.back() = "more damage, not listed";
  }

 private:
  /// The header at `offset`, if its magic, checksum and sizes agree with each other.
  std::optional<ChunkHeader> header_at(std::size_t offset) const {
    if (offset > size_ || size_ - offset < sizeof(ChunkHeader))
      return std::nullopt;
    ChunkHeader header;
    std::memcpy(&header, bytes_ + offset, sizeof(header));
    if (header.magic != kChunkMagic)
      return std::nullopt;
    if (crc32(bytes_ + offset, offsetof(ChunkHeader, header_crc32)) != header.header_crc32)
      return std::nullopt;
    // Both factors have 32 bits: the product cannot overflow. A count without a size would promise records
    // that no bytes stand for.
    const std::uint64_t expected = std::uint64_t{header.record_bytes} * header.record_count;
    if (header.record_bytes != 0 && expected != header.payload_bytes)
      return std::nullopt;
    if (header.record_bytes == 0 && header.record_count != 0)
      return std::nullopt;
    return header;
  }

  std::size_t room_after(std::size_t offset) const { return size_ - offset - sizeof(ChunkHeader); }

  bool payload_is_right(const ChunkHeader& header, std::size_t offset) {
    if (header.payload_bytes > room_after(offset))
      return false;
    if (header.payload_bytes > checksum_budget_) {
      checksum_budget_ = 0;
      return false;
    }
    checksum_budget_ -= header.payload_bytes;
    const std::uint8_t* payload = bytes_ + offset + sizeof(ChunkHeader);
    return crc32(payload, static_cast<std::size_t>(header.payload_bytes)) == header.payload_crc32;
  }

  /// Only for a payload that lies inside the file. The padding of the last chunk may be cut.
  std::size_t end_of(const ChunkHeader& header, std::size_t offset) const {
    const auto payload = static_cast<std::size_t>(header.payload_bytes);
    const std::size_t padding = (8 - payload % 8) % 8;
    return offset + sizeof(ChunkHeader) + payload + std::min(padding, room_after(offset) - payload);
  }

  /// Where to go on behind a chunk with a valid header and a payload that is cut or wrong.
  std::size_t after_damaged(const ChunkHeader& header, std::size_t offset) {
    const std::string chunk = "chunk of kind " + std::to_string(header.kind) + at_byte(offset);
    if (header.payload_bytes > room_after(offset)) {
      warn(chunk + " is cut short: " + std::to_string(room_after(offset)) + " of " +
           std::to_string(header.payload_bytes) + " payload bytes are there");
      return find_header(offset + sizeof(ChunkHeader));
    }
    warn(chunk + " is damaged: its payload of " + std::to_string(header.payload_bytes) +
         " bytes does not match its checksum");
    // Bytes were changed in place if the next chunk stands where it should; else some are missing or
    // inserted, and the next chunk may begin inside what this header claims.
    const std::size_t end = end_of(header, offset);
    if (end == size_ || header_at(end))
      return end;
    return find_header(offset + sizeof(ChunkHeader));
  }

  /// Offset of the next valid header, or the size of the file.
  std::size_t find_header(std::size_t offset) const {
    while (offset < size_) {
      const void* hit = std::memchr(bytes_ + offset, 'C', size_ - offset);
      if (hit == nullptr)
        return size_;
      offset = static_cast<std::size_t>(static_cast<const std::uint8_t*>(hit) - bytes_);
      if (header_at(offset))
        return offset;
      ++offset;
    }
    return size_;
  }

  const std::uint8_t* bytes_;
  std::size_t size_;
  std::uint64_t checksum_budget_;
  TraceContents& contents_;
};

}  // namespace

TraceContents read_trace(const std::uint8_t* bytes, std::size_t size) {
  TraceContents contents;
  contents.header = read_file_header(bytes, size);
  ChunkScanner(bytes, size, contents).scan(std::min<std::size_t>(contents.header.header_bytes, size));
  return contents;
}

}  // namespace melt
