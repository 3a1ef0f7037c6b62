// SPDX-License-Identifier: Apache-2.0
// Reads JSON (RFC 8259) that another machine sent: strict, and bounded in depth, values and memory.
// Of our own, because the core has to read a request without a third-party tree, and because it can be this small.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace melt {

class JsonValue {
 public:
  enum class Type : std::uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };

  Type type() const noexcept { return type_; }
  bool is_null() const noexcept { return type_ == Type::kNull; }
  bool is_object() const noexcept { return type_ == Type::kObject; }

  // Each raises Error(kInvalidArgument) that names `what` if the value is of another type or does not fit.
  bool as_bool(const std::string& what) const;
  double as_number(const std::string& what) const;
  /// Integers only, low <= value <= high; 3.0 is none.
  std::int64_t as_integer(const std::string& what, std::int64_t low, std::int64_t high) const;
  const std::string& as_string(const std::string& what) const;
  const std::vector<JsonValue>& as_array(const std::string& what) const;

  /// The member of an object, or null if there is none, if it is JSON's null, or if this is no object.
  const JsonValue* find(std::string_view key) const noexcept;
  /// Of an object, in the order of the text; values() lie beside them.
  const std::vector<std::string>& keys() const noexcept { return keys_; }
  const std::vector<JsonValue>& values() const noexcept { return values_; }

  /// The value as JSON again, on one line; numbers as they were written.
  std::string str() const;

 private:
  friend class JsonParser;
  [[noreturn]] void refuse(const std::string& what, const char* wanted) const;

  Type type_ = Type::kNull;
  bool bool_ = false;
  std::string text_;  // of a string its content, of a number its digits
  std::vector<std::string> keys_;
  std::vector<JsonValue> values_;
};

constexpr int kMaxJsonDepth = 16;
constexpr std::size_t kMaxJsonValues = std::size_t{1} << 18;

/// Raises: Error(kInvalidArgument) with the byte offset at which `text` is not JSON, repeats a key, or exceeds a limit.
JsonValue parse_json(std::string_view text);

}  // namespace melt
