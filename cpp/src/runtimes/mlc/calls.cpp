// SPDX-License-Identifier: Apache-2.0
#include "calls.h"

#include <algorithm>

namespace melt::mlc {
namespace {

/// The first integer among the arguments of a KV cache function is the layer.
std::int64_t layer_argument(const TVMFFIAny* args, std::int32_t n_args) noexcept {
  for (std::int32_t i = 0; i < n_args; ++i) {
    if (args[i].type_index == kTVMFFIInt)
      return args[i].v_int64;
  }
  return -1;
}

CapturedTensor captured(const DLTensor& tensor) noexcept {
  CapturedTensor copy{};
  copy.data = static_cast<const char*>(tensor.data) + tensor.byte_offset;
  copy.type = tensor.dtype;
  copy.ndim = std::min(tensor.ndim, CapturedTensor::kMaxDims);
  for (std::int32_t axis = 0; axis < tensor.ndim; ++axis) {
    if (axis < CapturedTensor::kMaxDims) {
      copy.shape[axis] = tensor.shape[axis];
    } else {
      copy.shape[CapturedTensor::kMaxDims - 1] *= tensor.shape[axis];
    }
  }
  return copy;
}

}  // namespace

double CapturedTensor::elements() const noexcept {
  double n = 1;
  for (std::int32_t axis = 0; axis < ndim; ++axis)
    n *= static_cast<double>(shape[axis]);
  return n;
}

void CallStore::make_room(std::size_t n_slots, std::size_t n_calls) {
  const std::size_t wanted = n_slots * n_calls;
  const bool has_room = n_slots_ + n_slots <= slots_.size() && calls_.size() + wanted <= n_reserved_ &&
                        tensors_.size() + wanted * kTensorsPerCall <= n_reserved_ * kTensorsPerCall;
  if (has_room)
    return;
  n_slots_ = 0;
  // Twice as much, so that what this run captures is kept for the next; written once, so that no page fault comes in
  // it.
  slots_.resize(std::max(slots_.size(), 2 * n_slots));
  n_reserved_ = std::max(n_reserved_, 2 * wanted);
  calls_.resize(n_reserved_);
  expected_.resize(n_reserved_);
  tensors_.resize(n_reserved_ * kTensorsPerCall);
  calls_.clear();
  expected_.clear();
  tensors_.clear();
}

bool CallStore::open_slot(const EvaluationKey& key) noexcept {
  if (n_slots_ == slots_.size())
    return false;
  slots_[n_slots_] = {key, static_cast<std::uint32_t>(calls_.size()), 0};
  slot_ = n_slots_++;
  n_known_ = 0;
  return true;
}

std::uint32_t CallStore::begin(const EvaluationKey& key) noexcept {
  position_ = n_known_ = 0;
  failed_ = false;
  for (std::uint32_t i = n_slots_; i-- > 0;) {
    if (slots_[i].key == key && slots_[i].n_calls != 0) {
      known_ = expected_.data() + slots_[i].first;
      n_known_ = slots_[i].n_calls;
      return slot_ = i;
    }
  }
  failed_ = !open_slot(key);
  return failed_ ? UINT32_MAX : slot_;
}

std::uint64_t CallStore::hash_shapes(std::uint64_t hash, const TVMFFIAny* args, std::int32_t n_args) noexcept {
  for (std::int32_t i = 0; i < n_args; ++i) {
    const DLTensor* tensor = tensor_of(args[i]);
    if (tensor == nullptr)
      continue;
    hash = (hash ^ static_cast<std::uint64_t>(tensor->ndim)) * 1099511628211u;
    for (std::int32_t axis = 0; axis < tensor->ndim; ++axis)
      hash = (hash ^ static_cast<std::uint64_t>(tensor->shape[axis])) * 1099511628211u;
  }
  return hash;
}

std::uint32_t CallStore::unexpected(const FunctionInfo& function, std::uint32_t outer, std::uint64_t hash,
                                    const TVMFFIAny* args, std::int32_t n_args) noexcept {
  if (n_known_ != 0)
    part_ways();
  return failed_ ? kMachineNode : capture(function, outer, hash, args, n_args);
}

/// The calls are no longer those of the slot: what was like them so far begins a slot of its own.
void CallStore::part_ways() noexcept {
  const Slot known = slots_[slot_];
  const std::uint32_t n_same = position_ - 1;
  if (calls_.size() + n_same > n_reserved_ || !open_slot(known.key)) {
    failed_ = true;
    n_known_ = 0;
    return;
  }
  for (std::uint32_t i = 0; i < n_same; ++i) {
    calls_.push_back(calls_[known.first + i]);
    expected_.push_back(expected_[known.first + i]);
  }
  slots_[slot_].n_calls = n_same;
}

std::uint32_t CallStore::capture(const FunctionInfo& function, std::uint32_t outer, std::uint64_t hash,
                                 const TVMFFIAny* args, std::int32_t n_args) noexcept {
  Slot& slot = slots_[slot_];
  if (calls_.size() >= n_reserved_ ||
      tensors_.size() + static_cast<std::size_t>(n_args) > n_reserved_ * kTensorsPerCall) {
    failed_ = true;
    return kMachineNode;
  }
  CapturedCall call{};
  call.function = &function;
  call.outer = outer;
  call.layer = function.kind == FunctionKind::kAttention ? layer_argument(args, n_args) : -1;
  call.first_tensor = static_cast<std::uint32_t>(tensors_.size());
  call.node = slot.n_calls + 1;
  if (function.kind == FunctionKind::kBookkeeping) {
    for (std::uint32_t i = 0; i < slot.n_calls; ++i) {
      if (calls_[slot.first + i].function == &function) {
        call.node = calls_[slot.first + i].node;
        break;
      }
    }
  } else {
    for (std::int32_t i = 0; i < n_args; ++i) {
      if (const DLTensor* tensor = tensor_of(args[i]))
        tensors_.push_back(captured(*tensor));
    }
  }
  call.n_tensors = static_cast<std::uint32_t>(tensors_.size()) - call.first_tensor;
  calls_.push_back(call);
  expected_.push_back({hash, call.node});
  ++slot.n_calls;
  return call.node;
}

std::uint32_t CallStore::end() noexcept {
  return failed_ ? UINT32_MAX : slot_;
}

}  // namespace melt::mlc
