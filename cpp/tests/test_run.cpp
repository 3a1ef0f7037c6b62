// SPDX-License-Identifier: Apache-2.0
// The measured procedure on the synthetic runtime, where every duration is known exactly.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "counting_allocator.h"
#include "melt/error.h"
#include "melt/run.h"
#include "melt/trace_reader.h"
#include "runtimes/synthetic.h"

namespace melt {
namespace {

struct Recording {
  std::vector<std::uint8_t> bytes;
  TraceContents trace;
  RunResult result;

  template <typename Record>
  std::vector<Record> rows(ChunkKind kind) const {
    return records_of<Record>(trace, kind);
  }
};

ModelOptions model_options(const std::string& description, std::uint32_t n_threads = 2) {
  ModelOptions options;
  options.path = description;
  options.n_threads = n_threads;
  return options;
}

RunOptions run_options() {
  RunOptions options;
  options.prompt = "Hello";
  options.max_tokens = 4;
  options.repeats = 2;
  options.warmup = 1;
  options.overhead_budget_s = 0;
  return options;
}

std::unique_ptr<Recording> record(LoadedModel& model, const RunOptions& options,
                                  std::uint32_t levels = kLevelTokens | kLevelOps, RecorderLimits limits = {}) {
  auto recording = std::make_unique<Recording>();
  const auto sink = make_memory_sink(recording->bytes);
  Profiler profiler(model, *sink, levels, "{}", limits);
  recording->result = profiler.run(options);
  profiler.finish();
  recording->trace = read_trace(recording->bytes.data(), recording->bytes.size());
  return recording;
}

ErrorKind kind_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.kind();
  }
  return static_cast<ErrorKind>(0);
}

TEST_CASE("each op has exactly the duration that the synthetic model describes, on every thread") {
  LoadedModel model("synthetic", model_options("layers=3,op_ns=100000,skew=10", 3));
  const auto recording = record(model, run_options());
  const SyntheticModel truth = SyntheticModel::parse("layers=3,op_ns=100000,skew=10");
  const auto ops = recording->rows<OpRecord>(ChunkKind::kOps);
  const auto definitions = recording->rows<OpDefinition>(ChunkKind::kOpDefinitions);
  const auto tokens = recording->rows<TokenRecord>(ChunkKind::kTokens);
  REQUIRE(recording->trace.complete);

  std::vector<std::uint32_t> group(3, 0);  // the next group on each thread
  std::uint32_t graph = 0;
  for (const OpRecord& op : ops) {
    if (op.graph == kNone)
      continue;
    if (op.graph != graph) {
      group.assign(3, 0);
      graph = op.graph;
    }
    const std::uint32_t g = group[op.thread]++;
    const std::int64_t compute = truth.duration_ns(g, op.thread, tokens[op.token].n_tokens);
    const std::int64_t longest = truth.duration_ns(g, 0, tokens[op.token].n_tokens);
    REQUIRE(op.compute_ns == compute);
    REQUIRE(op.wait_ns == longest - compute);
    REQUIRE(definitions[op.op].node == truth.nodes(g).first);
    REQUIRE(definitions[op.op].n_fused == (g % 3 == 0 && g < 9 ? 2 : 1));
  }
  CHECK(graph == 3 * 4 - 1);  // 3 repetitions, a prefill and 3 decode steps each
}

TEST_CASE("recorded groups are the executed ones, and their times sum to the graph's") {
  LoadedModel model("synthetic", model_options("layers=5"));
  const auto recording = record(model, run_options());
  const auto graphs = recording->rows<GraphRecord>(ChunkKind::kGraphs);
  const auto runs = recording->rows<RunRecord>(ChunkKind::kRuns);
  std::vector<std::int64_t> sum(graphs.size(), 0);
  std::uint64_t n_records = 0;
  for (const OpRecord& op : recording->rows<OpRecord>(ChunkKind::kOps)) {
    if (op.graph == kNone)
      continue;
    ++n_records;
    if (op.thread == 0)
      sum[op.graph] += op.compute_ns + op.wait_ns;
  }
  for (std::size_t i = 0; i < graphs.size(); ++i) {
    CHECK(graphs[i].n_groups == 5 * 3 + 1);
    CHECK(sum[i] == graphs[i].duration_ns);
    CHECK(graphs[i].topology == 0);  // the same graph each time: described once
  }
  std::uint64_t counted = 0;
  for (const RunRecord& run : runs) {
    CHECK(run.n_dropped == 0);
    CHECK(run.n_groups == 4 * 16);
    counted += run.n_records;
  }
  CHECK(counted == n_records);
}

