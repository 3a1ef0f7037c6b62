// SPDX-License-Identifier: Apache-2.0
// The GGUF reader: a right file, and one test per way in which a file can be wrong.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>

#include "gguf_builder.h"
#include "melt/error.h"
#include "melt/gguf.h"

using namespace melt;
using namespace melt_test;

namespace {

GgufHeader parse(const Bytes& bytes) {
  return parse_gguf(bytes.data(), bytes.size(), bytes.size(), "x.gguf");
}
GgufHeader parse(const Model& model) {
  return parse(model.build());
}

std::string error_of(const Bytes& bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kModel);
    const std::string message = error.what();
    CHECK(message.find("model file 'x.gguf': ") == 0);
    for (const char c : message)
      CHECK((c >= 0x20 && c < 0x7F));
    return message;
  }
  return "(accepted)";
}

std::string error_of(const Model& model) {
  return error_of(model.build());
}

/// The message for the tiny model with `key` set to `value`.
std::string error_with(const std::string& key, const Value& value) {
  Model model = tiny_model();
  model.set(key, value);
  return error_of(model);
}

std::string error_without(const std::string& key) {
  Model model = tiny_model();
  model.erase(key);
  return error_of(model);
}

std::string error_with_tensor(const Tensor& tensor) {
  Model model = tiny_model();
  model.tensors[1] = tensor;
  return error_of(model);
}

bool has(const std::string& message, const char* part) {
  INFO(message);
  const bool found = message.find(part) != std::string::npos;
  CHECK_MESSAGE(found, "missing: ", part);
  return found;
}

}  // namespace

TEST_CASE("a right file gives its keys and tensors") {
  const Bytes bytes = tiny_model().build();
  const GgufHeader header = parse(bytes);
  CHECK(header.version == 3);
  CHECK(header.file_bytes == bytes.size());
  CHECK(header.data_offset_bytes == bytes.size() - 224);
  CHECK(header.metadata.size() == 13);
  CHECK(header.metadata[0].first == "general.architecture");
  CHECK(*header.find("llama.block_count") == "2");
  CHECK(*header.find("llama.feed_forward_length") == "[2 values]");
  CHECK(*header.find("llama.attention.layer_norm_rms_epsilon") == "1e-05");
  CHECK(*header.find("general.flag") == "true");
  CHECK(*header.find("general.small") == "-5");
  CHECK(*header.find("tokenizer.ggml.tokens") == "[4 values]");
  CHECK(header.find("none") == nullptr);
  REQUIRE(header.tensors.size() == 2);
  CHECK(header.tensors[0].name == "token_embd.weight");
  CHECK(header.tensors[0].shape == std::vector<std::int64_t>{4, 32});
  CHECK(header.tensors[0].type == "q4_1");
  CHECK(header.tensors[0].size_bytes == 4 * 20);
  CHECK(header.tensors[1].offset_bytes == header.data_offset_bytes + 96);
  Model older = tiny_model();
  older.version = 2;
  CHECK(parse(older).version == 2);
}

TEST_CASE("another alignment is used") {
  Model model = tiny_model();
  model.set("general.alignment", u32(8));
  model.alignment = 8;
  model.tensors[1].offset = 80;
  CHECK(parse(model).data_offset_bytes % 8 == 0);
  for (const std::uint32_t wrong : {0u, 3u, 48u})
    CHECK(has(error_with("general.alignment", u32(wrong)), "power of two"));
  CHECK(has(error_with("general.alignment", number(10, std::uint64_t{32})), "power of two"));
}

TEST_CASE("a vocabulary without tensors is accepted, also without the model's sizes") {
  Model model = tiny_model();
  model.tensors.clear();
  CHECK(parse(model).tensors.empty());
  model.erase("llama.block_count");
  model.erase("llama.embedding_length");
  model.erase("llama.feed_forward_length");
  CHECK(parse(model).tensors.empty());
  model.erase("tokenizer.ggml.model");
  CHECK(has(error_of(model), "neither tensors nor a vocabulary"));
}

