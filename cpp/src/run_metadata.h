// SPDX-License-Identifier: Apache-2.0
// What the measured procedure writes of itself into every trace: its header, and metadata as JSON objects.
#pragma once

#include <string>

#include "melt/run.h"

namespace melt {

/// With a random name for the trace.
FileHeader make_header(const LoadedModel& model, const ClockCalibration& calibration);
/// When the trace begins: model, runtime, build, device, and how the session was set up.
std::string head_metadata(const LoadedModel& model, const ModelInfo& info, std::uint32_t levels, RecorderLimits limits);
/// At each run: what was asked for.
std::string run_metadata(const RunOptions& options);
/// When the trace ends: how well the clocks agreed.
std::string tail_metadata(const ClockCalibration& calibration);

}  // namespace melt
