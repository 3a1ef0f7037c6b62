// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "melt/memory.h"

namespace melt {

AllocationLog::AllocationLog(std::size_t max_buffers) {
  buffers_.reserve(max_buffers);
  live_.reserve(max_buffers);
  events_.reserve(2 * max_buffers);  // each comes and goes
}

std::uint32_t AllocationLog::allocated(BufferInfo buffer, std::uint64_t ticks) noexcept {
  if (buffers_.size() == buffers_.capacity()) {
    ++n_lost_;
    return kNone;
  }
  const auto id = static_cast<std::uint32_t>(buffers_.size());
  events_.push_back({ticks, id, buffer.mapped ? MemoryEvent::kMapped : MemoryEvent::kAllocated});
  live_.push_back(1);
  buffers_.push_back(std::move(buffer));
  return id;
}

void AllocationLog::set_category(std::uint32_t buffer_id, MemoryCategory category) noexcept {
  if (buffer_id < buffers_.size())
    buffers_[buffer_id].category = category;
}

void AllocationLog::released(std::uint32_t buffer_id, std::uint64_t ticks) noexcept {
  if (buffer_id >= buffers_.size() || !live_[buffer_id])
    return;
  live_[buffer_id] = 0;
  events_.push_back({ticks, buffer_id, buffers_[buffer_id].mapped ? MemoryEvent::kUnmapped : MemoryEvent::kReleased});
}

}  // namespace melt
