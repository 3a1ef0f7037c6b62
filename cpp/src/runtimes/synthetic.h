// SPDX-License-Identifier: Apache-2.0
// A runtime of known truth: ops that take exactly as long as the model description says. It has no weights and no
// third-party code, and is always compiled; the instrument is checked against it.
//
// The model "file" is a description: key=value pairs joined by commas, all optional.
//   layers=4     blocks of three groups: RMS_NORM+MUL (fused), MUL_MAT, ADD
//   op_ns=100000 duration of a MUL_MAT on thread 0 for one token; a norm takes a tenth, an ADD a fifth of it
//   skew=10      percent by which each further thread is faster, so that it waits
//   clock=simulated | host   simulated: exact and instant; host: threads that spin on the steady clock
//   weights_bytes=4096, kv_bytes=64 (per context token), compute_bytes=2048: buffers that it holds; output: 1024
//   log_ops=0    with clock=host: remember what so many ops of each thread really took; see OpTruth
//   fail_at=0    throw in the evaluation of that number, counted from 1; 0: never
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "melt/recorder.h"
#include "melt/runtime.h"

namespace melt {

struct SyntheticModel {
  std::uint32_t layers = 4;
  std::int64_t op_ns = 100'000;
  std::uint32_t skew = 10;
  bool simulated_clock = true;
  std::uint32_t log_ops = 0;
  std::uint32_t fail_at = 0;
  std::uint64_t weights_bytes = 4096;
  std::uint64_t kv_bytes = 64;  // per token of the context
  std::uint64_t compute_bytes = 2048;

  /// Raises: Error(kModel) for an unknown key or a value out of range.
  static SyntheticModel parse(const std::string& description);

  std::uint32_t groups_per_graph() const { return layers * 3 + 1; }
  /// The truth: how long `thread` computes in group `group` for `n_tokens` tokens, in ns.
  std::int64_t duration_ns(std::uint32_t group, std::uint32_t thread, std::size_t n_tokens) const;
  /// Node range of a group: each block has four nodes, of which the first two are fused.
  NodeRange nodes(std::uint32_t group) const;
};

/// What one thread did in one op, by the steady clock, which the recorder does not read. A thread that lost its CPU
/// took longer than described, and this says how long.
struct OpTruth {
  std::int64_t duration_ns;
  /// Between its reading of the steady clock at the end and another one after its stamp; the stamp lies between them.
  std::int64_t end_slack_ns;
  /// The same at the start, which is stamped for the first op of a graph only; 0 for the others.
  std::int64_t start_slack_ns;
};

/// What the threads of a clock=host session logged.
class OpTruthLog {
 public:
  virtual ~OpTruthLog() = default;
  /// The ops of `thread` in the order in which they ran; the first `log_ops` of them.
  virtual const std::vector<OpTruth>& ops_of(std::uint32_t thread) const = 0;
};

/// The log of a session of the synthetic runtime. Raises: Error(kInvalidArgument) for a session of another.
const OpTruthLog& op_truth_log(const Session& session);

}  // namespace melt
