// SPDX-License-Identifier: Apache-2.0
// What buffers a runtime holds: an adapter notes each as it comes and goes, the procedure writes them for level memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "melt/trace_format.h"

namespace melt {

/// Addresses from `begin` to before `end`.
struct PageRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// Which pages of the process's own memory, which no file backs, were in RAM.
struct AnonymousPages {
  std::vector<PageRange> pages;  ///< in order, none touching the next
  PageRange brk;                 ///< the mapping that only malloc uses, in RAM or not; empty where there is none
  std::string missing;           ///< why they are not known; empty if they are
};

/// What the process held at one time. NaN where the system does not say.
struct MemoryBaseline {
  double rss_bytes = std::numeric_limits<double>::quiet_NaN();
  double rss_file_bytes = rss_bytes;
  double rss_anon_bytes = rss_bytes;
  double heap_bytes = rss_bytes;  ///< what malloc has from the system
};
MemoryBaseline read_memory_baseline() noexcept;

/// What the process held before a model was loaded.
struct MemoryBefore {
  MemoryBaseline totals;
  AnonymousPages pages;
};
/// Takes about a millisecond for each 100 MB that the process holds.
MemoryBefore read_memory_before();

struct BufferInfo {
  std::uint64_t bytes = 0;        ///< as the runtime counts them
  const void* address = nullptr;  ///< in this process; null where the memory is elsewhere
  bool mapped = false;            ///< pages of the model file, not memory of its own
  MemoryCategory category = MemoryCategory::kOther;
  std::string backend;
  std::string type;
};

struct AllocationEvent {
  std::uint64_t ticks;
  std::uint32_t buffer_id;
  MemoryEvent event;
};

/// The buffers of one session. Written by the thread that loads, evaluates or unloads; read between those. Room for
/// all events is reserved at the start: noting one in a run neither allocates nor locks.
class AllocationLog {
 public:
  explicit AllocationLog(std::size_t max_buffers = 2048);

  /// Returns the new buffer's id: its place in buffers(). kNone if the log is full; that is counted.
  std::uint32_t allocated(BufferInfo buffer, std::uint64_t ticks) noexcept;
  /// What it is for is known only after it has been allocated.
  void set_category(std::uint32_t buffer_id, MemoryCategory category) noexcept;
  void released(std::uint32_t buffer_id, std::uint64_t ticks) noexcept;

  const std::vector<BufferInfo>& buffers() const noexcept { return buffers_; }
  const std::vector<AllocationEvent>& events() const noexcept { return events_; }
  bool is_live(std::uint32_t buffer_id) const noexcept { return live_[buffer_id]; }
  std::uint64_t n_lost() const noexcept { return n_lost_; }

 private:
  std::vector<BufferInfo> buffers_;
  std::vector<AllocationEvent> events_;
  std::vector<char> live_;
  std::uint64_t n_lost_ = 0;
};

}  // namespace melt
