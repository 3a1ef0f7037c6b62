// SPDX-License-Identifier: Apache-2.0
#include "kernel_names.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace melt::mlc {
namespace {

using Words = std::vector<std::string>;

struct Rule {
  std::vector<std::string_view> words;
  std::vector<std::string_view> op_types;  ///< none: the words only help another op
};

/// Whole kernels, recognised by a part of their name: those of the KV cache (tvm/relax/frontend/nn/llm/kv_cache.py).
struct Part {
  std::string_view part;
  const char* op_type;
};
constexpr Part kWholeKernels[] = {
    {"transpose_append", "SET_ROWS"},
    {"merge_state", "MERGE_STATE"},
    {"copy_single_page", "CPY"},
    {"compact_kv_copy", "CPY"},
    {"batch_decode_paged_kv", "FLASH_ATTN_EXT"},
    {"batch_prefill_", "FLASH_ATTN_EXT"},
    {"tree_attn", "FLASH_ATTN_EXT"},
    {"rotary", "ROPE"},
    {"fused_rope", "ROPE"},
    {"group_gemm", "MUL_MAT_ID"},
    {"group_dequantize_gemm", "MUL_MAT_ID"},
};

/// Words in a row, the longer rule before the shorter.
const std::vector<Rule>& rules() {
  static const std::vector<Rule> kRules = {
      {{"split", "gelu", "tanh", "multiply"}, {"GEGLU"}},
      {{"split", "silu", "multiply"}, {"SWIGLU"}},
      {{"split", "gelu", "multiply"}, {"GEGLU"}},
      {{"silu", "multiply"}, {"SWIGLU"}},
      {{"gelu", "tanh", "multiply"}, {"GEGLU"}},
      {{"gelu", "multiply"}, {"GEGLU"}},
      {{"softmax", "with", "chunked", "sum"}, {"SOFT_MAX"}},
      {{"rms", "norm"}, {"RMS_NORM", "MUL"}},
      {{"layer", "norm"}, {"NORM", "MUL", "ADD"}},
      {{"gelu", "tanh"}, {"GELU"}},
      {{"strided", "slice"}, {"CPY"}},
      {{"expand", "dims"}, {"CONT"}},
      {{"permute", "dims"}, {"CONT"}},
      {{"swiglu"}, {"SWIGLU"}},
      {{"geglu"}, {"GEGLU"}},
      {{"dequantize"}, {}},
      {{"matmul"}, {"MUL_MAT"}},
      {{"gemv"}, {"MUL_MAT"}},
      {{"gemm"}, {"MUL_MAT"}},
      {{"take"}, {"GET_ROWS"}},
      {{"index"}, {"GET_ROWS"}},
      {{"add"}, {"ADD"}},
      {{"multiply"}, {"MUL"}},
      {{"subtract"}, {"SUB"}},
      {{"divide"}, {"DIV"}},
      {{"silu"}, {"SILU"}},
      {{"gelu"}, {"GELU"}},
      {{"relu"}, {"RELU"}},
      {{"sigmoid"}, {"SIGMOID"}},
      {{"tanh"}, {"TANH"}},
      {{"softmax"}, {"SOFT_MAX"}},
      {{"concatenate"}, {"CONCAT"}},
      {{"reshape"}, {"CONT"}},
      {{"squeeze"}, {"CONT"}},
      {{"transpose"}, {"CONT"}},
      {{"split"}, {"CPY"}},
      {{"cast"}, {"CPY"}},
      {{"astype"}, {"CPY"}},
      {{"topk"}, {"TOP_K"}},
      {{"argsort"}, {"ARGSORT"}},
      {{"sum"}, {"SUM_ROWS"}},
  };
  return kRules;
}

/// "NT_matmul12" -> {"nt", "matmul"}: the compiler numbers equal names.
Words words_of(const std::string& kernel) {
  Words words(1);
  for (const char c : kernel) {
    if (c == '_') {
      words.emplace_back();
    } else {
      words.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  for (std::string& word : words) {
    while (word.size() > 1 && std::isdigit(static_cast<unsigned char>(word.back())) != 0 &&
           std::isdigit(static_cast<unsigned char>(word.front())) == 0)
      word.pop_back();
  }
  return words;
}

bool matches(const Words& words, std::size_t at, const Rule& rule) {
  return at + rule.words.size() <= words.size() &&
         std::equal(rule.words.begin(), rule.words.end(), words.begin() + static_cast<std::ptrdiff_t>(at));
}

std::string capitals(std::string_view text) {
  std::string out;
  for (const char c : text)
    out += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

std::vector<std::string> op_types_of(const std::string& kernel) {
  for (const Part& whole : kWholeKernels) {
    if (kernel.find(whole.part) != std::string::npos)
      return {whole.op_type};
  }
  const Words words = words_of(kernel);
  std::vector<std::string> types;
  bool dequantizes = false;
  for (std::size_t at = 0; at < words.size();) {
    const auto rule =
        std::find_if(rules().begin(), rules().end(), [&](const Rule& each) { return matches(words, at, each); });
    if (rule == rules().end()) {
      ++at;
      continue;
    }
    dequantizes |= rule->op_types.empty();
    for (const std::string_view type : rule->op_types) {
      if (types.empty() || types.back() != type || type != "CONT")  // two reshapes in a row copy once
        types.emplace_back(type);
    }
    at += rule->words.size();
  }
  if (types.empty())
    return {dequantizes ? "CPY" : capitals(kernel)};
  return types;
}

std::string builtin_op_type(const std::string& function) {
  const std::size_t dot = function.rfind('.');
  return capitals(dot == std::string::npos ? function : function.substr(dot + 1));
}

}  // namespace melt::mlc
