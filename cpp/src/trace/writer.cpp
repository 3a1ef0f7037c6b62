// SPDX-License-Identifier: Apache-2.0
// Trace writing: CRC-32, the two byte sinks, and the chunk framing of trace_format.h. Nothing here runs while
// a run is measured; a chunk costs one pass over its payload for the checksum and one write(2), a flush to the disk
// what the disk takes.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <system_error>

#include "durable.h"
#include "melt/error.h"
#include "melt/trace_writer.h"

// Records are written as they lie in memory.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the trace format is little-endian");

namespace melt {
namespace {

constexpr std::size_t kMaxPayloadBytes = std::size_t{16} << 20;  // a cut file loses at most one such chunk
constexpr std::size_t kBufferBytes = std::size_t{64} << 10;
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

std::string system_reason(int error_number) {
  return std::system_category().message(error_number);
}

/// Does not wait for the reader of a pipe, as open(2) does else.
int open_to_write(const std::string& path, int flags) noexcept {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | flags, 0666);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

bool is_regular(int fd) noexcept {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

/// Opens the file at once, and replaces what it held with the first bytes that are written out: a run that is refused
/// before it measured anything leaves an older trace as it was.
class FileSink final : public ByteSink {
 public:
  FileSink(const std::string& path, Flush flush) : path_(path), to_disk_(flush == Flush::kToDisk) {
    buffer_.reserve(kBufferBytes);
    fd_ = open_to_write(path, O_EXCL);
    is_new_ = fd_ >= 0;
    if (fd_ < 0 && errno == EEXIST)
      fd_ = open_to_write(path, 0);
    if (fd_ < 0)
      refuse(ErrorKind::kIo, system_reason(errno) + "; choose a directory that exists and that you may write to");
    struct stat status{};
    if (::fstat(fd_, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode)))
      refuse(ErrorKind::kIo, "it is a pipe or a socket; name a file");
    if (!lock())
      refuse(ErrorKind::kBusy, "another run is writing it; wait for that, or name another file");
    if (to_disk_ && !bring_name_to_disk(path))
      refuse(ErrorKind::kIo, system_reason(errno));
  }

  FileSink(const FileSink&) = delete;
  FileSink& operator=(const FileSink&) = delete;

  ~FileSink() override {
    try {
      if (begun_ && !failed_)
        drain();
    } catch (...) {  // a destructor has nobody to tell; whoever needs to know calls flush() first
    }
    if (!begun_ && is_new_)
      ::unlink(path_.c_str());
    ::close(fd_);
  }

  void write(const void* bytes, std::size_t size) override {
    if (size == 0)
      return;
    if (size > kBufferBytes - buffer_.size())
      drain();
    const auto* first = static_cast<const std::uint8_t*>(bytes);
    if (size >= kBufferBytes) {
      write_all(first, size);
    } else {
      buffer_.insert(buffer_.end(), first, first + size);  // within the reserved size: cannot fail
    }
  }

  void flush() override {
    drain();
    if (to_disk_ && !bring_to_disk(fd_))
      fail(errno);
  }

 private:
  [[noreturn]] void refuse(ErrorKind kind, const std::string& reason) {
    if (is_new_)
      ::unlink(path_.c_str());
    if (fd_ >= 0)
      ::close(fd_);
    throw Error(kind, "cannot create the trace file '" + path_ + "': " + reason);
  }

  /// False: another sink has this file. Where files cannot be locked nobody is kept out.
  bool lock() const noexcept { return ::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK; }

  /// An older trace goes only now. Who has it mapped keeps it: its file is replaced, not emptied, where that can be.
  void begin() {
    begun_ = true;
    if (is_new_ || !is_regular(fd_))
      return;
    char* const found = ::realpath(path_.c_str(), nullptr);
    const std::string real = found != nullptr ? found : path_;
    std::free(found);
    const std::string fresh = real + ".new";
    const int fd = open_to_write(fresh, O_EXCL);
    if (fd >= 0 && ::rename(fresh.c_str(), real.c_str()) == 0) {
      ::close(fd_);
      fd_ = fd;
      lock();
      if (to_disk_ && !bring_name_to_disk(real))
        fail(errno);
      return;
    }
    if (fd >= 0) {
      ::close(fd);
      ::unlink(fresh.c_str());
    }
    if (::ftruncate(fd_, 0) != 0)
      fail(errno);
  }

  void drain() {
    write_all(buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  void write_all(const std::uint8_t* bytes, std::size_t size) {
    // After a failure the file ends inside a chunk; whatever came behind that could not be told from the rest
    // of it.
    if (failed_)
      raise(failed_errno_);
    if (!begun_)
      begin();
    while (size > 0) {
      const ::ssize_t written = ::write(fd_, bytes, std::min(size, std::size_t{1} << 30));
      if (written < 0 && errno == EINTR)
        continue;
      if (written <= 0)
        fail(written < 0 ? errno : ENOSPC);
      bytes += written;
      size -= static_cast<std::size_t>(written);
      written_ += static_cast<std::uint64_t>(written);
    }
  }

  [[noreturn]] void fail(int error_number) {
    failed_ = true;
    failed_errno_ = error_number;
    raise(error_number);
  }

  [[noreturn]] void raise(int error_number) const {
    throw Error(ErrorKind::kIo, "writing the trace file '" + path_ + "' failed after " + std::to_string(written_) +
                                    " bytes: " + system_reason(error_number) +
                                    "; the complete chunks in these bytes stay readable; free space on that disk "
                                    "or record to another one");
  }

  std::string path_;
  std::vector<std::uint8_t> buffer_;
  std::uint64_t written_ = 0;
  int fd_ = -1;
  int failed_errno_ = 0;
  bool failed_ = false;
  bool begun_ = false;  // something has been written out
  bool is_new_ = false;
  bool to_disk_;
};

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

std::unique_ptr<ByteSink> make_file_sink(const std::string& path, Flush flush) {
  return std::make_unique<FileSink>(path, flush);
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
