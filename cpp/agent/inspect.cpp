// SPDX-License-Identifier: Apache-2.0
#include "inspect.h"

#include "json.h"
#include "melt/gguf.h"
#include "text_list.h"

namespace melt::agent {
namespace {

constexpr std::size_t kMaxValueBytes = 4096;  // a chat template is about that long

std::string tensor_json(const GgufTensor& tensor) {
  std::string shape;
  for (const std::int64_t extent : tensor.shape)
    append_item(shape, std::to_string(extent));
  return JsonObject()
      .add("name", tensor.name)
      .add_raw("shape", "[" + shape + "]")
      .add("type", tensor.type)
      .add("size_bytes", tensor.size_bytes)
      .str();
}

}  // namespace

std::string inspect_json(const std::string& path, std::size_t max_bytes) {
  const GgufHeader header = read_gguf(path);
  bool truncated = false;
  std::size_t used = 0;
  JsonObject metadata;
  for (const auto& [key, value] : header.metadata) {
    truncated = truncated || value.size() > kMaxValueBytes;
    const std::string text = json_string(value.substr(0, kMaxValueBytes));
    used += text.size() + json_string(key).size() + 4;
    if (used > max_bytes / 2) {
      truncated = true;
      break;
    }
    metadata.add_raw(key.c_str(), text);
  }
  std::string tensors;
  for (const GgufTensor& tensor : header.tensors) {
    const std::string text = tensor_json(tensor);
    used += text.size() + 2;
    if (used > max_bytes - 256) {
      truncated = true;
      break;
    }
    append_item(tensors, text);
  }
  return JsonObject()
      .add("version", header.version)
      .add("file_bytes", header.file_bytes)
      .add_raw("metadata", metadata.str())
      .add_raw("tensors", "[" + tensors + "]")
      .add("n_tensors", static_cast<std::uint64_t>(header.tensors.size()))
      .add("truncated", truncated)
      .str();
}

}  // namespace melt::agent
