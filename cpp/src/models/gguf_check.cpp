// SPDX-License-Identifier: Apache-2.0
// Checks of what a GGUF header says about the model. Each rule stands for a GGML_ASSERT, an integer division
// or a refusal in llama.cpp (src/llama-model.cpp load_hparams, src/models/*, ggml-cpu/ops.cpp).
#include "gguf_check.h"

#include <array>
#include <cmath>

#include "melt/error.h"

namespace melt {
namespace {

constexpr std::uint64_t kMaxLayers = 512;    // LLAMA_MAX_LAYERS
constexpr std::uint64_t kMaxExperts = 1024;  // LLAMA_MAX_EXPERTS
constexpr std::uint64_t kMaxInt32 = 0x7FFFFFFF;

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

class ModelChecker {
 public:
  ModelChecker(const GgufHeader& header, const std::vector<GgufValue>& values, const std::string& file)
      : header_(header), values_(values), file_(file) {}

  void check() {
    check_purpose();
    check_split();
    const bool has_weights = !header_.tensors.empty();
    if (!has_weights && header_.find("tokenizer.ggml.model") == nullptr) {
      fail("it holds neither tensors nor a vocabulary; choose the file with the model");
    }
    check_sizes(has_weights);
    check_heads(has_weights);
    check_experts();
    check_rope(has_weights);
    for (const char* key : {"attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"})
      check_epsilon(key);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { fail_gguf(file_, what); }

  /// Adapters, projectors and the like have no block_count: say what they are before a key is missed.
  void check_purpose() {
    const std::string* type = header_.find("general.type");
    for (const char* other : {"adapter", "mmproj", "imatrix"}) {
      if (type != nullptr && *type == other)
        fail_purpose(other);
    }
    const GgufValue* value = find_value(header_, values_, "general.architecture");
    if (value == nullptr)
      fail("the key 'general.architecture' is missing; download it again or convert it again");
    if (value->type != GgufType::kString)
      fail("the key 'general.architecture' is not text; the file is damaged");
    architecture_ = *header_.find("general.architecture");
    if (architecture_.empty())
      fail("the key 'general.architecture' is empty; the file is damaged");
    for (const char* other : {"clip", "controlvector"}) {
      if (architecture_ == other)
        fail_purpose(other);
    }
  }

  [[noreturn]] void fail_purpose(std::string_view purpose) const {
    std::string what = "an importance matrix for quantization";
    if (purpose == "adapter")
      what = "an adapter (LoRA) that needs its base model";
    if (purpose == "controlvector")
      what = "a control vector that needs its base model";
    if (purpose == "clip" || purpose == "mmproj")
      what = "the image or audio projector of a multimodal model";
    fail("this is " + what + ", not a language model; give the language model's own .gguf file");
  }

  void check_split() {
    const GgufValue* count = find_value(header_, values_, "split.count");
    if (count == nullptr)
      return;
    const GgufValue* number = find_value(header_, values_, "split.no");
    if (count->type != GgufType::kU16 || (number != nullptr && number->type != GgufType::kU16)) {
      fail("the keys 'split.count' and 'split.no' must have type u16; the file is damaged");
    }
    if (count->integer <= 1)
      return;
    if (number == nullptr || number->integer >= count->integer) {
      fail("it is one of " + std::to_string(count->integer) +
           " parts, but the key 'split.no' does not say which; "
           "the file is damaged");
    }
    if (number->integer != 0) {
      fail("it is part " + std::to_string(number->integer + 1) + " of " + std::to_string(count->integer) +
           "; give the first part, the others are found beside it");
    }
  }

  /// The value of `<architecture>.<suffix>`, or nullptr.
  const GgufValue* value_of(const std::string& suffix) const {
    return find_value(header_, values_, (architecture_ + "." + suffix).c_str());
  }

  std::string named(const std::string& suffix) const {
    return "the key '" + printable(architecture_ + "." + suffix) + "'";
  }

  /// The 32-bit number (or the greatest of a per-layer array) under `suffix`; `otherwise` if the key is
  /// missing.
  std::uint64_t number_of(const std::string& suffix, std::uint64_t otherwise, bool array_allowed = false) const {
    const GgufValue* value = value_of(suffix);
    if (value == nullptr)
      return otherwise;
    if (value->type == GgufType::kU32)
      return value->integer;
    const bool whole = value->element == GgufType::kU32 || value->element == GgufType::kI32;
    if (array_allowed && value->type == GgufType::kArray && whole)
      return value->integer;
    fail(named(suffix) + " must be of type u32" + (array_allowed ? " or an array of it" : "") +
         "; the file is damaged, or convert the model again");
  }

  void check_range(const std::string& suffix, std::uint64_t least, std::uint64_t most, bool required) const {
    if (value_of(suffix) == nullptr) {
      if (required)
        fail(named(suffix) + " is missing; download the file again or convert the model again");
      return;
    }
    const std::uint64_t number = number_of(suffix, 0);
    if (number >= least && number <= most)
      return;
    fail(named(suffix) + " is " + std::to_string(number) + " and must be from " + std::to_string(least) + " to " +
         std::to_string(most) + "; the file is damaged, download it again");
  }

  void check_sizes(bool has_weights) const {
    check_range("block_count", 1, kMaxLayers, has_weights);
    check_range("context_length", 1, kMaxInt32, has_weights);
    check_range("embedding_length", 1, kMaxInt32, has_weights);
    check_range("nextn_predict_layers", 0, number_of("block_count", kMaxLayers), false);
    // Divisors while the graph is built.
    check_range("ssm.time_step_rank", 1, kMaxInt32, false);
    check_range("wkv.head_size", 1, kMaxInt32, false);
    check_range("experts_per_group", 1, kMaxInt32, false);
    if (starts_with(architecture_, "ernie"))
      check_range("interleave_moe_layer_step", 1, kMaxInt32, false);
  }

  /// Per-layer counts must cover each layer; a single 0 is right only for models without attention.
  void check_heads(bool has_weights) const {
    bool recurrent = false;
    for (const char* start : {"mamba", "rwkv", "arwkv"})
      recurrent |= starts_with(architecture_, start);
    for (const char* suffix : {"attention.head_count", "attention.head_count_kv", "feed_forward_length"}) {
      const GgufValue* value = value_of(suffix);
      if (value == nullptr)
        continue;
      const std::uint64_t greatest = number_of(suffix, 0, true);
      const std::uint64_t layers = number_of("block_count", value->count);
      if (value->type == GgufType::kArray && value->count != layers) {
        fail(named(suffix) + " has " + std::to_string(value->count) + " values for " + std::to_string(layers) +
             " layers; the file is damaged, or convert the model again");
      }
      const bool heads = starts_with(suffix, "attention");
      if (has_weights && heads && !recurrent && value->type == GgufType::kU32 && greatest == 0) {
        fail(named(suffix) + " is 0 and must be at least 1; the file is damaged, download it again");
      }
    }
  }

  void check_experts() const {
    const std::uint64_t experts = number_of("expert_count", 0);
    if (starts_with(architecture_, "hunyuan") && experts <= 1)
      return;  // llama.cpp takes these as dense
    check_range("expert_count", 0, kMaxExperts, false);
    const std::uint64_t used = number_of("expert_used_count", 0, true);
    const std::uint64_t groups = number_of("expert_group_count", 0);
    const std::uint64_t groups_used = number_of("expert_group_used_count", 0);
    const std::uint64_t least = experts > 0 ? 1 : 0;
    if (used < least || used > experts) {
      fail(named("expert_used_count") + " is " + std::to_string(used) + " for " + std::to_string(experts) +
           " experts; the file is damaged, or convert the model again");
    }
    const bool divides = groups <= 1 || (experts % groups == 0 && groups_used > 0 && groups_used < groups);
    if (!divides || (groups > 0 && groups >= experts)) {
      fail(named("expert_group_count") + " is " + std::to_string(groups) + " (" + std::to_string(groups_used) +
           " used) for " + std::to_string(experts) + " experts; the file is damaged, or convert the model again");
    }
  }

  void check_rope(bool has_weights) const {
    const std::string* scaling = header_.find(architecture_ + ".rope.scaling.type");
    if (scaling != nullptr && *scaling != "none" && *scaling != "linear" && *scaling != "yarn" &&
        *scaling != "longrope") {
      fail(named("rope.scaling.type") + " is '" + printable(*scaling) +
           "', llama.cpp knows none, linear, yarn and longrope; the file is damaged, or convert the model "
           "again");
    }
    const GgufValue* heads = value_of("attention.head_count");
    const GgufValue* rotated = value_of("rope.dimension_count");
    if (!has_weights || heads == nullptr || heads->type != GgufType::kU32 || heads->integer == 0)
      return;
    const std::uint64_t mean = number_of("embedding_length", 0) / heads->integer;
    const std::uint64_t head_size = number_of("attention.key_length", mean);
    if (rotated != nullptr && rotated->type == GgufType::kU32 &&
        (rotated->integer % 2 != 0 || rotated->integer > head_size)) {
      fail(named("rope.dimension_count") + " is " + std::to_string(rotated->integer) +
           " and must be even and at most the head size " + std::to_string(head_size) +
           "; the file is damaged, download it again");
    }
    if (architecture_ == "llama" && number_of("attention.value_length", mean) != head_size) {
      fail(named("attention.value_length") + " differs from the key length " + std::to_string(head_size) +
           ", which llama.cpp does not support for this architecture; the file is damaged, download it again");
    }
  }

  void check_epsilon(const char* suffix) const {
    const GgufValue* value = value_of(suffix);
    if (value == nullptr || (std::isfinite(value->real) && value->real >= 0))
      return;
    fail(named(suffix) + " is " + *header_.find(architecture_ + "." + suffix) +
         " and must be 0 or more; the file is damaged, download it again");
  }

  const GgufHeader& header_;
  const std::vector<GgufValue>& values_;
  const std::string& file_;
  std::string architecture_;
};

}  // namespace

std::string printable(std::string_view text) {
  constexpr std::size_t kMaxChars = 80;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string result;
  for (const char c : text) {
    if (result.size() >= kMaxChars)
      return result + "...";
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7F) {
      result += c;
    } else {
      result += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return result;
}

std::string describe_foreign(std::string_view bytes) {
  for (const char* magic : {"lmgg", "fmgg", "tjgg", "algg", "ggml", "ggmf", "ggjt", "ggla"}) {
    if (starts_with(bytes, magic)) {
      return "this is a GGML file of before GGUF (2023); convert the original model again with "
             "llama.cpp's convert_hf_to_gguf.py";
    }
  }
  const std::string convert = "; convert it with llama.cpp's convert_hf_to_gguf.py";
  if (bytes.size() > 8 && bytes[8] == '{' && bytes.substr(5, 3) == std::string_view("\0\0\0", 3)) {
    return "this is a safetensors file" + convert;
  }
  if (starts_with(bytes, "PK\x03\x04"))
    return "this is a zip archive or a PyTorch checkpoint" + convert;
  if (starts_with(bytes, "\x80\x02"))
    return "this is a Python pickle, perhaps a PyTorch checkpoint" + convert;
  if (starts_with(bytes, "version https://git-lfs")) {
    return "this is a Git LFS pointer, not the model; run 'git lfs pull'";
  }
  if (starts_with(bytes, "<!") || starts_with(bytes, "<html")) {
    return "this is a web page, not the model; download the file itself";
  }
  return "this is not a GGUF file: its first 4 bytes are '" + printable(bytes.substr(0, 4)) +
         "' and not 'GGUF'; choose a .gguf model file";
}

void fail_gguf(const std::string& file, const std::string& what) {
  throw Error(ErrorKind::kModel, "model file '" + file + "': " + what);
}

const GgufValue* find_value(const GgufHeader& header, const std::vector<GgufValue>& values, const char* key) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (header.metadata[i].first == key)
      return &values[i];
  }
  return nullptr;
}

void check_gguf_model(const GgufHeader& header, const std::vector<GgufValue>& values, const std::string& file) {
  ModelChecker(header, values, file).check();
}

}  // namespace melt
