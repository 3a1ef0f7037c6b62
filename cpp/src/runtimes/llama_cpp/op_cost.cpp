// SPDX-License-Identifier: Apache-2.0
#include "op_cost.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace melt::llama_cpp {
namespace {

const double kUnknown = std::nan("");

double rows(const CapturedTensor& t) {
  return static_cast<double>(t.ne[1]) * static_cast<double>(t.ne[2]) * static_cast<double>(t.ne[3]);
}

double elements(const CapturedTensor& t) {
  return static_cast<double>(t.ne[0]) * rows(t);
}

double bytes(const CapturedTensor& t) {
  return tensor_bytes(t);
}

double row_bytes(const CapturedTensor& t) {
  return rows(t) > 0 ? bytes(t) / rows(t) : 0.0;
}

float float_param(const CapturedNode& node, int at) {
  float value;
  std::memcpy(&value, &node.op_params[at], sizeof value);
  return value;
}

/// Every source read once, the result written once.
OpCost streaming(const CapturedNode& node, const CapturedTensor* src, double flops) {
  double read = 0;
  for (std::uint32_t i = 0; i < node.n_sources; ++i)
    read += bytes(src[i]);
  return {flops, read, bytes(node.tensor)};
}

/// [n, k] x [m, k] -> [m, n]: 2 m n k.
OpCost matrix_product(const CapturedNode& node, const CapturedTensor* src) {
  return streaming(node, src, 2.0 * static_cast<double>(src[0].ne[0]) * elements(node.tensor));
}

/// Mixture of experts: of the expert matrices only as many as the ids can name. Which of them coincide is in the data,
/// so for several tokens this is the largest possible number.
OpCost expert_product(const CapturedNode& node, const CapturedTensor* src) {
  const CapturedTensor& experts = src[0];
  const CapturedTensor& ids = src[2];
  const double n_experts = static_cast<double>(experts.ne[2]);
  const double used = std::min(n_experts, elements(ids));
  const double weights = n_experts > 0 ? bytes(experts) / n_experts * used : 0.0;
  return {2.0 * static_cast<double>(experts.ne[0]) * elements(node.tensor), weights + bytes(src[1]) + bytes(ids),
          bytes(node.tensor)};
}

/// a + b[ids]: of b the rows that the ids name, each at most once.
OpCost indexed_addition(const CapturedNode& node, const CapturedTensor* src) {
  const double used = std::min(rows(src[1]), elements(src[2]));
  return {elements(node.tensor), bytes(src[0]) + row_bytes(src[1]) * used + bytes(src[2]), bytes(node.tensor)};
}

/// Q K^T and the product with V: 2 n_q n_kv (d_k + d_v) per head; scaling and softmax, n_q n_kv each, are left out.
/// n_kv is the length that the graph was built for: one topology serves many tokens, and the kernel skips what the
/// mask's content rules out. So both figures are upper bounds, which analysis/streamed.py corrects for decode steps.
OpCost flash_attention(const CapturedNode& node, const CapturedTensor* src) {
  const CapturedTensor &q = src[0], &k = src[1], &v = src[2];
  const double pairs = static_cast<double>(q.ne[1]) * static_cast<double>(k.ne[1]);
  const double heads = static_cast<double>(q.ne[2]) * static_cast<double>(q.ne[3]);
  return streaming(node, src, 2.0 * pairs * heads * static_cast<double>(k.ne[0] + v.ne[0]));
}

/// A row lookup reads its rows, not the table.
OpCost row_lookup(const CapturedNode& node, const CapturedTensor* src) {
  return {0.0, row_bytes(src[0]) * elements(src[1]) + bytes(src[1]), bytes(node.tensor)};
}

/// Writes rows into a cache: the rows given, in the cache's type.
OpCost row_store(const CapturedNode& node, const CapturedTensor* src) {
  const double written = static_cast<double>(ggml_row_size(node.tensor.type, src[0].ne[0])) * rows(src[0]);
  return {0.0, bytes(src[0]) + bytes(src[1]), written};
}

/// The selective scan, per element of the state and token. Mamba 2 has one decay for a head: a decay product, an input
/// product and their sum, then a product with C and its sum = 5. Mamba 1 works out the decay for each: a product and an
/// exponential more = 7. Of the states only the rows that the ids name are read.
OpCost selective_scan(const CapturedNode& node, const CapturedTensor* src) {
  const CapturedTensor &states = src[0], &inputs = src[1], &decay = src[3], &ids = src[6];
  const double per_element = decay.ne[0] == 1 ? 5.0 : 7.0;
  OpCost cost = streaming(node, src, per_element * static_cast<double>(states.ne[0]) * elements(inputs));
  if (states.ne[3] > 0)
    cost.bytes_read -= bytes(states) * (1.0 - std::min(1.0, elements(ids) / static_cast<double>(states.ne[3])));
  return cost;
}

/// Convolution over the last d_conv inputs of each channel: 2 d_conv per output.
OpCost causal_convolution(const CapturedNode& node, const CapturedTensor* src) {
  return streaming(node, src, 2.0 * static_cast<double>(src[1].ne[0]) * elements(node.tensor));
}

/// FLOPs per element of a gated unit: a function value and a product; GPT-OSS's clamps both halves and adds one too.
double gated_unit_flops(const CapturedNode& node) {
  switch (node.op_params[0]) {
    case GGML_GLU_OP_REGLU:
    case GGML_GLU_OP_GEGLU:
    case GGML_GLU_OP_SWIGLU:
    case GGML_GLU_OP_GEGLU_ERF:
    case GGML_GLU_OP_GEGLU_QUICK:
      return 2;
    case GGML_GLU_OP_SWIGLU_OAI:
      return 5;
    default:
      return -1;
  }
}

/// A rotation is 6 for a pair; what lies beyond the rotated dimensions is copied.
double rotation_flops(const CapturedNode& node) {
  const auto width = static_cast<double>(node.tensor.ne[0]);
  return width > 0 ? 3.0 * std::min(1.0, static_cast<double>(node.op_params[1]) / width) : 0.0;
}

/// FLOPs per element of the result where that is all there is to it; negative: none of these.
double flops_per_element(const CapturedNode& node) {
  switch (node.tensor.op) {
    case GGML_OP_DUP:
    case GGML_OP_CONT:
    case GGML_OP_CONCAT:
    case GGML_OP_REPEAT:
    case GGML_OP_PAD:
    case GGML_OP_ARGSORT:
    case GGML_OP_TOP_K:
    case GGML_OP_DIAG_MASK_INF:
      return 0;
    case GGML_OP_ADD:
    case GGML_OP_ADD1:
    case GGML_OP_SUB:
    case GGML_OP_MUL:
    case GGML_OP_DIV:
    case GGML_OP_SQR:
    case GGML_OP_SQRT:
    case GGML_OP_LOG:
    case GGML_OP_SIN:
    case GGML_OP_COS:
    case GGML_OP_CLAMP:
    case GGML_OP_CUMSUM:
      return 1;
    case GGML_OP_SCALE:
      return float_param(node, 1) == 0.0f ? 1 : 2;  // s x, or s x + b
    case GGML_OP_RMS_NORM:
    case GGML_OP_L2_NORM:
      return 3;  // square, sum, scale
    case GGML_OP_ROPE:
      return rotation_flops(node);
    case GGML_OP_NORM:
    case GGML_OP_GROUP_NORM:
      return 5;             // sum, difference, square, sum, scale
    case GGML_OP_SOFT_MAX:  // scale, maximum, difference, exponential, sum, scale; a slope and a sum for a mask
      return node.n_sources > 1 ? 8 : 6;
    case GGML_OP_UNARY:
      return 1;  // one function value, whatever it costs to evaluate
    case GGML_OP_GLU:
      return gated_unit_flops(node);
    default:
      return -1;
  }
}

}  // namespace

