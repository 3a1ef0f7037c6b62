// SPDX-License-Identifier: Apache-2.0
#include "model_folder.h"

#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <unordered_set>

#include "json_value.h"
#include "md5.h"
#include "melt/error.h"

namespace melt::mlc {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMaxJsonBytes = std::uintmax_t{64} << 20;
constexpr std::int64_t kMaxBytes = std::numeric_limits<std::int64_t>::max() / 4;

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorKind::kModel, message);
}

/// A JSON file of the directory; a fault in it is the model's fault.
class JsonFile {
 public:
  explicit JsonFile(fs::path path) : path_(std::move(path)) {
    std::error_code failed;
    const std::uintmax_t size = fs::file_size(path_, failed);
    if (failed)
      refuse("cannot read " + path_.string() + ": " + failed.message() + " (each model directory of MLC has one)");
    if (size > kMaxJsonBytes)
      refuse(path_.string() + " has " + std::to_string(size) + " bytes: that is no description of a model");
    std::ifstream file(path_, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    root_ = checked([&] { return parse_json(text.str()); });
  }

  const JsonValue& root() const { return root_; }

  /// Runs `read`, whose complaints become those of this file.
  template <typename Read>
  auto checked(const Read& read) const -> decltype(read()) {
    try {
      return read();
    } catch (const Error& error) {
      refuse(path_.string() + ": " + error.what());
    }
  }

  const JsonValue& need(const JsonValue& object, const char* key, const std::string& where) const {
    const JsonValue* value = object.find(key);
    if (value == nullptr)
      refuse(path_.string() + " lacks the key \"" + key + "\"" + (where.empty() ? "" : " of " + where));
    return *value;
  }

  std::string text(const JsonValue& object, const char* key, const std::string& where = "") const {
    return checked([&] { return need(object, key, where).as_string("\"" + std::string(key) + "\""); });
  }

  std::int64_t number(const JsonValue& object, const char* key, std::int64_t low, std::int64_t high,
                      const std::string& where = "") const {
    return checked([&] {
      const std::string what = "\"" + std::string(key) + "\"" + (where.empty() ? "" : " of " + where);
      return need(object, key, where).as_integer(what, low, high);
    });
  }

  const std::vector<JsonValue>& array(const JsonValue& object, const char* key, const std::string& where = "") const {
    return checked([&]() -> const std::vector<JsonValue>& {
      return need(object, key, where).as_array("\"" + std::string(key) + "\"");
    });
  }

 private:
  fs::path path_;
  JsonValue root_;
};

void add_stop_ids(std::vector<std::int32_t>& ids, const JsonFile& file, const JsonValue* value) {
  if (value == nullptr)
    return;
  const auto add = [&](const JsonValue& id) {
    ids.push_back(static_cast<std::int32_t>(
        file.checked([&] { return id.as_integer("a token id that ends a text", 0, INT32_MAX); })));
  };
  if (value->type() == JsonValue::Type::kArray) {
    for (const JsonValue& id : value->values())
      add(id);
  } else {
    add(*value);
  }
}

void read_config(ModelFolder& folder) {
  const JsonFile file(fs::path(folder.path) / "mlc-chat-config.json");
  const JsonValue& root = file.root();
  folder.model_type = file.text(root, "model_type");
  folder.quantization = file.text(root, "quantization");
  folder.vocab_size = static_cast<std::uint32_t>(file.number(root, "vocab_size", 1, INT32_MAX));
  folder.context_window_size = static_cast<std::uint32_t>(file.number(root, "context_window_size", 1, INT32_MAX));
  add_stop_ids(folder.stop_ids, file, root.find("eos_token_id"));
  if (const JsonValue* conversation = root.find("conv_template"))
    add_stop_ids(folder.stop_ids, file, conversation->find("stop_token_ids"));
}

Parameter read_parameter(const JsonFile& file, const JsonValue& record, const Shard& shard, std::uint32_t number) {
  Parameter parameter;
  parameter.name = file.text(record, "name", "a record of " + shard.file);
  const std::string& name = parameter.name;
  parameter.shard = number;
  std::uint64_t elements = 1;
  for (const JsonValue& extent : file.array(record, "shape", name)) {
    const std::int64_t size =
        file.checked([&] { return extent.as_integer("the shape of " + name, 0, INT32_MAX * std::int64_t{1024}); });
    parameter.shape.push_back(size);
    if (size != 0 && elements > static_cast<std::uint64_t>(kMaxBytes / 16 / size))
      refuse("the shape of " + name + " in " + shard.file + " is larger than any memory");
    elements *= static_cast<std::uint64_t>(size);
  }
  parameter.dtype = file.text(record, "dtype", name);
  parameter.type = parse_dtype(parameter.dtype, name);
  parameter.bytes = elements * static_cast<std::uint64_t>(parameter.type.bits * parameter.type.lanes / 8);
  const std::string format = file.text(record, "format", name);
  if (format != "raw" && format != "f32-to-bf16")
    refuse(name + " is stored in the format \"" + format + "\": only raw and f32-to-bf16 are known");
  parameter.from_bf16 = format == "f32-to-bf16" && parameter.dtype == "float32";
  parameter.offset = static_cast<std::uint64_t>(file.number(record, "byteOffset", 0, kMaxBytes, name));
  parameter.file_bytes = static_cast<std::uint64_t>(file.number(record, "nbytes", 0, kMaxBytes, name));
  const std::uint64_t expected = parameter.from_bf16 ? parameter.bytes / 2 : parameter.bytes;
  if (parameter.file_bytes != expected) {
    refuse(name + " has " + std::to_string(parameter.file_bytes) + " bytes in " + shard.file + ", its shape and type " +
           std::to_string(expected));
  }
  if (parameter.offset + parameter.file_bytes > shard.bytes) {
    refuse(name + " ends at byte " + std::to_string(parameter.offset + parameter.file_bytes) + " of " + shard.file +
           ", which has " + std::to_string(shard.bytes));
  }
  return parameter;
}

Shard read_shard(const JsonFile& file, const JsonValue& record, const std::string& folder) {
  Shard shard;
  shard.file = file.text(record, "dataPath", "a shard");
  if (shard.file.empty() || shard.file.find('/') != std::string::npos || shard.file == "..")
    refuse("the shard \"" + shard.file + "\" lies outside " + folder);
  shard.bytes = static_cast<std::uint64_t>(file.number(record, "nbytes", 0, kMaxBytes, shard.file));
  if (record.find("md5sum") != nullptr)
    shard.md5 = file.text(record, "md5sum", shard.file);
  const fs::path path = fs::path(folder) / shard.file;
  std::error_code failed;
  const std::uintmax_t size = fs::file_size(path, failed);
  if (failed)
    refuse("cannot read the shard " + path.string() + ": " + failed.message());
  if (size != shard.bytes) {
    refuse("the shard " + path.string() + " has " + std::to_string(size) + " of its " + std::to_string(shard.bytes) +
           " bytes: it is " + (size < shard.bytes ? "cut short" : "of another model") + ", fetch or convert it again");
  }
  return shard;
}

void read_tensor_cache(ModelFolder& folder) {
  const fs::path base = folder.path;
  std::error_code ignored;
  fs::path path = base / "tensor-cache.json";
  if (!fs::exists(path, ignored) && fs::exists(base / "ndarray-cache.json", ignored))
    path = base / "ndarray-cache.json";
  const JsonFile file(path);
  std::unordered_set<std::string> names;
  for (const JsonValue& record : file.array(file.root(), "records")) {
    const auto number = static_cast<std::uint32_t>(folder.shards.size());
    folder.shards.push_back(read_shard(file, record, folder.path));
    for (const JsonValue& tensor : file.array(record, "records", folder.shards.back().file)) {
      Parameter parameter = read_parameter(file, tensor, folder.shards.back(), number);
      if (!names.insert(parameter.name).second)
        refuse(path.string() + " names the parameter " + parameter.name + " twice");
      folder.weights_bytes += parameter.bytes;
      folder.parameters.push_back(std::move(parameter));
    }
  }
  if (folder.parameters.empty())
    refuse(path.string() + " names no parameter");
}

}  // namespace

