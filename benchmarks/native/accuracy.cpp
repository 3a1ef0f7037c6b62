// SPDX-License-Identifier: Apache-2.0
// How far recorded op times lie from the truth: synthetic threads spin for known times on the steady clock, which the
// recorder does not use. Prints JSON: for each op length the errors of all ops on all threads, in ns.
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
  std::int64_t truth_ns;
  std::int64_t error_ns;
};

std::vector<Sample> measure(std::int64_t op_ns, std::uint32_t n_threads, std::uint32_t steps) {
  // No skew: a thread that ends early would only test the barrier of the synthetic runtime.
  const std::string description = "layers=3,skew=0,clock=host,op_ns=" + std::to_string(op_ns);
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
  std::vector<Sample> samples;
  std::vector<std::uint32_t> group(n_threads, 0);
  std::uint32_t graph = kNone;
  for (const OpRecord& op : records_of<OpRecord>(trace, ChunkKind::kOps)) {
    if (op.graph == kNone)
      continue;
    if (op.graph != graph) {
      group.assign(n_threads, 0);
      graph = op.graph;
    }
    const std::int64_t expected = truth.duration_ns(group[op.thread]++, op.thread, 1);
    samples.push_back({expected, op.compute_ns - expected});
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
      std::printf("%s[%lld,%lld]", separator, static_cast<long long>(sample.truth_ns),
                  static_cast<long long>(sample.error_ns));
      separator = ",";
    }
  }
  std::printf("]\n");
  return 0;
}