TEST_CASE("runs, phases and tokens say what happened when") {
  LoadedModel model("synthetic", model_options("layers=1,op_ns=1000,skew=0", 1));
  const auto recording = record(model, run_options(), kLevelTokens);
  const auto runs = recording->rows<RunRecord>(ChunkKind::kRuns);
  REQUIRE(runs.size() == 3);
  CHECK(runs[0].flags == kRunWarmup);
  CHECK(runs[1].flags == 0);
  const std::int64_t step = 100 + 1000 + 200 + 1000;  // norm, product, add, output
  for (const RunRecord& run : runs) {
    CHECK(run.n_prompt == 5);
    CHECK(run.n_output == 4);
    CHECK(run.prefill_ns == 5 * step);
    CHECK(run.duration_ns == 5 * step + 3 * step);
    CHECK(run.stop_reason == static_cast<std::uint16_t>(StopReason::kLimit));
    CHECK(run.n_graphs == 0);
  }
  const auto tokens = recording->rows<TokenRecord>(ChunkKind::kTokens);
  REQUIRE(tokens.size() == 12);
  CHECK(tokens[4].duration_ns == 5 * step);  // TTFT
  CHECK(tokens[5].duration_ns == step);      // ITL
  CHECK(tokens[5].start_ns == tokens[4].start_ns + tokens[4].duration_ns);
  CHECK(recording->rows<PromptRecord>(ChunkKind::kPrompts).size() == 15);
  CHECK(recording->result.output_ids.size() == 4);
}

TEST_CASE("between the start and the end of a run nothing of ours allocates") {
  LoadedModel model("synthetic", model_options("layers=20"));
  RunOptions options = run_options();
  options.prompt.clear();
  options.prompt_ids = {1, 2, 3};
  OpRecorder recorder(2, {});
  recorder.begin_run(40, 61);
  model.session().reset({});
  model.session().ops()->start(recorder);
  const std::size_t before = allocated().count;
  for (int i = 0; i < 32; ++i) {
    recorder.set_token(static_cast<std::uint32_t>(i));
    CHECK(model.session().evaluate(options.prompt_ids.data(), 1) == EvalStatus::kOk);
    recorder.host_op(HostOp::kSample, 1, 2);
  }
  CHECK(allocated().count == before);
  model.session().ops()->stop();
  CHECK(recorder.graphs().size() == 32);
}

TEST_CASE("a cancel ends the run between two ops and leaves a complete trace") {
  std::atomic<bool> cancel{false};
  ModelOptions options = model_options("layers=50,op_ns=1000000,clock=host", 1);
  options.cancel = &cancel;
  LoadedModel model("synthetic", options);
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    cancel.store(true);
  });
  const auto recording = record(model, run_options());
  later.join();
  CHECK(recording->trace.complete);
  CHECK(recording->result.cancelled);
  const auto runs = recording->rows<RunRecord>(ChunkKind::kRuns);
  REQUIRE(!runs.empty());
  CHECK(runs.back().stop_reason == static_cast<std::uint16_t>(StopReason::kCancelled));
  CHECK(recording->rows<TokenRecord>(ChunkKind::kTokens).back().flags == kTokenCut);
  CHECK(recording->rows<GraphRecord>(ChunkKind::kGraphs).back().flags == kGraphAborted);
}

TEST_CASE("what was measured before a failure is in the trace") {
  LoadedModel model("synthetic", model_options("layers=1,fail_at=7"));
  Recording recording;
  {
    const auto sink = make_memory_sink(recording.bytes);
    Profiler profiler(model, *sink, kLevelTokens | kLevelOps);
    CHECK(kind_of([&] { profiler.run(run_options()); }) == ErrorKind::kRuntime);
  }  // never finished, as when a process dies
  recording.trace = read_trace(recording.bytes.data(), recording.bytes.size());
  CHECK_FALSE(recording.trace.complete);
  const auto runs = recording.rows<RunRecord>(ChunkKind::kRuns);
  REQUIRE(runs.size() == 2);
  CHECK(runs[0].n_output == 4);
  CHECK(runs[1].stop_reason == static_cast<std::uint16_t>(StopReason::kError));
  CHECK(runs[1].n_output == 2);
}

TEST_CASE("drops are counted in the run that had them") {
  LoadedModel model("synthetic", model_options("layers=10"));
  const auto recording = record(model, run_options(), kLevelTokens | kLevelOps, {2 * 2 * 32 * sizeof(melt_stamp)});
  for (const RunRecord& run : recording->rows<RunRecord>(ChunkKind::kRuns)) {
    CHECK(run.n_groups == 4 * 31);
    CHECK(run.n_records == 2 * 31 * 2);  // of two graphs, and the log is full
    CHECK(run.n_dropped == 2 * 31 * 2);
  }
}

