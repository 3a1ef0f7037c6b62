// SPDX-License-Identifier: Apache-2.0
// Each formula of docs/op_costs.md against numbers worked out by hand, from the shapes in ggml's order (ne[0] fastest).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <vector>

#include "ggml-backend-impl.h"
#include "runtimes/llama_cpp/op_cost.h"

using namespace melt::llama_cpp;

namespace {

using Shape = std::initializer_list<std::int64_t>;

CapturedTensor tensor(ggml_type type, Shape ne) {
  CapturedTensor made{};
  made.type = type;
  std::fill(std::begin(made.ne), std::end(made.ne), 1);
  std::copy(ne.begin(), ne.end(), made.ne);
  return made;
}

CapturedTensor f32(Shape ne) {
  return tensor(GGML_TYPE_F32, ne);
}

CapturedTensor i32(Shape ne) {
  return tensor(GGML_TYPE_I32, ne);
}

CapturedNode node_of(ggml_op op, const CapturedTensor& result, const std::vector<CapturedTensor>& sources,
                     std::int32_t first = 0, std::int32_t second = 0) {
  CapturedNode node{};
  node.tensor = result;
  node.tensor.op = op;
  node.op_params[0] = first;
  node.op_params[1] = second;
  node.n_sources = static_cast<std::uint32_t>(sources.size());
  return node;
}

OpCost cost(ggml_op op, const CapturedTensor& result, const std::vector<CapturedTensor>& sources,
            std::int32_t first = 0, std::int32_t second = 0) {
  return cost_of(node_of(op, result, sources, first, second), sources.data());
}

void check(const OpCost& found, double flops, double bytes_read, double bytes_written) {
  CHECK(found.flops == flops);
  CHECK(found.bytes_read == bytes_read);
  CHECK(found.bytes_written == bytes_written);
}

/// A weight of the model, as ggml holds it; the storage that a buffer type gives it may be larger.
struct Weight {
  explicit Weight(ggml_type type, Shape ne) {
    std::memset(&stored, 0, sizeof stored);
    stored.type = type;
    std::fill(std::begin(stored.ne), std::end(stored.ne), 1);
    std::copy(ne.begin(), ne.end(), stored.ne);
    stored.nb[0] = ggml_type_size(type);
    stored.nb[1] = ggml_row_size(type, stored.ne[0]);
    for (int axis = 2; axis < GGML_MAX_DIMS; ++axis)
      stored.nb[axis] = stored.nb[axis - 1] * static_cast<std::size_t>(stored.ne[axis - 1]);
  }

  /// This weight, or the part of it with the given shape, as a source in a graph.
  CapturedTensor source(ggml_backend_buffer_type& buffer, Shape ne) const {
    CapturedTensor made = tensor(stored.type, ne);
    made.root = made.weight = &stored;
    made.buffer_type = &buffer;
    return made;
  }

  ggml_tensor stored;
};

std::size_t tenth_more(ggml_backend_buffer_type_t, const ggml_tensor* weight) {
  return ggml_nbytes(weight) / 10 * 11;
}

std::int32_t bits(float value) {
  std::int32_t made;
  std::memcpy(&made, &value, sizeof made);
  return made;
}

}  // namespace

TEST_CASE("a matrix product: 2 m n k, every operand once") {
  // 64 rows of 32 weights in one q4_0 block of 18 bytes each, by 3 tokens of 32 f32
  check(cost(GGML_OP_MUL_MAT, f32({64, 3}), {tensor(GGML_TYPE_Q4_0, {32, 64}), f32({32, 3})}), 2 * 32 * 64 * 3,
        64 * 18 + 3 * 32 * 4, 3 * 64 * 4);
}

TEST_CASE("a matrix product with grouped heads reads K once for all query heads that share it") {
  // K: 2 heads of 256 positions of 32 f16; Q: 4 heads, 1 token
  check(cost(GGML_OP_MUL_MAT, f32({256, 1, 4}), {tensor(GGML_TYPE_F16, {32, 256, 2}), f32({32, 1, 4})}),
        2 * 32 * 256 * 4, 2 * 256 * 32 * 2 + 4 * 32 * 4, 4 * 256 * 4);
}