ModelFolder read_model_folder(const std::string& path) {
  ModelFolder folder;
  folder.path = path;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    refuse(path + (fs::exists(path, ignored) ? " is a file" : " does not exist") +
           ": the MLC runtime takes a directory with mlc-chat-config.json, tensor-cache.json and a model library");
  }
  read_config(folder);
  read_tensor_cache(folder);
  return folder;
}

void check_shards(const ModelFolder& folder) {
  std::vector<char> buffer(std::size_t{1} << 20);
  for (const Shard& shard : folder.shards) {
    if (shard.md5.empty())
      continue;
    const std::string path = (fs::path(folder.path) / shard.file).string();
    std::ifstream file(path, std::ios::binary);
    Md5 md5;
    while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), file.gcount() > 0)
      md5.add(buffer.data(), static_cast<std::size_t>(file.gcount()));
    const std::string found = md5.finish();
    if (found != shard.md5)
      refuse("the shard " + path + " is damaged: its MD5 is " + found + ", and should be " + shard.md5);
  }
}

DLDataType parse_dtype(const std::string& name, const std::string& where) {
  struct Entry {
    const char* name;
    std::uint8_t code, bits;
  };
  static constexpr Entry kTypes[] = {
      {"float32", kDLFloat, 32}, {"float16", kDLFloat, 16}, {"bfloat16", kDLBfloat, 16}, {"float64", kDLFloat, 64},
      {"uint32", kDLUInt, 32},   {"uint16", kDLUInt, 16},   {"uint8", kDLUInt, 8},       {"uint64", kDLUInt, 64},
      {"int32", kDLInt, 32},     {"int16", kDLInt, 16},     {"int8", kDLInt, 8},         {"int64", kDLInt, 64},
  };
  for (const Entry& entry : kTypes) {
    if (name == entry.name)
      return {entry.code, entry.bits, 1};
  }
  refuse(where + " has the type " + name + ": this quantisation is not supported");
}

std::string short_dtype(DLDataType type) {
  const char* letter = type.code == kDLFloat ? "f" : type.code == kDLBfloat ? "bf" : type.code == kDLUInt ? "u" : "i";
  const std::string lanes = type.lanes > 1 ? "x" + std::to_string(type.lanes) : "";
  return (type.code == kDLBool ? "bool" : letter + std::to_string(type.bits)) + lanes;
}

}  // namespace melt::mlc
