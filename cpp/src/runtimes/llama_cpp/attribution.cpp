// SPDX-License-Identifier: Apache-2.0
#include "attribution.h"

#include <cctype>
#include <cstdlib>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace melt::llama_cpp {
namespace {

struct Rule {
  std::string_view text;
  const char* module;
};

// Parts of weight names, first match wins: a norm inside attention is a norm.
constexpr Rule kWeightRules[] = {
    {"_norm", "norm"},
    {".layer_norm", "norm"},
    {"rope_", "rope"},
    {".ffn_", "ffn"},
    {"channel_mix", "ffn"},
    {"exp_probs", "ffn"},
    {".ssm_", "ssm"},
    {".shortconv", "ssm"},
    {"time_mix", "ssm"},
    {".attn_", "attention"},
    {"token_embd", "embedding"},
    {"position_embd", "embedding"},
    {"token_types", "embedding"},
    {"output", "lm_head"},
    {"cls", "lm_head"},
};

// Beginnings of node names, as llama.cpp's graph builders give them.
constexpr Rule kNameRules[] = {
    {"ffn_norm", "norm"},    {"attn_norm", "norm"},        {"result_norm", "norm"},
    {"norm", "norm"},        {"ffn_inp", "residual"},      {"ffn_", "ffn"},
    {"Qcur", "attention"},   {"Kcur", "attention"},        {"Vcur", "attention"},
    {"kq", "attention"},     {"wqkv", "attention"},        {"qkv", "attention"},
    {"attn_", "attention"},  {"fattn", "attention"},       {"__fattn__", "attention"},
    {"v_cont", "attention"}, {"inp_embd", "embedding"},    {"inp_scaled", "embedding"},
    {"embd", "embedding"},   {"result_output", "lm_head"}, {"mamba", "ssm"},
    {"ssm_", "ssm"},         {"linear_attn", "ssm"},       {"conv_", "ssm"},
    {"cache_k", "kv-cache"}, {"cache_v", "kv-cache"},      {"cache_r", "ssm"},
    {"cache_s", "ssm"},
};

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}
bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// "Qcur-3 (view)" -> {"Qcur", 3}; no number: -1.
std::pair<std::string_view, int> split_name(std::string_view name) {
  name = name.substr(0, name.find(" ("));
  const std::size_t dash = name.rfind('-');
  if (dash == std::string_view::npos || dash + 1 == name.size())
    return {name, -1};
  for (std::size_t i = dash + 1; i < name.size(); ++i) {
    if (std::isdigit(static_cast<unsigned char>(name[i])) == 0)
      return {name, -1};
  }
  return {name.substr(0, dash), std::atoi(name.data() + dash + 1)};
}

/// "blk.3.ffn_up.weight", "cache_k_l3 (view)" -> 3; else -1.
int layer_of_storage(std::string_view name) {
  for (const std::string_view prefix : {"blk.", "cache_k_l", "cache_v_l", "cache_r_l", "cache_s_l"}) {
    if (starts_with(name, prefix))
      return std::atoi(name.data() + prefix.size());
  }
  return -1;
}

class Attributor {
 public:
  explicit Attributor(const Topology& topology) : topology_(topology), result_(topology.n_nodes) {}

  std::vector<Attribution> run() {
    for (std::uint32_t i = 0; i < topology_.n_nodes; ++i) {
      result_[i] = {layer_of(i), module_of(i)};
      producer_[topology_.nodes[i].tensor.root] = i;
    }
    inherit_from_consumers();
    for (Attribution& attribution : result_) {
      if (attribution.module.empty())
        attribution.module = "other";
    }
    return std::move(result_);
  }

 private:
  struct Sources {
    const CapturedTensor* first;
    std::uint32_t count;
    const CapturedTensor* begin() const { return first; }
    const CapturedTensor* end() const { return first + count; }
  };
  Sources sources(const CapturedNode& node) const { return {topology_.sources(node), node.n_sources}; }

  /// The node that wrote this tensor's storage last before the node at hand; null for weights and inputs.
  const std::uint32_t* producer(const CapturedTensor& tensor) const {
    const auto found = producer_.find(tensor.root);
    return found == producer_.end() ? nullptr : &found->second;
  }

  int layer_of(std::uint32_t i) const {
    const CapturedNode& node = topology_.nodes[i];
    if (is_output_selection(node))
      return -1;
    const int named = split_name(node.tensor.name).second;
    if (named >= 0)
      return named;
    for (const CapturedTensor& source : sources(node)) {
      const int stored = layer_of_storage(source.name);
      if (stored >= 0)
        return stored;
    }
    for (const CapturedTensor& source : sources(node)) {
      const std::uint32_t* from = producer(source);
      // What follows the last layer's output norm is outside the layers.
      if (from != nullptr && result_[*from].layer >= 0 && reads_no_output_weight(node))
        return result_[*from].layer;
    }
    return -1;
  }