TEST_CASE("files of other kinds are named") {
  CHECK(has(error_of(Bytes{}), "empty"));
  CHECK(has(error_of(Bytes{'G', 'G'}), "not a GGUF file"));
  const auto starting = [](std::string start) {
    start.resize(64, '\0');
    return error_of(Bytes(start.begin(), start.end()));
  };
  CHECK(has(starting("tjgg"), "before GGUF"));
  CHECK(has(starting("lmgg"), "before GGUF"));
  CHECK(has(starting(std::string("\x40\0\0\0\0\0\0\0{\"a\"", 12)), "safetensors"));
  CHECK(has(starting("PK\x03\x04"), "PyTorch"));
  CHECK(has(starting("\x80\x02}q"), "pickle"));
  CHECK(has(starting("version https://git-lfs.github.com/spec/v1"), "git lfs pull"));
  CHECK(has(starting("<!DOCTYPE html>"), "web page"));
  CHECK(has(starting("\x01\xFFzz"), "'\\x01\\xffzz'"));
}

TEST_CASE("versions that cannot be read are refused") {
  Model model = tiny_model();
  model.version = 0x03000000;
  CHECK(has(error_of(model), "big-endian"));
  model.version = 0;
  CHECK(has(error_of(model), "version 0"));
  model.version = 1;
  CHECK(has(error_of(model), "convert the original model again"));
  model.version = 4;
  CHECK(has(error_of(model), "update melt_core"));
}

TEST_CASE("counts beyond the file are refused before anything is allocated") {
  for (const std::uint64_t extra : {std::uint64_t{1} << 20, std::uint64_t{1} << 62, ~std::uint64_t{0} - 20}) {
    Model model = tiny_model();
    model.n_keys_extra = extra;
    CHECK(has(error_of(model), "keys, too many"));
    model.n_keys_extra = 0;
    model.n_tensors_extra = extra;
    CHECK(has(error_of(model), "tensors, too many"));
  }
}

TEST_CASE("cut anywhere, a file is refused") {
  const Bytes whole = tiny_model().build();
  for (std::size_t cut = 0; cut < whole.size(); ++cut) {
    CAPTURE(cut);
    CHECK(error_of(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(cut))) != "(accepted)");
  }
  CHECK(has(error_of(Bytes(whole.begin(), whole.end() - 100)), "so 100 bytes are missing"));
}

TEST_CASE("wrong keys are refused") {
  Model model = tiny_model();
  model.keys.emplace_back("llama.block_count", u32(2));
  CHECK(has(error_of(model), "'llama.block_count' at byte"));
  model.keys.back().first = "";
  CHECK(has(error_of(model), "name of key 13 at byte"));
  model.keys.back().first = std::string("a\0b", 3);
  CHECK(has(error_of(model), "zero byte"));
  model.keys.back().first = std::string(70000, 'k');
  CHECK(has(error_of(model), "length of 70000"));
}

TEST_CASE("wrong values are refused") {
  CHECK(has(error_with("a", Value{13, {}}), "unknown type 13"));
  CHECK(has(error_with("a\x01", Value{0xFFFFFFFF, {}}), "'a\\x01'"));
  Value value{8, {}};
  append(value.bytes, ~std::uint64_t{0});
  CHECK(has(error_with("a", value), "length of 18446744073709551615"));
  value = {9, {}};
  append(value.bytes, std::uint32_t{9});
  append(value.bytes, std::uint64_t{0});
  CHECK(has(error_with("a", value), "array of arrays"));
  for (const std::uint32_t element : {0u, 4u, 8u, 12u}) {
    value = {9, {}};
    append(value.bytes, element);
    append(value.bytes, std::uint64_t{1} << 61);
    CHECK(has(error_with("a", value), "promises 2305843009213693952 values"));
  }
  value = {9, {}};
  append(value.bytes, std::uint32_t{8});
  append(value.bytes, std::uint64_t{2});
  append_text(value.bytes, "a");
  append(value.bytes, std::uint64_t{1} << 40);
  CHECK(has(error_with("a", value), "length of 1099511627776"));
}

TEST_CASE("a token that is there twice is refused, where llama.cpp would abort") {
  CHECK(has(error_with("tokenizer.ggml.tokens", texts({"a", "b", "a"})), "holds the token 'a' twice"));
  CHECK(error_with("tokenizer.ggml.merges", texts({"a", "a"})) == "(accepted)");
}

