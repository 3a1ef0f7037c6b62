// SPDX-License-Identifier: Apache-2.0
// What llama.cpp has once per process: its log, its abort callback, its allocator. Turned into errors in our words.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "llama.h"
#include "melt/error.h"

namespace melt::llama_cpp {

/// Initialises ggml's backends, takes over its log and its abort callback. Any number of times.
void initialise();

struct Deleter {
  void operator()(llama_model* model) const { llama_model_free(model); }
  void operator()(llama_context* context) const { llama_free(context); }
  void operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }
  void operator()(ggml_threadpool* pool) const;
};
template <typename T>
using Owned = std::unique_ptr<T, Deleter>;

/// While one lives on a thread, what llama.cpp logs there is kept, ggml_abort() throws Error(kModel) instead of ending
/// the process, and buffers beyond the memory at hand are refused. For loading and setting up only: during a graph the
/// other threads would wait for ever in their barrier.
class SetupGuard {
 public:
  SetupGuard();
  ~SetupGuard();
  SetupGuard(const SetupGuard&) = delete;
  SetupGuard& operator=(const SetupGuard&) = delete;

  /// An error that says `what` and why, from the log and the refused buffers.
  Error failure(ErrorKind kind, const std::string& what) const;
};

/// An error that says `what` and llama.cpp's own `reason`; of kind kOutOfMemory if that is the reason.
Error reworded(ErrorKind kind, const std::string& what, std::string reason);

}  // namespace melt::llama_cpp
