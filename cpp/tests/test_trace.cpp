// SPDX-License-Identifier: Apache-2.0
// The .melt format: exact bytes, round trips, and what is left of a trace that was cut or damaged.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "melt/error.h"
#include "melt/trace_reader.h"
#include "melt/trace_writer.h"

using namespace melt;
using Bytes = std::vector<std::uint8_t>;

namespace {

constexpr std::size_t kFileHeader = sizeof(FileHeader);
constexpr std::size_t kChunkHeader = sizeof(ChunkHeader);

FileHeader tiny_header() {
  FileHeader header{};
  header.clock_id = 2;
  header.counter_hz = 1e9;
  header.start_wall_ns = 0x0102030405060708;
  for (std::uint8_t i = 0; i < 16; ++i)
    header.trace_id[i] = i;
  return header;
}

TokenRecord token(std::uint32_t index) {
  TokenRecord record{};
  record.index = index;
  record.phase = static_cast<std::uint16_t>(index == 0 ? Phase::kPrefill : Phase::kDecode);
  record.token_id = -1 - static_cast<std::int32_t>(index);
  record.n_tokens = 1;
  record.start_ns = 1000 * (index + 1);
  record.duration_ns = 500;
  return record;
}

/// Metadata, two chunks of tokens, one of prompts and the end chunk.
Bytes small_trace() {
  Bytes bytes;
  const auto sink = make_memory_sink(bytes);
  TraceWriter writer(*sink, tiny_header());
  writer.write_metadata(R"({"model": "x"})");
  writer.write(ChunkKind::kTokens, std::vector<TokenRecord>{token(0), token(1)});
  writer.write(ChunkKind::kTokens, std::vector<TokenRecord>{token(2)});
  writer.write(ChunkKind::kPrompts, std::vector<PromptRecord>{{0, 7}, {0, 8}, {1, 9}});
  writer.finish();
  return bytes;
}

TraceContents read(const Bytes& bytes) {
  return read_trace(bytes.data(), bytes.size());
}

std::string error_of(const Bytes& bytes) {
  try {
    read(bytes);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kTrace);
    return error.what();
  }
  return "";
}

template <typename Record>
bool same(const Record& a, const Record& b) {
  return std::memcmp(&a, &b, sizeof(Record)) == 0;
}

std::string hex(const Bytes& bytes, std::size_t from, std::size_t to) {
  std::string text;
  for (std::size_t i = from; i < to; ++i) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned>(bytes[i]));
    text += digits;
  }
  return text;
}

template <typename Number>
void put(Bytes& bytes, std::size_t at, Number value) {
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

void sign_file_header(Bytes& bytes) {
  put(bytes, 60, crc32(bytes.data(), 60));
}

void append_chunk(Bytes& bytes, ChunkHeader header, const Bytes& payload) {
  header.magic = kChunkMagic;
  header.payload_bytes = payload.size();
  header.payload_crc32 = crc32(payload.data(), payload.size());
  header.header_crc32 = crc32(&header, 28);
  const auto* first = reinterpret_cast<const std::uint8_t*>(&header);
  bytes.insert(bytes.end(), first, first + sizeof(header));
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  while (bytes.size() % 8 != 0)
    bytes.push_back(0);
}

/// Writes and reads back three records whose bytes are all different.
template <typename Record>
void check_round_trip(ChunkKind kind) {
  std::vector<Record> records(3);
  auto* bytes = reinterpret_cast<std::uint8_t*>(records.data());
  for (std::size_t i = 0; i < 3 * sizeof(Record); ++i)
    bytes[i] = static_cast<std::uint8_t>(i * 7 + 1);
  Bytes file;
  const auto sink = make_memory_sink(file);
  TraceWriter writer(*sink, tiny_header());
  writer.write(kind, records);
  writer.finish();
  CHECK(file.size() % 8 == 0);
  const TraceContents trace = read(file);
  CHECK(trace.complete);
  CHECK(trace.warnings.empty());
  const std::vector<Record> back = records_of<Record>(trace, kind);
  REQUIRE(back.size() == 3);
  CHECK(std::memcmp(back.data(), records.data(), 3 * sizeof(Record)) == 0);
}

}  // namespace