TEST_CASE("flash attention with grouped heads") {
  // Q: 4 heads, 1 token, 32 f32; K and V: 2 heads, 256 positions, 32 and 16 f16; mask 256 f16; sinks 4 f32
  const auto k = tensor(GGML_TYPE_F16, {32, 256, 2});
  const auto v = tensor(GGML_TYPE_F16, {16, 256, 2});
  const auto mask = tensor(GGML_TYPE_F16, {256, 1});
  const double cache = 2 * 256 * 32 * 2 + 2 * 256 * 16 * 2;
  check(cost(GGML_OP_FLASH_ATTN_EXT, f32({16, 4, 1}), {f32({32, 1, 4}), k, v, mask}), 2 * 256 * 4 * (32 + 16),
        4 * 32 * 4 + cache + 256 * 2, 4 * 16 * 4);
  check(cost(GGML_OP_FLASH_ATTN_EXT, f32({16, 4, 1}), {f32({32, 1, 4}), k, v, mask, f32({4})}), 2 * 256 * 4 * (32 + 16),
        4 * 32 * 4 + cache + 256 * 2 + 4 * 4, 4 * 16 * 4);
}

TEST_CASE("a mixture of experts reads only the experts that its ids can name") {
  // 8 experts of 64 rows of 32 weights in q8_0 (34 bytes a block), 2 of them for each token
  const auto experts = tensor(GGML_TYPE_Q8_0, {32, 64, 8});
  const double expert_bytes = 64 * 34;
  check(cost(GGML_OP_MUL_MAT_ID, f32({64, 2, 1}), {experts, f32({32, 1, 1}), i32({2, 1})}), 2 * 32 * 64 * 2,
        2 * expert_bytes + 32 * 4 + 2 * 4, 2 * 64 * 4);
  // with 5 tokens the ids could name 10: each of the 8 is read at most once
  check(cost(GGML_OP_MUL_MAT_ID, f32({64, 2, 5}), {experts, f32({32, 1, 5}), i32({2, 5})}), 2 * 32 * 64 * 2 * 5,
        8 * expert_bytes + 5 * 32 * 4 + 10 * 4, 5 * 2 * 64 * 4);
}

TEST_CASE("an addition by ids reads the rows that they name") {
  check(cost(GGML_OP_ADD_ID, f32({64, 2, 1}), {f32({64, 2, 1}), f32({64, 8}), i32({2, 1})}), 64 * 2,
        2 * 64 * 4 + 2 * 64 * 4 + 2 * 4, 2 * 64 * 4);
}

TEST_CASE("row lookups read rows, not the table") {
  // 3 rows of 64 q8_0 (2 blocks of 34 bytes) from a table of 1000
  check(cost(GGML_OP_GET_ROWS, f32({64, 3}), {tensor(GGML_TYPE_Q8_0, {64, 1000}), i32({3})}), 0, 3 * 68 + 3 * 4,
        3 * 64 * 4);
}

TEST_CASE("stores into a cache write their rows, in the cache's type") {
  const auto ids = tensor(GGML_TYPE_I64, {3});
  const auto cache = tensor(GGML_TYPE_F16, {64, 256});
  check(cost(GGML_OP_SET_ROWS, cache, {f32({64, 3}), ids, cache}), 0, 3 * 64 * 4 + 3 * 8, 3 * 64 * 2);
}

TEST_CASE("a copy reads its source; its second source is where it writes to") {
  const auto target = tensor(GGML_TYPE_F16, {64, 3});
  check(cost(GGML_OP_CPY, target, {f32({64, 3}), target}), 0, 64 * 3 * 4, 64 * 3 * 2);
  check(cost(GGML_OP_FILL, f32({64}), {f32({64})}), 0, 0, 64 * 4);
}

TEST_CASE("views count their elements, not the span that they stride over") {
  // one head of each of 3 tokens, out of rows 4 heads long: the shape says it, strides do not enter
  CapturedTensor view = f32({32, 1, 3});
  ggml_tensor whole{};
  view.root = &whole;
  CHECK(tensor_bytes(view) == 32 * 3 * 4);
  check(cost(GGML_OP_CONT, f32({32, 3}), {view}), 0, 32 * 3 * 4, 32 * 3 * 4);
}

TEST_CASE("a weight counts as what its buffer stores, a view of it as its part") {
  ggml_backend_buffer_type plain{}, repacked{};
  repacked.iface.get_alloc_size = tenth_more;
  const Weight weight(GGML_TYPE_Q4_0, {64, 100});  // 100 rows of 2 blocks of 18 bytes
  CHECK(tensor_bytes(weight.source(plain, {64, 100})) == 3600);
  CHECK(tensor_bytes(weight.source(repacked, {64, 100})) == 3960);
  CHECK(tensor_bytes(weight.source(repacked, {64, 50})) == 1980);
  check(cost(GGML_OP_MUL_MAT, f32({100, 1}), {weight.source(repacked, {64, 100}), f32({64, 1})}), 2 * 64 * 100,
        3960 + 64 * 4, 100 * 4);
}

