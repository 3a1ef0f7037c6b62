// SPDX-License-Identifier: Apache-2.0
// Writes the few JSON objects of a trace's metadata and of the agent's answers. json_value.h reads.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "text_list.h"

namespace melt {

/// Length of the UTF-8 character at `i`, or 0 if there is none (RFC 3629: no overlong forms, no surrogates).
std::size_t utf8_length(std::string_view text, std::size_t i);

/// `text` as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD.
std::string json_string(const std::string& text);

class JsonObject {
 public:
  JsonObject& add(const char* key, const std::string& value) { return add_raw(key, json_string(value)); }
  JsonObject& add(const char* key, const char* value) { return add(key, std::string(value)); }
  JsonObject& add(const char* key, bool value) { return add_raw(key, value ? "true" : "false"); }
  JsonObject& add(const char* key, std::uint64_t value) { return add_raw(key, std::to_string(value)); }
  JsonObject& add(const char* key, std::uint32_t value) { return add_raw(key, std::to_string(value)); }
  JsonObject& add(const char* key, std::int64_t value) { return add_raw(key, std::to_string(value)); }
  JsonObject& add(const char* key, int value) { return add_raw(key, std::to_string(value)); }
  JsonObject& add(const char* key, double value) {
    if (!std::isfinite(value))
      return add_raw(key, "null");
    char text[32];
    std::snprintf(text, sizeof text, "%.17g", value);
    return add_raw(key, text);
  }
  /// `json` must itself be a JSON value.
  JsonObject& add_raw(const char* key, const std::string& json) {
    append_item(body_, json_string(key) + ": " + json);
    return *this;
  }
  std::string str() const { return "{" + body_ + "}"; }

 private:
  std::string body_;
};

}  // namespace melt
