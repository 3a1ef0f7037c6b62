// SPDX-License-Identifier: Apache-2.0
// Which memory TVM's virtual machine takes for activations: seen where it asks for storage and puts tensors into it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "ffi.h"
#include "melt/memory.h"

namespace melt::mlc {

/// Notes each piece of the allocator's pool when it is first handed out. The pool gives nothing back before it is
/// cleared, so what has been seen is what it holds.
class StorageLog {
 public:
  enum class Role : std::uint8_t { kNone, kAllocStorage, kAllocTensor };

  /// `log` may be null, and must outlive this otherwise.
  explicit StorageLog(AllocationLog* log);
  static Role role_of(const char* function) noexcept;

  /// Call after a function of that role has returned. Neither allocates nor locks.
  void returned(Role role, const TVMFFIAny* args, std::int32_t n_args, const TVMFFIAny& result) noexcept;
  /// All pieces go back.
  void released() noexcept;
  std::uint64_t bytes() const noexcept { return bytes_; }

 private:
  struct Piece {
    const void* address;
    std::uint64_t bytes;
    std::uint32_t buffer_id;
  };
  struct Pending {
    const TVMFFIObject* storage = nullptr;
    std::uint64_t bytes = 0;
  };

  void note(const void* address, std::uint64_t bytes) noexcept;

  AllocationLog* log_;
  std::vector<Piece> pieces_;
  std::array<Pending, 8> pending_{};  // storage in which no tensor has been put yet
  std::uint32_t n_pending_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace melt::mlc
