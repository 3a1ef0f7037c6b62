// SPDX-License-Identifier: Apache-2.0
// A ggml graph whose ops take as long as they are told to, on each thread of llama.cpp's own pool, and note by the
// steady clock, which the recorder does not read, when they began and ended.
#pragma once

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
    ops_.resize(n_nodes);
    ggml_tensor* last = ggml_new_tensor_1d(context_.get(), GGML_TYPE_F32, 1);
    for (unsigned node = 0; node < n_nodes; ++node) {
      ops_[node].clock = clock_.get();
      ops_[node].times.resize(n_threads);
      for (unsigned thread = 0; thread < n_threads; ++thread)
        ops_[node].durations_ns.push_back(duration_ns(node, thread));
      last = ggml_map_custom1(context_.get(), last, spin, GGML_N_TASKS_MAX, &ops_[node]);
    }
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
    {
      const melt::RecordingScope recording(&hooks, recorder);
      ggml_graph_compute(graph_, &plan);
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

  const Times& times(unsigned node, unsigned thread) const { return ops_[node].times[thread]; }

  /// When the last thread had ended a node.
  std::int64_t ended_ns(unsigned node) const {
    std::int64_t latest = 0;
    for (const Times& each : ops_[node].times)
      latest = std::max(latest, each.ended_ns);
    return latest;
  }

 private:
  struct Op {
    const melt::Clock* clock;
    std::vector<std::int64_t> durations_ns;
    std::vector<Times> times;
  };

  static void spin(ggml_tensor*, const ggml_tensor*, int thread, int, void* data) {
    Op& op = *static_cast<Op*>(data);
    Times& times = op.times[static_cast<unsigned>(thread)];
    times.begun_ns = op.clock->steady_ns();
    const std::int64_t until = times.begun_ns + op.durations_ns[static_cast<unsigned>(thread)];
    while ((times.ended_ns = op.clock->steady_ns()) < until) {
    }
  }

  unsigned n_threads_;
  std::unique_ptr<melt::Clock> clock_;
  melt::ClockCalibration calibration_;
  std::unique_ptr<ggml_context, decltype(&ggml_free)> context_{nullptr, ggml_free};
  ggml_cgraph* graph_;
  std::vector<Op> ops_;
  std::unique_ptr<ggml_threadpool, decltype(&ggml_threadpool_free)> pool_{nullptr, ggml_threadpool_free};
};

}  // namespace melt_test
