// SPDX-License-Identifier: Apache-2.0
// A profile as data: what a host asks an agent for, and an app the C API. The fields and their defaults are those of
// melt_core.profiling.ProfileRequest.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "melt/run.h"

namespace melt {

struct ProfileRequest {
  std::string runtime = "llama.cpp";
  ModelOptions model;
  RunOptions run;
  std::uint32_t levels = kLevelTokens | kLevelOps;
  RecorderLimits limits;
  SensorOptions sensors;
  std::string metadata_json = "{}";  ///< an object of the asker's own, for the trace
};

/// Reads a request, a JSON object. A null stands for the default. `output` is not looked at: the trace's place is the
/// reader's to choose.
/// Raises: Error(kInvalidArgument) that names the field: unknown, of a wrong type, or out of range.
ProfileRequest parse_request(const std::string& json);

/// What the caller of profile_to_file adds to a run.
struct ProfileHooks {
  std::string metadata_json = "{}";  ///< an object, merged over the request's own
  /// Called between repetitions.
  std::function<void(std::uint32_t done, std::uint32_t total, const Profiler&)> on_repetition;
  Flush flush = Flush::kToSystem;  ///< after each repetition and at the end
  bool unload = true;              ///< unload the model before the trace ends, so that the unload is in it
};

/// Measures the request's run with a model loaded from its `runtime` and `model`, and completes the trace. What was
/// measured before an error is in the trace.
/// Raises: what Profiler::run raises; Error(kIo).
RunResult profile_to_file(LoadedModel& model, const ProfileRequest& request, const std::string& trace_path,
                          const ProfileHooks& hooks);

}  // namespace melt
