// SPDX-License-Identifier: Apache-2.0
#include "upstream.h"

#include <cstdint>
#include <cstdio>
#include <map>
#include <mutex>
#include <vector>

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "melt/environment.h"

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

using AllocBuffer = ggml_backend_buffer_t (*)(ggml_backend_buffer_type_t, std::size_t);
std::map<ggml_backend_buffer_type_t, AllocBuffer>& original_alloc() {
  static std::map<ggml_backend_buffer_type_t, AllocBuffer> table;  // filled once, in initialise()
  return table;
}

/// Linux grants more memory than there is and kills the process when it is touched: refuse before.
ggml_backend_buffer_t checked_alloc(ggml_backend_buffer_type_t type, std::size_t size) {
  const std::uint64_t available = device_memory().available_bytes;
  if (size > available) {
    setup.refused = "a buffer of " + std::to_string(size >> 20) + " MiB is needed, " + std::to_string(available >> 20) +
                    " MiB of memory are available";
    return nullptr;
  }
  return original_alloc().at(type)(type, size);
}

void check_allocations_of(ggml_backend_buffer_type_t type) {
  if (type == nullptr || original_alloc().count(type) != 0)
    return;
  original_alloc()[type] = type->iface.alloc_buffer;
  type->iface.alloc_buffer = checked_alloc;
}

void check_allocations() {
  static_assert(GGML_BACKEND_API_VERSION == 2, "ggml's buffer type changed: read ggml-backend-impl.h before going on");
  for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i) {
    ggml_backend_dev_t device = ggml_backend_dev_get(i);
    check_allocations_of(ggml_backend_dev_buffer_type(device));
    check_allocations_of(ggml_backend_dev_host_buffer_type(device));
    const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
    if (extra == nullptr)
      continue;
    for (ggml_backend_buffer_type_t* type = extra(device); type != nullptr && *type != nullptr; ++type) {
      check_allocations_of(*type);
    }
  }
}

}  // namespace

void initialise() {
  static std::once_flag once;
  std::call_once(once, [] {
    llama_log_set(on_log, nullptr);
    ggml_set_abort_callback(on_abort);
    llama_backend_init();
    check_allocations();
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
  std::string reason = setup.errors.empty() ? setup.warnings : setup.errors;
  if (reason.find("bad_alloc") != std::string::npos) {
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
