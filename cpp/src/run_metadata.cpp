// SPDX-License-Identifier: Apache-2.0
#include "run_metadata.h"

#include <random>

#include "json.h"
#include "melt/environment.h"
#include "text_list.h"

namespace melt {
namespace {

std::string model_json(const ModelOptions& options, const ModelInfo& info) {
  return JsonObject()
      .add("name", info.name)
      .add("path", options.path)
      .add("architecture", info.architecture)
      .add("quantization", info.quantization)
      .add("n_params", info.n_params)
      .add("size_bytes", info.size_bytes)
      .add("n_layer", info.n_layer)
      .add("n_vocab", info.n_vocab)
      .add("n_ctx_train", info.n_ctx_train)
      .str();
}

std::string levels_json(std::uint32_t levels) {
  std::string names;
  for (const LevelName& each : kLevelNames) {
    if ((levels & each.level) != 0)
      append_item(names, json_string(each.name));
  }
  return "[" + names + "]";
}

}  // namespace

FileHeader make_header(const LoadedModel& model, const ClockCalibration& calibration) {
  FileHeader header{};
  header.clock_id = static_cast<std::uint32_t>(model.clock().id());
  header.counter_hz = calibration.counter_hz();
  header.start_wall_ns = model.start_wall_ns();
  std::random_device random;
  for (std::uint8_t& byte : header.trace_id)
    byte = static_cast<std::uint8_t>(random());
  return header;
}

std::string head_metadata(const LoadedModel& model, const ModelInfo& info, std::uint32_t levels,
                          RecorderLimits limits) {
  const ModelOptions& options = model.options();
  JsonObject runtime;
  runtime.add("name", model.runtime().name());
  for (const auto& [key, value] : model.runtime().details())
    runtime.add(key.c_str(), value);
  JsonObject session;
  session.add("n_ctx", info.n_ctx)
      .add("n_batch", info.n_batch)
      .add("n_ubatch", options.n_ubatch)
      .add("n_threads", options.n_threads)
      .add("use_mmap", options.use_mmap)
      .add("repack", options.repack)
      .add("kv_type", options.kv_type)
      .add("page_cache_ratio_before_load", model.page_cache_ratio())
      .add_raw("levels", levels_json(levels))
      .add("log_bytes", static_cast<std::uint64_t>(limits.log_bytes));
  JsonObject head;
  head.add_raw("model", model_json(options, info))
      .add_raw("runtime", runtime.str())
      .add_raw("device", device_json())
      .add_raw("build", build_json())
      .add_raw("config", session.str());
  const bool raw_counter = model.clock().id() == ClockId::kTsc || model.clock().id() == ClockId::kCntvct;
  if (raw_counter && !counter_is_invariant()) {
    head.add_raw("warnings", "[\"the cycle counter of this CPU is not invariant: durations may be wrong\"]");
  }
  return head.str();
}

std::string run_metadata(const RunOptions& options) {
  JsonObject request;
  if (options.prompt_ids.empty()) {
    request.add("prompt", options.prompt);
  } else {
    request.add("n_prompt_ids", static_cast<std::uint64_t>(options.prompt_ids.size()));
  }
  if (!options.forced_ids.empty())
    request.add("n_forced_ids", static_cast<std::uint64_t>(options.forced_ids.size()));
  request.add("max_tokens", options.max_tokens)
      .add("ignore_eos", options.ignore_eos)
      .add("repeats", options.repeats)
      .add("warmup", options.warmup)
      .add("temperature", static_cast<double>(options.sampler.temperature))
      .add("top_k", options.sampler.top_k)
      .add("top_p", static_cast<double>(options.sampler.top_p))
      .add("seed", options.sampler.seed)
      .add("overhead_budget_s", options.overhead_budget_s);
  return JsonObject().add_raw("request", request.str()).str();
}

std::string tail_metadata(const ClockCalibration& calibration) {
  JsonObject clock;
  clock.add("counter_hz", calibration.counter_hz()).add("drift_ppm", calibration.drift_ppm());
  return JsonObject().add_raw("clock", clock.str()).str();
}

}  // namespace melt
