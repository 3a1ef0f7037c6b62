// SPDX-License-Identifier: Apache-2.0
// Live activation bytes against numbers worked out by hand: on graphs drawn here, and on one that ggml has laid out.
#include <doctest/doctest.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "runtimes/llama_cpp/liveness.h"

using namespace melt::llama_cpp;

namespace {

/// A storage at an address of the compute buffer. Only its identity and place count; nothing is read there.
struct Storage {
  std::uint64_t begin;
  std::uint64_t bytes;
};

CapturedTensor tensor(const Storage& storage) {
  CapturedTensor made{};
  made.root = reinterpret_cast<const ggml_tensor*>(&storage);
  made.activation = storage.bytes > 0 ? reinterpret_cast<const void*>(storage.begin) : nullptr;
  made.activation_bytes = storage.bytes;
  return made;
}

/// A graph node by node: what each writes and what it reads.
class Graph {
 public:
  void op(const Storage& result, std::initializer_list<const Storage*> read, bool is_output = false) {
    CapturedNode node{};
    node.tensor = tensor(result);
    node.first_source = static_cast<std::uint32_t>(sources_.size());
    node.n_sources = static_cast<std::uint32_t>(read.size());
    node.is_output = is_output;
    for (const Storage* source : read)
      sources_.push_back(tensor(*source));
    nodes_.push_back(node);
  }
  std::vector<double> live_bytes() const {
    return live_activation_bytes({nodes_.data(), static_cast<std::uint32_t>(nodes_.size()), sources_.data()});
  }

 private:
  std::vector<CapturedNode> nodes_;
  std::vector<CapturedTensor> sources_;
};

using Bytes = std::vector<double>;

}  // namespace

TEST_CASE("a tensor lives from the op that writes it to the last that reads it") {
  const Storage input{1000, 8}, a{1100, 100}, b{1200, 20}, c{1300, 3};
  Graph graph;
  graph.op(a, {&input});
  graph.op(b, {&a});
  graph.op(c, {&a, &b});
  graph.op(b, {&c});  // b is written again: what lies in between is still its own
  CHECK(graph.live_bytes() == Bytes{8 + 100, 100 + 20, 100 + 20 + 3, 3 + 20});
}

TEST_CASE("an input is there before the first op, an output after the last") {
  const Storage mask{1000, 50}, a{1100, 7}, logits{1200, 11}, b{1300, 1};
  Graph graph;
  graph.op(logits, {&a}, true);
  graph.op(b, {&a});
  graph.op(b, {&b, &mask});
  CHECK(graph.live_bytes() == Bytes{50 + 7 + 11, 50 + 7 + 11 + 1, 50 + 11 + 1});
}

TEST_CASE("what works in place, and what overlaps, counts once") {
  const Storage a{1000, 64}, same_place{1000, 64}, part{1032, 64}, c{2000, 1};
  Graph graph;
  graph.op(a, {});
  graph.op(same_place, {&a});
  graph.op(part, {&same_place});
  graph.op(c, {&part});
  CHECK(graph.live_bytes() == Bytes{64, 64, 96, 64 + 1});
}

TEST_CASE("weights and caches are no activations, and a result that nobody reads is held while it is made") {
  const Storage weight{0, 0}, a{1000, 10}, unread{1100, 1000}, b{1200, 5};
  Graph graph;
  graph.op(a, {&weight});
  graph.op(unread, {&a});
  graph.op(weight, {&a});  // into the cache
  graph.op(b, {&a});
  CHECK(graph.live_bytes() == Bytes{10, 1010, 10, 15});
}

TEST_CASE("sizes beyond 32 bits") {
  const std::uint64_t large = std::uint64_t{5} << 32;
  const Storage a{1 << 20, large}, b{(1 << 20) + large, large};
  Graph graph;
  graph.op(a, {});
  graph.op(b, {&a});
  CHECK(graph.live_bytes() == Bytes{static_cast<double>(large), 2.0 * static_cast<double>(large)});
}

TEST_CASE("a graph that ggml laid out: views, an op in place, and no more than its buffer") {
  // y = relu(w x + x0) with w of 64 x 64, x of 64 x 4, and x0 a view of the first column of z = 2 x
  ggml_init_params params{};
  params.mem_size = 1 << 20;
  params.no_alloc = true;
  const std::unique_ptr<ggml_context, decltype(&ggml_free)> context(ggml_init(params), ggml_free);
  const std::unique_ptr<ggml_context, decltype(&ggml_free)> weights(ggml_init(params), ggml_free);
  ggml_tensor* w = ggml_new_tensor_2d(weights.get(), GGML_TYPE_F32, 64, 64);
  const std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)> stored(
      ggml_backend_alloc_ctx_tensors_from_buft(weights.get(), ggml_backend_cpu_buffer_type()),
      ggml_backend_buffer_free);
  ggml_backend_buffer_set_usage(stored.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);

  ggml_tensor* x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, 64, 4);
  ggml_set_input(x);
  ggml_tensor* z = ggml_scale(context.get(), x, 2.0f);
  ggml_tensor* x0 = ggml_view_1d(context.get(), z, 64, 0);
  ggml_tensor* wx = ggml_mul_mat(context.get(), w, x);
  ggml_tensor* sum = ggml_add(context.get(), wx, x0);
  ggml_tensor* y = ggml_relu(context.get(), sum);
  ggml_set_output(y);
  ggml_cgraph* graph = ggml_new_graph(context.get());
  ggml_build_forward_expand(graph, z);  // z first, so that x is read again after it
  ggml_build_forward_expand(graph, y);
  for (int i = 0; i < ggml_graph_n_nodes(graph); ++i)
    ggml_graph_node(graph, i)->flags |= GGML_TENSOR_FLAG_COMPUTE;
  const std::unique_ptr<ggml_gallocr, decltype(&ggml_gallocr_free)> allocator(
      ggml_gallocr_new(ggml_backend_cpu_buffer_type()), ggml_gallocr_free);
  REQUIRE(ggml_gallocr_alloc_graph(allocator.get(), graph));
  REQUIRE(sum->data == wx->data);
  REQUIRE(y->data == sum->data);

  TopologyStore store;
  store.reserve(1, 16);
  const Bytes live = live_activation_bytes(store.at(store.slot_of(graph)));
  const double column = 64 * 4, matrix = column * 4;
  // scale: x, z | mul_mat: x, z (the view is still to be read), wx | add, in place: z, wx | relu, in place: wx
  CHECK(live == Bytes{2 * matrix, 3 * matrix, 2 * matrix, matrix});
  CHECK(ggml_gallocr_get_buffer_size(allocator.get(), 0) >= 3 * matrix);
}
