// SPDX-License-Identifier: Apache-2.0
#include "capabilities.h"

#include <string>

#include "ffi.h"
#include "melt/error.h"
#include "text_list.h"

namespace melt::mlc {
namespace {

struct Capability {
  const char* function;
  const char* purpose;
};

constexpr Capability kNeeded[] = {
    {"ffi.ModuleLoadFromFile", "opens model libraries"},
    {"ffi.ModuleGetFunction", "finds their functions"},
    {"ffi.ModuleClearImports", "lets calls be recorded"},
    {"ffi.FunctionRemoveGlobal", "lets calls be recorded"},
    {"ffi.Module.load_from_bytes.relax.VMExecutable", "runs programs of the virtual machine"},
    {"ffi.Shape", "makes arguments"},
    {"ffi.Array", "makes arguments"},
    {"ffi.ArrayGetItem", "reads results"},
    {"runtime.config_threadpool", "sets the number of threads"},
    {"runtime.NumThreads", "reads the number of threads"},
    {"vm.builtin.reshape", "shapes embeddings"},
    {"vm.builtin.paged_attention_kv_cache_create", "the KV cache"},
    {"vm.builtin.attention_kv_cache_attention_with_fused_qkv", "attention over it"},
    {"vm.builtin.kv_state_clear", "the KV cache"},
    {"vm.builtin.kv_state_add_sequence", "the KV cache"},
    {"vm.builtin.kv_state_begin_forward", "the KV cache"},
    {"vm.builtin.kv_state_end_forward", "the KV cache"},
};

}  // namespace

void check_capabilities() {
  std::string missing;
  for (const Capability& each : kNeeded) {
    if (!global_function(each.function).is_function())
      append_item(missing, std::string(each.function) + " (" + each.purpose + ")");
  }
  if (missing.empty())
    return;
  const std::string version = tvm().tvm_version.empty() ? "of unknown version" : tvm().tvm_version;
  throw Error(ErrorKind::kInvalidArgument, "TVM " + version + " in " + tvm().path + " lacks " + missing +
                                               ": the MLC runtime needs TVM 0.26 or 0.27");
}

}  // namespace melt::mlc
