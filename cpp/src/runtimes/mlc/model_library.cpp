// SPDX-License-Identifier: Apache-2.0
#include "model_library.h"

#include <mutex>
#include <unordered_map>

#include "json_value.h"
#include "melt/cpu_features.h"
#include "melt/error.h"
#include "text_list.h"

namespace melt::mlc {
namespace {

constexpr std::int64_t kCpu = kDLCPU, kPooledAllocator = 2;

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorKind::kModel, message);
}

std::string tvm_name() {
  return "TVM " + (tvm().tvm_version.empty() ? "of " + tvm().path : tvm().tvm_version);
}

/// Names of the functions that an executable calls: the lines "@name packed_func;" of its listing.
std::vector<std::string> called_functions(const std::string& listing) {
  constexpr std::string_view kEnd = " packed_func;";
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin < listing.size();) {
    const std::size_t end = std::min(listing.find('\n', begin), listing.size());
    const std::string_view line(listing.data() + begin, end - begin);
    if (line.size() > kEnd.size() + 1 && line.front() == '@' && line.substr(line.size() - kEnd.size()) == kEnd)
      names.emplace_back(line.substr(1, line.size() - kEnd.size() - 1));
    begin = end + 1;
  }
  return names;
}

Value module_function(const Value& module, const std::string& name) {
  TVMFFIAny with_imports{};
  with_imports.type_index = kTVMFFIBool;
  with_imports.v_int64 = 1;
  return call_global("ffi.ModuleGetFunction", {module.any(), make_string(name).any(), with_imports});
}

/// Puts functions into TVM's global table, and takes them out again.
class GlobalOverrides {
 public:
  void add(const std::string& name, const Value& function) {
    before_.emplace_back(name, global_function(name));
    set_global_function(name, function.any());
  }
  ~GlobalOverrides() {
    for (const auto& [name, function] : before_) {
      try {
        function.is_function() ? set_global_function(name, function.any()) : remove_global_function(name);
      } catch (const Error&) {  // TVM refuses what it has itself handed out: nothing can be done, nothing is lost
      }
    }
  }

 private:
  std::vector<std::pair<std::string, Value>> before_;
};

std::int64_t integer(const JsonValue& object, const char* key, std::int64_t fallback) {
  const JsonValue* value = object.find(key);
  return value == nullptr ? fallback : value->as_integer(key, -1, INT32_MAX);
}

std::string text(const JsonValue& object, const char* key) {
  const JsonValue* value = object.find(key);
  return value == nullptr ? "" : value->as_string(key);
}

LibraryMetadata parse_metadata(const std::string& json) {
  const JsonValue root = parse_json(json);
  LibraryMetadata metadata;
  metadata.model_type = text(root, "model_type");
  metadata.quantization = text(root, "quantization");
  metadata.kv_state_kind = text(root, "kv_state_kind");
  metadata.context_window_size =
      static_cast<std::uint32_t>(std::max<std::int64_t>(integer(root, "context_window_size", 0), 0));
  metadata.prefill_chunk_size =
      static_cast<std::uint32_t>(std::max<std::int64_t>(integer(root, "prefill_chunk_size", 0), 0));
  metadata.sliding_window_size = integer(root, "sliding_window_size", -1);
  if (const JsonValue* cache = root.find("kv_cache")) {
    metadata.n_layer = static_cast<std::uint32_t>(integer(*cache, "num_hidden_layers", 0));
    metadata.n_kv_heads = static_cast<std::uint32_t>(integer(*cache, "num_key_value_heads", 0));
    metadata.head_dim = static_cast<std::uint32_t>(integer(*cache, "head_dim", 0));
  }
  if (const JsonValue* usage = root.find("memory_usage")) {
    for (const JsonValue& bytes : usage->values())
      metadata.activation_bytes =
          std::max(metadata.activation_bytes,
                   static_cast<std::uint64_t>(bytes.as_integer("memory_usage", 0, std::int64_t{1} << 60)));
  }
  if (const JsonValue* parameters = root.find("params")) {
    for (const JsonValue& each : parameters->as_array("params")) {
      ExpectedParameter parameter;
      parameter.name = text(each, "name");
      parameter.dtype = text(each, "dtype");
      if (const JsonValue* shape = each.find("shape")) {
        for (const JsonValue& extent : shape->as_array("shape"))
          parameter.shape.push_back(extent.type() == JsonValue::Type::kNumber ? extent.as_integer("shape", 0, INT64_MAX)
                                                                              : -1);
      }
      metadata.parameters.push_back(std::move(parameter));
    }
  }
  if (const JsonValue* features = root.find("cpu_features")) {
    for (const JsonValue& name : features->as_array("cpu_features"))
      metadata.cpu_features.push_back(name.as_string("cpu_features"));
  }
  return metadata;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t extent : shape)
    text += (text.empty() ? "" : "x") + (extent < 0 ? "?" : std::to_string(extent));
  return text;
}

bool fits(const std::vector<std::int64_t>& found, const std::vector<std::int64_t>& expected) {
  if (found.size() != expected.size())
    return false;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (expected[i] >= 0 && found[i] != expected[i])
      return false;
  }
  return true;
}

}  // namespace

