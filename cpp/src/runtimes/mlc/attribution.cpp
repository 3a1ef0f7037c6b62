// SPDX-License-Identifier: Apache-2.0
#include "attribution.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string_view>
#include <unordered_map>

#include "kernel_names.h"

namespace melt::mlc {
namespace {

struct Rule {
  std::string_view part;
  const char* module;
};

// Parts of MLC's parameter names, first match wins: a norm inside attention is a norm.
constexpr Rule kWeightRules[] = {
    {"norm", "norm"},
    {"ln_", "norm"},
    {"self_attn", "attention"},
    {"attn", "attention"},
    {"attention", "attention"},
    {"mlp", "ffn"},
    {"ffn", "ffn"},
    {"feed_forward", "ffn"},
    {"expert", "ffn"},
    {"moe", "ffn"},
    {"block_sparse", "ffn"},
    {"lm_head", "lm_head"},
    {"embed_out", "lm_head"},
    {"embed", "embedding"},
    {"wte", "embedding"},
    {"wpe", "embedding"},
};

/// "model.layers.3.mlp.down_proj.q_weight" -> 3: the first part that is a number; -1 without one.
int layer_of_name(const std::string& name) {
  for (std::size_t begin = 0; begin < name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    bool is_number = end > begin;
    for (std::size_t i = begin; i < end; ++i)
      is_number &= std::isdigit(static_cast<unsigned char>(name[i])) != 0;
    if (is_number)
      return std::atoi(name.c_str() + begin);
    begin = end + 1;
  }
  return -1;
}

class Attributor {
 public:
  Attributor(const CallStore& calls, std::uint32_t slot, const Weights* weights) {
    result_.resize(calls.n_calls(slot));
    for (std::uint32_t i = 0; i < result_.size(); ++i) {
      DescribedCall& described = result_[i];
      described.call = &calls.call(slot, i);
      const FunctionInfo& function = *described.call->function;
      described.op_types = function.kind == FunctionKind::kKernel
                               ? op_types_of(function.name)
                               : std::vector<std::string>{builtin_op_type(function.name)};
      if (function.kind == FunctionKind::kAttention)
        described.op_types = {"ATTENTION_HOST"};
      described.operands =
          operands_of(calls.tensors(*described.call), described.call->n_tensors, described.op_types.front(), weights);
    }
  }

  std::vector<DescribedCall> run() {
    for (DescribedCall& described : result_) {
      if (described.call->function->kind == FunctionKind::kBookkeeping) {
        described.module = is_cache_state(described) ? "kv-cache" : "runtime";
        continue;
      }
      describe(described);
      const std::uint32_t number = static_cast<std::uint32_t>(&described - result_.data());
      for (const CapturedTensor* output : described.operands.outputs)
        writer_[output->data] = number;
    }
    inherit_from_readers();
    for (DescribedCall& described : result_) {
      if (described.module.empty())
        described.module = "other";
    }
    return std::move(result_);
  }

 private:
  static bool is_cache_state(const DescribedCall& described) {
    return described.call->function->name.find("kv_state_") != std::string::npos;
  }

  void describe(DescribedCall& described) {
    const std::string& first = described.op_types.front();
    const DescribedCall* outer = described.call->outer == kNoCall ? nullptr : &result_[described.call->outer];
    if (described.call->layer >= 0) {
      described.layer = static_cast<int>(described.call->layer);
      described.module = "attention";
    } else if (outer != nullptr) {
      described.layer = outer->layer;
      described.module = first == "SET_ROWS" ? "kv-cache" : first == "ROPE" ? "rope" : outer->module;
    } else if (works_out_shapes(described)) {
      described.module = "runtime";
    } else if (!described.operands.weights.empty()) {
      const std::string& name = described.operands.weights.front().parameter->name;
      described.layer = layer_of_name(name);
      described.module = module_of_weight(name, is_read_by_rows(described) ? "GET_ROWS" : first);
    } else if (first == "GET_ROWS") {  // of a table that was unpacked first; or the choice of the token with an output
      described.module = takes_ids(described) ? "embedding" : "lm_head";
    } else {
      describe_by_inputs(described);
    }
  }

