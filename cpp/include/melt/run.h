// SPDX-License-Identifier: Apache-2.0
// The one measured procedure: load -> warm up -> prefill -> decode -> unload. Python in process and the device's
// agent both call this; nobody writes it again.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "melt/error.h"
#include "melt/recorder.h"
#include "melt/runtime.h"
#include "melt/sensor.h"
#include "melt/trace_writer.h"

namespace melt {

constexpr std::uint32_t kLevelTokens = 1 << 0;
constexpr std::uint32_t kLevelOps = 1 << 1;
constexpr std::uint32_t kLevelMemory = 1 << 2;
constexpr std::uint32_t kLevelCounters = 1 << 3;  // includes ops

struct LevelName {
  const char* name;
  std::uint32_t level;
};
constexpr LevelName kLevelNames[] = {
    {"tokens", kLevelTokens}, {"ops", kLevelOps}, {"memory", kLevelMemory}, {"counters", kLevelCounters}};

constexpr double kMaxIdleS = 600.0;  // as long as there is room for samples

/// A session, its clock, and when it was loaded. Trace time 0 is the start of the load.
class LoadedModel {
 public:
  /// Checks the options and loads. Raises what Runtime::load raises.
  LoadedModel(const std::string& runtime_name, ModelOptions options);
  ~LoadedModel();

  Session& session() noexcept { return *session_; }
  const Runtime& runtime() const noexcept { return *runtime_; }
  const ModelOptions& options() const noexcept { return options_; }
  const Clock& clock() const noexcept { return *clock_; }
  ClockCalibration& calibration() noexcept { return *calibration_; }
  std::int64_t start_wall_ns() const noexcept { return start_wall_ns_; }
  PhaseRecord load_phase() const noexcept { return load_phase_; }
  /// Frees the session; the model cannot run afterwards. Waits for a run under way. Calling it twice is harmless.
  void unload();
  /// Call with in_use() held.
  bool loaded() const noexcept { return session_ != nullptr; }
  /// Returns `work(session)`, for what may happen beside a run, such as text; nobody unloads the model meanwhile.
  /// Raises: Error(kInvalidArgument) after unload().
  template <typename Work>
  auto use(const Work& work) {
    const std::shared_lock<std::shared_mutex> stays(unloading_);
    if (session_ == nullptr)
      throw Error(ErrorKind::kInvalidArgument, "this model has been closed: load it again");
    return work(*session_);
  }
  /// When and how long; duration 0 while still loaded.
  PhaseRecord unload_phase() const noexcept { return unload_phase_; }
  /// Share of the model file that was in the page cache before the load; NaN if it is no file.
  double page_cache_ratio() const noexcept { return page_cache_ratio_; }
  /// Every buffer of the runtime since the load; releases are in it once the model is unloaded.
  const AllocationLog& allocations() const noexcept { return allocations_; }
  /// What the process held before the load.
  const MemoryBefore& memory_before_load() const noexcept { return memory_before_load_; }
  /// Held while a run is under way.
  std::mutex& in_use() noexcept { return in_use_; }

 private:
  ModelOptions options_;
  AllocationLog allocations_;  // before the session, which writes to it to its end
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Clock> clock_;
  std::unique_ptr<ClockCalibration> calibration_;
  std::int64_t start_wall_ns_ = 0;
  double page_cache_ratio_ = 0.0;
  MemoryBefore memory_before_load_{};
  std::unique_ptr<Session> session_;
  PhaseRecord load_phase_{};
  PhaseRecord unload_phase_{};
  std::mutex in_use_;
  std::shared_mutex unloading_;  // taken behind in_use_
};

struct RunOptions {
  std::string prompt;                    ///< text, tokenised in each repetition; used if there are no ids
  bool parse_special = true;             ///< whether `prompt` may contain special tokens such as <|im_start|>
  bool chat = false;                     ///< `prompt` is a user's message: put into the model's chat format first
  std::vector<std::int32_t> prompt_ids;  ///< token ids, replayed as they are
  /// So many random ids as the prompt, drawn from the sampler's seed; implies ignore_eos.
  std::optional<std::uint32_t> prompt_tokens;
  std::uint32_t max_tokens = 128;  ///< output tokens per repetition, at least 1
  /// The output, replayed as it is: what is sampled is thrown away. Empty: what the model gives.
  std::vector<std::int32_t> forced_ids;
  bool keep_logits = false;  ///< evaluate prompt and output once more, and keep what comparing logits needs
  bool ignore_eos = false;   ///< go on after end-of-text, so that every repetition has max_tokens
  std::uint32_t repeats = 1;
  std::uint32_t warmup = 1;  ///< repetitions before those; kept in the trace and marked
  SamplerOptions sampler;
  /// Time for measuring this instrument's own cost, for each of prefill and decode; up to five times as long where
  /// five pairs of steps need it. 0: not measured, and said so.
  double overhead_budget_s = 1.0;
  double idle_s = 0;    ///< so long the sensors are read before the repetitions and after them: see sample_idle()
  bool marker = false;  ///< pulses of load before all that and after it: see mark()
};

struct RunResult {
  std::vector<std::int32_t> prompt_ids;
  std::vector<std::int32_t> output_ids;  ///< of the first measured repetition
  std::string output_text;
  std::uint32_t n_runs = 0;  ///< repetitions in the trace, warm-up included
  bool cancelled = false;
};

/// Called between repetitions with how many there have been, and of how many.
using OnRepetition = std::function<void(std::uint32_t done, std::uint32_t total)>;

/// Measures runs of one model into one trace.
class Profiler {
 public:
  /// Writes the trace's head. `metadata_json`: an object of the caller's own, merged into the metadata.
  /// Raises: Error(kInvalidArgument) for a level that the runtime lacks, or a sensor that cannot be read; Error(kIo).
  Profiler(LoadedModel& model, ByteSink& sink, std::uint32_t levels, const std::string& metadata_json = "{}",
           RecorderLimits limits = {}, const SensorOptions& sensors = {});
  ~Profiler();

  /// Marks and idles if asked to, runs warm-up and repetitions, and idles and marks again. Each repetition is written
  /// when it is over; what was measured before an error or a cancel is in the trace.
  /// Raises: Error(kInvalidArgument), or Error(kModel) without a chat format, before anything runs; Error(kBusy); what
  /// Session::evaluate raises; Error(kIo).
  RunResult run(const RunOptions& options, const OnRepetition& on_repetition = {});

  /// Reads the sensors for so long while nothing runs: what the device draws at idle, with the model loaded. In
  /// the trace it is a phase of its own. Ends early on a cancel. Does nothing where neither a sensor nor, as mark()
  /// says, a meter reads. Raises: Error(kInvalidArgument), Error(kBusy), Error(kIo).
  void sample_idle(double seconds);

  /// Computes on all threads in three short pulses, for an external power meter: each is a phase `marker` of the trace,
  /// and the meter's recording is aligned by them. Takes some 5 s. Ends early on a cancel.
  /// Raises: Error(kInvalidArgument), Error(kBusy), Error(kIo).
  void mark();

  /// Tokens in the trace so far, of all repetitions. Call from on_repetition or between runs.
  std::uint32_t tokens_written() const noexcept;

  /// Notes that the caller refused something itself: see finish().
  void refuse() noexcept;

  /// Closes the trace, with the unload phase if the model has been unloaded by now. Waits for a run under way. Calling
  /// it twice is harmless. False: what was asked for failed before anything was measured, so nothing is written and the
  /// file is what it was.
  bool finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace melt