TEST_CASE("crc32 is zlib's") {
  CHECK(crc32(nullptr, 0) == 0);
  CHECK(crc32("123456789", 9) == 0xCBF43926u);  // the check value of CRC-32/ISO-HDLC
  CHECK(crc32("6789", 4, crc32("12345", 5)) == 0xCBF43926u);
  Bytes bytes(1000);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::uint8_t>(i * i);
  for (std::size_t cut = 0; cut <= 40; ++cut) {  // every alignment of the eight-byte steps
    CHECK(crc32(bytes.data() + cut, 1000 - cut, crc32(bytes.data(), cut)) == crc32(bytes.data(), 1000));
  }
}

TEST_CASE("the bytes of a trace with one token") {
  Bytes bytes;
  const auto sink = make_memory_sink(bytes);
  TraceWriter writer(*sink, tiny_header());
  TokenRecord record{};
  record.phase = 3;
  record.token_id = 42;
  record.n_tokens = 5;
  record.start_ns = 16;
  record.duration_ns = 255;
  writer.write(ChunkKind::kTokens, std::vector<TokenRecord>{record});
  REQUIRE(bytes.size() == 64 + 32 + 40);
  CHECK(hex(bytes, 0, 32) ==
        "894d454c540d0a1a"
        "0100"
        "0100"
        "40000000"
        "02000000"
        "00000000"
        "0000000065cdcd41");
  CHECK(hex(bytes, 32, 60) ==
        "0807060504030201"
        "000102030405060708090a0b0c0d0e0f"
        "00000000");
  CHECK(hex(bytes, 64, 88) ==
        "43484e4b"
        "04000000"
        "28000000"
        "01000000"
        "2800000000000000");
  CHECK(hex(bytes, 96, 136) ==
        "00000000"
        "00000000"
        "0300"
        "0000"
        "2a000000"
        "05000000"
        "00000000"
        "1000000000000000"
        "ff00000000000000");
  CHECK(hex(bytes, 60, 64) == "35381829");          // zlib.crc32 of bytes 0..59
  CHECK(hex(bytes, 88, 96) == "7c47c73017b23c2b");  // of the payload, then of bytes 64..91
}

TEST_CASE("every record kind comes back as written") {
  check_round_trip<RunRecord>(ChunkKind::kRuns);
  check_round_trip<PhaseRecord>(ChunkKind::kPhases);
  check_round_trip<TokenRecord>(ChunkKind::kTokens);
  check_round_trip<GraphRecord>(ChunkKind::kGraphs);
  check_round_trip<OpDefinition>(ChunkKind::kOpDefinitions);
  check_round_trip<OpRecord>(ChunkKind::kOps);
  check_round_trip<OverheadRecord>(ChunkKind::kOverhead);
  check_round_trip<PromptRecord>(ChunkKind::kPrompts);
}

TEST_CASE("metadata is kept as JSON text") {
  const Bytes bytes = small_trace();
  const TraceContents trace = read(bytes);
  const TraceChunk& chunk = trace.chunks.at(0);
  CHECK(chunk.header.kind == 1);
  CHECK(chunk.header.record_bytes == 0);
  CHECK(std::string(chunk.payload, chunk.payload + chunk.header.payload_bytes) == R"({"model": "x"})");
}

