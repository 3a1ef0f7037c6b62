// SPDX-License-Identifier: Apache-2.0
// Every buffer of ggml as an event, without a patch: the allocation functions in its device and buffer-type tables are
// replaced once per process (ggml-backend-impl.h, GGML_BACKEND_API_VERSION 2).
#pragma once

#include <cstddef>

#include "melt/memory.h"

namespace melt::llama_cpp {

/// Replaces the functions. `admit` may refuse a buffer of that many bytes before it is asked for. Call once.
void install_memory_hooks(bool (*admit)(std::size_t bytes));

/// What the calling thread is doing: with a buffer's usage, this tells what it is for.
enum class MemoryStage { kModel, kContext, kEvaluation };

/// While one lives on a thread, buffers allocated there are noted in `log`; when it ends, each has its category. Their
/// release is noted whenever it comes. Costs two thread-local stores where nothing is allocated.
class MemoryScope {
 public:
  /// `log` may be null; it must outlive the buffers.
  MemoryScope(AllocationLog* log, MemoryStage stage) noexcept;
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;
};

}  // namespace melt::llama_cpp
