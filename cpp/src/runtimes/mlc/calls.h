// SPDX-License-Identifier: Apache-2.0
// The calls that TVM's virtual machine makes in one evaluation, captured when such an evaluation is first seen: for a
// given number of tokens the machine makes the same calls in the same order each time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ffi.h"
#include "melt/recorder.h"

namespace melt::mlc {

/// What a function of a model library does, as far as recording goes.
enum class FunctionKind : std::uint8_t {
  kKernel,       ///< compiled from the model
  kBookkeeping,  ///< the machine's own: allocation, checks, tuples
  kAttention,    ///< the KV cache's: calls kernels itself
};

struct FunctionInfo {
  FunctionKind kind = FunctionKind::kKernel;
  std::string name;
};

struct CapturedTensor {
  static constexpr int kMaxDims = 6;
  const void* data;
  std::int64_t shape[kMaxDims];
  DLDataType type;
  std::int32_t ndim;  ///< at most kMaxDims; what is beyond is folded into the last

  double elements() const noexcept;
  double bytes() const noexcept { return elements() * type.bits * type.lanes / 8.0; }
};

constexpr std::uint32_t kNoCall = UINT32_MAX;

struct CapturedCall {
  const FunctionInfo* function;
  std::int64_t layer;  ///< of an attention function: its first integer argument; else -1
  std::uint32_t first_tensor;
  std::uint32_t n_tensors;
  std::uint32_t node;   ///< of the op definition: calls of bookkeeping functions share one
  std::uint32_t outer;  ///< the call that this one was made from; kNoCall outside any
};

/// What tells evaluations apart before they run.
struct EvaluationKey {
  std::uint32_t n_tokens = 0;
  std::uint32_t n_positions = 0;  ///< of the KV cache after it, rounded up to kPositionStep as llama.cpp's graphs are
  bool is_decode = false;
  bool operator==(const EvaluationKey& other) const noexcept {
    return n_tokens == other.n_tokens && n_positions == other.n_positions && is_decode == other.is_decode;
  }
};
constexpr std::uint32_t kMachineNode = 0;  ///< the node of what the machine does between two calls

/// Reserved storage for the sequences of several evaluations. Nothing allocates between make_room() and the next.
class CallStore {
 public:
  /// Room for `n_slots` more evaluations of `n_calls` calls each. What has been captured is kept while there is that
  /// room beside it, for it is compared with each evaluation.
  void make_room(std::size_t n_slots, std::size_t n_calls);

  /// Begins an evaluation that is expected to be like an earlier one of the same key. Returns its slot.
  std::uint32_t begin(const EvaluationKey& key) noexcept;
  /// The next call of the evaluation; returns its node. kMachineNode where there was no room to capture it.
  std::uint32_t next(const FunctionInfo& function, std::uint32_t outer, const TVMFFIAny* args,
                     std::int32_t n_args) noexcept {
    const std::uint32_t at = position_++;
    const std::uint64_t hash = hash_of(function, outer, args, n_args);
    if (at >= n_known_ || known_[at].hash != hash)
      return unexpected(function, outer, hash, args, n_args);
    __builtin_prefetch(known_ + at + kPrefetched);
    return known_[at].node;
  }
  /// Place of the last next() in the sequence.
  std::uint32_t position() const noexcept { return position_ - 1; }
  /// The evaluation's slot, which is another than begin() said if the calls differed; UINT32_MAX: no room for them.
  std::uint32_t end() noexcept;

  std::uint32_t n_slots() const noexcept { return n_slots_; }
  const EvaluationKey& key(std::uint32_t slot) const noexcept { return slots_[slot].key; }
  std::uint32_t n_calls(std::uint32_t slot) const noexcept { return slots_[slot].n_calls; }
  const CapturedCall& call(std::uint32_t slot, std::uint32_t i) const noexcept {
    return calls_[slots_[slot].first + i];
  }
  const CapturedTensor* tensors(const CapturedCall& call) const noexcept { return tensors_.data() + call.first_tensor; }

 private:
  struct Slot {
    EvaluationKey key;
    std::uint32_t first = 0;
    std::uint32_t n_calls = 0;
  };
  /// What next() needs of a captured call, apart from the rest: it is read for each call of each token, between kernels
  /// that leave nothing in the caches.
  struct Expected {
    std::uint64_t hash;  ///< of function, outer call and shapes
    std::uint32_t node;
  };
  static constexpr std::uint32_t kPrefetched = 8;  // calls ahead, which is two cache lines
  static constexpr std::size_t kTensorsPerCall = 4;

  /// The kernels inside attention take page tables whose length grows with the context: their shapes prove nothing.
  static std::uint64_t hash_of(const FunctionInfo& function, std::uint32_t outer, const TVMFFIAny* args,
                               std::int32_t n_args) noexcept {
    const std::uint64_t hash = (reinterpret_cast<std::uintptr_t>(&function) ^ outer) * 14695981039346656037u;
    const bool with_shapes = function.kind == FunctionKind::kKernel && outer == kNoCall;
    return with_shapes ? hash_shapes(hash, args, n_args) : hash;
  }
  static std::uint64_t hash_shapes(std::uint64_t hash, const TVMFFIAny* args, std::int32_t n_args) noexcept;
  std::uint32_t unexpected(const FunctionInfo& function, std::uint32_t outer, std::uint64_t hash, const TVMFFIAny* args,
                           std::int32_t n_args) noexcept;
  std::uint32_t capture(const FunctionInfo& function, std::uint32_t outer, std::uint64_t hash, const TVMFFIAny* args,
                        std::int32_t n_args) noexcept;
  bool open_slot(const EvaluationKey& key) noexcept;
  void part_ways() noexcept;

  std::vector<Slot> slots_;
  std::uint32_t n_slots_ = 0;
  std::vector<CapturedCall> calls_;
  std::vector<Expected> expected_;  // of each of calls_
  std::vector<CapturedTensor> tensors_;
  std::size_t n_reserved_ = 0;
  std::uint32_t slot_ = 0;           // of the evaluation under way
  std::uint32_t position_ = 0;       // of its next call
  const Expected* known_ = nullptr;  // what the slot held when it began
  std::uint32_t n_known_ = 0;        // 0: the calls are captured, or there was no room
  bool failed_ = false;              // no room
};

}  // namespace melt::mlc
