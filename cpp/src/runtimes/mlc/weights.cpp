// SPDX-License-Identifier: Apache-2.0
#include "weights.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "melt/error.h"

namespace melt::mlc {
namespace {

constexpr std::uint64_t kAlignment = 64;  // tvm::runtime::kAllocAlignment: compiled kernels load vectors on it
constexpr std::uint64_t kBlockOfReading = std::uint64_t{1} << 22;

class File {
 public:
  explicit File(std::string path) : path_(std::move(path)), file_(open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (file_ < 0)
      throw Error(ErrorKind::kModel, "cannot read the shard " + path_ + ": " + std::strerror(errno));
  }
  ~File() { close(file_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void read(char* to, std::uint64_t size, std::uint64_t offset) const {
    while (size > 0) {
      const ssize_t got = pread(file_, to, size, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR)
        continue;
      if (got <= 0)
        throw Error(ErrorKind::kModel, "the shard " + path_ + " ends or fails at byte " + std::to_string(offset));
      to += got;
      offset += static_cast<std::uint64_t>(got);
      size -= static_cast<std::uint64_t>(got);
    }
  }

 private:
  std::string path_;
  int file_;
};

/// bfloat16 is the upper half of a float32. In place: the halves lie in the last part of the room for the whole.
void widen(char* values, std::uint64_t n) {
  const char* halves = values + 2 * n;
  for (std::uint64_t i = 0; i < n; ++i) {
    std::uint16_t half;
    std::memcpy(&half, halves + 2 * i, sizeof half);
    const std::uint32_t whole = static_cast<std::uint32_t>(half) << 16;
    std::memcpy(values + 4 * i, &whole, sizeof whole);
  }
}

}  // namespace

Weights::Weights(const ModelFolder& folder, const std::function<bool(float)>& on_progress,
                 const std::atomic<bool>* cancel)
    : parameters_(folder.parameters) {
  for (std::uint32_t i = 0; i < parameters_.size(); ++i) {
    offsets_.push_back(block_bytes_);
    block_bytes_ += (parameters_[i].bytes + kAlignment - 1) / kAlignment * kAlignment;
    by_name_[parameters_[i].name] = i;
  }
  void* block = mmap(nullptr, block_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) {
    throw Error(ErrorKind::kOutOfMemory, "no memory for the " + std::to_string(block_bytes_) + " bytes of weights of " +
                                             folder.path + ": " + std::strerror(errno));
  }
  block_ = static_cast<char*>(block);
  try {
    read(folder, on_progress, cancel);
  } catch (...) {
    munmap(block_, block_bytes_);
    throw;
  }
}

Weights::~Weights() {
  munmap(block_, block_bytes_);
}

void Weights::read(const ModelFolder& folder, const std::function<bool(float)>& on_progress,
                   const std::atomic<bool>* cancel) {
  std::uint64_t done = 0;
  for (std::uint32_t number = 0; number < folder.shards.size(); ++number) {
    const File file(folder.path + "/" + folder.shards[number].file);
    for (std::uint32_t i = 0; i < parameters_.size(); ++i) {
      const Parameter& parameter = parameters_[i];
      if (parameter.shard != number)
        continue;
      char* values = block_ + offsets_[i];
      char* to = parameter.from_bf16 ? values + parameter.file_bytes : values;
      for (std::uint64_t at = 0; at < parameter.file_bytes; at += kBlockOfReading) {
        const std::uint64_t size = std::min(kBlockOfReading, parameter.file_bytes - at);
        file.read(to + at, size, parameter.offset + at);
        done += size * (parameter.from_bf16 ? 2 : 1);
        const bool go_on =
            !on_progress ||
            on_progress(static_cast<float>(static_cast<double>(done) / static_cast<double>(folder.weights_bytes)));
        if (!go_on || (cancel != nullptr && cancel->load()))
          throw Error(ErrorKind::kCancelled, "loading " + folder.path + " was cancelled");
      }
      if (parameter.from_bf16)
        widen(values, parameter.bytes / 4);
      by_address_[values] = i;
    }
  }
}

const Parameter* Weights::at(const void* data) const noexcept {
  const auto found = by_address_.find(data);
  return found == by_address_.end() ? nullptr : &parameters_[found->second];
}

Value Weights::array(const std::vector<std::string>& names) {
  views_.reserve(names.size());  // TVM keeps pointers to them
  std::vector<Value> tensors;
  std::vector<TVMFFIAny> items;
  for (const std::string& name : names) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end())
      throw Error(ErrorKind::kModel, "the model directory lacks the parameter " + name + " that its library needs");
    Parameter& parameter = parameters_[found->second];
    DLManagedTensor view{};
    view.dl_tensor.data = block_ + offsets_[found->second];
    view.dl_tensor.device = {kDLCPU, 0};
    view.dl_tensor.ndim = static_cast<std::int32_t>(parameter.shape.size());
    view.dl_tensor.dtype = parameter.type;
    view.dl_tensor.shape = parameter.shape.data();
    views_.push_back(view);
    TVMFFIAny any{};
    any.type_index = kTVMFFITensor;
    TVMFFIObjectHandle handle = nullptr;
    if (tvm().ffi.make_tensor(&views_.back(), kAlignment, 1, &handle) != 0)
      throw Error(ErrorKind::kRuntime, "TVM takes no tensor for " + name + ": " + raised_error());
    any.v_obj = static_cast<TVMFFIObject*>(handle);
    tensors.emplace_back(any);
    items.push_back(any);
  }
  return make_array(items);
}

}  // namespace melt::mlc