ModelLibrary::ModelLibrary(const std::string& path, OpHooks& hooks) : path_(path) {
  try {
    executable_ = call_global("ffi.ModuleLoadFromFile", {make_string(path).any()});
  } catch (const Error& error) {
    refuse("the model library " + path + " cannot be loaded by " + tvm_name() +
           " on the CPU (a library for a GPU, or of another TVM?): " + error.what());
  }
  make_machine(hooks);
  read_metadata();
  check_processor();
}

void ModelLibrary::make_machine(OpHooks& hooks) {
  const Value listing = module_function(executable_, "as_text");
  const Value load = module_function(executable_, "vm_load_executable");
  if (!listing.is_function() || !load.is_function())
    refuse(path_ + " is no model library as MLC compiles them: it holds no program of TVM's virtual machine");
  // The machine prefers what the library itself brings. So the kernels are taken out of its reach, and come back
  // under the same names by way of the global table; ours hold what they need of the library.
  static std::mutex mutex;
  const std::lock_guard<std::mutex> guard(mutex);
  std::vector<std::pair<std::string, Value>> hooked;
  std::string missing;
  for (const std::string& name : called_functions(call("listing the model library", listing, {}).as_string())) {
    Value function = module_function(executable_, name);
    if (!function.is_function())
      function = global_function(name);
    if (!function.is_function()) {
      append_item(missing, name);
      continue;
    }
    hooked.emplace_back(name, hooks.hooked(name, function));
  }
  if (!missing.empty()) {
    refuse("the model library " + path_ + " calls functions that " + tvm_name() + " lacks: " + missing +
           ". It was compiled for another TVM or a GPU: compile it again with the TVM that runs it");
  }
  call_global("ffi.ModuleClearImports", {executable_.any()});
  GlobalOverrides overrides;
  for (const auto& [name, function] : hooked)
    overrides.add(name, function);
  try {
    machine_ = call("loading the model library", load, {});
    const Value initialise = module_function(machine_, "vm_initialization");
    call("starting TVM's virtual machine", initialise,
         {any_of(kCpu), any_of(0), any_of(kPooledAllocator), any_of(kCpu), any_of(0), any_of(kPooledAllocator)});
  } catch (const Error& error) {
    refuse("the model library " + path_ + " does not start on " + tvm_name() + ": " + error.what());
  }
}

void ModelLibrary::read_metadata() {
  const Value function = module_function(machine_, "_metadata");
  if (!function.is_function())
    refuse(path_ + " has no function _metadata: it was not compiled as MLC compiles a language model");
  try {
    metadata_ = parse_metadata(call("_metadata", function, {}).as_string());
  } catch (const Error& error) {
    refuse("the metadata of the model library " + path_ + " cannot be read: " + error.what());
  }
  if (!metadata_.kv_state_kind.empty() && metadata_.kv_state_kind != "kv_cache") {
    refuse("the model library " + path_ + " keeps its state as " + metadata_.kv_state_kind + " (architecture " +
           metadata_.model_type + "): only models with a KV cache are supported");
  }
}

/// A kernel for another processor would end the process by SIGILL, without a word.
void ModelLibrary::check_processor() const {
  std::string names;
  for (const std::string& name : missing_cpu_features(metadata_.cpu_features))
    append_item(names, name);
  if (!names.empty()) {
    refuse("the model library " + path_ + " was compiled for a processor with " + names +
           ", which this one lacks: convert the model on this machine (melt models convert --target host)");
  }
}

Value ModelLibrary::function(const char* name) const {
  Value found = module_function(machine_, name);
  if (!found.is_function()) {
    refuse("the model library " + path_ + " (architecture " + metadata_.model_type + ") has no function " + name +
           ": only language models with embed, prefill, decode and create_tir_paged_kv_cache are supported");
  }
  return found;
}

void check_fit(const ModelFolder& folder, const LibraryMetadata& metadata) {
  if (!metadata.model_type.empty() && metadata.model_type != folder.model_type) {
    refuse("the model library is of the architecture " + metadata.model_type + ", " + folder.path + " holds " +
           folder.model_type);
  }
  if (!metadata.quantization.empty() && metadata.quantization != folder.quantization) {
    refuse("the model library is compiled for the quantisation " + metadata.quantization + ", " + folder.path +
           " holds weights in " + folder.quantization);
  }
  std::unordered_map<std::string, const Parameter*> by_name;
  for (const Parameter& parameter : folder.parameters)
    by_name[parameter.name] = &parameter;
  if (metadata.parameters.empty())
    refuse("the model library names no parameters: it was not compiled as MLC compiles a language model");
  for (const ExpectedParameter& expected : metadata.parameters) {
    const auto found = by_name.find(expected.name);
    if (found == by_name.end())
      refuse(folder.path + " lacks the parameter " + expected.name + " that its model library needs");
    const Parameter& parameter = *found->second;
    if (!fits(parameter.shape, expected.shape) || parameter.dtype != expected.dtype) {
      refuse("the parameter " + expected.name + " of " + folder.path + " is " + parameter.dtype + " " +
             shape_text(parameter.shape) + ", its model library needs " + expected.dtype + " " +
             shape_text(expected.shape));
    }
  }
}

}  // namespace melt::mlc
