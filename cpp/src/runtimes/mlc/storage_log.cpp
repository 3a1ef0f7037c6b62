// SPDX-License-Identifier: Apache-2.0
#include "storage_log.h"

#include <cstring>

#include "melt/clock.h"

namespace melt::mlc {
namespace {

constexpr std::size_t kMaxPieces = 1024;

}  // namespace

StorageLog::StorageLog(AllocationLog* log) : log_(log) {
  pieces_.reserve(kMaxPieces);
}

StorageLog::Role StorageLog::role_of(const char* function) noexcept {
  if (std::strcmp(function, "vm.builtin.alloc_storage") == 0)
    return Role::kAllocStorage;
  return std::strcmp(function, "vm.builtin.alloc_tensor") == 0 ? Role::kAllocTensor : Role::kNone;
}

void StorageLog::returned(Role role, const TVMFFIAny* args, std::int32_t n_args, const TVMFFIAny& result) noexcept {
  if (role == Role::kAllocStorage) {  // (machine, shape in bytes, device, type, scope) -> storage
    if (n_args < 2 || args[1].type_index != kTVMFFIShape || result.type_index < kTVMFFIStaticObjectBegin)
      return;
    const TVMFFIShapeCell* shape = TVMFFIShapeGetCellPtr(args[1].v_obj);
    std::uint64_t bytes = 1;
    for (std::size_t i = 0; i < shape->size; ++i)
      bytes *= static_cast<std::uint64_t>(shape->data[i]);
    for (std::int32_t i = 2; i < n_args; ++i) {
      if (args[i].type_index == kTVMFFIDataType)
        bytes *= static_cast<std::uint64_t>(args[i].v_dtype.bits * args[i].v_dtype.lanes + 7) / 8;
    }
    if (n_pending_ < pending_.size())
      pending_[n_pending_++] = {result.v_obj, bytes};
    return;
  }
  if (role != Role::kAllocTensor || n_pending_ == 0)
    return;
  for (std::uint32_t i = 0; i < n_pending_; ++i) {  // (storage, offset, shape, type, ...) -> tensor
    const DLTensor* tensor = tensor_of(result);
    if (pending_[i].storage != args[0].v_obj || tensor == nullptr || args[1].type_index != kTVMFFIInt)
      continue;
    note(static_cast<const char*>(tensor->data) + tensor->byte_offset - args[1].v_int64, pending_[i].bytes);
    pending_[i] = pending_[--n_pending_];
    return;
  }
}

void StorageLog::note(const void* address, std::uint64_t bytes) noexcept {
  for (const Piece& piece : pieces_) {
    if (piece.address == address && piece.bytes >= bytes)
      return;
  }
  if (pieces_.size() == kMaxPieces)
    return;
  Piece piece{address, bytes, kNone};
  if (log_ != nullptr) {
    BufferInfo buffer;
    buffer.bytes = bytes;
    buffer.address = address;
    buffer.category = MemoryCategory::kCompute;
    buffer.backend = "CPU";
    buffer.type = "TVM pool";  // short enough to lie in the string itself
    piece.buffer_id = log_->allocated(std::move(buffer), melt_ticks());
  }
  pieces_.push_back(piece);
  bytes_ += bytes;
}

void StorageLog::released() noexcept {
  for (const Piece& piece : pieces_) {
    if (log_ != nullptr)
      log_->released(piece.buffer_id, melt_ticks());
  }
  pieces_.clear();
  bytes_ = 0;
}

}  // namespace melt::mlc
