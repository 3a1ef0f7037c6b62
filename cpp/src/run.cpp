// SPDX-License-Identifier: Apache-2.0
#include "melt/run.h"

#include <algorithm>

#include "counters/thread_events.h"
#include "json.h"
#include "marker.h"
#include "measured_loop.h"
#include "melt/environment.h"
#include "melt/error.h"
#include "memory_level.h"
#include "op_records.h"
#include "overhead.h"
#include "repetition.h"
#include "require.h"
#include "run_metadata.h"
#include "run_options.h"
#include "sampling.h"
#include "token_scores.h"

namespace melt {
namespace {

ThreadEventOptions event_options(const LoadedModel& model, std::uint32_t levels, const RecorderLimits& limits) {
  ThreadEventOptions options;
  options.counters = (levels & kLevelCounters) != 0;
  options.switches = limits.watch_switches && (levels & (kLevelOps | kLevelCounters)) != 0;
  options.is_real = model.clock().id() != ClockId::kSimulated;
  return options;
}

}  // namespace

class Profiler::Impl {
 public:
  Impl(LoadedModel& model, ByteSink& sink, std::uint32_t levels, const std::string& metadata, RecorderLimits limits,
       const SensorOptions& sensors)
      : model_(model),
        levels_((levels & kLevelCounters) != 0 ? levels | kLevelOps : levels),
        calibration_(model.calibration()),
        writer_(sink, make_header(model, calibration_)),
        record_writer_(writer_, calibration_),
        events_(model.options().n_threads, event_options(model, levels, limits)),
        recorder_(model.options().n_threads, limits) {
    require(levels_ != 0, "no level given: choose from " + level_list());
    if (wants_ops() && source() == nullptr) {
      throw Error(ErrorKind::kInvalidArgument,
                  "runtime " + model.runtime().name() + " cannot record level ops: use --levels tokens");
    }
    writer_.write_metadata(metadata);
    writer_.write_metadata(head_metadata(model, model.session().info(), levels_, limits));
    writer_.write(ChunkKind::kPhases, std::vector<PhaseRecord>{model.load_phase()});
    const bool wants_memory = (levels_ & kLevelMemory) != 0;
    if (wants_memory || !sensors.names.empty())
      sampling_ = std::make_unique<Sampling>(model, writer_, wants_memory, sensors);
    if (wants_memory)
      memory_ = std::make_unique<MemoryLevel>(model, writer_, *sampling_);
    if (sampling_)
      sampling_->write_metadata();
    if (wants_ops())
      recorder_.watch_with(&events_);
  }

  RunResult run(const RunOptions& asked, const OnRepetition& on_repetition);
  void sample_idle(double seconds);
  void mark();
  bool finish();
  std::uint32_t tokens_written() const noexcept { return n_tokens_; }

  void refuse() noexcept { refused_ = true; }
  /// Does what was asked for, and notes if that comes to nothing.
  template <typename Work>
  auto watched(const Work& work) {
    try {
      return work();
    } catch (...) {
      refuse();
      throw;
    }
  }

