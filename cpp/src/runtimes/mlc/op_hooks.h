// SPDX-License-Identifier: Apache-2.0
// Level `ops` for MLC: stands between TVM's virtual machine and every function that it calls, and stamps each call.
//
// The machine finds its functions by name when it is made. At that moment each name leads to a function of ours that
// calls the real one; the kernels that attention calls go through them too, because the KV cache is given them as the
// machine knows them. The machine's own set_instrument would cost more (docs/mlc.md) and does not see those kernels.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "calls.h"
#include "ffi.h"
#include "melt/clock.h"
#include "melt/memory.h"
#include "melt/recorder.h"
#include "storage_log.h"
#include "weights.h"

namespace melt::mlc {

class OpHooks final : public OpSource {
 public:
  /// `allocations` and `cancel` may be null, and outlive the hooks otherwise. With `is_idle` nothing is hooked: what
  /// a benchmark compares with.
  OpHooks(AllocationLog* allocations, const std::atomic<bool>* cancel, bool is_idle = false);

  /// A function that calls `inner` and records the call. The hooks must outlive it.
  Value hooked(const std::string& name, const Value& inner);

  /// Brackets one evaluation. Calls outside are not recorded.
  void begin(const EvaluationKey& key) noexcept;
  void end(bool aborted) noexcept;

  void start(OpRecorder& recorder) noexcept override { recorder_ = &recorder; }
  void stop() noexcept override { recorder_ = nullptr; }
  void clear(std::size_t n_topologies) override;
  std::vector<OpDefinition> describe(std::uint32_t slot, const std::vector<NodeRange>& groups) const override;
  std::size_t groups_hint() const noexcept override { return groups_hint_; }

  /// What describe() names the weights with, and what quantisation they have.
  void set_weights(const Weights* weights, std::string quantization);
  StorageLog& storage() noexcept { return storage_; }
  /// Groups that an evaluation has had, for groups_hint().
  void set_groups_hint(std::size_t n_groups) { groups_hint_ = n_groups; }
  const CallStore& calls() const noexcept { return calls_; }

 private:
  /// What each call needs comes first, in one cache line.
  struct alignas(64) Hook {
    OpHooks* owner;
    TVMFFIObject* inner;
    TVMFFISafeCallType call;
    StorageLog::Role role;
    FunctionInfo info;
    Value held;  // the reference behind `inner`
  };

  static int on_call(void* self, const TVMFFIAny* args, std::int32_t n_args, TVMFFIAny* result);
  int recorded(Hook& hook, const TVMFFIAny* args, std::int32_t n_args, TVMFFIAny* result) noexcept;
  void stamp(std::uint64_t ticks, std::uint32_t node) noexcept;

  std::deque<Hook> hooks_;  // addresses stay
  CallStore calls_;
  StorageLog storage_;
  const std::atomic<bool>* cancel_;
  const bool is_idle_;
  OpRecorder* recorder_ = nullptr;
  melt_thread_stamps* stamps_ = nullptr;  // of the evaluation under way; null: it is not recorded
  std::uint64_t begin_ticks_ = 0;
  std::uint32_t node_ = kMachineNode;  // of what runs now
  std::uint32_t outer_ = kNoCall;
  std::size_t groups_hint_ = 0;
  const Weights* weights_ = nullptr;
  std::string quantization_;
};

}  // namespace melt::mlc
