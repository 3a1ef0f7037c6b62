// SPDX-License-Identifier: Apache-2.0
// A model directory as the MLC community publishes them: mlc-chat-config.json, tensor-cache.json (ndarray-cache.json in
// older ones), params_shard_*.bin. Reading one touches no weight and reserves no memory for any.
#pragma once

#include <tvm/ffi/c_api.h>

#include <cstdint>
#include <string>
#include <vector>

namespace melt::mlc {

/// A file of parameters, one after the other.
struct Shard {
  std::string file;  ///< without folder
  std::uint64_t bytes = 0;
  std::string md5;  ///< empty: the directory does not say
};

struct Parameter {
  std::string name;
  std::vector<std::int64_t> shape;
  std::string dtype;        ///< as TVM writes it, e.g. "float16"
  DLDataType type{};        ///< the same
  std::uint64_t bytes = 0;  ///< in memory
  bool from_bf16 = false;   ///< float32 that lies in the file as bfloat16 (format f32-to-bf16)
  std::uint32_t shard = 0;
  std::uint64_t offset = 0;  ///< in the shard
  std::uint64_t file_bytes = 0;
};

struct ModelFolder {
  std::string path;
  std::string model_type;    ///< "llama"
  std::string quantization;  ///< "q4f16_1"
  std::uint32_t vocab_size = 0;
  std::uint32_t context_window_size = 0;
  std::vector<std::int32_t> stop_ids;  ///< ids that end a text
  std::vector<Shard> shards;
  std::vector<Parameter> parameters;  ///< in the order of the files
  std::uint64_t weights_bytes = 0;    ///< in memory
};

/// Reads and checks what the directory says of itself, and that its shards are there and whole.
/// Raises: Error(kModel) that names file and key.
ModelFolder read_model_folder(const std::string& path);

/// Reads all shards and compares their checksums. Raises: Error(kModel).
void check_shards(const ModelFolder& folder);

/// Raises: Error(kModel) for a type that TVM or this loader does not know; `where` goes into the message.
DLDataType parse_dtype(const std::string& name, const std::string& where);

/// "f32", "f16", "u32": ggml's way to write a type, as all op tables have it.
std::string short_dtype(DLDataType type);

}  // namespace melt::mlc
