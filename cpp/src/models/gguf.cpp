// SPDX-License-Identifier: Apache-2.0
// Bounded reader of GGUF headers. Format: ggml docs/gguf.md; limits and required keys: what llama.cpp's
// loader (ggml/src/gguf.cpp, src/llama-model.cpp load_hparams, src/llama-vocab.cpp) refuses or, worse,
// asserts.
#include "melt/gguf.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <iterator>
#include <limits>
#include <string_view>
#include <type_traits>
#include <unordered_set>

#include "gguf_check.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF files are read as little-endian");

namespace melt {
namespace {

constexpr std::uint64_t kMaxKeyBytes = 65535;                       // ggml docs/gguf.md
constexpr std::uint64_t kMaxTensorNameBytes = 63;                   // GGML_MAX_NAME - 1
constexpr std::uint64_t kMaxStringBytes = std::uint64_t{16} << 20;  // far above any chat template
constexpr std::uint64_t kMaxArrayValues = std::uint64_t{1} << 30;   // GGUF_MAX_ARRAY_ELEMENTS
constexpr std::uint32_t kMaxDims = 4;
constexpr std::uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;           // a key of one byte with a one-byte value
constexpr std::uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;  // a name of one byte and one dimension

struct TensorType {
  const char* name;  // nullptr: no such type, or removed from the format
  std::uint16_t block_values;
  std::uint16_t block_bytes;
};

// Indexed by ggml_type (ggml/include/ggml.h); block sizes from ggml/src/ggml-common.h.
constexpr TensorType kTensorTypes[] = {
    {"f32", 1, 4},      {"f16", 1, 2},        {"q4_0", 32, 18},    {"q4_1", 32, 20},     {nullptr, 0, 0},
    {nullptr, 0, 0},    {"q5_0", 32, 22},     {"q5_1", 32, 24},    {"q8_0", 32, 34},     {"q8_1", 32, 36},
    {"q2_K", 256, 84},  {"q3_K", 256, 110},   {"q4_K", 256, 144},  {"q5_K", 256, 176},   {"q6_K", 256, 210},
    {"q8_K", 256, 292}, {"iq2_xxs", 256, 66}, {"iq2_xs", 256, 74}, {"iq3_xxs", 256, 98}, {"iq1_s", 256, 50},
    {"iq4_nl", 32, 18}, {"iq3_s", 256, 110},  {"iq2_s", 256, 82},  {"iq4_xs", 256, 136}, {"i8", 1, 1},
    {"i16", 1, 2},      {"i32", 1, 4},        {"i64", 1, 8},       {"f64", 1, 8},        {"iq1_m", 256, 56},
    {"bf16", 1, 2},     {nullptr, 0, 0},      {nullptr, 0, 0},     {nullptr, 0, 0},      {"tq1_0", 256, 54},
    {"tq2_0", 256, 66}, {nullptr, 0, 0},      {nullptr, 0, 0},     {nullptr, 0, 0},      {"mxfp4", 32, 17},
    {"nvfp4", 64, 36},  {"q1_0", 128, 18},    {"q2_0", 64, 18},
};

// Indexed by GgufType; 0 for those without a fixed size.
constexpr std::uint64_t kValueBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

template <typename Number>
std::string number_text(Number value) {
  char text[32];  // the longest double has 24 characters
  const std::to_chars_result result = std::to_chars(text, text + sizeof(text), value);
  return std::string(text, result.ptr);
}

class Parser {
 public:
  Parser(const std::uint8_t* bytes, std::uint64_t size, std::uint64_t file_bytes, const std::string& name)
      : bytes_(reinterpret_cast<const char*>(bytes)), size_(size), name_(name) {
    header_.file_bytes = file_bytes;
  }

