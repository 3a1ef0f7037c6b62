// SPDX-License-Identifier: Apache-2.0
#include "json_value.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <unordered_set>

#include "json.h"
#include "melt/error.h"

namespace melt {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

void append_utf8(std::string& out, std::uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
    return;
  }
  const int tails = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  static constexpr std::uint32_t kLead[] = {0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(kLead[tails] | (code >> (6 * tails)));
  for (int i = tails - 1; i >= 0; --i)
    out += static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3F));
}

}  // namespace

class JsonParser {
 public:
  explicit JsonParser(std::string_view text) : text_(text) {}

  JsonValue parse() {
    JsonValue value = parse_value(0);
    skip_space();
    if (at_ != text_.size())
      fail("something follows the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw Error(ErrorKind::kInvalidArgument, "not JSON at byte " + std::to_string(at_) + ": " + why);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c)
      return false;
    ++at_;
    return true;
  }

  void skip_space() {
    while (at_ < text_.size() && (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r'))
      ++at_;
  }

  JsonValue parse_value(int depth) {
    if (++n_values_ > kMaxJsonValues)
      fail("more than " + std::to_string(kMaxJsonValues) + " values");
    skip_space();
    JsonValue value;
    switch (peek()) {
      case '{':
        parse_object(value, depth);
        break;
      case '[':
        parse_array(value, depth);
        break;
      case '"':
        value.type_ = JsonValue::Type::kString;
        value.text_ = parse_string();
        break;
      case 't':
      case 'f':
        value.type_ = JsonValue::Type::kBool;
        value.bool_ = peek() == 't';
        take_word(value.bool_ ? "true" : "false");
        break;
      case 'n':
        take_word("null");
        break;
      default:
        value.type_ = JsonValue::Type::kNumber;
        value.text_ = parse_number();
    }
    return value;
  }

  void take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word)
      fail("a value was expected");
    at_ += word.size();
  }

  void enter(int depth) {
    if (depth + 1 > kMaxJsonDepth)
      fail("nested deeper than " + std::to_string(kMaxJsonDepth));
    ++at_;
    skip_space();
  }

  void parse_array(JsonValue& value, int depth) {
    value.type_ = JsonValue::Type::kArray;
    enter(depth);
    if (take(']'))
      return;
    do {
      value.values_.push_back(parse_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']'))
      fail("',' or ']' was expected");
  }

  void parse_object(JsonValue& value, int depth) {
    value.type_ = JsonValue::Type::kObject;
    enter(depth);
    if (take('}'))
      return;
    std::unordered_set<std::string> seen;
    do {
      skip_space();
      if (peek() != '"')
        fail("a key was expected");
      std::string key = parse_string();
      if (!seen.insert(key).second)
        fail("the key " + json_string(key) + " comes twice");
      skip_space();
      if (!take(':'))
        fail("':' was expected");
      value.keys_.push_back(std::move(key));
      value.values_.push_back(parse_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take('}'))
      fail("',' or '}' was expected");
  }

  std::string parse_number() {
    const std::size_t begin = at_;
    take('-');
    if (!is_digit(peek()))
      fail("a value was expected");
    if (!take('0'))
      take_digits();
    if (take('.'))
      take_digits();
    if (take('e') || take('E')) {
      if (!take('+'))
        take('-');
      take_digits();
    }
    return std::string(text_.substr(begin, at_ - begin));
  }

  void take_digits() {
    if (!is_digit(peek()))
      fail("a digit was expected");
    while (is_digit(peek()))
      ++at_;
  }

  std::string parse_string() {
    ++at_;
    std::string out;
    for (;;) {
      if (at_ >= text_.size())
        fail("the string has no end");
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return out;
      }
      if (static_cast<unsigned char>(c) < 0x20)
        fail("a control character in a string");
      if (c == '\\') {
        ++at_;
        parse_escape(out);
        continue;
      }
      const std::size_t length = utf8_length(text_, at_);
      if (length == 0)
        fail("a byte that is no UTF-8");
      out.append(text_.substr(at_, length));
      at_ += length;
    }
  }

  void parse_escape(std::string& out) {
    static constexpr std::string_view kNames = "\"\\/bfnrt";
    static constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    const char c = peek();
    if (c == 'u') {
      ++at_;
      append_utf8(out, parse_code_point());
      return;
    }
    const std::size_t i = at_ < text_.size() ? kNames.find(c) : std::string_view::npos;
    if (i == std::string_view::npos)
      fail("an unknown escape");
    out += kMeanings[i];
    ++at_;
  }

  std::uint32_t parse_code_point() {
    const std::uint32_t first = parse_hex4();
    if (first >= 0xDC00 && first <= 0xDFFF)
      fail("half of a surrogate pair");
    if (first < 0xD800 || first > 0xDBFF)
      return first;
    if (!take('\\') || !take('u'))
      fail("half of a surrogate pair");
    const std::uint32_t second = parse_hex4();
    if (second < 0xDC00 || second > 0xDFFF)
      fail("half of a surrogate pair");
    return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
  }

  std::uint32_t parse_hex4() {
    static constexpr std::string_view kDigits = "0123456789abcdef";
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = peek();
      const std::size_t digit = kDigits.find(c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c);
      if (at_ >= text_.size() || digit == std::string_view::npos)
        fail("four hexadecimal digits were expected");
      code = code * 16 + static_cast<std::uint32_t>(digit);
      ++at_;
    }
    return code;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t n_values_ = 0;
};

JsonValue parse_json(std::string_view text) {
  return JsonParser(text).parse();
}

void JsonValue::refuse(const std::string& what, const char* wanted) const {
  std::string given = str();
  if (given.size() > 60)
    given = given.substr(0, 57) + "...";
  throw Error(ErrorKind::kInvalidArgument, what + " is " + given + ": give " + wanted);
}

bool JsonValue::as_bool(const std::string& what) const {
  if (type_ != Type::kBool)
    refuse(what, "true or false");
  return bool_;
}

double JsonValue::as_number(const std::string& what) const {
  if (type_ != Type::kNumber)
    refuse(what, "a number");
  const double value = std::strtod(text_.c_str(), nullptr);
  if (!std::isfinite(value))
    refuse(what, "a number in the range of a double");
  return value;
}

std::int64_t JsonValue::as_integer(const std::string& what, std::int64_t low, std::int64_t high) const {
  const std::string wanted = "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  if (type_ != Type::kNumber || text_.find_first_of(".eE") != std::string::npos)
    refuse(what, wanted.c_str());
  errno = 0;
  const long long value = std::strtoll(text_.c_str(), nullptr, 10);
  if (errno != 0 || value < low || value > high)
    refuse(what, wanted.c_str());
  return value;
}

const std::string& JsonValue::as_string(const std::string& what) const {
  if (type_ != Type::kString)
    refuse(what, "a string");
  return text_;
}

const std::vector<JsonValue>& JsonValue::as_array(const std::string& what) const {
  if (type_ != Type::kArray)
    refuse(what, "an array");
  return values_;
}

const JsonValue* JsonValue::find(std::string_view key) const noexcept {
  const auto found = std::find(keys_.begin(), keys_.end(), key);
  if (found == keys_.end())
    return nullptr;
  const JsonValue& value = values_[static_cast<std::size_t>(found - keys_.begin())];
  return value.is_null() ? nullptr : &value;
}

std::string JsonValue::str() const {
  switch (type_) {
    case Type::kNull:
      return "null";
    case Type::kBool:
      return bool_ ? "true" : "false";
    case Type::kNumber:
      return text_;
    case Type::kString:
      return json_string(text_);
    case Type::kArray:
    case Type::kObject:
      break;
  }
  std::string body;
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (i > 0)
      body += ", ";
    if (type_ == Type::kObject)
      body += json_string(keys_[i]) + ": ";
    body += values_[i].str();
  }
  return type_ == Type::kObject ? "{" + body + "}" : "[" + body + "]";
}

}  // namespace melt