TEST_CASE("wrong tensors are refused") {
  CHECK(has(error_with_tensor({"token_embd.weight", {32}, 0, 96}), "twice"));
  CHECK(has(error_with_tensor({"", {32}, 0, 96}), "is empty"));
  CHECK(has(error_with_tensor({std::string(64, 'n'), {32}, 0, 96}), "length of 64"));
  CHECK(has(error_with_tensor({"n", {}, 0, 96}), "0 dimensions"));
  CHECK(has(error_with_tensor({"n", {1, 1, 1, 1, 1}, 0, 96}), "5 dimensions"));
  CHECK(has(error_with_tensor({"n", {32, 0}, 0, 96}), "empty tensor"));
  CHECK(has(error_with_tensor({"n", {std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0, 96}), "too large"));
  CHECK(has(error_with_tensor({"n", {~std::uint64_t{0}}, 0, 96}), "too large"));
  CHECK(has(error_with_tensor({"n", {(~std::uint64_t{0}) / 4}, 28, 96}), "2^64"));
  for (const std::uint32_t type : {4u, 5u, 31u, 38u, 43u, 0xFFFFFFFFu}) {
    CHECK(has(error_with_tensor({"n", {32}, type, 96}), "unknown type"));
  }
  CHECK(has(error_with_tensor({"n", {33}, 3, 96}), "rows of 33 values"));
  CHECK(has(error_with_tensor({"n", {32}, 0, 97}), "not a multiple of the alignment 32"));
  CHECK(has(error_with_tensor({"n", {32}, 0, 128}), "tensor 'n' ends at byte"));
  CHECK(has(error_with_tensor({"n", {32}, 0, ~std::uint64_t{31}}), "beyond 2^64"));
}

TEST_CASE("keys that llama.cpp needs are required") {
  CHECK(has(error_without("general.architecture"), "'general.architecture' is missing"));
  CHECK(has(error_without("llama.block_count"), "'llama.block_count' is missing"));
  CHECK(has(error_without("llama.context_length"), "'llama.context_length' is missing"));
  CHECK(has(error_without("llama.embedding_length"), "'llama.embedding_length' is missing"));
  CHECK(has(error_with("general.architecture", u32(1)), "not text"));
  CHECK(has(error_with("general.architecture", text("")), "is empty"));
  CHECK(has(error_with("llama.block_count", number(5, std::int32_t{2})), "type u32"));
}

TEST_CASE("values on which llama.cpp would abort are refused") {
  CHECK(has(error_with("llama.block_count", u32(0)), "is 0 and must be from 1 to 512"));
  CHECK(has(error_with("llama.block_count", u32(513)), "is 513"));
  CHECK(has(error_with("llama.context_length", u32(0)), "context_length"));
  CHECK(has(error_with("llama.embedding_length", u32(0)), "embedding_length"));
  CHECK(has(error_with("llama.nextn_predict_layers", u32(3)), "from 0 to 2"));
  CHECK(has(error_with("llama.attention.head_count", u32(0)), "at least 1"));
  CHECK(has(error_with("llama.attention.head_count_kv", u32(0)), "at least 1"));
  CHECK(error_with("llama.attention.head_count_kv", u32s({0, 2})) == "(accepted)");
  CHECK(has(error_with("llama.attention.head_count_kv", u32s({2, 2, 2})), "3 values for 2 layers"));
  CHECK(has(error_with("llama.attention.layer_norm_rms_epsilon", f32(-1)), "0 or more"));
  CHECK(has(error_with("llama.attention.layer_norm_rms_epsilon", f32(std::nanf(""))), "is nan"));
  CHECK(has(error_with("llama.rope.dimension_count", u32(7)), "even"));
  CHECK(has(error_with("llama.rope.dimension_count", u32(10)), "head size 8"));
  CHECK(has(error_with("llama.rope.scaling.type", text("lin\n")), "'lin\\x0a'"));
  CHECK(has(error_with("llama.attention.value_length", u32(4)), "key length 8"));
  CHECK(has(error_with("llama.ssm.time_step_rank", u32(0)), "time_step_rank"));
}

TEST_CASE("expert counts must fit each other") {
  const auto experts = [](std::uint32_t all, std::uint32_t used, std::uint32_t groups, std::uint32_t groups_used) {
    Model model = tiny_model();
    model.set("llama.expert_count", u32(all));
    model.set("llama.expert_used_count", u32(used));
    model.set("llama.expert_group_count", u32(groups));
    model.set("llama.expert_group_used_count", u32(groups_used));
    return error_of(model);
  };
  CHECK(experts(8, 2, 0, 0) == "(accepted)");
  CHECK(experts(8, 2, 4, 2) == "(accepted)");
  CHECK(experts(0, 0, 0, 0) == "(accepted)");
  CHECK(has(experts(2000, 2, 0, 0), "expert_count"));
  CHECK(has(experts(8, 0, 0, 0), "expert_used_count"));
  CHECK(has(experts(8, 9, 0, 0), "expert_used_count"));
  CHECK(has(experts(0, 1, 0, 0), "expert_used_count"));
  CHECK(has(experts(8, 2, 8, 1), "expert_group_count"));
  CHECK(has(experts(8, 2, 3, 1), "expert_group_count"));
  CHECK(has(experts(8, 2, 4, 0), "expert_group_count"));
  CHECK(has(experts(0, 0, 1, 0), "expert_group_count"));
  Model model = tiny_model();
  model.set("llama.expert_count", u32(4));
  model.set("llama.expert_used_count", u32s({1, 5}));
  CHECK(has(error_of(model), "is 5 for 4 experts"));
}

TEST_CASE("recurrent models may have no heads") {
  Model model = tiny_model();
  for (auto& [name, value] : model.keys) {
    if (name.find("llama.") == 0)
      name = "mamba" + name.substr(5);
  }
  model.set("general.architecture", text("mamba"));
  model.set("mamba.attention.head_count", u32(0));
  model.set("mamba.attention.head_count_kv", u32(0));
  CHECK(error_of(model) == "(accepted)");
}

TEST_CASE("files that are no language model are named") {
  CHECK(has(error_with("general.type", text("adapter")), "adapter (LoRA)"));
  CHECK(has(error_with("general.type", text("mmproj")), "projector"));
  CHECK(has(error_with("general.type", text("imatrix")), "importance matrix"));
  CHECK(has(error_with("general.architecture", text("clip")), "projector"));
  CHECK(has(error_with("general.architecture", text("controlvector")), "control vector"));
  CHECK(error_with("general.type", text("model")) == "(accepted)");
}

TEST_CASE("of a split model the first part is wanted") {
  Model model = tiny_model();
  model.set("split.count", u16(3));
  CHECK(has(error_of(model), "does not say which"));
  model.set("split.no", u16(0));
  CHECK(error_of(model) == "(accepted)");
  model.set("split.no", u16(1));
  CHECK(has(error_of(model), "part 2 of 3"));
  model.set("split.no", u16(3));
  CHECK(has(error_of(model), "does not say which"));
  model.set("split.no", u32(0));
  CHECK(has(error_of(model), "type u16"));
}

TEST_CASE("a file is read from disk, and what is no file is refused") {
  const std::string path = "/tmp/melt_test_gguf_" + std::to_string(::getpid()) + ".gguf";
  const Bytes bytes = tiny_model().build();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  CHECK(read_gguf(path).tensors.size() == 2);
  std::ofstream(path, std::ios::trunc).flush();
  CHECK_THROWS_WITH_AS(read_gguf(path), doctest::Contains("is empty"), Error);
  std::remove(path.c_str());
  CHECK_THROWS_WITH_AS(read_gguf(path), doctest::Contains("there is no model file"), Error);
  CHECK_THROWS_WITH_AS(read_gguf(path + "/x"), doctest::Contains("there is no model file"), Error);
  CHECK_THROWS_WITH_AS(read_gguf("/tmp"), doctest::Contains("directory"), Error);
  CHECK_THROWS_WITH_AS(read_gguf("/dev/null"), doctest::Contains("not a regular file"), Error);
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);  // must not wait for a writer
  CHECK_THROWS_WITH_AS(read_gguf(path), doctest::Contains("not a regular file"), Error);
  std::remove(path.c_str());
}

TEST_CASE("a header read from the start of a file knows the whole file's size") {
  const Bytes whole = tiny_model().build();
  const GgufHeader header = parse_gguf(whole.data(), whole.size() - 224, whole.size(), "x.gguf");
  CHECK(header.file_bytes == whole.size());
  CHECK_THROWS_AS(parse_gguf(whole.data(), 50, whole.size(), "x.gguf"), Error);
}