  bool reads_no_output_weight(const CapturedNode& node) const {
    for (const CapturedTensor& source : sources(node)) {
      if (source.weight != nullptr && layer_of_storage(source.name) < 0)
        return false;
    }
    return true;
  }

  /// GET_ROWS that keeps only the tokens whose logits are asked for.
  bool is_output_selection(const CapturedNode& node) const {
    return node.tensor.op == GGML_OP_GET_ROWS && node.n_sources == 2 &&
           contains(topology_.sources(node)[1].name, "out_ids");
  }

  std::string module_of(std::uint32_t i) {
    const CapturedNode& node = topology_.nodes[i];
    if (is_output_selection(node)) {
      if (on_stream(topology_.sources(node)[0]))
        stream_[node.tensor.root] = true;
      return "lm_head";
    }
    if (is_residual(node)) {
      stream_[node.tensor.root] = true;
      return "residual";
    }
    std::string module = module_of_weights(node);
    if (module.empty())
      module = module_of_op(node);
    if (module.empty())
      module = module_of_name(node);
    if (module.empty())
      module = module_of_producers(node);
    if (module == "embedding")
      stream_[node.tensor.root] = true;
    return module;
  }

  bool on_stream(const CapturedTensor& tensor) const {
    return stream_.count(tensor.root) != 0 || starts_with(tensor.name, "inp_embd");
  }

  /// An ADD onto the stream of activations that runs through all layers.
  bool is_residual(const CapturedNode& node) const {
    if (node.tensor.op != GGML_OP_ADD)
      return false;
    bool stream = false;
    for (const CapturedTensor& source : sources(node)) {
      if (source.weight != nullptr)
        return false;
      stream |= on_stream(source);
    }
    return stream;
  }

  std::string module_of_weights(const CapturedNode& node) const {
    for (const CapturedTensor& source : sources(node)) {
      if (source.weight == nullptr)
        continue;
      const std::string_view name = source.name;
      if (contains(name, "token_embd.") && node.tensor.op != GGML_OP_GET_ROWS)
        return "lm_head";  // tied
      for (const Rule& rule : kWeightRules) {
        if (contains(name, rule.text))
          return rule.module;
      }
    }
    return "";
  }

  std::string module_of_op(const CapturedNode& node) const {
    switch (node.tensor.op) {
      case GGML_OP_ROPE:
        return "rope";
      case GGML_OP_FLASH_ATTN_EXT:
        return "attention";
      case GGML_OP_MUL_MAT_ID:
        return "ffn";
      case GGML_OP_RMS_NORM:
      case GGML_OP_NORM:
      case GGML_OP_L2_NORM:
      case GGML_OP_GROUP_NORM:
        return "norm";
      case GGML_OP_SSM_CONV:
      case GGML_OP_SSM_SCAN:
      case GGML_OP_RWKV_WKV6:
      case GGML_OP_RWKV_WKV7:
      case GGML_OP_GATED_LINEAR_ATTN:
      case GGML_OP_GATED_DELTA_NET:
        return "ssm";
      default:
        return "";
    }
  }

  std::string module_of_name(const CapturedNode& node) const {
    const std::string_view own = split_name(node.tensor.name).first;
    for (const Rule& rule : kNameRules) {
      if (starts_with(own, rule.text))
        return rule.module;
    }
    // Stores into and loads from the caches carry the cache's name on a source.
    for (const CapturedTensor& source : sources(node)) {
      if (!starts_with(source.name, "cache_"))
        continue;
      return source.name[6] == 'k' || source.name[6] == 'v' ? "kv-cache" : "ssm";
    }
    return "";
  }

  /// Unnamed arithmetic goes with what it works on; a norm, a rotation or the stream does not make it theirs.
  std::string module_of_producers(const CapturedNode& node) const {
    for (const CapturedTensor& source : sources(node)) {
      const std::uint32_t* from = producer(source);
      if (from == nullptr)
        continue;
      const std::string& module = result_[*from].module;
      if (module == "attention" || module == "ffn" || module == "ssm" || module == "lm_head" || module == "embedding") {
        return module;
      }
    }
    return "";
  }

  /// What is left goes with the first op that uses it.
  void inherit_from_consumers() {
    for (std::uint32_t i = topology_.n_nodes; i-- > 0;) {
      for (const CapturedTensor& source : sources(topology_.nodes[i])) {
        const std::uint32_t* from = producer(source);
        if (from == nullptr || *from >= i)
          continue;
        Attribution& target = result_[*from];
        if (target.module.empty())
          target.module = result_[i].module;
        if (target.layer < 0 && target.module != "embedding" && target.module != "lm_head") {
          target.layer = result_[i].layer;
        }
      }
    }
  }

  const Topology& topology_;
  std::vector<Attribution> result_;
  std::unordered_map<const ggml_tensor*, std::uint32_t> producer_;
  std::unordered_map<const ggml_tensor*, bool> stream_;
};

}  // namespace

std::vector<Attribution> attribute(const Topology& topology) {
  return Attributor(topology).run();
}

}  // namespace melt::llama_cpp
