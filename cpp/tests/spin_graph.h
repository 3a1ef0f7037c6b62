// SPDX-License-Identifier: Apache-2.0
// A ggml graph whose ops take as long as they are told to, on each thread of llama.cpp's own pool, and note by the
// steady clock, which the recorder does not read, when they began and ended.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "counters/thread_events.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "melt/clock.h"
#include "melt/trace_reader.h"
#include "melt/trace_writer.h"
#include "op_records.h"
#include "runtimes/llama_cpp/op_hooks.h"

namespace melt_test {

class SpinGraph {
 public:
  struct Times {
    std::int64_t begun_ns, ended_ns;
  };

  /// `duration_ns(node, thread)`: how long that op shall take there.
  SpinGraph(unsigned n_threads, unsigned n_nodes, const std::function<std::int64_t(unsigned, unsigned)>& duration_ns)
      : n_threads_(n_threads), clock_(melt::make_host_clock()), calibration_(*clock_) {
    const std::size_t bytes = (n_nodes + 1) * (ggml_tensor_overhead() + 2 * GGML_MEM_ALIGN + sizeof(float)) +
                              ggml_graph_overhead_custom(n_nodes + 1, false);
    context_.reset(ggml_init({bytes, nullptr, false}));
    graph_ = ggml_new_graph_custom(context_.get(), n_nodes + 1, false);
    for (unsigned node = 0; node < n_nodes; ++node)
      ops_.push_back({this, node});
    for (unsigned thread = 0; thread < n_threads; ++thread) {
      times_.emplace_back(n_nodes);
      durations_ns_.emplace_back();
      for (unsigned node = 0; node < n_nodes; ++node)
        durations_ns_[thread].push_back(duration_ns(node, thread));
    }
    stamped_ns_.reserve(n_nodes);
    ggml_tensor* last = ggml_new_tensor_1d(context_.get(), GGML_TYPE_F32, 1);
    for (Op& op : ops_)
      last = ggml_map_custom1(context_.get(), last, spin, GGML_N_TASKS_MAX, &op);
    ggml_build_forward_expand(graph_, last);
    graph_->uid = 1;  // as ggml's scheduler numbers graphs: the same one again
    ggml_threadpool_params params = ggml_threadpool_params_default(static_cast<int>(n_threads));
    pool_.reset(ggml_threadpool_new(&params));
  }

  struct Recorded {
    melt::GraphRecord graph;
    std::vector<melt::OpRecord> ops;  ///< those of node n at n * n_threads, thread after thread
  };

  /// Computes the graph twice, recorded, and returns what the second time gave.
  Recorded record(melt::RecorderLimits limits = {}) {
    melt::llama_cpp::OpHooks hooks(ops_.size(), pool_.get(), n_threads_);
    melt::OpRecorder recorder(n_threads_, limits);
    recorder.begin_run(2, ops_.size());
    hooks.clear(1);
    ggml_cplan plan = ggml_graph_plan(graph_, static_cast<int>(n_threads_), pool_.get());
    plan.abort_callback = note_stamped;
    plan.abort_callback_data = this;
    {
      const melt::RecordingScope recording(&hooks, recorder);
      ggml_graph_compute(graph_, &plan);
      stamped_ns_.clear();
      ggml_graph_compute(graph_, &plan);
    }
    calibration_.refine();
    std::vector<std::uint8_t> bytes;
    const auto sink = melt::make_memory_sink(bytes);
    melt::TraceWriter writer(*sink, melt::FileHeader{});
    const melt::ThreadEvents events(n_threads_, {false, false, false});
    melt::OpRecordWriter(writer, calibration_).write_run(recorder, &hooks, events, 0, 0);
    writer.finish();
    const melt::TraceContents trace = melt::read_trace(bytes.data(), bytes.size());
    Recorded second{melt::records_of<melt::GraphRecord>(trace, melt::ChunkKind::kGraphs).back(),
                    melt::records_of<melt::OpRecord>(trace, melt::ChunkKind::kOps)};
    second.ops.erase(second.ops.begin(), second.ops.begin() + static_cast<std::ptrdiff_t>(second.ops.size() / 2));
    return second;
  }

  const Times& times(unsigned node, unsigned thread) const { return times_[thread][node]; }

  /// The thread that was the last to end a node.
  unsigned last_thread(unsigned node) const {
    unsigned last = 0;
    for (unsigned thread = 1; thread < n_threads_; ++thread)
      last = times(node, thread).ended_ns > times(node, last).ended_ns ? thread : last;
    return last;
  }
  std::int64_t ended_ns(unsigned node) const { return times(node, last_thread(node)).ended_ns; }

  /// A time by which all threads had stamped a node that is not the last: none leaves a barrier before that, and behind
  /// its own stamp thread 0 asks whether to abort.
  std::int64_t stamped_ns(unsigned node) const {
    if (n_threads_ == 1)
      return stamped_ns_[node];
    std::int64_t earliest = INT64_MAX;
    for (unsigned thread = 0; thread < n_threads_; ++thread)
      earliest = std::min(earliest, times(node + 1, thread).begun_ns);
    return earliest;
  }

 private:
  struct Op {
    SpinGraph* graph;
    unsigned node;
  };

  static void spin(ggml_tensor*, const ggml_tensor*, int thread, int, void* data) {
    const Op& op = *static_cast<const Op*>(data);
    const melt::Clock& clock = *op.graph->clock_;
    Times times{clock.steady_ns(), 0};
    const std::int64_t until = times.begun_ns + op.graph->durations_ns_[static_cast<unsigned>(thread)][op.node];
    while ((times.ended_ns = clock.steady_ns()) < until) {
    }
    op.graph->times_[static_cast<unsigned>(thread)][op.node] = times;
  }

  static bool note_stamped(void* data) {
    auto& graph = *static_cast<SpinGraph*>(data);
    graph.stamped_ns_.push_back(graph.clock_->steady_ns());
    return false;
  }

  unsigned n_threads_;
  std::unique_ptr<melt::Clock> clock_;
  melt::ClockCalibration calibration_;
  std::unique_ptr<ggml_context, decltype(&ggml_free)> context_{nullptr, ggml_free};
  ggml_cgraph* graph_;
  std::vector<Op> ops_;
  // Of each thread and node: threads that end together do not wait for one another's cache lines.
  std::vector<std::vector<Times>> times_;
  std::vector<std::vector<std::int64_t>> durations_ns_;
  std::vector<std::int64_t> stamped_ns_;  // of each node: when thread 0 asked whether to abort
  std::unique_ptr<ggml_threadpool, decltype(&ggml_threadpool_free)> pool_{nullptr, ggml_threadpool_free};
};

}  // namespace melt_test