TEST_CASE("more than 16 MiB of records become several chunks, split between records") {
  const std::size_t count = (std::size_t{33} << 20) / sizeof(OpRecord);
  std::vector<OpRecord> records(count);
  for (std::size_t i = 0; i < count; ++i)
    records[i].start_ns = static_cast<std::int64_t>(i);
  Bytes bytes;
  const auto sink = make_memory_sink(bytes);
  TraceWriter writer(*sink, tiny_header());
  writer.write(ChunkKind::kOps, records);
  writer.write(ChunkKind::kRuns, std::vector<RunRecord>{});
  writer.finish();
  const TraceContents trace = read(bytes);
  REQUIRE(trace.chunks.size() == 4);  // nothing for no runs
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(trace.chunks[i].header.payload_bytes <= std::size_t{16} << 20);
  const std::vector<OpRecord> back = records_of<OpRecord>(trace, ChunkKind::kOps);
  REQUIRE(back.size() == count);
  CHECK(std::memcmp(back.data(), records.data(), count * sizeof(OpRecord)) == 0);
}

TEST_CASE("cut anywhere, a trace gives every complete chunk before the cut") {
  const Bytes whole = small_trace();
  const TraceContents all = read(whole);
  REQUIRE(all.chunks.size() == 5);
  for (std::size_t cut = 0; cut < whole.size(); ++cut) {
    CAPTURE(cut);
    const Bytes bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(cut));
    if (cut < kFileHeader) {
      CHECK(error_of(bytes) != "");
      continue;
    }
    std::size_t expected = 0;
    for (const TraceChunk& chunk : all.chunks) {
      const auto end = static_cast<std::size_t>(chunk.payload - whole.data()) + chunk.header.payload_bytes;
      if (end <= cut)
        ++expected;
    }
    const TraceContents trace = read(bytes);
    CHECK(trace.chunks.size() == expected);
    CHECK(trace.complete == (expected == 5));
    CHECK(trace.warnings.empty() == trace.complete);
  }
}

TEST_CASE("a changed byte never gives a changed record") {
  const Bytes whole = small_trace();
  const TraceContents all = read(whole);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const std::uint8_t flip : {std::uint8_t{0x01}, std::uint8_t{0x80}, std::uint8_t{0xFF}}) {
      CAPTURE(at);
      Bytes bytes = whole;
      bytes[at] = static_cast<std::uint8_t>(bytes[at] ^ flip);
      if (at < kFileHeader) {
        CHECK(error_of(bytes) != "");
        continue;
      }
      const TraceContents trace = read(bytes);
      for (const TraceChunk& chunk : trace.chunks) {
        const auto offset = static_cast<std::size_t>(chunk.payload - bytes.data());
        CHECK(std::memcmp(bytes.data() + offset - kChunkHeader, whole.data() + offset - kChunkHeader,
                          kChunkHeader + chunk.header.payload_bytes) == 0);
      }
      CHECK(trace.chunks.size() + 1 >= all.chunks.size());  // one byte costs one chunk at most
      CHECK((trace.chunks.size() == all.chunks.size()) == trace.warnings.empty());
    }
  }
}

TEST_CASE("lost and inserted bytes cost only the chunk they are in") {
  const Bytes whole = small_trace();
  const std::size_t in_tokens = kFileHeader + kChunkHeader + 16 + kChunkHeader + 11;
  const auto cut = whole.begin() + static_cast<std::ptrdiff_t>(in_tokens);
  Bytes shorter(whole.begin(), cut);
  shorter.insert(shorter.end(), cut + 1, whole.end());
  Bytes longer = whole;
  longer.insert(longer.begin() + static_cast<std::ptrdiff_t>(in_tokens), 3, std::uint8_t{'C'});
  for (const Bytes& bytes : {shorter, longer}) {
    const TraceContents trace = read(bytes);
    CHECK(trace.complete);
    CHECK(trace.chunks.size() == 4);
    REQUIRE(trace.warnings.size() == 1);
    CHECK(trace.warnings[0].find("at byte 112") != std::string::npos);
    const std::vector<TokenRecord> tokens = records_of<TokenRecord>(trace, ChunkKind::kTokens);
    REQUIRE(tokens.size() == 1);
    CHECK(same(tokens[0], token(2)));
  }
}