TEST_CASE(
    "the selective scan: 7 per state element and token with a decay each (Mamba 1), 5 with one a head (Mamba 2)") {
  // 16 state values for each of 8 channels, 3 tokens, one sequence of the 2 states that are kept; y and the new state
  const std::vector<CapturedTensor> one_each = {f32({16, 1, 8, 2}), f32({1, 8, 3}),  f32({8, 3}), f32({16, 8}),
                                                f32({16, 1, 3}),    f32({16, 1, 3}), i32({1})};
  check(cost(GGML_OP_SSM_SCAN, f32({8 * 3 + 16 * 8}), one_each, 1), 7 * 16 * 8 * 3,
        4 * (16 * 8 + 8 * 3 + 8 * 3 + 16 * 8 + 16 * 3 + 16 * 3 + 1), 4 * (8 * 3 + 16 * 8));
  // 2 heads of 4 channels
  const std::vector<CapturedTensor> one_a_head = {f32({16, 4, 2, 1}), f32({4, 2, 3}),  f32({2, 3}), f32({1, 2}),
                                                  f32({16, 1, 3}),    f32({16, 1, 3}), i32({1})};
  check(cost(GGML_OP_SSM_SCAN, f32({8 * 3 + 16 * 8}), one_a_head, 1), 5 * 16 * 8 * 3,
        4 * (16 * 8 + 8 * 3 + 2 * 3 + 2 + 16 * 3 + 16 * 3 + 1), 4 * (8 * 3 + 16 * 8));
}

TEST_CASE("a causal convolution: 2 d_conv per output") {
  // 8 channels, 3 tokens with the 3 before them, d_conv 4
  check(cost(GGML_OP_SSM_CONV, f32({8, 3}), {f32({6, 8}), f32({4, 8})}), 2 * 4 * 8 * 3, 4 * (6 * 8 + 4 * 8), 4 * 8 * 3);
}

TEST_CASE("a rotation is 6 for a pair; the dimensions that are not rotated are copied") {
  const std::vector<CapturedTensor> sources = {f32({32, 4, 3}), i32({3})};
  const double n_read = 32 * 4 * 3 * 4 + 3 * 4, n_written = 32 * 4 * 3 * 4;
  check(cost(GGML_OP_ROPE, f32({32, 4, 3}), sources, 0, 32), 3 * 32 * 4 * 3, n_read, n_written);
  check(cost(GGML_OP_ROPE, f32({32, 4, 3}), sources, 0, 16), 3 * 16 * 4 * 3, n_read, n_written);
}

TEST_CASE("ops on each element") {
  const auto x = f32({64, 3});
  const auto row = f32({64});
  const double n = 64 * 3;
  for (const ggml_op op : {GGML_OP_ADD, GGML_OP_SUB, GGML_OP_MUL, GGML_OP_DIV})
    check(cost(op, x, {x, row}), n, 4 * (n + 64), 4 * n);  // what is repeated is read once
  for (const ggml_op op : {GGML_OP_SQR, GGML_OP_SQRT, GGML_OP_CLAMP, GGML_OP_CUMSUM})
    check(cost(op, x, {x}), n, 4 * n, 4 * n);
  check(cost(GGML_OP_UNARY, x, {x}, GGML_UNARY_OP_SILU), n, 4 * n, 4 * n);
  check(cost(GGML_OP_SCALE, x, {x}, bits(1.0f), bits(0.0f)), n, 4 * n, 4 * n);
  check(cost(GGML_OP_SCALE, x, {x}, bits(1.0f), bits(0.5f)), 2 * n, 4 * n, 4 * n);
  check(cost(GGML_OP_GLU, x, {x, x}, GGML_GLU_OP_SWIGLU), 2 * n, 8 * n, 4 * n);
  check(cost(GGML_OP_GLU, x, {f32({128, 3})}, GGML_GLU_OP_GEGLU), 2 * n, 8 * n, 4 * n);  // both halves in one tensor
  check(cost(GGML_OP_GLU, x, {x, x}, GGML_GLU_OP_SWIGLU_OAI), 5 * n, 8 * n, 4 * n);
  check(cost(GGML_OP_RMS_NORM, x, {x}), 3 * n, 4 * n, 4 * n);
  check(cost(GGML_OP_L2_NORM, x, {x}), 3 * n, 4 * n, 4 * n);
  check(cost(GGML_OP_NORM, x, {x}), 5 * n, 4 * n, 4 * n);
  check(cost(GGML_OP_SOFT_MAX, x, {x}), 6 * n, 4 * n, 4 * n);
  check(cost(GGML_OP_SOFT_MAX, x, {x, tensor(GGML_TYPE_F16, {64, 3})}), 8 * n, 6 * n, 4 * n);
}

