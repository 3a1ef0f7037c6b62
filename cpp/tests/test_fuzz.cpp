// SPDX-License-Identifier: Apache-2.0
// Deterministic mutation fuzzing of both readers: whatever the bytes, they return or throw melt::Error, and memory
// stays in proportion to the input. Run it under -fsanitize=address,undefined too.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "counting_allocator.h"
#include "gguf_builder.h"
#include "melt/error.h"
#include "melt/gguf.h"
#include "melt/trace_reader.h"
#include "melt/trace_writer.h"

using namespace melt;
using melt_test::Bytes;

namespace {

constexpr int kMutants = 20000;

class Mutator {
 public:
  explicit Mutator(std::uint32_t seed) : random_(seed) {}

  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  /// `bytes` with one to four changes.
  Bytes mutate(Bytes bytes) {
    for (std::size_t n = 1 + below(4); n > 0; --n)
      change(bytes);
    return bytes;
  }

 private:
  void change(Bytes& bytes) {
    switch (below(6)) {
      case 0:
        if (!bytes.empty())
          bytes[below(bytes.size())] ^= static_cast<std::uint8_t>(1u << below(8));
        break;
      case 1:
        if (below(8) == 0)
          bytes.resize(below(bytes.size() + 1));
        break;
      case 2:
        splice(bytes);
        break;
      default:
        overwrite(bytes);
    }
  }

  /// Copies a stretch of the input over, or into, another place: repeated and moved structures.
  void splice(Bytes& bytes) {
    const std::size_t length = below(std::min<std::size_t>(bytes.size(), 200));
    if (length == 0)
      return;
    const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(below(bytes.size() - length));
    const Bytes piece(from, from + static_cast<std::ptrdiff_t>(length));
    const auto to = bytes.begin() + static_cast<std::ptrdiff_t>(below(bytes.size() - length));
    if (below(2) == 0) {
      std::copy(piece.begin(), piece.end(), to);
    } else {
      bytes.insert(to, piece.begin(), piece.end());
    }
  }

  /// Overwrites 1, 2, 4 or 8 bytes, mostly where integers lie, with a number on which readers stumble.
  void overwrite(Bytes& bytes) {
    static constexpr std::uint64_t kNumbers[] = {0,
                                                 1,
                                                 2,
                                                 9,
                                                 31,
                                                 255,
                                                 0x7FFF,
                                                 0xFFFF,
                                                 0x7FFFFFFF,
                                                 0x80000000,
                                                 0xFFFFFFFF,
                                                 0x100000000,
                                                 0x7FFFFFFFFFFFFFFF,
                                                 0x8000000000000000,
                                                 0xFFFFFFFFFFFFFFFF,
                                                 0xFFFFFFFFFFFFFFE0,
                                                 0x2000000000000001};
    const std::size_t width = std::size_t{1} << below(4);
    if (bytes.size() < width)
      return;
    std::size_t at = below(bytes.size() - width + 1);
    if (below(2) == 0)
      at &= ~std::size_t{3};
    std::uint64_t number = kNumbers[below(std::size(kNumbers))];
    if (below(4) == 0)
      number = bytes.size() + below(64) - 32;
    std::memcpy(bytes.data() + at, &number, width);
  }