TEST_CASE("a file that is not a trace is refused with its reason") {
  CHECK(error_of({}).find("not a trace") == 0);
  CHECK(error_of(Bytes(100, 0)).find("not a trace") == 0);
  Bytes text_mode = small_trace();
  text_mode.erase(text_mode.begin() + 5);
  CHECK(error_of(text_mode).find("binary mode") != std::string::npos);
}

TEST_CASE("a newer major version is refused, a newer minor one is read") {
  Bytes bytes = small_trace();
  put(bytes, 8, std::uint16_t{2});
  CHECK(error_of(bytes).find("version 2.1") != std::string::npos);
  sign_file_header(bytes);
  CHECK(error_of(bytes).find("update melt_core") != std::string::npos);

  bytes.resize(kFileHeader);
  put(bytes, 8, std::uint16_t{1});
  put(bytes, 10, std::uint16_t{9});
  put(bytes, 12, std::uint32_t{72});  // the newer header is longer, its records are too
  sign_file_header(bytes);
  bytes.resize(72);
  Bytes payload;
  for (std::uint32_t i = 0; i < 2; ++i) {
    const TokenRecord record = token(i);
    const auto* first = reinterpret_cast<const std::uint8_t*>(&record);
    payload.insert(payload.end(), first, first + sizeof(record));
    payload.insert(payload.end(), 4, 0xEE);
  }
  append_chunk(bytes, {0, 4, sizeof(TokenRecord) + 4, 2, 0, 0, 0}, payload);
  append_chunk(bytes, {0, 4, 16, 1, 0, 0, 0}, Bytes(payload.begin(), payload.begin() + 16));
  append_chunk(bytes, {0, 4, 1, 8, 0, 0, 0}, Bytes(8, 1));   // no older record, but an attempt to fill memory
  append_chunk(bytes, {0, 77, 5, 1, 0, 0, 0}, Bytes(5, 1));  // a kind of the future
  append_chunk(bytes, {0, 10, 0, 0, 0, 0, 0}, {});
  const TraceContents trace = read(bytes);
  CHECK(trace.warnings.empty());
  CHECK(trace.complete);
  CHECK(trace.chunks.size() == 5);
  const std::vector<TokenRecord> tokens = records_of<TokenRecord>(trace, ChunkKind::kTokens);
  REQUIRE(tokens.size() == 3);
  CHECK(same(tokens[1], token(1)));
  CHECK(tokens[2].duration_ns == 0);  // a field that the older record lacks
}

TEST_CASE("sizes that contradict each other make a chunk damaged") {
  const ChunkHeader wrong[] = {
      {0, 4, 40, 2, 0, 0, 0},                   // two records promised, one there
      {0, 4, 0, 0xFFFFFFFF, 0, 0, 0},           // records without bytes
      {0, 4, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 0},  // a product near 2^64
  };
  for (const ChunkHeader& header : wrong) {
    Bytes bytes = small_trace();
    bytes.resize(kFileHeader);
    append_chunk(bytes, header, Bytes(40, 0));
    const TraceContents trace = read(bytes);
    CHECK(trace.chunks.empty());
    CHECK(trace.warnings.size() == 2);
  }
}

TEST_CASE("the writer refuses what no reader could read") {
  Bytes bytes;
  const auto sink = make_memory_sink(bytes);
  TraceWriter writer(*sink, tiny_header());
  CHECK_THROWS_AS(writer.write_metadata("[1]"), Error);
  CHECK_THROWS_AS(writer.write_metadata(""), Error);
  CHECK_THROWS_AS(writer.write(ChunkKind::kTokens, nullptr, 0, 1), Error);
  CHECK_THROWS_AS(writer.write(ChunkKind::kEnd, "x", 1, 1), Error);
  CHECK(bytes.size() == kFileHeader);
  writer.finish();
  CHECK_THROWS_AS(writer.finish(), Error);
  CHECK_THROWS_AS(writer.write_metadata("{}"), Error);
  CHECK(read(bytes).complete);
}
