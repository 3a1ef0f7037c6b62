// SPDX-License-Identifier: Apache-2.0
// How far recorded op times lie from the truth: synthetic threads spin by the steady clock, which the recorder does not
// use, and log what each op took by it. Prints JSON: for each op its described length, what it took, and what was
// recorded, in ns, and by how much the reading of what it took may be off.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "melt/run.h"
#include "melt/trace_reader.h"
#include "runtimes/synthetic.h"

using namespace melt;

namespace {

struct Sample {
  std::int64_t described_ns;
  std::int64_t took_ns;
  std::int64_t recorded_ns;
  std::int64_t uncertainty_ns;
};

/// What the two readings around a stamp usually are apart: their own cost.
std::int64_t usual_slack_ns(const OpTruthLog& log, std::uint32_t n_threads) {
  std::vector<std::int64_t> slacks;
  for (std::uint32_t thread = 0; thread < n_threads; ++thread)
    for (const OpTruth& op : log.ops_of(thread))
      slacks.push_back(op.end_slack_ns);
  const auto middle = slacks.begin() + static_cast<std::ptrdiff_t>(slacks.size() / 2);
  std::nth_element(slacks.begin(), middle, slacks.end());
  return *middle;
}

/// How far the stamps that bound an op may lie from the thread's own readings, beyond what is usual for every stamp. A
/// group begins at the latest stamp of all threads.
std::int64_t uncertainty_ns(const OpTruthLog& log, std::uint32_t thread, std::uint32_t group, std::size_t i,
                            std::uint32_t n_threads, std::int64_t usual_ns) {
  const OpTruth& op = log.ops_of(thread).at(i);
  std::int64_t start_slack = op.start_slack_ns;
  for (std::uint32_t other = 0; group > 0 && other < n_threads; ++other)
    start_slack = std::max(start_slack, log.ops_of(other).at(i - 1).end_slack_ns);
  return std::max<std::int64_t>(start_slack - usual_ns, 0) + std::max<std::int64_t>(op.end_slack_ns - usual_ns, 0);
}

std::vector<Sample> measure(std::int64_t op_ns, std::uint32_t n_threads, std::uint32_t steps) {
  // No skew: a thread that ends early would only test the barrier of the synthetic runtime.
  const std::string description = "layers=3,skew=0,clock=host,log_ops=1000000,op_ns=" + std::to_string(op_ns);
  ModelOptions options;
  options.path = description;
  options.n_threads = n_threads;
  LoadedModel model("synthetic", options);
  std::vector<std::uint8_t> bytes;
  const auto sink = make_memory_sink(bytes);
  Profiler profiler(model, *sink, kLevelTokens | kLevelOps);
  RunOptions run;
  run.prompt_ids = {1};
  run.max_tokens = steps;
  run.overhead_budget_s = 0;
  profiler.run(run);
  profiler.finish();

  const SyntheticModel truth = SyntheticModel::parse(description);
  const TraceContents trace = read_trace(bytes.data(), bytes.size());
  const OpTruthLog& log = op_truth_log(model.session());
  const std::int64_t usual_ns = usual_slack_ns(log, n_threads);
  std::vector<Sample> samples;
  std::vector<std::uint32_t> group(n_threads, 0);
  std::vector<std::size_t> n_seen(n_threads, 0);
  std::uint32_t graph = kNone;
  for (const OpRecord& op : records_of<OpRecord>(trace, ChunkKind::kOps)) {
    if (op.graph == kNone)
      continue;
    if (op.graph != graph) {
      group.assign(n_threads, 0);
      graph = op.graph;
    }
    const std::uint32_t in_graph = group[op.thread]++;
    const std::size_t in_log = n_seen[op.thread]++;
    samples.push_back({truth.duration_ns(in_graph, op.thread, 1), log.ops_of(op.thread).at(in_log).duration_ns,
                       op.compute_ns, uncertainty_ns(log, op.thread, in_graph, in_log, n_threads, usual_ns)});
  }
  return samples;
}

}  // namespace

int main(int argc, char** argv) {
  const auto n_threads = static_cast<std::uint32_t>(argc > 1 ? std::atoi(argv[1]) : 1);
  std::printf("[");
  const char* separator = "";
  for (const std::int64_t op_ns : {100'000, 1'000'000, 10'000'000}) {  // with a norm's tenth: 10 us to 10 ms
    const auto steps = static_cast<std::uint32_t>(op_ns >= 10'000'000 ? 20 : 100);
    for (const Sample& sample : measure(op_ns, n_threads, steps)) {
      std::printf("%s[%lld,%lld,%lld,%lld]", separator, static_cast<long long>(sample.described_ns),
                  static_cast<long long>(sample.took_ns), static_cast<long long>(sample.recorded_ns),
                  static_cast<long long>(sample.uncertainty_ns));
      separator = ",";
    }
  }
  std::printf("]\n");
  return 0;
}