TEST_CASE("reductions and moves") {
  const auto x = f32({64, 3});
  const double n = 64 * 3;
  for (const ggml_op op : {GGML_OP_SUM_ROWS, GGML_OP_MEAN})
    check(cost(op, f32({1, 3}), {x}), n, 4 * n, 4 * 3);
  check(cost(GGML_OP_ARGMAX, i32({3}), {x}), n, 4 * n, 4 * 3);
  check(cost(GGML_OP_ARGSORT, i32({64, 3}), {x}), 0, 4 * n, 4 * n);
  check(cost(GGML_OP_CONCAT, f32({64, 4}), {x, f32({64, 1})}), 0, 4 * (n + 64), 4 * (n + 64));
  check(cost(GGML_OP_REPEAT, f32({64, 6}), {x}), 0, 4 * n, 8 * n);
}

TEST_CASE("a fused group neither writes nor reads what passes between its nodes") {
  // RMS_NORM of 64 f32 by 3 tokens, times a weight of 64
  ggml_tensor input{}, normalised{}, weight{}, result{};
  CapturedTensor x = f32({64, 3}), middle = f32({64, 3}), w = f32({64}), out = f32({64, 3});
  x.root = &input, middle.root = &normalised, w.root = &weight, out.root = &result;
  const std::vector<CapturedTensor> norm_sources = {x}, mul_sources = {middle, w};
  const CapturedNode norm = node_of(GGML_OP_RMS_NORM, middle, norm_sources);
  const CapturedNode mul = node_of(GGML_OP_MUL, out, mul_sources);
  OpCost group{};
  add_to_group(group, norm, norm_sources.data(), nullptr);
  add_to_group(group, mul, mul_sources.data(), &norm);
  check(group, 3 * 64 * 3 + 64 * 3, 4 * (64 * 3 + 64), 4 * 64 * 3);
}

TEST_CASE("empty tensors cost nothing, and never NaN") {
  const auto none = f32({64, 0});
  check(cost(GGML_OP_GET_ROWS, none, {f32({64, 0}), i32({0})}), 0, 0, 0);
  check(cost(GGML_OP_CPY, none, {none, none}), 0, 0, 0);
  check(cost(GGML_OP_SET_ROWS, f32({64, 256}), {none, tensor(GGML_TYPE_I64, {0}), f32({64, 256})}), 0, 0, 0);
  check(cost(GGML_OP_MUL_MAT, f32({64, 0}), {f32({0, 64}), f32({0, 0})}), 0, 0, 0);
  check(cost(GGML_OP_MUL_MAT_ID, f32({64, 2, 0}), {f32({32, 64, 0}), f32({32, 1, 0}), i32({2, 0})}), 0, 0, 0);
  check(cost(GGML_OP_ADD_ID, none, {none, f32({64, 0}), i32({0})}), 0, 0, 0);
  check(cost(GGML_OP_ROPE, f32({0}), {f32({0}), i32({0})}, 0, 32), 0, 0, 0);
  ggml_backend_buffer_type plain{};
  CHECK(tensor_bytes(Weight(GGML_TYPE_F32, {64, 0}).source(plain, {64, 0})) == 0);
}

TEST_CASE("an op without a formula says so") {
  const auto x = f32({64, 3});
  for (const OpCost& found : {cost(GGML_OP_RWKV_WKV7, x, {x}), cost(GGML_OP_SOLVE_TRI, x, {x, x}),
                              cost(GGML_OP_GLU, x, {x, x}, GGML_GLU_OP_COUNT)}) {
    CHECK(std::isnan(found.flops));
    CHECK(std::isnan(found.bytes_read));
    CHECK(std::isnan(found.bytes_written));
  }
}
