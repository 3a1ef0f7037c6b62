// SPDX-License-Identifier: Apache-2.0
// How far op times recorded in ggml's node loop lie from the truth: ops on llama.cpp's own pool spin by the steady
// clock, which the recorder does not read. Prints JSON as accuracy.cpp does.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "spin_graph.h"

namespace {

using melt_test::SpinGraph;

/// From the end of each node to a time by which it was stamped, beyond what is usual for the thread that was the last.
std::vector<std::int64_t> slacks_ns(const SpinGraph& graph, unsigned n_threads, unsigned n_nodes) {
  std::vector<std::int64_t> slacks;
  std::vector<std::vector<std::int64_t>> of_last(n_threads);
  for (unsigned node = 0; node + 1 < n_nodes; ++node) {
    slacks.push_back(graph.stamped_ns(node) - graph.ended_ns(node));
    of_last[graph.last_thread(node)].push_back(slacks.back());
  }
  for (std::vector<std::int64_t>& each : of_last)
    std::sort(each.begin(), each.end());
  for (unsigned node = 0; node + 1 < n_nodes; ++node) {
    const std::vector<std::int64_t>& alike = of_last[graph.last_thread(node)];
    slacks[node] = std::max<std::int64_t>(slacks[node] - alike[alike.size() / 2], 0);
  }
  return slacks;
}

void measure(std::int64_t op_ns, unsigned n_threads, unsigned n_nodes) {
  // The threads take turns in being late, by a fifth.
  SpinGraph graph(n_threads, n_nodes, [&](unsigned node, unsigned thread) {
    return node % n_threads == thread ? op_ns : op_ns - op_ns / 5;
  });
  const std::vector<melt::OpRecord> records = graph.record().ops;
  const std::vector<std::int64_t> slacks = slacks_ns(graph, n_threads, n_nodes);
  for (unsigned node = 1; node + 1 < n_nodes; ++node) {
    const std::int64_t uncertainty_ns = slacks[node - 1] + slacks[node];
    for (unsigned thread = 0; thread < n_threads; ++thread) {
      const std::int64_t took_ns = graph.times(node, thread).ended_ns - graph.ended_ns(node - 1);
      static const char* separator = "";
      std::printf("%s[%lld,%lld,%lld,%lld]", separator, static_cast<long long>(op_ns), static_cast<long long>(took_ns),
                  static_cast<long long>(records[std::size_t{node} * n_threads + thread].compute_ns),
                  static_cast<long long>(uncertainty_ns));
      separator = ",";
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto n_threads = static_cast<unsigned>(argc > 1 ? std::atoi(argv[1]) : 1);
  std::printf("[");
  for (const std::int64_t op_ns : {10'000, 100'000, 1'000'000, 10'000'000})
    measure(op_ns, n_threads, op_ns >= 10'000'000 ? 100 : 1000);
  std::printf("]\n");
  return 0;
}
