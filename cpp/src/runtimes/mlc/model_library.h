// SPDX-License-Identifier: Apache-2.0
// A compiled model: what it says of itself, whether this TVM can run it, and its functions behind our hooks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ffi.h"
#include "model_folder.h"
#include "op_hooks.h"

namespace melt::mlc {

struct ExpectedParameter {
  std::string name;
  std::vector<std::int64_t> shape;  ///< -1: any extent
  std::string dtype;
};

/// What `_metadata` of a model library says.
struct LibraryMetadata {
  std::string model_type;
  std::string quantization;
  std::string kv_state_kind;
  std::uint32_t context_window_size = 0;  ///< 0: not said
  std::uint32_t prefill_chunk_size = 0;   ///< 0: not said
  std::int64_t sliding_window_size = -1;
  std::uint32_t n_layer = 0;
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint64_t activation_bytes = 0;  ///< most that one function plans for temporaries; 0: not said
  std::vector<ExpectedParameter> parameters;
  std::vector<std::string> cpu_features;  ///< what its kernels use of a processor; empty: not said, or nothing special
};

class ModelLibrary {
 public:
  /// Opens the library and makes a virtual machine, every function of which goes through `hooks`.
  /// Raises: Error(kModel) if it is not for this machine or this TVM, or is no language model as MLC compiles them.
  ModelLibrary(const std::string& path, OpHooks& hooks);

  const LibraryMetadata& metadata() const noexcept { return metadata_; }
  /// A function of the model. Raises: Error(kModel) if the library has none.
  Value function(const char* name) const;

 private:
  void make_machine(OpHooks& hooks);
  void read_metadata();
  void check_processor() const;

  std::string path_;
  Value executable_;
  Value machine_;
  LibraryMetadata metadata_;
};

/// Compares a library with a model directory: type, quantisation, names, shapes and types of all parameters.
/// Raises: Error(kModel) that names the first that differs.
void check_fit(const ModelFolder& folder, const LibraryMetadata& metadata);

}  // namespace melt::mlc