  std::mt19937 random_;
};

Bytes trace_seed() {
  Bytes bytes;
  const auto sink = make_memory_sink(bytes);
  TraceWriter writer(*sink, FileHeader{});
  writer.write_metadata(R"({"warnings": ["CHNK"]})");
  writer.write(ChunkKind::kTokens, std::vector<TokenRecord>(3));
  writer.write(ChunkKind::kOpDefinitions, std::vector<OpDefinition>(1));
  writer.write(ChunkKind::kOps, std::vector<OpRecord>(7));
  writer.write(ChunkKind::kPrompts, std::vector<PromptRecord>(5));
  writer.finish();
  return bytes;
}

/// Signs whatever headers are left, so that mutants reach the code behind the checksums.
void sign(Bytes& bytes) {
  if (bytes.size() < 64)
    return;
  const std::uint32_t file = crc32(bytes.data(), 60);
  std::memcpy(bytes.data() + 60, &file, 4);
  for (std::size_t at = 64; at + 32 <= bytes.size(); ++at) {
    if (std::memcmp(bytes.data() + at, "CHNK", 4) != 0)
      continue;
    ChunkHeader header;
    std::memcpy(&header, bytes.data() + at, sizeof(header));
    if (header.payload_bytes <= bytes.size() - at - 32) {
      header.payload_crc32 = crc32(bytes.data() + at + 32, static_cast<std::size_t>(header.payload_bytes));
    }
    std::memcpy(bytes.data() + at, &header, sizeof(header));
    header.header_crc32 = crc32(bytes.data() + at, 28);
    std::memcpy(bytes.data() + at, &header, sizeof(header));
  }
}

}  // namespace

TEST_CASE("fuzz: the trace reader") {
  const Bytes seed = trace_seed();
  Mutator mutator(1);
  int refused = 0;
  std::size_t chunks = 0;
  for (int i = 0; i < kMutants; ++i) {
    Bytes bytes = mutator.mutate(seed);
    if (i % 4 != 0)
      sign(bytes);
    const std::size_t before = melt::allocated().bytes;
    try {
      const TraceContents trace = read_trace(bytes.data(), bytes.size());
      REQUIRE(melt::allocated().bytes - before < 4096 + 32 * bytes.size());
      for (const TraceChunk& chunk : trace.chunks) {
        const auto offset = static_cast<std::size_t>(chunk.payload - bytes.data());
        REQUIRE(offset <= bytes.size());
        REQUIRE(chunk.header.payload_bytes <= bytes.size() - offset);
        REQUIRE(crc32(chunk.payload, static_cast<std::size_t>(chunk.header.payload_bytes)) ==
                chunk.header.payload_crc32);
      }
      chunks += trace.chunks.size();
      records_of<OpRecord>(trace, ChunkKind::kOps);
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(refused > kMutants / 200);  // both ways were taken, or the mutants are no test
  CHECK(chunks > kMutants);
}

TEST_CASE("fuzz: a trace of nested damaged chunks is read in bounded time") {
  Bytes bytes = trace_seed();
  bytes.resize(64);
  const std::size_t count = 20000;
  for (std::size_t i = 0; i < count; ++i) {  // each claims all bytes behind it, with a wrong checksum
    ChunkHeader header{kChunkMagic, 4, 1, 0, 0, 1, 0};
    header.record_count = static_cast<std::uint32_t>((count - 1 - i) * 32 + 8);
    header.payload_bytes = header.record_count;
    header.header_crc32 = crc32(&header, 28);
    const auto* first = reinterpret_cast<const std::uint8_t*>(&header);
    bytes.insert(bytes.end(), first, first + 32);
  }
  bytes.insert(bytes.end(), 16, 0);
  const TraceContents trace = read_trace(bytes.data(), bytes.size());
  CHECK(trace.chunks.empty());
  CHECK(trace.warnings.size() <= 64);
}

TEST_CASE("fuzz: the GGUF reader") {
  const Bytes seed = melt_test::tiny_model().build();
  Mutator mutator(2);
  int accepted = 0;
  for (int i = 0; i < kMutants; ++i) {
    const Bytes bytes = mutator.mutate(seed);
    const std::size_t before = melt::allocated().bytes;
    try {
      const GgufHeader header = parse_gguf(bytes.data(), bytes.size(), bytes.size(), "x");
      for (const GgufTensor& tensor : header.tensors) {
        REQUIRE(tensor.offset_bytes <= bytes.size());
        REQUIRE(tensor.size_bytes <= bytes.size() - tensor.offset_bytes);
      }
      ++accepted;
    } catch (const Error&) {
    }
    REQUIRE(melt::allocated().bytes - before < 16384 + 64 * bytes.size());
  }
  CHECK(accepted > kMutants / 200);
  CHECK(accepted < kMutants);
}
