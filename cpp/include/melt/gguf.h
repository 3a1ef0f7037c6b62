// SPDX-License-Identifier: Apache-2.0
// Reads the header of a GGUF model file (format version 2 and 3, ggml docs/gguf.md) without the runtime: what the
// model is, and whether it is safe to hand to llama.cpp, which aborts the process on some damaged files.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace melt {

struct GgufTensor {
  std::string name;
  std::vector<std::int64_t> shape;  ///< slowest axis first (GGUF stores the fastest first)
  std::string type;                 ///< ggml's name, e.g. "q4_1"
  std::uint64_t offset_bytes = 0;   ///< from the start of the file
  std::uint64_t size_bytes = 0;
};

struct GgufHeader {
  std::uint32_t version = 0;
  std::uint64_t file_bytes = 0;
  std::uint64_t data_offset_bytes = 0;
  /// Scalar key-values as text (strings as they are, numbers in decimal, booleans true/false), arrays as "[N values]";
  /// in file order.
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<GgufTensor> tensors;

  /// The value of `key`, or nullptr.
  const std::string* find(const std::string& key) const noexcept;
};

/// Reads and checks the header of the file at `path`: magic, version, every count, length, type, name and offset
/// against the file's size, and the keys without which llama.cpp aborts (architecture, block_count >= 1, ...).
/// Memory use is bounded by the file's size.
/// Raises: Error(kModel) that names what is wrong and where (byte offset, key or tensor); Error(kIo) if unreadable.
GgufHeader read_gguf(const std::string& path);

/// The same from memory; `name` stands for the file in messages, `file_bytes` is the whole file's size.
GgufHeader parse_gguf(const std::uint8_t* bytes, std::uint64_t size, std::uint64_t file_bytes, const std::string& name);

}  // namespace melt