double tensor_bytes(const CapturedTensor& t) {
  if (t.weight != nullptr && t.buffer_type != nullptr && t.weight->view_src == nullptr) {
    const double stored = static_cast<double>(ggml_backend_buft_get_alloc_size(t.buffer_type, t.weight));
    const double whole = static_cast<double>(ggml_nelements(t.weight));
    return whole > 0 ? stored * elements(t) / whole : 0.0;
  }
  return static_cast<double>(ggml_row_size(t.type, t.ne[0])) * rows(t);
}

OpCost cost_of(const CapturedNode& node, const CapturedTensor* src) {
  switch (node.tensor.op) {
    case GGML_OP_MUL_MAT:
      return matrix_product(node, src);
    case GGML_OP_MUL_MAT_ID:
      return expert_product(node, src);
    case GGML_OP_FLASH_ATTN_EXT:
      return flash_attention(node, src);
    case GGML_OP_ADD_ID:
      return indexed_addition(node, src);
    case GGML_OP_GET_ROWS:
      return row_lookup(node, src);
    case GGML_OP_SET_ROWS:
      return row_store(node, src);
    case GGML_OP_SSM_SCAN:
      return selective_scan(node, src);
    case GGML_OP_SSM_CONV:
      return causal_convolution(node, src);
    case GGML_OP_SUM_ROWS:
    case GGML_OP_SUM:
    case GGML_OP_MEAN:
    case GGML_OP_ARGMAX:
      return streaming(node, src, elements(src[0]));
    case GGML_OP_CPY:  // its second source is where it writes to
      return {0.0, bytes(src[0]), bytes(node.tensor)};
    case GGML_OP_FILL:  // its source only gives the shape
      return {0.0, 0.0, bytes(node.tensor)};
    default:
      break;
  }
  const double per_element = flops_per_element(node);
  if (per_element < 0)
    return {kUnknown, kUnknown, kUnknown};
  return streaming(node, src, per_element * elements(node.tensor));
}

void add_to_group(OpCost& group, const CapturedNode& node, const CapturedTensor* src, const CapturedNode* before) {
  const OpCost cost = cost_of(node, src);
  group.flops += cost.flops;
  group.bytes_read += cost.bytes_read;
  group.bytes_written = cost.bytes_written;
  if (before == nullptr)
    return;
  for (std::uint32_t i = 0; i < node.n_sources; ++i) {
    if (src[i].root == before->tensor.root)
      group.bytes_read -= tensor_bytes(src[i]);
  }
}

}  // namespace melt::llama_cpp
