// SPDX-License-Identifier: Apache-2.0
// Reading JSON from another machine: what is accepted, what is refused, and that mutated text does no harm.
#include <doctest/doctest.h>

#include <random>
#include <string>

#include "counting_allocator.h"
#include "json.h"
#include "json_value.h"
#include "melt/error.h"

using namespace melt;

namespace {

std::string refusal(const std::string& text) {
  try {
    parse_json(text);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kInvalidArgument);
    return error.what();
  }
  return "";
}

std::string repeated(const std::string& text, int n) {
  std::string all;
  for (int i = 0; i < n; ++i)
    all += text;
  return all;
}

}  // namespace

TEST_CASE("json: values come as they were written") {
  const JsonValue value =
      parse_json(" {\"a\": [1, -2.5e3, true, null, \"x\\u00e9\\ud83d\\ude00\\n\\/\"], \"b\": {}, \"\": false}\r\n");
  const auto& list = value.find("a")->as_array("a");
  CHECK(list[0].as_integer("n", 0, 9) == 1);
  CHECK(list[1].as_number("n") == -2500.0);
  CHECK(list[2].as_bool("b"));
  CHECK(list[3].is_null());
  CHECK(list[4].as_string("s") == "x\xC3\xA9\xF0\x9F\x98\x80\n/");
  CHECK(value.find("b")->keys().empty());
  CHECK(value.find("missing") == nullptr);
  CHECK(list[0].find("a") == nullptr);
  CHECK(value.find("")->as_bool("empty key") == false);
  CHECK(parse_json("{\"n\": null}").find("n") == nullptr);
}

TEST_CASE("json: an integer is exact and in its range") {
  CHECK(parse_json("9223372036854775807").as_integer("n", 0, INT64_MAX) == INT64_MAX);
  CHECK_THROWS_AS(parse_json("9223372036854775808").as_integer("n", 0, INT64_MAX), Error);
  CHECK_THROWS_AS(parse_json("3.0").as_integer("n", 0, 9), Error);
  CHECK_THROWS_AS(parse_json("1e2").as_integer("n", 0, 900), Error);
  CHECK_THROWS_AS(parse_json("-1").as_integer("n", 0, 9), Error);
  CHECK_THROWS_AS(parse_json("\"1\"").as_integer("n", 0, 9), Error);
  CHECK_THROWS_AS(parse_json("1e999").as_number("n"), Error);
  CHECK_THROWS_AS(parse_json("1").as_string("s"), Error);
  CHECK_THROWS_AS(parse_json("1").as_bool("b"), Error);
  CHECK_THROWS_AS(parse_json("{}").as_array("a"), Error);
}

TEST_CASE("json: what RFC 8259 does not allow is refused with its place") {
  for (const char* text : {"",
                           " ",
                           "nul",
                           "tru",
                           "01",
                           "+1",
                           "1.",
                           ".5",
                           "1e",
                           "-",
                           "NaN",
                           "Infinity",
                           "[1,]",
                           "[,1]",
                           "{\"a\":1,}",
                           "{a:1}",
                           "{\"a\" 1}",
                           "{\"a\":}",
                           "[1 2]",
                           "\"a",
                           "\"\\x\"",
                           "\"\\u12g4\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "\"\t\"",
                           "\"\x01\"",
                           "1 2",
                           "{} {}",
                           "'a'",
                           "[",
                           "{",
                           "\"\\",
                           "\"\\u",
                           "{\"a\":1",
                           "[1",
                           "\xEF\xBB\xBF{}",
                           "{\"a\":1 \"b\":2}"}) {
    CAPTURE(text);
    CHECK(refusal(text).find("not JSON at byte ") == 0);
  }
  CHECK(refusal("{\"a\": 1, \"a\": 2}").find("comes twice") != std::string::npos);
}

TEST_CASE("json: strings must be UTF-8") {
  for (const char* bytes : {"\x80", "\xC3", "\xC0\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF"})
    CHECK(refusal(std::string("\"") + bytes + "\"").find("no UTF-8") != std::string::npos);
  CHECK(parse_json(std::string("\"a\\u0000b\"")).as_string("s").size() == 3);
}

TEST_CASE("json: depth, number of values and memory are bounded") {
  CHECK(refusal(repeated("[", kMaxJsonDepth) + repeated("]", kMaxJsonDepth)).empty());
  CHECK(refusal(repeated("[", kMaxJsonDepth + 1)).find("nested deeper") != std::string::npos);
  CHECK(refusal(repeated("{\"a\":", 100000)).find("nested deeper") != std::string::npos);
  const std::string many = "[" + repeated("0,", static_cast<int>(kMaxJsonValues)) + "0]";
  const std::size_t before = allocated().bytes;
  CHECK(refusal(many).find("more than") != std::string::npos);
  CHECK(allocated().bytes - before < std::size_t{128} << 20);
}

TEST_CASE("json: written again it reads as the same") {
  const std::string text = "{\"a\": [1, 2.50, -0, \"\\\"\\\\\"], \"b\": {\"c\": null, \"d\": true}, \"e\": []}";
  CHECK(parse_json(text).str() == text);
  CHECK(parse_json(json_string("\x01\x7F\xFFz")).as_string("s") == "\x01\x7F\xEF\xBF\xBDz");
}

TEST_CASE("json: a mutated text is read or refused, and what is read survives writing") {
  const std::string seed =
      "{\"id\": 7, \"op\": \"start\", \"run\": \"r-1\", \"request\": {\"model\": \"m/a.gguf\", \"prompt\": "
      "\"a\\u00e9\\n\", \"levels\": [\"ops\"], \"prompt_ids\": [1, 2, 3], \"seed\": -1.5e+3, \"n\": null, \"t\": "
      "true}}";
  std::mt19937 random(1);
  const std::string pool = "{}[]\",:\\u0eE+-.19ntf \x80\xFF\x01";
  int n_read = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = seed;
    for (std::size_t n = 1 + random() % 4; n > 0; --n) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = pool[random() % pool.size()];
          break;
        case 1:
          text.erase(at, 1 + random() % 8);
          break;
        case 2:
          text.insert(at, text.substr(random() % text.size(), random() % 30));
          break;
        default:
          text.insert(at, 1, pool[random() % pool.size()]);
      }
      if (text.empty())
        text = "0";
    }
    try {
      const std::string once = parse_json(text).str();
      CHECK(parse_json(once).str() == once);
      ++n_read;
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kInvalidArgument);
    }
  }
  CHECK(n_read > 400);    // else the mutations are too wild to test reading
  CHECK(n_read < 16000);  // else too tame to test refusing
}
