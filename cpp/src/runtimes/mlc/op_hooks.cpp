// SPDX-License-Identifier: Apache-2.0
#include "op_hooks.h"

#include "melt/error.h"
#include "op_definitions.h"

namespace melt::mlc {
namespace {

constexpr std::uint32_t kPrefetchedStamps = 8;  // ahead, which is two cache lines

FunctionKind kind_of(const std::string& name) {
  if (name.compare(0, 11, "vm.builtin.") != 0)
    return FunctionKind::kKernel;
  return name.find("attention_kv_cache_") != std::string::npos ? FunctionKind::kAttention : FunctionKind::kBookkeeping;
}

/// Moves between registers take less time than two stamps: they stay a part of what the machine itself does.
bool is_register_move(const std::string& name) {
  return name == "vm.builtin.null_value" || name == "vm.builtin.tuple_getitem" || name == "vm.builtin.copy";
}

void keep(void*) {}

}  // namespace

OpHooks::OpHooks(AllocationLog* allocations, const std::atomic<bool>* cancel, bool is_idle)
    : storage_(allocations), cancel_(cancel), is_idle_(is_idle) {}

Value OpHooks::hooked(const std::string& name, const Value& inner) {
  TVMFFIObject* function = inner.any().v_obj;
  tvm().ffi.inc_ref(function);
  Value held(inner.any());
  if (is_idle_ || is_register_move(name))
    return held;
  Hook& hook = hooks_.emplace_back();
  hook.info = {kind_of(name), name};
  hook.owner = this;
  hook.inner = function;
  hook.call = TVMFFIFunctionGetCellPtr(function)->safe_call;
  hook.role = StorageLog::role_of(name.c_str());
  hook.held = std::move(held);
  TVMFFIObjectHandle made = nullptr;
  if (tvm().ffi.create_function(&hook, on_call, keep, &made) != 0)
    throw Error(ErrorKind::kRuntime, "TVM made no function for " + name + ": " + raised_error());
  TVMFFIAny any{};
  any.type_index = kTVMFFIFunction;
  any.v_obj = static_cast<TVMFFIObject*>(made);
  return Value(any);
}

void OpHooks::set_weights(const Weights* weights, std::string quantization) {
  weights_ = weights;
  quantization_ = std::move(quantization);
}

void OpHooks::clear(std::size_t n_topologies) {
  calls_.make_room(n_topologies, std::max<std::size_t>(groups_hint_, 1024));
}

void OpHooks::begin(const EvaluationKey& key) noexcept {
  if (recorder_ == nullptr)
    return;
  stamps_ = recorder_->thread_stamps();
  recorder_->graph_begin(calls_.begin(key));
  node_ = kMachineNode;
  outer_ = kNoCall;
  begin_ticks_ = melt_ticks();
  stamps_->thread_begin = begin_ticks_;
}

void OpHooks::end(bool aborted) noexcept {
  if (stamps_ == nullptr)
    return;
  const std::uint64_t ticks = melt_ticks();
  stamp(ticks, kMachineNode);
  stamps_->thread_end = ticks;
  recorder_->set_topology(calls_.end());
  recorder_->graph_end(1, begin_ticks_, ticks, aborted);
  stamps_ = nullptr;
}

void OpHooks::stamp(std::uint64_t ticks, std::uint32_t node) noexcept {
  melt_stamp_group(stamps_, ticks, 0, node, node);
  __builtin_prefetch(stamps_->stamps + stamps_->count + kPrefetchedStamps - 1, 1);
}

int OpHooks::on_call(void* self, const TVMFFIAny* args, std::int32_t n_args, TVMFFIAny* result) {
  Hook& hook = *static_cast<Hook*>(self);
  OpHooks& hooks = *hook.owner;
  if (hooks.cancel_ != nullptr && hooks.cancel_->load(std::memory_order_relaxed)) {
    tvm().ffi.raise_error("RuntimeError", "cancelled");
    return -1;
  }
  const int status = hooks.stamps_ != nullptr ? hooks.recorded(hook, args, n_args, result)
                                              : hook.call(hook.inner, args, n_args, result);
  if (hook.role != StorageLog::Role::kNone && status == 0)
    hooks.storage_.returned(hook.role, args, n_args, *result);
  return status;
}

/// What this itself costs counts as the machine's: the clock is read last before the call and first after it. The way
/// to a bookkeeping function is the machine's too, so its begin is not stamped: each reading of the clock keeps the
/// processor from running ahead (docs/mlc.md).
int OpHooks::recorded(Hook& hook, const TVMFFIAny* args, std::int32_t n_args, TVMFFIAny* result) noexcept {
  const std::uint32_t node_around = node_, outer_around = outer_;
  const std::uint32_t node = calls_.next(hook.info, outer_around, args, n_args);
  if (hook.info.kind != FunctionKind::kBookkeeping)
    outer_ = calls_.position();
  node_ = node;
  if (hook.info.kind != FunctionKind::kBookkeeping)
    stamp(melt_ticks(), node_around);
  const int status = hook.call(hook.inner, args, n_args, result);
  const std::uint64_t end = melt_ticks();
  stamp(end, node);
  node_ = node_around;
  outer_ = outer_around;
  return status;
}

std::vector<OpDefinition> OpHooks::describe(std::uint32_t slot, const std::vector<NodeRange>&) const {
  return define_ops(calls_, slot, weights_, quantization_);
}

}  // namespace melt::mlc