 private:
  bool wants_ops() const { return (levels_ & kLevelOps) != 0; }
  OpSource* source() { return model_.session().ops(); }
  bool cancelled() const {
    const std::atomic<bool>* flag = model_.options().cancel;
    return flag != nullptr && flag->load(std::memory_order_relaxed);
  }
  void repeat(const RunOptions& options, const OnRepetition& on_repetition, RunResult& result);
  /// Most steps that a repetition can have: the context may end it before max_tokens does.
  std::size_t steps_possible(const RunOptions& options, std::size_t n_prompt) {
    return std::min<std::size_t>(options.max_tokens, model_.session().info().n_ctx - n_prompt + 1);
  }
  void record_repetition(const RunOptions& options, std::size_t n_prompt, bool warmup, RunResult& result);
  void prepare_events();
  void write(const Repetition& rep);
  void measure_cost(const RunOptions& options, const std::vector<std::int32_t>& prompt);
  void write_idle(double seconds);
  void write_pulses();
  std::unique_lock<std::mutex> take_model();
  void keep() {
    writer_.flush();
    kept_ = true;
  }
  LoadedModel& model_;
  std::uint32_t levels_;
  ClockCalibration& calibration_;
  TraceWriter writer_;
  OpRecordWriter record_writer_;
  ThreadEvents events_;  // before the recorder, which follows it
  OpRecorder recorder_;
  std::uint64_t n_scaled_ = 0;
  bool counters_defined_ = false;
  std::unique_ptr<Sampling> sampling_;   // null without sensors and without level memory
  std::unique_ptr<MemoryLevel> memory_;  // null without that level
  std::uint32_t n_runs_ = 0;
  std::uint32_t n_tokens_ = 0;
  bool overhead_done_ = false;
  bool marked_ = false;               // for a meter, which reads while nothing runs too
  bool kept_ = false;                 // something was measured and written out
  std::atomic<bool> refused_{false};  // something was asked for that cannot be
  bool finished_ = false;
};

RunResult Profiler::Impl::run(const RunOptions& asked, const OnRepetition& on_repetition) {
  const std::unique_lock<std::mutex> use = take_model();
  const RunOptions options = resolved_options(asked, model_.session());
  RunResult result;
  result.prompt_ids = checked_prompt(options, model_.session());
  writer_.write_metadata(run_metadata(options));
  if (options.marker)
    write_pulses();
  write_idle(options.idle_s);
  repeat(options, on_repetition, result);
  if (!result.cancelled) {
    write_idle(options.idle_s);
    if (options.marker)
      write_pulses();
  }
  return result;
}

/// Warm-up and repetitions, and between them what recording costs.
void Profiler::Impl::repeat(const RunOptions& options, const OnRepetition& on_repetition, RunResult& result) {
  if (wants_ops())
    prepare_events();
  const std::uint32_t total = options.warmup + options.repeats;
  for (std::uint32_t i = 0; i < total && !result.cancelled; ++i) {
    if (i == options.warmup)
      measure_cost(options, result.prompt_ids);
    if (on_repetition)
      on_repetition(i, total);
    record_repetition(options, result.prompt_ids.size(), i < options.warmup, result);
    ++result.n_runs;
  }
  if (on_repetition && !result.cancelled)
    on_repetition(total, total);
  if (options.keep_logits && !result.cancelled && !result.output_ids.empty())
    writer_.write_metadata(score_tokens(model_, result.prompt_ids, result.output_ids));
  result.output_text = model_.session().text().decode(result.output_ids);
}

/// One repetition and its writing; what it measured before an error is written before the error goes on.
void Profiler::Impl::record_repetition(const RunOptions& options, std::size_t n_prompt, bool warmup,
                                       RunResult& result) {
  Repetition rep;
  rep.warmup = warmup;
  const std::size_t n_steps = steps_possible(options, n_prompt);
  rep.steps.reserve(n_steps + 1);
  if (wants_ops()) {
    const std::size_t hint = std::max(recorder_.max_groups_seen(), source()->groups_hint());
    const RunExtent extent = run_extent(model_.options(), model_.session().info(), n_prompt, n_steps);
    recorder_.begin_run(extent.n_graphs(), hint);
    source()->clear(extent.n_topologies());
  }
  try {
    const RecordingScope recording(wants_ops() ? source() : nullptr, recorder_);
    if (memory_)
      memory_->start_run();
    const SamplingScope sampling(sampling_.get());
    MeasuredLoop(model_, options, wants_ops() ? &recorder_ : nullptr).execute(rep);
  } catch (...) {
    rep.stop = StopReason::kError;
    write(rep);
    throw;
  }
  write(rep);
  result.cancelled = rep.stop == StopReason::kCancelled;
  if (!warmup && result.output_ids.empty()) {
    for (std::uint32_t i = 0; i < rep.n_output; ++i)
      result.output_ids.push_back(rep.steps[i].token_id);
  }
}

/// Opens what the kernel tells of the computing threads; the columns of the counters are known from then on.
void Profiler::Impl::prepare_events() {
  events_.prepare(*source(), recorder_);
  if (counters_defined_)
    return;
  counters_defined_ = true;
  writer_.write(ChunkKind::kCounters, events_.definitions());
  writer_.write_metadata(events_.metadata(n_scaled_));
}

void Profiler::Impl::write(const Repetition& rep) {
  calibration_.refine();
  const std::vector<TokenRecord> tokens = token_rows(rep, n_runs_, calibration_);
  writer_.write(ChunkKind::kPrompts, prompt_rows(rep, n_runs_));
  writer_.write(ChunkKind::kPhases, phase_rows(rep, n_runs_, calibration_));
  writer_.write(ChunkKind::kTokens, tokens);

  RunRecord run = run_row(rep, n_runs_, calibration_);
  run.n_threads = model_.options().n_threads;
  run.peak_rss_bytes = peak_rss_bytes();
  if (wants_ops()) {
    const OpRecordWriter::Counts counts = record_writer_.write_run(recorder_, source(), events_, n_tokens_, n_runs_);
    events_.count_run();
    n_scaled_ += counts.n_scaled;
    writer_.write_metadata(events_.metadata(n_scaled_));
    run.n_graphs = counts.n_graphs;
    run.n_groups = counts.n_groups;
    run.n_records = counts.n_records;
    run.n_dropped = counts.n_dropped;
  }
  writer_.write(ChunkKind::kRuns, std::vector<RunRecord>{run});
  if (sampling_)
    sampling_->write();
  if (memory_)
    memory_->write_run();
  n_tokens_ += static_cast<std::uint32_t>(tokens.size());
  ++n_runs_;
  keep();
}

void Profiler::Impl::measure_cost(const RunOptions& options, const std::vector<std::int32_t>& prompt) {
  if (!wants_ops() || overhead_done_ || cancelled())
    return;
  overhead_done_ = true;
  const OverheadResult result = measure_overhead(model_, recorder_, prompt, options);
  writer_.write(ChunkKind::kOverhead, result.pairs);
  writer_.write_metadata("{\"overhead_notes\": " + json_string(result.note) + "}");
}

void Profiler::Impl::sample_idle(double seconds) {
  check_idle(seconds);
  const std::unique_lock<std::mutex> use = take_model();
  write_idle(seconds);
}

void Profiler::Impl::mark() {
  const std::unique_lock<std::mutex> use = take_model();
  write_pulses();
}

/// Rests while the sensors are read. Nothing where nobody reads.
void Profiler::Impl::write_idle(double seconds) {
  if (seconds == 0 || (!marked_ && (!sampling_ || !sampling_->has_sensors())))
    return;
  const std::uint64_t begin = model_.clock().ticks();
  {
    const SamplingScope sampling(sampling_.get());
    rest(seconds, model_.options().cancel);
  }
  const std::uint64_t end = model_.clock().ticks();
  calibration_.refine();
  writer_.write(ChunkKind::kPhases, phase_rows(Phase::kIdle, {{begin, end}}, calibration_));
  if (sampling_)
    sampling_->write();
  keep();
}

void Profiler::Impl::write_pulses() {
  marked_ = true;
  const auto pulses = load_pulses(model_.clock(), model_.options().n_threads, model_.options().cancel);
  calibration_.refine();
  writer_.write(ChunkKind::kPhases, phase_rows(Phase::kMarker, pulses, calibration_));
  keep();
}

/// Locks the model, which nobody can close or run meanwhile. Raises: Error(kInvalidArgument), Error(kBusy).
std::unique_lock<std::mutex> Profiler::Impl::take_model() {
  std::unique_lock<std::mutex> use(model_.in_use(), std::try_to_lock);
  if (!use.owns_lock())
    throw Error(ErrorKind::kBusy, "this model is already running in another thread: wait for it, or load it twice");
  require(!finished_, "this trace is finished: start a new profile");
  require(model_.loaded(), "the model has been closed: load it again");
  return use;
}

/// Waits for a run in another thread, which writes into the same trace.
bool Profiler::Impl::finish() {
  const std::lock_guard<std::mutex> use(model_.in_use());
  if (refused_ && !kept_)
    finished_ = true;  // nothing that would be worth an older trace
  if (finished_)
    return kept_;
  finished_ = kept_ = true;
  calibration_.refine();
  if (!model_.loaded())
    writer_.write(ChunkKind::kPhases, std::vector<PhaseRecord>{model_.unload_phase()});
  if (memory_)
    memory_->write_allocations();
  writer_.write_metadata(tail_metadata(calibration_));
  writer_.finish();
  return true;
}

Profiler::Profiler(LoadedModel& model, ByteSink& sink, std::uint32_t levels, const std::string& metadata_json,
                   RecorderLimits limits, const SensorOptions& sensors)
    : impl_(std::make_unique<Impl>(model, sink, levels, metadata_json, limits, sensors)) {}

Profiler::~Profiler() = default;

RunResult Profiler::run(const RunOptions& options, const OnRepetition& on_repetition) {
  return impl_->watched([&] { return impl_->run(options, on_repetition); });
}

void Profiler::sample_idle(double seconds) {
  impl_->watched([&] { impl_->sample_idle(seconds); });
}

void Profiler::mark() {
  impl_->watched([&] { impl_->mark(); });
}

std::uint32_t Profiler::tokens_written() const noexcept {
  return impl_->tokens_written();
}

void Profiler::refuse() noexcept {
  impl_->refuse();
}

bool Profiler::finish() {
  return impl_->finish();
}

}  // namespace melt
