// SPDX-License-Identifier: Apache-2.0
// How what the level memory collected becomes rows of the trace.
#pragma once

#include <cstddef>
#include <vector>

#include "melt/clock.h"
#include "melt/memory.h"
#include "melt/trace_format.h"

namespace melt {

/// The events of the log from number `first` on.
std::vector<AllocationRecord> allocation_rows(const AllocationLog& log, std::size_t first,
                                              const ClockCalibration& calibration);

}  // namespace melt