  /// Compiled arithmetic on extents, for shapes that depend on the number of tokens.
  bool works_out_shapes(const DescribedCall& described) const {
    for (const auto* tensors : {&described.operands.inputs, &described.operands.outputs}) {
      for (const CapturedTensor* tensor : *tensors) {
        if (tensor->type.code != kDLInt || tensor->type.bits != 64)
          return false;
      }
    }
    return described.operands.weights.empty();
  }

  static bool takes_ids(const DescribedCall& described) {
    return std::any_of(described.operands.inputs.begin(), described.operands.inputs.end(),
                       [](const CapturedTensor* input) { return input->type.code == kDLInt; });
  }

  /// Whether a packed table is unpacked for a lookup: the next kernel says so.
  bool is_read_by_rows(const DescribedCall& described) const {
    for (std::size_t i = static_cast<std::size_t>(&described - result_.data()); i < result_.size(); ++i) {
      const DescribedCall& later = result_[i];
      if (&later == &described || later.call->function->kind != FunctionKind::kKernel)
        continue;
      return described.op_types.front() == "CPY" && later.op_types.front() == "GET_ROWS" && takes_ids(later);
    }
    return false;
  }

  static std::string module_of_weight(const std::string& name, const std::string& op_type) {
    for (const Rule& rule : kWeightRules) {
      if (name.find(rule.part) == std::string::npos)
        continue;
      // A table that is read by anything but a lookup gives the logits: tied weights.
      return rule.module == std::string_view("embedding") && op_type != "GET_ROWS" ? "lm_head" : rule.module;
    }
    return "";
  }

  const DescribedCall* writer_of(const CapturedTensor& tensor) const {
    const auto found = writer_.find(tensor.data);
    return found == writer_.end() ? nullptr : &result_[found->second];
  }

  /// What has no weight goes with what it works on; a norm, a rotation or the stream does not make it theirs.
  void describe_by_inputs(DescribedCall& described) {
    bool all_known = described.operands.inputs.size() == 2 && described.op_types.size() == 1;
    for (const CapturedTensor* input : described.operands.inputs) {
      const DescribedCall* from = writer_of(*input);
      if (from == nullptr) {
        all_known = false;
        continue;
      }
      if (described.layer < 0)
        described.layer = from->layer;
      const std::string& module = from->module;
      if (described.module.empty() &&
          (module == "attention" || module == "ffn" || module == "lm_head" || module == "embedding"))
        described.module = module;
    }
    const bool onto_stream = described.op_types.front() == "ADD" && (all_known || adds_to_stream(described));
    if (!onto_stream)
      return;
    described.module = "residual";
    // The stream comes from the layer before; what is added is of this one.
    for (const CapturedTensor* input : described.operands.inputs) {
      const DescribedCall* from = writer_of(*input);
      if (from != nullptr)
        described.layer = std::max(described.layer, from->layer);
    }
  }

  static bool adds_to_stream(const DescribedCall& described) {
    return described.op_types.size() == 1 && described.operands.inputs.size() == 2 &&
           described.operands.inputs[0]->elements() == described.operands.inputs[1]->elements();
  }

  /// What is left goes with the first call that reads its result.
  void inherit_from_readers() {
    std::unordered_map<const void*, std::uint32_t> reader;
    for (std::uint32_t i = static_cast<std::uint32_t>(result_.size()); i-- > 0;) {
      DescribedCall& described = result_[i];
      if (described.call->function->kind == FunctionKind::kBookkeeping)
        continue;
      for (const CapturedTensor* output : described.operands.outputs) {
        const auto found = reader.find(output->data);
        if (found == reader.end())
          continue;
        const DescribedCall& later = result_[found->second];
        if (described.module.empty())
          described.module = later.module;
        const bool in_layers = described.module != "lm_head" && described.module != "embedding";
        if (described.layer < 0 && described.operands.weights.empty() && in_layers)
          described.layer = later.layer;
        reader.erase(found);  // what lies there before is another value
      }
      for (const CapturedTensor* input : described.operands.inputs)
        reader[input->data] = i;
    }
  }

  std::vector<DescribedCall> result_;
  std::unordered_map<const void*, std::uint32_t> writer_;
};

}  // namespace

std::vector<DescribedCall> attribute(const CallStore& calls, std::uint32_t slot, const Weights* weights) {
  return Attributor(calls, slot, weights).run();
}

}  // namespace melt::mlc
