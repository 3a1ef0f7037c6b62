// SPDX-License-Identifier: Apache-2.0
// The parameters of a model directory in memory: one block, each parameter on a boundary that TVM's kernels rely on.
#pragma once

#include <dlpack/dlpack.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "ffi.h"
#include "model_folder.h"

namespace melt::mlc {

class Weights {
 public:
  /// Reads all shards. `on_progress` and `cancel` as in ModelOptions.
  /// Raises: Error(kOutOfMemory | kModel | kCancelled).
  Weights(const ModelFolder& folder, const std::function<bool(float)>& on_progress, const std::atomic<bool>* cancel);
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  /// TVM's array of the parameters of these names. Raises: Error(kModel) for a name that is not there.
  Value array(const std::vector<std::string>& names);

  const void* address() const noexcept { return block_; }
  std::uint64_t bytes() const noexcept { return block_bytes_; }
  /// The parameter that begins at `data`; null if none does.
  const Parameter* at(const void* data) const noexcept;

 private:
  void read(const ModelFolder& folder, const std::function<bool(float)>& on_progress, const std::atomic<bool>* cancel);

  std::vector<Parameter> parameters_;
  std::vector<std::uint64_t> offsets_;  // in the block, of each parameter
  char* block_ = nullptr;
  std::uint64_t block_bytes_ = 0;
  std::vector<DLManagedTensor> views_;  // what TVM's tensors refer to
  std::unordered_map<std::string, std::uint32_t> by_name_;
  std::unordered_map<const void*, std::uint32_t> by_address_;
};

}  // namespace melt::mlc