  GgufHeader parse() {
    read_preamble();
    read_metadata();
    const std::uint64_t alignment = read_alignment();
    read_tensors(alignment);
    check_extent(alignment);
    check_gguf_model(header_, values_, name_);
    return std::move(header_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { fail_gguf(name_, what); }

  std::string at_byte() const { return " at byte " + std::to_string(pos_); }

  void need(std::uint64_t bytes, const std::string& what) const {
    if (bytes <= size_ - pos_)
      return;
    fail(what + at_byte() + " needs " + std::to_string(bytes) + " bytes, but only " + std::to_string(size_ - pos_) +
         " are left: the file is cut short or damaged; download it again");
  }

  template <typename Number>
  Number read(const std::string& what) {
    need(sizeof(Number), what);
    Number value;
    std::memcpy(&value, bytes_ + pos_, sizeof(value));
    pos_ += sizeof(value);
    return value;
  }

  std::string_view read_string(const std::string& what, std::uint64_t max_bytes) {
    const std::uint64_t at = pos_;
    const auto length = read<std::uint64_t>(what);
    if (length > max_bytes) {
      fail(what + " at byte " + std::to_string(at) + " has a length of " + std::to_string(length) +
           " bytes, the limit is " + std::to_string(max_bytes) + "; the file is damaged, download it again");
    }
    need(length, what);
    const std::string_view text(bytes_ + pos_, static_cast<std::size_t>(length));
    pos_ += length;
    return text;
  }

  /// A key or a tensor's name. llama.cpp handles names as C strings: a zero byte would cut them.
  std::string_view read_name(const std::string& what, std::uint64_t max_bytes) {
    const std::uint64_t at = pos_;
    const std::string_view name = read_string(what, max_bytes);
    if (!name.empty() && name.find('\0') == std::string_view::npos)
      return name;
    fail(what + " at byte " + std::to_string(at) + (name.empty() ? " is empty" : " contains a zero byte") +
         "; the file is damaged, download it again");
  }

  void read_preamble() {
    if (size_ == 0)
      fail("the file is empty; download it again");
    if (size_ < 4 || std::memcmp(bytes_, "GGUF", 4) != 0) {
      fail(describe_foreign({bytes_, static_cast<std::size_t>(std::min<std::uint64_t>(size_, 64))}));
    }
    pos_ = 4;
    header_.version = read<std::uint32_t>("the format version");
    if ((header_.version & 0xFFFFu) == 0 && header_.version != 0) {
      fail(
          "it was written for big-endian machines; get the little-endian file, or convert it with "
          "gguf-py's gguf_convert_endian.py");
    }
    if (header_.version < 2 || header_.version > 3) {
      fail("it has GGUF version " + std::to_string(header_.version) + ", versions 2 and 3 can be read; " +
           (header_.version > 3 ? "update melt_core" : "convert the original model again"));
    }
    n_tensors_ = read<std::uint64_t>("the number of tensors");
    n_entries_ = read<std::uint64_t>("the number of keys");
    check_count("keys", n_entries_, kMinEntryBytes);
    check_count("tensors", n_tensors_, kMinTensorBytes);
  }

  void check_count(const char* what, std::uint64_t count, std::uint64_t min_bytes) const {
    if (count <= (size_ - pos_) / min_bytes)
      return;
    fail("the header promises " + std::to_string(count) + " " + what + ", too many for the " +
         std::to_string(size_ - pos_) + " bytes that follow: the file is cut short or damaged; download it again");
  }

  void read_metadata() {
    std::unordered_set<std::string_view> seen;
    for (std::uint64_t i = 0; i < n_entries_; ++i) {
      const std::uint64_t at = pos_;
      const std::string_view key = read_name("the name of key " + std::to_string(i), kMaxKeyBytes);
      if (!seen.insert(key).second) {
        fail("key '" + printable(key) + "' at byte " + std::to_string(at) + " is there twice; the file is damaged");
      }
      const std::string what = "the value of '" + printable(key) + "'";
      GgufValue value;
      value.type = read_value_type(what);
      if (value.type == GgufType::kArray) {
        skip_array(key, what, value);
        header_.metadata.emplace_back(key, "[" + std::to_string(value.count) + " values]");
      } else {
        header_.metadata.emplace_back(key, read_scalar(what, value));
      }
      values_.push_back(value);
    }
  }

  GgufType read_value_type(const std::string& what) {
    const auto type = read<std::uint32_t>(what);
    if (type <= static_cast<std::uint32_t>(GgufType::kF64))
      return static_cast<GgufType>(type);
    fail(what + at_byte() + " has the unknown type " + std::to_string(type) +
         "; the file is damaged or newer "
         "than this reader: download it again or update melt_core");
  }

  template <typename Number>
  std::string read_number(const std::string& what, GgufValue& value) {
    const auto number = read<Number>(what);
    if constexpr (std::is_floating_point_v<Number>) {
      value.real = static_cast<double>(number);
      return number_text(number);
    } else {
      value.integer = static_cast<std::uint64_t>(number);
      return number_text(+number);  // 8-bit types are numbers here, not characters
    }
  }

  std::string read_scalar(const std::string& what, GgufValue& value) {
    switch (value.type) {
      case GgufType::kU8:
        return read_number<std::uint8_t>(what, value);
      case GgufType::kI8:
        return read_number<std::int8_t>(what, value);
      case GgufType::kU16:
        return read_number<std::uint16_t>(what, value);
      case GgufType::kI16:
        return read_number<std::int16_t>(what, value);
      case GgufType::kU32:
        return read_number<std::uint32_t>(what, value);
      case GgufType::kI32:
        return read_number<std::int32_t>(what, value);
      case GgufType::kU64:
        return read_number<std::uint64_t>(what, value);
      case GgufType::kI64:
        return read_number<std::int64_t>(what, value);
      case GgufType::kF32:
        return read_number<float>(what, value);
      case GgufType::kF64:
        return read_number<double>(what, value);
      case GgufType::kBool:
        return read<std::uint8_t>(what) != 0 ? "true" : "false";
      case GgufType::kString:
        return std::string(read_string(what, kMaxStringBytes));
      case GgufType::kArray:
        break;
    }
    fail(what + at_byte() + " has no scalar type");
  }

  void skip_array(std::string_view key, const std::string& what, GgufValue& value) {
    value.element = read_value_type(what);
    value.count = read<std::uint64_t>(what);
    if (value.element == GgufType::kArray) {
      fail(what + at_byte() + " is an array of arrays, which llama.cpp does not read; convert the model again");
    }
    const bool strings = value.element == GgufType::kString;
    const std::uint64_t bytes = strings ? 8 : kValueBytes[static_cast<std::size_t>(value.element)];
    if (value.count > kMaxArrayValues || value.count > (size_ - pos_) / bytes) {
      fail(what + at_byte() + " promises " + std::to_string(value.count) +
           " values, more than the file can hold: "
           "it is cut short or damaged; download it again");
    }
    if (strings) {
      skip_strings(key, what, value.count);
      return;
    }
    if (value.element == GgufType::kU32 || value.element == GgufType::kI32) {
      for (std::uint64_t i = 0; i < value.count; ++i) {
        std::uint32_t element = 0;
        std::memcpy(&element, bytes_ + pos_ + i * 4, 4);
        value.integer = std::max<std::uint64_t>(value.integer, element);
      }
    }
    pos_ += value.count * bytes;
  }

  void skip_strings(std::string_view key, const std::string& what, std::uint64_t count) {
    // llama.cpp asserts that tokens differ from each other; it gives empty ones distinct names first.
    const bool tokens = key == "tokenizer.ggml.tokens";
    std::vector<std::string_view> seen;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::string_view text = read_string(what, kMaxStringBytes);
      if (tokens && !text.empty())
        seen.push_back(text);
    }
    std::sort(seen.begin(), seen.end());
    const auto twice = std::adjacent_find(seen.begin(), seen.end());
    if (twice == seen.end())
      return;
    fail("the vocabulary (key 'tokenizer.ggml.tokens') holds the token '" + printable(*twice) +
         "' twice; the file is damaged, or convert the model again");
  }

  std::uint64_t read_alignment() const {
    const GgufValue* alignment = find_value(header_, values_, "general.alignment");
    if (alignment == nullptr)
      return 32;  // GGUF_DEFAULT_ALIGNMENT
    const std::uint64_t bytes = alignment->integer;
    if (alignment->type == GgufType::kU32 && bytes != 0 && (bytes & (bytes - 1)) == 0)
      return bytes;
    fail("key 'general.alignment' must be a power of two of type u32 and is " + *header_.find("general.alignment") +
         "; the file is damaged, download it again");
  }

  void read_tensors(std::uint64_t alignment) {
    std::unordered_set<std::string_view> seen;
    for (std::uint64_t i = 0; i < n_tensors_; ++i) {
      const std::uint64_t at = pos_;
      const std::string_view name = read_name("the name of tensor " + std::to_string(i), kMaxTensorNameBytes);
      const std::string what = "tensor '" + printable(name) + "' (header byte " + std::to_string(at) + ")";
      if (!seen.insert(name).second)
        fail(what + " is there twice; the file is damaged, download it again");
      GgufTensor tensor;
      tensor.name = name;
      const std::uint64_t values = read_shape(what, tensor);
      read_tensor_type(what, values, tensor);
      tensor.offset_bytes = read<std::uint64_t>(what);
      if (tensor.offset_bytes % alignment != 0) {
        fail(what + " has the data offset " + std::to_string(tensor.offset_bytes) +
             ", not a multiple of the alignment " + std::to_string(alignment) +
             "; the file is damaged, download it again");
      }
      header_.tensors.push_back(std::move(tensor));
    }
  }

  /// Fills the shape; returns the number of values.
  std::uint64_t read_shape(const std::string& what, GgufTensor& tensor) {
    constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    const auto n_dims = read<std::uint32_t>(what);
    if (n_dims < 1 || n_dims > kMaxDims) {
      fail(what + " has " + std::to_string(n_dims) + " dimensions, 1 to 4 are possible; the file is damaged");
    }
    std::uint64_t values = 1;
    for (std::uint32_t i = 0; i < n_dims; ++i) {
      const auto length = read<std::uint64_t>(what);
      if (length == 0 || length > kMax / values) {
        fail(what + " has the length " + std::to_string(length) + " in dimension " + std::to_string(i) +
             (length == 0 ? ", an empty tensor" : ", too large to address") + "; the file is damaged");
      }
      values *= length;
      tensor.shape.push_back(static_cast<std::int64_t>(length));
    }
    std::reverse(tensor.shape.begin(), tensor.shape.end());  // the file stores the fastest axis first
    return values;
  }

  void read_tensor_type(const std::string& what, std::uint64_t values, GgufTensor& tensor) {
    const auto number = read<std::uint32_t>(what);
    if (number >= std::size(kTensorTypes) || kTensorTypes[number].name == nullptr) {
      fail(what + " has the unknown type " + std::to_string(number) +
           "; the file is damaged, or of a type that llama.cpp removed or added later: convert the model "
           "again");
    }
    const TensorType& type = kTensorTypes[number];
    const auto row = static_cast<std::uint64_t>(tensor.shape.back());
    if (row % type.block_values != 0) {
      fail(what + " has rows of " + std::to_string(row) + " values, not a multiple of the " +
           std::to_string(type.block_values) + " in a block of " + type.name + "; the file is damaged");
    }
    const std::uint64_t blocks = values / type.block_values;
    if (blocks > std::numeric_limits<std::uint64_t>::max() / type.block_bytes) {
      fail(what + " has a size of more than 2^64 bytes; the file is damaged");
    }
    tensor.type = type.name;
    tensor.size_bytes = blocks * type.block_bytes;
  }

  /// Turns offsets in the data section into offsets in the file, and checks that the file holds all of it.
  void check_extent(std::uint64_t alignment) {
    header_.data_offset_bytes = header_.tensors.empty() ? pos_ : (pos_ + alignment - 1) / alignment * alignment;
    constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
    const GgufTensor* last = nullptr;
    std::uint64_t end = 0;
    for (GgufTensor& tensor : header_.tensors) {
      if (tensor.offset_bytes > kMax - header_.data_offset_bytes ||
          tensor.size_bytes > kMax - header_.data_offset_bytes - tensor.offset_bytes) {
        fail("tensor '" + printable(tensor.name) + "' ends beyond 2^64 bytes; the file is damaged");
      }
      tensor.offset_bytes += header_.data_offset_bytes;
      if (tensor.offset_bytes + tensor.size_bytes > end) {
        end = tensor.offset_bytes + tensor.size_bytes;
        last = &tensor;
      }
    }
    if (last == nullptr || end <= header_.file_bytes)
      return;
    fail("the file is cut short: tensor '" + printable(last->name) + "' ends at byte " + std::to_string(end) +
         ", the file at byte " + std::to_string(header_.file_bytes) + ", so " +
         std::to_string(end - header_.file_bytes) + " bytes are missing; download it again");
  }

  const char* bytes_;
  std::uint64_t size_;
  std::uint64_t pos_ = 0;
  std::uint64_t n_tensors_ = 0;
  std::uint64_t n_entries_ = 0;
  const std::string& name_;
  GgufHeader header_;
  std::vector<GgufValue> values_;
};

}  // namespace

const std::string* GgufHeader::find(const std::string& key) const noexcept {
  for (const auto& [name, text] : metadata) {
    if (name == key)
      return &text;
  }
  return nullptr;
}

GgufHeader parse_gguf(const std::uint8_t* bytes, std::uint64_t size, std::uint64_t file_bytes,
                      const std::string& name) {
  return Parser(bytes, size, file_bytes, name).parse();
}

}  // namespace melt
