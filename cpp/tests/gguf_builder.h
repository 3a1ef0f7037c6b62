// SPDX-License-Identifier: Apache-2.0
// Builds tiny GGUF files byte by byte, right or wrong as a test asks, for test_gguf.cpp and test_fuzz.cpp.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace melt_test {

using Bytes = std::vector<std::uint8_t>;

template <typename Number>
void append(Bytes& bytes, Number value) {
  const auto* first = reinterpret_cast<const std::uint8_t*>(&value);
  bytes.insert(bytes.end(), first, first + sizeof(value));
}

inline void append_text(Bytes& bytes, const std::string& text) {
  append(bytes, std::uint64_t{text.size()});
  bytes.insert(bytes.end(), text.begin(), text.end());
}

/// A typed value as it stands in the file: the type's number, then its bytes.
struct Value {
  std::uint32_t type;
  Bytes bytes;
};

template <typename Number>
Value number(std::uint32_t type, Number value) {
  Value result{type, {}};
  append(result.bytes, value);
  return result;
}

inline Value u16(std::uint16_t value) {
  return number(2, value);
}
inline Value u32(std::uint32_t value) {
  return number(4, value);
}
inline Value f32(float value) {
  return number(6, value);
}

inline Value text(const std::string& value) {
  Value result{8, {}};
  append_text(result.bytes, value);
  return result;
}

inline Value texts(const std::vector<std::string>& values) {
  Value result{9, {}};
  append(result.bytes, std::uint32_t{8});
  append(result.bytes, std::uint64_t{values.size()});
  for (const std::string& value : values)
    append_text(result.bytes, value);
  return result;
}

inline Value u32s(const std::vector<std::uint32_t>& values) {
  Value result{9, {}};
  append(result.bytes, std::uint32_t{4});
  append(result.bytes, std::uint64_t{values.size()});
  for (const std::uint32_t value : values)
    append(result.bytes, value);
  return result;
}

struct Tensor {
  std::string name;
  std::vector<std::uint64_t> dims;  // fastest first, as in the file
  std::uint32_t type;
  std::uint64_t offset;
};

struct Model {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::vector<std::pair<std::string, Value>> keys;
  std::vector<Tensor> tensors;
  std::uint64_t n_keys_extra = 0;  // promised on top of those there
  std::uint64_t n_tensors_extra = 0;
  std::uint64_t alignment = 32;
  std::uint64_t data_bytes = 0;

  void set(const std::string& key, Value value) {
    for (auto& [name, old] : keys) {
      if (name == key) {
        old = std::move(value);
        return;
      }
    }
    keys.emplace_back(key, std::move(value));
  }

  void erase(const std::string& key) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (keys[i].first == key)
        keys.erase(keys.begin() + static_cast<std::ptrdiff_t>(i--));
    }
  }

  Bytes build() const {
    Bytes bytes(magic.begin(), magic.end());
    append(bytes, version);
    append(bytes, tensors.size() + n_tensors_extra);
    append(bytes, keys.size() + n_keys_extra);
    for (const auto& [name, value] : keys) {
      append_text(bytes, name);
      append(bytes, value.type);
      bytes.insert(bytes.end(), value.bytes.begin(), value.bytes.end());
    }
    for (const Tensor& tensor : tensors) {
      append_text(bytes, tensor.name);
      append(bytes, static_cast<std::uint32_t>(tensor.dims.size()));
      for (const std::uint64_t dim : tensor.dims)
        append(bytes, dim);
      append(bytes, tensor.type);
      append(bytes, tensor.offset);
    }
    if (!tensors.empty()) {
      while (bytes.size() % alignment != 0)
        bytes.push_back(0);
      bytes.insert(bytes.end(), data_bytes, 0);
    }
    return bytes;
  }
};

/// A llama of two layers, as far as its header goes.
inline Model tiny_model() {
  Model model;
  model.keys = {
      {"general.architecture", text("llama")},
      {"llama.block_count", u32(2)},
      {"llama.context_length", u32(64)},
      {"llama.embedding_length", u32(32)},
      {"llama.feed_forward_length", u32s({64, 64})},
      {"llama.attention.head_count", u32(4)},
      {"llama.attention.head_count_kv", u32(2)},
      {"llama.attention.layer_norm_rms_epsilon", f32(1e-5f)},
      {"llama.rope.dimension_count", u32(8)},
      {"general.flag", number(7, std::uint8_t{1})},
      {"general.small", number(1, std::int8_t{-5})},
      {"tokenizer.ggml.model", text("llama")},
      {"tokenizer.ggml.tokens", texts({"", "a", "b", ""})},
  };
  model.tensors = {{"token_embd.weight", {32, 4}, 3, 0}, {"output_norm.weight", {32}, 0, 96}};
  model.data_bytes = 96 + 128;  // 4 blocks of 20 bytes, padded, and 32 floats
  return model;
}

}  // namespace melt_test
