// SPDX-License-Identifier: Apache-2.0
// The process that measures: executes one request by the core's procedure and says how it went.
#pragma once

#include <functional>
#include <string>

#include "melt/request.h"
#include "run_status.h"
#include "runs.h"
#include "work_dir.h"

namespace melt::agent {

/// Executes `request` (its model a path to be opened), with the trace at runs/RUN/trace.melt, and keeps the status
/// file up to date between repetitions. SIGINT and SIGTERM end it between two ops.
/// Calls `on_started` when the first status is written and a signal would be heard.
/// In an app (Hosting::kThreads) no signal is taken over, and cancel_measuring ends it.
/// Returns the outcome as members for the status: state, and error or outputs. Never throws.
std::string measure(const WorkDir& work, const ProfileRequest& request, RunStatus status,
                    const std::function<void()>& on_started, Hosting hosting = Hosting::kProcesses) noexcept;

/// Ends the run of this process between two ops; `yes` false: forgets that one was to be ended.
void cancel_measuring(bool yes) noexcept;

}  // namespace melt::agent
