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

/// From the end of a node to the begin of the next on a thread: what a barrier takes, or an interruption there.
std::int64_t slack_ns(const SpinGraph& graph, unsigned node, unsigned n_threads) {
  std::int64_t longest = 0;
  for (unsigned thread = 0; thread < n_threads; ++thread)
    longest = std::max(longest, graph.times(node + 1, thread).begun_ns - graph.ended_ns(node));
  return longest;
}

void measure(std::int64_t op_ns, unsigned n_threads, unsigned n_nodes) {
  // The threads take turns in being late, by a fifth.
  SpinGraph graph(n_threads, n_nodes, [&](unsigned node, unsigned thread) {
    return node % n_threads == thread ? op_ns : op_ns - op_ns / 5;
  });
  const std::vector<melt::OpRecord> records = graph.record().ops;
  std::vector<std::int64_t> slacks;
  for (unsigned node = 0; node + 1 < n_nodes; ++node)
    slacks.push_back(slack_ns(graph, node, n_threads));
  std::vector<std::int64_t> sorted = slacks;
  std::sort(sorted.begin(), sorted.end());
  const std::int64_t usual_ns = sorted[sorted.size() / 2];
  for (unsigned node = 1; node + 1 < n_nodes; ++node) {
    const std::int64_t uncertainty_ns =
        std::max<std::int64_t>(slacks[node - 1] - usual_ns, 0) + std::max<std::int64_t>(slacks[node] - usual_ns, 0);
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
