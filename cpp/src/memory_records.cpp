// SPDX-License-Identifier: Apache-2.0
#include "memory_records.h"

#include "melt/recorder.h"

namespace melt {

std::vector<AllocationRecord> allocation_rows(const AllocationLog& log, std::size_t first,
                                              const ClockCalibration& calibration) {
  std::vector<AllocationRecord> rows;
  for (std::size_t i = first; i < log.events().size(); ++i) {
    const AllocationEvent& event = log.events()[i];
    const BufferInfo& buffer = log.buffers()[event.buffer_id];
    AllocationRecord row{};
    row.time_ns = calibration.to_ns(event.ticks);
    row.bytes = buffer.bytes;
    row.buffer_id = event.buffer_id;
    row.category = static_cast<std::uint16_t>(buffer.category);
    row.event = static_cast<std::uint16_t>(event.event);
    set_text(row.backend, buffer.backend);
    set_text(row.buffer, buffer.type);
    rows.push_back(row);
  }
  return rows;
}

}  // namespace melt
