// SPDX-License-Identifier: Apache-2.0
#include "upstream.h"

#include <cstdint>
#include <cstdio>
#include <mutex>

#include "ggml-cpu.h"
#include "melt/cpu_features.h"
#include "melt/environment.h"
#include "memory_hooks.h"

namespace melt::llama_cpp {
namespace {

struct SetupState {
  int depth = 0;
  std::string errors;  // what llama.cpp logged
  std::string warnings;
  std::string refused;  // why the last buffer was refused
};
thread_local SetupState setup;

void on_log(ggml_log_level level, const char* text, void*) {
  if (setup.depth == 0)
    return;
  static thread_local ggml_log_level last = GGML_LOG_LEVEL_INFO;
  if (level != GGML_LOG_LEVEL_CONT)
    last = level;
  if (last != GGML_LOG_LEVEL_ERROR && last != GGML_LOG_LEVEL_WARN)
    return;
  std::string& kept = last == GGML_LOG_LEVEL_ERROR ? setup.errors : setup.warnings;
  if (kept.size() < 4096)
    kept += text;
}

void on_abort(const char* message) {
  if (setup.depth > 0)
    throw Error(ErrorKind::kModel, std::string("llama.cpp gave up: ") + message);
  std::fprintf(stderr, "melt: llama.cpp aborted: %s\n", message);  // ggml_abort ends the process next
}

bool admit_buffer(std::size_t size) {
  const std::uint64_t available = device_memory().available_bytes;
  if (size <= available)
    return true;
  setup.refused = "a buffer of " + std::to_string(size >> 20) + " MiB is needed, " + std::to_string(available >> 20) +
                  " MiB of memory are available";
  return false;
}

/// A build for another CPU would end with SIGILL in the middle of a graph: say so before.
void check_cpu() {
  const std::string missing = missing_cpu_features_message();
  if (!missing.empty())
    throw Error(ErrorKind::kRuntime, missing);
}

}  // namespace

void initialise() {
  static std::once_flag once;
  std::call_once(once, [] {
    check_cpu();
    llama_log_set(on_log, nullptr);
    ggml_set_abort_callback(on_abort);
    llama_backend_init();
    install_memory_hooks(admit_buffer);
  });
}

void Deleter::operator()(ggml_threadpool* pool) const {
  ggml_threadpool_free(pool);
}

SetupGuard::SetupGuard() {
  if (setup.depth++ == 0) {
    setup.errors.clear();
    setup.warnings.clear();
    setup.refused.clear();
  }
}

SetupGuard::~SetupGuard() {
  --setup.depth;
}

Error SetupGuard::failure(ErrorKind kind, const std::string& what) const {
  if (!setup.refused.empty())
    return Error(ErrorKind::kOutOfMemory, what + ": " + setup.refused);
  return reworded(kind, what, setup.errors.empty() ? setup.warnings : setup.errors);
}

Error reworded(ErrorKind kind, const std::string& what, std::string reason) {
  // As upstream words it: of C++, llama.cpp (buffers of weights), and ggml with llama.cpp (contexts).
  for (const char* words : {"bad_alloc", "unable to allocate", "failed to allocate"}) {
    if (reason.find(words) != std::string::npos)
      return Error(ErrorKind::kOutOfMemory, what + ": memory ran out");
  }
  for (char& c : reason) {
    if (c == '\n')
      c = ' ';
  }
  while (!reason.empty() && reason.back() == ' ')
    reason.pop_back();
  return Error(kind, what + (reason.empty() ? "" : ": " + reason));
}

}  // namespace melt::llama_cpp
