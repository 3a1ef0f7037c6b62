// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "runtimes/mlc/calls.h"

using namespace melt::mlc;

namespace {

const FunctionInfo kAlloc{FunctionKind::kBookkeeping, "vm.builtin.alloc_tensor"}, kMatmul{FunctionKind::kKernel, "mm"},
    kAttend{FunctionKind::kAttention, "vm.builtin.attention_kv_cache_x"};
constexpr EvaluationKey kDecode{1, 256, true};

/// An argument: a tensor of n x 4 values.
class Matrix {
 public:
  explicit Matrix(std::int64_t n) : shape_{n, 4} {
    tensor_.ndim = 2;
    tensor_.shape = shape_;
    tensor_.dtype = {kDLFloat, 32, 1};
    any_.type_index = kTVMFFIDLTensorPtr;
    any_.v_ptr = &tensor_;
  }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;
  const TVMFFIAny* any() const { return &any_; }

 private:
  std::int64_t shape_[2];
  DLTensor tensor_{};
  TVMFFIAny any_{};
};

/// alloc, product of n rows, alloc, and attention that calls a product of `n_inner` rows. Returns the nodes.
std::vector<std::uint32_t> evaluate(CallStore& store, std::int64_t n, std::int64_t n_inner) {
  const Matrix outer(n), inner(n_inner);
  std::vector<std::uint32_t> nodes;
  nodes.push_back(store.next(kAlloc, kNoCall, nullptr, 0));
  nodes.push_back(store.next(kMatmul, kNoCall, outer.any(), 1));
  nodes.push_back(store.next(kAlloc, kNoCall, nullptr, 0));
  nodes.push_back(store.next(kAttend, kNoCall, nullptr, 0));
  nodes.push_back(store.next(kMatmul, store.position(), inner.any(), 1));
  return nodes;
}

}  // namespace

TEST_CASE("an evaluation like an earlier one has its slot and its nodes; allocations share one") {
  CallStore store;
  store.make_room(10, 5);
  CHECK(store.begin(kDecode) == 0);
  const auto nodes = evaluate(store, 1, 7);
  CHECK(nodes == std::vector<std::uint32_t>{1, 2, 1, 4, 5});
  CHECK(store.end() == 0);
  CHECK(store.begin(kDecode) == 0);
  CHECK(evaluate(store, 1, 7) == nodes);
  CHECK(evaluate(store, 1, 8).size() == 5);  // beyond the known calls
  CHECK(store.end() == 1);
  CHECK(store.begin({2, 256, false}) == 2);
  CHECK(store.n_slots() == 3);
}

TEST_CASE("what attention's kernels are given grows, and is not compared") {
  CallStore store;
  store.make_room(10, 5);
  store.begin(kDecode);
  evaluate(store, 1, 7);
  store.begin(kDecode);
  evaluate(store, 1, 8);
  CHECK(store.end() == 0);
}

TEST_CASE("where shapes or functions differ a slot of its own begins, with what was alike") {
  CallStore store;
  store.make_room(10, 5);
  store.begin(kDecode);
  evaluate(store, 1, 7);
  store.begin(kDecode);
  evaluate(store, 3, 7);
  CHECK(store.end() == 1);
  REQUIRE(store.n_calls(1) == 5);
  CHECK(store.call(1, 0).function == &kAlloc);
  CHECK(store.tensors(store.call(0, 1))->shape[0] == 1);
  CHECK(store.tensors(store.call(1, 1))->shape[0] == 3);

  store.begin(kDecode);
  store.next(kAlloc, kNoCall, nullptr, 0);
  store.next(kAttend, kNoCall, nullptr, 0);
  CHECK(store.end() == 2);
  store.begin(kDecode);  // the latest of that key
  store.next(kAlloc, kNoCall, nullptr, 0);
  store.next(kAttend, kNoCall, nullptr, 0);
  CHECK(store.end() == 2);
}

TEST_CASE("an evaluation that ended before its first call is nobody's pattern") {
  CallStore store;
  store.make_room(10, 5);
  store.begin(kDecode);
  CHECK(store.end() == 0);
  store.begin({2, 256, false});
  evaluate(store, 2, 7);
  CHECK(store.begin(kDecode) == 2);
  evaluate(store, 1, 7);
  CHECK(store.tensors(store.call(1, 1))->shape[0] == 2);
  CHECK(store.tensors(store.call(2, 1))->shape[0] == 1);
}

TEST_CASE("without room there is no slot, and calls are the machine's") {
  CallStore store;
  store.make_room(1, 4);  // twice that is kept
  store.begin(kDecode);
  evaluate(store, 1, 7);
  store.begin(kDecode);
  CHECK(evaluate(store, 3, 7).back() == kMachineNode);
  CHECK(store.end() == UINT32_MAX);
}

TEST_CASE("what has been captured is kept while there is room beside it for what may come") {
  CallStore store;
  store.make_room(2, 5);
  store.begin(kDecode);
  evaluate(store, 1, 7);
  store.make_room(2, 5);
  CHECK(store.n_slots() == 1);
  store.begin({2, 256, false});
  evaluate(store, 2, 7);
  store.begin({3, 256, false});
  evaluate(store, 3, 7);
  store.make_room(2, 5);
  CHECK(store.n_slots() == 0);
  store.make_room(60, 5);  // a long context: a slot for each 256 positions
  for (std::uint32_t i = 1; i <= 60; ++i) {
    store.begin({1, 256 * i, true});
    evaluate(store, 1, 7);
    CHECK(store.end() == i - 1);
  }
}