TEST_CASE("overhead pairs are recorded for prefill and decode") {
  LoadedModel model("synthetic", model_options("layers=2,op_ns=20000,clock=host", 1));
  RunOptions options = run_options();
  options.overhead_budget_s = 0.02;
  const auto recording = record(model, options);
  std::size_t prefill = 0, decode = 0;
  for (const OverheadRecord& pair : recording->rows<OverheadRecord>(ChunkKind::kOverhead)) {
    (pair.phase == static_cast<std::uint16_t>(Phase::kPrefill) ? prefill : decode) += 1;
    CHECK(pair.on_ns > 0);
    CHECK(pair.off_ns > 0);
  }
  CHECK(prefill >= 3);
  CHECK(decode >= 3);
}

TEST_CASE("the unload is in a trace that is finished after it") {
  LoadedModel model("synthetic", model_options("layers=1"));
  Recording recording;
  const auto sink = make_memory_sink(recording.bytes);
  Profiler profiler(model, *sink, kLevelTokens);
  profiler.run(run_options());
  model.unload();
  CHECK(kind_of([&] { profiler.run(run_options()); }) == ErrorKind::kInvalidArgument);
  profiler.finish();
  recording.trace = read_trace(recording.bytes.data(), recording.bytes.size());
  const auto phases = recording.rows<PhaseRecord>(ChunkKind::kPhases);
  CHECK(phases.front().phase == static_cast<std::uint16_t>(Phase::kLoad));
  CHECK(phases.back().phase == static_cast<std::uint16_t>(Phase::kUnload));
}

TEST_CASE("bad requests are refused before anything runs") {
  CHECK(kind_of([] { LoadedModel("synthetic", model_options("layers=1", 0)); }) == ErrorKind::kInvalidArgument);
  CHECK(kind_of([] { LoadedModel("nonesuch", model_options("")); }) == ErrorKind::kInvalidArgument);
  CHECK(kind_of([] { LoadedModel("synthetic", model_options("layers=0")); }) == ErrorKind::kModel);
  CHECK(kind_of([] { LoadedModel("synthetic", model_options("colour=red")); }) == ErrorKind::kModel);

  ModelOptions small = model_options("layers=1");
  small.n_ctx = 8;
  LoadedModel model("synthetic", small);
  const auto refused = [&](const std::function<void(RunOptions&)>& change) {
    RunOptions options = run_options();
    change(options);
    return kind_of([&] { record(model, options); }) == ErrorKind::kInvalidArgument;
  };
  CHECK(refused([](RunOptions& o) { o.prompt.clear(); }));
  CHECK(refused([](RunOptions& o) { o.prompt = "longer than eight bytes"; }));
  CHECK(refused([](RunOptions& o) { o.max_tokens = 0; }));
  CHECK(refused([](RunOptions& o) { o.repeats = 0; }));
  CHECK(refused([](RunOptions& o) { o.prompt_ids = {1, 256}; }));
  CHECK(refused([](RunOptions& o) { o.prompt_ids = {-1}; }));
  CHECK(refused([](RunOptions& o) { o.sampler.temperature = std::nanf(""); }));
  CHECK(refused([](RunOptions& o) { o.sampler.top_p = 0; }));
}

TEST_CASE("a context that fills up ends the run, and says so") {
  ModelOptions small = model_options("layers=1");
  small.n_ctx = 8;
  LoadedModel model("synthetic", small);
  RunOptions options = run_options();
  options.max_tokens = 100;
  const auto recording = record(model, options);
  const auto runs = recording->rows<RunRecord>(ChunkKind::kRuns);
  CHECK(runs.back().stop_reason == static_cast<std::uint16_t>(StopReason::kContextFull));
  CHECK(runs.back().n_output == 4);  // 5 of the prompt, 3 evaluated outputs, and the one after them
}

TEST_CASE("one model runs once at a time") {
  LoadedModel model("synthetic", model_options("layers=200,op_ns=200000,clock=host", 1));
  std::vector<std::uint8_t> bytes;
  const auto sink = make_memory_sink(bytes);
  Profiler second(model, *sink, kLevelTokens);
  std::atomic<bool> running{false};
  std::thread first([&] {
    std::vector<std::uint8_t> other;
    const auto other_sink = make_memory_sink(other);
    Profiler(model, *other_sink, kLevelTokens).run(run_options(), [&](auto, auto) { running.store(true); });
  });
  while (!running.load())
    std::this_thread::yield();
  CHECK(kind_of([&] { second.run(run_options()); }) == ErrorKind::kBusy);
  first.join();
}

}  // namespace
}  // namespace melt
