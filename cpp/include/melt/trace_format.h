// SPDX-License-Identifier: Apache-2.0
// The .melt file, byte by byte. docs/trace_format.md shows a worked example; src/melt_core/trace/format.py is the
// NumPy twin of the record structs below (a test asserts that both agree).
//
//   +--------------------+
//   | FileHeader    64 B |
//   +--------------------+  repeated, each complete chunk readable on its own:
//   | ChunkHeader   32 B |
//   | payload            |  payload_bytes, then zero bytes up to the next multiple of 8
//   +--------------------+
//
// Everything is little-endian. A reader skips kinds it does not know, and reads records by `record_bytes`: a newer
// minor version may append fields, which an older reader ignores; fields that an older file lacks read as zero.
// A file without a kEnd chunk was cut short: all complete chunks before the cut are valid.
// Times are ns since the trace's start on the device's steady clock.
#pragma once

#include <cstdint>

namespace melt {

constexpr std::uint8_t kTraceMagic[8] = {0x89, 'M', 'E', 'L', 'T', '\r', '\n', 0x1A};
constexpr std::uint32_t kChunkMagic = 0x4B4E4843;  // "CHNK"
constexpr std::uint16_t kTraceMajor = 1;           // a reader refuses a greater major version
constexpr std::uint16_t kTraceMinor = 1;
constexpr std::uint32_t kNone = 0xFFFFFFFF;  // "no such row" in any index column

struct FileHeader {
  std::uint8_t magic[8];
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t header_bytes;  // 64; a later minor version may be longer
  std::uint32_t clock_id;      // ClockId
  std::uint32_t reserved0;
  double counter_hz;           // frequency of that counter when the trace began
  std::int64_t start_wall_ns;  // wall clock at trace time 0, ns since 1970 UTC; the only wall time in the file
  std::uint8_t trace_id[16];   // random
  std::uint32_t reserved1;
  std::uint32_t crc32;  // zlib CRC-32 of bytes 0..59
};
static_assert(sizeof(FileHeader) == 64);

struct ChunkHeader {
  std::uint32_t magic;         // kChunkMagic
  std::uint32_t kind;          // ChunkKind
  std::uint32_t record_bytes;  // size of one record; 0 where the payload is JSON
  std::uint32_t record_count;
  std::uint64_t payload_bytes;
  std::uint32_t payload_crc32;
  std::uint32_t header_crc32;  // zlib CRC-32 of bytes 0..27
};
static_assert(sizeof(ChunkHeader) == 32);

/// Stored: never reuse a value.
enum class ChunkKind : std::uint32_t {
  kMetadata = 1,       // JSON object; later chunks add or replace keys, lists under "warnings" are joined
  kRuns = 2,           // RunRecord
  kPhases = 3,         // PhaseRecord
  kTokens = 4,         // TokenRecord
  kGraphs = 5,         // GraphRecord
  kOpDefinitions = 6,  // OpDefinition
  kOps = 7,            // OpRecord
  kOverhead = 8,       // OverheadRecord
  kPrompts = 9,        // PromptRecord
  kAllocations = 11,   // AllocationRecord
  kChannels = 12,      // ChannelRecord: what the samples are of
  kSamples = 13,       // SampleRecord
  kCounters = 20,      // CounterRecord: what else an OpRecord holds; level counters
  kSwitches = 21,      // SwitchRecord
  kEnd = 10,           // empty; the trace was closed in order
};

enum class Phase : std::uint16_t {
  kLoad = 1,
  kTokenize = 2,
  kPrefill = 3,
  kDecode = 4,
  kUnload = 5,
  kIdle = 6,
  kMarker = 7,  // a pulse of load that a power meter sees
};

enum class StopReason : std::uint16_t {
  kLimit = 1,      // max_tokens reached
  kEndOfText = 2,  // the model's end-of-generation token; that token is not part of the output
  kContextFull = 3,
  kCancelled = 4,
  kError = 5,
};

constexpr std::uint16_t kRunWarmup = 1 << 0;        // RunRecord.flags
constexpr std::uint16_t kTokenEndOfText = 1 << 0;   // TokenRecord.flags: generated, but not part of the output
constexpr std::uint16_t kTokenCut = 1 << 1;         // the step was cancelled or failed: no token (id -1), no duration
constexpr std::uint16_t kGraphAborted = 1 << 0;     // GraphRecord.flags: cancelled between two ops
constexpr std::uint16_t kGraphEndsSeen = 1 << 1;    // ends of ops are those that waiting threads saw
constexpr std::uint16_t kOpSwitched = 1 << 0;       // OpRecord.flags: this thread lost its processor within the op
constexpr std::uint16_t kOpMigrated = 1 << 1;       // OpRecord.flags: and went on on another one
constexpr std::uint16_t kOpPeerDisturbed = 1 << 2;  // OpRecord.flags: so it went for another thread of the same group
constexpr std::uint16_t kSwitchPreempted = 1 << 0;  // SwitchRecord.flags: it wanted to go on; else it waited

/// One repetition: one prompt to completion.
struct RunRecord {
  std::uint32_t run;          // row number; other tables refer to it
  std::uint16_t flags;        // kRunWarmup
  std::uint16_t stop_reason;  // StopReason
  std::uint32_t n_prompt;     // tokens
  std::uint32_t n_output;     // tokens kept
  std::uint32_t n_threads;
  std::uint32_t n_graphs;    // graphs executed while ops were recorded
  std::uint64_t n_groups;    // groups (ops, or fused ops) executed in them
  std::uint64_t n_records;   // op records kept, over all threads
  std::uint64_t n_dropped;   // op records lost because a buffer was full
  std::int64_t start_ns;     // prompt handed over
  std::int64_t duration_ns;  // until the last output token is known
  std::int64_t prefill_ns;   // wall time of the prefill evaluation, sampling left out
  double peak_rss_bytes;     // process peak so far; NaN where the system does not say
};
static_assert(sizeof(RunRecord) == 80);

struct PhaseRecord {
  std::uint32_t run;    // kNone for load and unload
  std::uint16_t phase;  // Phase
  std::uint16_t reserved;
  std::int64_t start_ns;
  std::int64_t duration_ns;
};
static_assert(sizeof(PhaseRecord) == 24);

/// One evaluation step and the output token it gave: the prefill gives token 0, each decode step one more.
/// start_ns is where the step before ended (for token 0: when the prompt was handed over), so that
/// duration_ns is TTFT for token 0 and the inter-token latency after it.
struct TokenRecord {
  std::uint32_t run;
  std::uint32_t index;     // 0, 1, ...; the first n_output rows of a run are its output
  std::uint16_t phase;     // kPrefill or kDecode
  std::uint16_t flags;     // kTokenEndOfText, kTokenCut: only on a run's last row
  std::int32_t token_id;   // the token sampled at the end of this step
  std::uint32_t n_tokens;  // tokens evaluated: n_prompt, then 1
  std::uint32_t reserved1;
  std::int64_t start_ns;
  std::int64_t duration_ns;
};
static_assert(sizeof(TokenRecord) == 40);

/// One executed graph.
struct GraphRecord {
  std::uint32_t topology;  // equal numbers: equal op definitions
  std::uint32_t token;     // row of the tokens table that it served; kNone outside a step
  std::uint16_t n_threads;
  std::uint16_t flags;      // kGraphAborted, kGraphEndsSeen
  std::uint32_t n_groups;   // groups executed
  std::uint32_t n_dropped;  // op records lost, over all threads
  std::uint32_t reserved;
  std::int64_t start_ns;
  std::int64_t duration_ns;
};
static_assert(sizeof(GraphRecord) == 40);

/// What an op is; the ops table refers to it. Text is UTF-8 padded with zero bytes. NaN: no formula, never a guess.
struct OpDefinition {
  std::uint32_t topology;
  std::uint32_t node;     // index of the group's first node in its graph
  std::int32_t layer;     // -1 outside the layers
  std::uint32_t n_fused;  // graph nodes executed as one: 1 unless fused
  double flops;           // a multiply and an add count two
  double bytes_read;      // docs/op_costs.md
  double bytes_written;
  char dtype[16];         // of the result
  char src_dtype[3][16];  // of the first three sources
  std::int64_t shape[4];  // of the result, slowest axis first, leading ones kept
  std::int64_t src_shape[3][4];
  char op[64];       // name of the graph node that holds the result
  char weight[64];   // name of the weight it reads, if any
  char op_type[32];  // MUL_MAT; fused ops joined by '+'
  char module[16];
  char backend[16];
  char buffer[32];    // buffer type of the weight, or of the result where there is none
  double live_bytes;  // since 1.1: activations needed while it runs (docs/memory.md); 0 or NaN: not known
};
static_assert(sizeof(OpDefinition) == 464);

/// One group on one thread. On the main thread (0) the groups of a graph follow each other without overlap.
struct OpRecord {
  std::int64_t start_ns;
  std::int64_t compute_ns;  // start to end of the kernel on this thread
  std::int64_t wait_ns;     // from there until the last thread has ended the group
  std::uint32_t op;         // row of the op definitions
  std::uint32_t graph;      // row of the graphs table; kNone for host ops (tokenise, sample)
  std::uint32_t token;      // row of the tokens table
  std::uint16_t thread;
  std::uint16_t flags;  // kOpSwitched, kOpMigrated, kOpPeerDisturbed; only where metadata "disturbed" has a source
};
static_assert(sizeof(OpRecord) == 40);

/// A counter of level counters: a double in each OpRecord of this file, behind the fields above. NaN: not read.
struct CounterRecord {
  char name[32];         // cycles
  char source[64];       // where it is read: perf cycles:u, getrusage
  std::uint32_t kind;    // CounterKind
  std::uint32_t offset;  // of the double in the OpRecord, in bytes
};
static_assert(sizeof(CounterRecord) == 104);

/// A computing thread lost its processor, and got one back.
struct SwitchRecord {
  std::int64_t start_ns;
  std::int64_t duration_ns;
  std::uint32_t run;
  std::uint16_t thread;
  std::uint16_t flags;  // kSwitchPreempted
  std::uint32_t cpu_before;
  std::uint32_t cpu_after;
};
static_assert(sizeof(SwitchRecord) == 32);

/// One interleaved pair: two prefills, or two decode steps in a row, with op recording off and on in random order.
struct OverheadRecord {
  std::uint16_t phase;     // kPrefill or kDecode
  std::uint16_t on_first;  // 1 if the recorded step ran first
  std::uint32_t n_tokens;
  std::int64_t off_ns;
  std::int64_t on_ns;
};
static_assert(sizeof(OverheadRecord) == 24);

/// Stored: never reuse a value.
enum class MemoryCategory : std::uint16_t {
  kWeights = 1,  // as the file has them: mapped, or read into a buffer
  kRepack = 2,   // copies of weights in the layout of this CPU's kernels
  kKv = 3,       // KV cache, and the states of recurrent layers
  kCompute = 4,  // activations
  kOutput = 5,   // logits and embeddings
  kOther = 6,
};

enum class MemoryEvent : std::uint16_t { kAllocated = 1, kReleased = 2, kMapped = 3, kUnmapped = 4 };

/// One buffer of the runtime comes or goes.
struct AllocationRecord {
  std::int64_t time_ns;
  std::uint64_t bytes;      // as the runtime counts them
  std::uint32_t buffer_id;  // the same number when it is released
  std::uint16_t category;   // MemoryCategory
  std::uint16_t event;      // MemoryEvent
  char backend[16];
  char buffer[24];  // buffer type
};
static_assert(sizeof(AllocationRecord) == 64);

/// What a series of samples is of: site + kind + unit, as soc/power/W or process/rss/B.
struct ChannelRecord {
  std::uint32_t channel;  // number; samples refer to it
  std::uint32_t reserved;
  char site[32];
  char kind[32];
  char unit[16];
  char source[64];  // where it is read: a file, a call
};
static_assert(sizeof(ChannelRecord) == 152);

/// One reading. A reading that failed is not a sample; why is in the metadata.
struct SampleRecord {
  std::int64_t time_ns;
  double value;
  std::uint32_t channel;
  std::uint32_t reserved;
};
static_assert(sizeof(SampleRecord) == 24);

/// Prompt token ids in order, for replay.
struct PromptRecord {
  std::uint32_t run;
  std::int32_t token_id;
};
static_assert(sizeof(PromptRecord) == 8);

}  // namespace melt
