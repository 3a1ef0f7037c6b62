// SPDX-License-Identifier: Apache-2.0
#include "memory_hooks.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

#include "ggml-backend-impl.h"
#include "melt/thread_stamps.h"

namespace melt::llama_cpp {
namespace {

static_assert(GGML_BACKEND_API_VERSION == 2, "ggml's buffer tables changed: read ggml-backend-impl.h before going on");

using AllocBuffer = decltype(ggml_backend_buffer_type_i::alloc_buffer);
using FreeBuffer = decltype(ggml_backend_buffer_i::free_buffer);
using InitTensor = decltype(ggml_backend_buffer_i::init_tensor);
using FromHostPointer = decltype(ggml_backend_device_i::buffer_from_host_ptr);

/// ggml's own functions; filled once, in install_memory_hooks(), and only read afterwards.
struct Originals {
  bool (*admit)(std::size_t) = nullptr;
  std::map<ggml_backend_buffer_type_t, AllocBuffer> alloc;
  std::set<ggml_backend_buffer_type_t> repacking;  // types that keep weights in a kernel's own layout
  std::map<ggml_backend_dev_t, FromHostPointer> from_host_pointer;
};
Originals& originals() {
  static Originals table;
  return table;
}

struct Tracked {
  AllocationLog* log;
  std::uint32_t id;
  MemoryStage stage;
  bool holds_tensors;
  FreeBuffer free_buffer;
  InitTensor init_tensor;
};

/// The buffers alive, of all sessions. Locked where ggml allocates or frees, which takes far longer than the lock.
class Buffers {
 public:
  void add(ggml_backend_buffer_t buffer, const Tracked& tracked) {
    const std::lock_guard<std::mutex> guard(mutex_);
    live_[buffer] = tracked;
  }
  Tracked get(ggml_backend_buffer_t buffer) {
    const std::lock_guard<std::mutex> guard(mutex_);
    return live_.at(buffer);
  }
  Tracked note_tensor(ggml_backend_buffer_t buffer) {
    const std::lock_guard<std::mutex> guard(mutex_);
    Tracked& tracked = live_.at(buffer);
    tracked.holds_tensors = true;
    return tracked;
  }
  Tracked take(ggml_backend_buffer_t buffer) {
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto found = live_.find(buffer);
    const Tracked tracked = found->second;
    live_.erase(found);
    return tracked;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<ggml_backend_buffer_t, Tracked> live_;
};
Buffers& buffers() {
  static Buffers table;
  return table;
}

struct ThreadState {
  AllocationLog* log = nullptr;
  MemoryStage stage = MemoryStage::kModel;
  int depth = 0;                                   // a buffer type may allocate through another one
  std::vector<ggml_backend_buffer_t> undecided{};  // made in this scope
};
thread_local ThreadState thread;

/// llama.cpp says what weights and activations are; the rest is told apart by whether tensors were placed in it: the
/// cache's are when it is made, while output_reserve() only takes room for logits.
MemoryCategory category_of(ggml_backend_buffer_t buffer, const Tracked& tracked) {
  if (originals().repacking.count(buffer->buft) != 0)
    return MemoryCategory::kRepack;
  switch (buffer->usage) {
    case GGML_BACKEND_BUFFER_USAGE_WEIGHTS:
      return MemoryCategory::kWeights;
    case GGML_BACKEND_BUFFER_USAGE_COMPUTE:
      return MemoryCategory::kCompute;
    default:
      break;
  }
  if (tracked.stage == MemoryStage::kModel)
    return MemoryCategory::kOther;  // staging for uploads
  if (!tracked.holds_tensors)
    return MemoryCategory::kOutput;
  return tracked.stage == MemoryStage::kContext ? MemoryCategory::kKv : MemoryCategory::kOther;
}

/// The first tensor placed in a buffer; then ggml's own function is back.
ggml_status on_init_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor) {
  const Tracked tracked = buffers().note_tensor(buffer);
  buffer->iface.init_tensor = tracked.init_tensor;
  return tracked.init_tensor != nullptr ? tracked.init_tensor(buffer, tensor) : GGML_STATUS_SUCCESS;
}

void decide(ggml_backend_buffer_t buffer, const Tracked& tracked) {
  if (buffer->iface.init_tensor == on_init_tensor)
    buffer->iface.init_tensor = tracked.init_tensor;
  tracked.log->set_category(tracked.id, category_of(buffer, tracked));
}

void on_free(ggml_backend_buffer_t buffer) {
  const Tracked tracked = buffers().take(buffer);
  const auto undecided = std::find(thread.undecided.begin(), thread.undecided.end(), buffer);
  if (undecided != thread.undecided.end()) {
    decide(buffer, tracked);
    thread.undecided.erase(undecided);
  }
  if (tracked.free_buffer != nullptr)
    tracked.free_buffer(buffer);
  tracked.log->released(tracked.id, melt_ticks());
}

/// Other backends know their own buffers by the address of free_buffer: theirs are left as they are, so that their
/// release is not seen. No such backend is in this build.
bool may_replace_functions(ggml_backend_buffer_t buffer) {
  ggml_backend_dev_t device = ggml_backend_buft_get_device(buffer->buft);
  return device == nullptr || ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
}

void track(ggml_backend_buffer_t buffer, bool mapped) {
  if (buffer == nullptr || thread.log == nullptr)
    return;
  ggml_backend_dev_t device = ggml_backend_buft_get_device(buffer->buft);
  BufferInfo info;
  info.bytes = ggml_backend_buffer_get_size(buffer);
  info.mapped = mapped;
  info.backend = device == nullptr ? "CPU" : ggml_backend_dev_name(device);
  info.type = ggml_backend_buffer_name(buffer);
  const bool ours = may_replace_functions(buffer);
  if (ours)
    info.address = ggml_backend_buffer_get_base(buffer);
  Tracked tracked{thread.log, 0, thread.stage, false, buffer->iface.free_buffer, buffer->iface.init_tensor};
  tracked.id = thread.log->allocated(std::move(info), melt_ticks());
  if (!ours) {
    thread.log->set_category(tracked.id, category_of(buffer, tracked));
    return;
  }
  buffers().add(buffer, tracked);
  buffer->iface.free_buffer = on_free;
  if (thread.stage != MemoryStage::kModel)
    buffer->iface.init_tensor = on_init_tensor;
  thread.undecided.push_back(buffer);
}

/// Linux grants more memory than there is and kills the process when it is touched: refuse before.
ggml_backend_buffer_t on_alloc(ggml_backend_buffer_type_t type, std::size_t size) {
  if (!originals().admit(size))
    return nullptr;
  const struct Depth {  // ggml may give up in between, which is thrown while a model is set up
    Depth() { ++thread.depth; }
    ~Depth() { --thread.depth; }
  } depth;
  ggml_backend_buffer_t buffer = originals().alloc.at(type)(type, size);
  if (thread.depth == 1)
    track(buffer, false);
  return buffer;
}

ggml_backend_buffer_t on_host_pointer(ggml_backend_dev_t device, void* pointer, std::size_t size,
                                      std::size_t max_tensor_size) {
  ggml_backend_buffer_t buffer = originals().from_host_pointer.at(device)(device, pointer, size, max_tensor_size);
  track(buffer, true);
  return buffer;
}

void hook_type(ggml_backend_buffer_type_t type) {
  if (type == nullptr || originals().alloc.count(type) != 0)
    return;
  originals().alloc[type] = type->iface.alloc_buffer;
  type->iface.alloc_buffer = on_alloc;
}

void hook_device(ggml_backend_dev_t device) {
  hook_type(ggml_backend_dev_buffer_type(device));
  hook_type(ggml_backend_dev_host_buffer_type(device));
  if (device->iface.buffer_from_host_ptr != nullptr) {
    originals().from_host_pointer[device] = device->iface.buffer_from_host_ptr;
    device->iface.buffer_from_host_ptr = on_host_pointer;
  }
  const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
      ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
  if (extra == nullptr)
    return;
  for (ggml_backend_buffer_type_t* type = extra(device); type != nullptr && *type != nullptr; ++type) {
    originals().repacking.insert(*type);
    hook_type(*type);
  }
}

}  // namespace

void install_memory_hooks(bool (*admit)(std::size_t bytes)) {
  originals().admit = admit;
  buffers();  // made before any buffer, so that it goes after all of them
  for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i)
    hook_device(ggml_backend_dev_get(i));
}

MemoryScope::MemoryScope(AllocationLog* log, MemoryStage stage) noexcept {
  thread.log = log;
  thread.stage = stage;
}

MemoryScope::~MemoryScope() {
  thread.log = nullptr;
  for (ggml_backend_buffer_t buffer : thread.undecided)
    decide(buffer, buffers().get(buffer));
  thread.undecided.clear();
}

}  // namespace melt::llama_cpp
