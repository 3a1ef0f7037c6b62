// SPDX-License-Identifier: Apache-2.0
#include "op_cost.h"

#include <algorithm>
#include <cmath>

namespace melt::mlc {
namespace {

double last_extent(const CapturedTensor& tensor) {
  return tensor.ndim > 0 ? static_cast<double>(tensor.shape[tensor.ndim - 1]) : 1.0;
}

double sum_bytes(const std::vector<const CapturedTensor*>& tensors) {
  double sum = 0;
  for (const CapturedTensor* tensor : tensors)
    sum += tensor->bytes();
  return sum;
}

double weight_bytes(const Operands& operands) {
  double sum = 0;
  for (const Operands::Weight& weight : operands.weights)
    sum += weight.tensor->bytes();
  return sum;
}

/// FLOPs of an op for each element of its result; NaN without a formula.
double flops_per_element(const std::string& op_type) {
  struct Entry {
    const char* op_type;
    double flops;
  };
  static constexpr Entry kEntries[] = {
      {"ADD", 1},  {"SUB", 1},   {"MUL", 1},     {"DIV", 1},      {"SILU", 1},     {"GELU", 1},     {"RELU", 1},
      {"TANH", 1}, {"CPY", 0},   {"CONT", 0},    {"CONCAT", 0},   {"GEGLU", 2},    {"SWIGLU", 2},   {"SIGMOID", 1},
      {"NORM", 5}, {"TOP_K", 0}, {"ARGSORT", 0}, {"GET_ROWS", 0}, {"RMS_NORM", 3}, {"SOFT_MAX", 6},
  };
  for (const Entry& entry : kEntries) {
    if (op_type == entry.op_type)
      return entry.flops;
  }
  return std::nan("");
}

/// 2 m n k, and what follows it element by element.
double fused_flops(const std::vector<std::string>& op_types, const Operands& operands) {
  const double n = operands.outputs.front()->elements();
  double flops = 0;
  for (const std::string& op_type : op_types) {
    if (op_type == "MUL_MAT") {
      flops += operands.inputs.empty() ? std::nan("") : 2.0 * n * last_extent(*operands.inputs.front());
    } else {
      flops += n * flops_per_element(op_type);
    }
  }
  return flops;
}

/// A lookup reads its rows, not the table.
OpCost row_lookup(const Operands& operands) {
  double n_rows = 0, read = 0;
  for (const CapturedTensor* input : operands.inputs) {
    if (input->type.code == kDLInt && input->ndim <= 1)
      n_rows = input->elements();
  }
  const auto rows_of = [&](const CapturedTensor& table) {
    const double all = table.ndim > 0 ? static_cast<double>(table.shape[0]) : 1.0;
    return all > 0 ? table.bytes() * std::min(1.0, n_rows / all) : 0.0;
  };
  for (const Operands::Weight& weight : operands.weights)
    read += rows_of(*weight.tensor);
  if (operands.weights.empty())  // the choice of the last token: as many rows as come out
    read = sum_bytes(operands.outputs);
  else
    read += sum_bytes(operands.inputs);
  return {0.0, read, sum_bytes(operands.outputs)};
}

/// Q K^T and the product with V: 2 n_q n_kv (d_k + d_v) per head. Of the pages, what lies in them up to n_positions.
OpCost attention(const Operands& operands, double n_positions) {
  if (operands.inputs.empty() || operands.outputs.empty())
    return {std::nan(""), std::nan(""), std::nan("")};
  const CapturedTensor& q = *operands.inputs.front();
  const double d = last_extent(q);
  const CapturedTensor* pages = pages_of(operands);
  double n_kv = n_positions, kv_bytes = 0;
  if (pages != nullptr) {
    kv_bytes = 2.0 * n_kv * static_cast<double>(pages->shape[2]) * d * pages->type.bits / 8.0;
  } else {  // only the new tokens: K and V as they come
    for (const CapturedTensor* input : operands.inputs) {
      if (input == &q || input->ndim != 3)
        continue;
      n_kv = static_cast<double>(input->shape[0]);
      kv_bytes += input->bytes();
    }
  }
  return {4.0 * q.elements() * n_kv, q.bytes() + kv_bytes, sum_bytes(operands.outputs)};
}

/// K and V of the new tokens into the pages.
OpCost row_store(const Operands& operands) {
  const CapturedTensor* pages = pages_of(operands);
  double read = 0, written = 0;
  for (const CapturedTensor* input : operands.inputs) {
    if (input == pages)
      continue;
    read += input->bytes();
    if (input->ndim == 3 && pages != nullptr)
      written += input->elements() * pages->type.bits / 8.0;
  }
  return {0.0, read, written};
}

std::size_t n_outputs(const std::string& op_type, std::uint32_t n_tensors) {
  if (op_type == "ROPE" && n_tensors >= 5)
    return 3;  // Q, K and V
  if (op_type == "FLASH_ATTN_EXT" && n_tensors >= 4)
    return 2;  // the result and its log-sum-exp
  return op_type == "SET_ROWS" || op_type == "MERGE_STATE" ? 0 : 1;
}

}  // namespace

const CapturedTensor* pages_of(const Operands& operands) {
  for (const CapturedTensor* input : operands.inputs) {
    if (input->ndim == 5)
      return input;
  }
  return nullptr;
}

Operands operands_of(const CapturedTensor* tensors, std::uint32_t n_tensors, const std::string& op_type,
                     const Weights* weights) {
  Operands operands;
  const std::size_t n_out = std::min<std::size_t>(n_outputs(op_type, n_tensors), n_tensors);
  for (std::uint32_t i = 0; i < n_tensors; ++i) {
    const Parameter* parameter = weights != nullptr ? weights->at(tensors[i].data) : nullptr;
    if (parameter != nullptr) {
      operands.weights.push_back({&tensors[i], parameter});
    } else {
      (i + n_out < n_tensors ? operands.inputs : operands.outputs).push_back(&tensors[i]);
    }
  }
  return operands;
}

OpCost cost_of(const std::vector<std::string>& op_types, const Operands& operands, double n_positions) {
  const std::string& first = op_types.front();
  if (first == "SET_ROWS")
    return row_store(operands);
  if (first == "FLASH_ATTN_EXT")
    return attention(operands, n_positions);
  if (operands.outputs.empty())
    return {std::nan(""), std::nan(""), std::nan("")};
  if (first == "GET_ROWS" && op_types.size() == 1)
    return row_lookup(operands);
  const double read = weight_bytes(operands) + sum_bytes(operands.inputs), written = sum_bytes(operands.outputs);
  if (first == "ROPE") {  // 6 for a pair of Q and K; V is copied
    double rotated = 0;
    for (std::size_t i = 0; i < operands.outputs.size() && i < 2; ++i)
      rotated += operands.outputs[i]->elements();
    return {3.0 * rotated, read, written};
  }
  return {fused_flops(op_types, operands), read, written};
}

}  // namespace melt::mlc
