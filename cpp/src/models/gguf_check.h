// SPDX-License-Identifier: Apache-2.0
// What gguf.cpp (the byte reader) needs beside the bytes: typed values, messages, and the checks of the model
// itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "melt/gguf.h"

namespace melt {

/// As stored in the file (gguf.h of ggml, enum gguf_type).
enum class GgufType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

/// One key's value beside its text: what the checks compute with.
struct GgufValue {
  GgufType type = GgufType::kU8;
  GgufType element = GgufType::kU8;  ///< of an array
  std::uint64_t count = 0;           ///< of an array
  std::uint64_t integer = 0;         ///< an integer, or the greatest in an array of 32-bit ones
  double real = 0;
};

/// `text` with everything that is not printable ASCII as \xNN, cut to 80 characters: safe in any message.
std::string printable(std::string_view text);

/// What a file without GGUF's magic seems to be, by its first bytes, and what to do about it.
std::string describe_foreign(std::string_view bytes);

/// Raises: Error(kModel), always.
[[noreturn]] void fail_gguf(const std::string& file, const std::string& what);

/// The value of `key`, or nullptr; values[i] belongs to header.metadata[i].
const GgufValue* find_value(const GgufHeader& header, const std::vector<GgufValue>& values, const char* key);

/// Checks that this is a language model llama.cpp can load: keys without which it asserts, divides by zero or
/// gives up. Raises: Error(kModel).
void check_gguf_model(const GgufHeader& header, const std::vector<GgufValue>& values, const std::string& file);

}  // namespace melt
