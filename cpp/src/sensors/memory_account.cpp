// SPDX-License-Identifier: Apache-2.0
// Between two runs: what of each buffer is resident. The bits of /proc/self/pagemap tell it page by page, and need no
// privilege (the frame numbers would); smaps cannot, because neighbouring buffers share one mapping.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>

#include "melt/environment.h"
#include "sensors/proc_file.h"
#include "sensors/sources.h"

namespace melt {
namespace {

constexpr MemoryCategory kCategories[] = {MemoryCategory::kWeights, MemoryCategory::kRepack, MemoryCategory::kKv,
                                          MemoryCategory::kCompute, MemoryCategory::kOutput, MemoryCategory::kOther};
constexpr const char* kCategoryNames[] = {"weights", "repack", "kv", "compute", "output", "other"};

/// Reads which pages of this process are present.
class Pagemap {
 public:
  Pagemap() : file_(open((procfs_root() + "/self/pagemap").c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Pagemap() {
    if (file_ >= 0)
      close(file_);
  }
  Pagemap(const Pagemap&) = delete;
  Pagemap& operator=(const Pagemap&) = delete;
  bool readable() const noexcept { return file_ >= 0; }

  /// Resident bytes of [begin, begin + size); pages at its edges count with the part that belongs to it.
  double resident_bytes(std::uintptr_t begin, std::uint64_t size) const {
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const std::uintptr_t end = begin + size;
    std::vector<std::uint64_t> entries(1 << 13);
    double resident = 0;
    for (std::uintptr_t at = begin / page; at * page < end;) {
      const std::size_t wanted = std::min<std::size_t>(entries.size(), (end - at * page + page - 1) / page);
      const ssize_t got = pread(file_, entries.data(), wanted * 8, static_cast<off_t>(at * 8));
      if (got <= 0)
        return std::nan("");
      for (std::size_t i = 0; i < static_cast<std::size_t>(got) / 8; ++i, ++at) {
        const bool present = (entries[i] >> 63) != 0;
        if (present)
          resident += static_cast<double>(std::min(end, (at + 1) * page) - std::max(begin, at * page));
      }
    }
    return resident;
  }

 private:
  int file_;
};

/// Rss of all mappings of `path` in /proc/self/smaps; NaN if that cannot be read.
double mapped_rss_bytes(const std::string& path) {
  std::ifstream smaps(procfs_root() + "/self/smaps");
  if (!smaps || path.empty())
    return std::nan("");
  double bytes = 0;
  bool ours = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.compare(0, 4, "Rss:") == 0) {
      if (ours)
        bytes += std::strtod(line.c_str() + 4, nullptr) * 1024.0;
    } else if (line.find(':') != std::string::npos && line.find('-') < line.find(' ')) {
      ours = line.size() > path.size() && line.compare(line.size() - path.size(), path.size(), path) == 0;
    }
  }
  return bytes;
}

}  // namespace

MemoryAccount::MemoryAccount(const AllocationLog& log, std::string model_path)
    : log_(log), model_path_(std::move(model_path)) {
  if (char* real = realpath(model_path_.c_str(), nullptr)) {  // as the mapping's name has it
    model_path_ = real;
    std::free(real);
  }
  for (const char* name : kCategoryNames)
    channels_.push_back({std::string("buffers/") + name, "resident", "B", "/proc/self/pagemap"});
  channels_.push_back({"model_file", "resident", "B", "/proc/self/smaps Rss"});
  channels_.push_back({"process", "rss_after_run", "B", "/proc/self/statm"});
  channels_.push_back({"process", "rss_anon_after_run", "B", "/proc/self/statm resident - shared"});
  channels_.push_back({"process", "heap_after_run", "B", "mallinfo2 arena + hblkhd"});
  channels_.push_back({"process", "peak_rss", "B", "VmHWM since clear_refs 5"});
  if (!Pagemap().readable()) {
    for (const char* name : kCategoryNames)
      missing_[std::string("buffers/") + name + "/resident"] = procfs_root() + "/self/pagemap: " + std::strerror(errno);
  }
  reset_peak();
}

void MemoryAccount::reset_peak() noexcept {
  peak_rss_bytes();  // kept, see there
  const int file = open((procfs_root() + "/self/clear_refs").c_str(), O_WRONLY | O_CLOEXEC);
  const bool done = file >= 0 && write(file, "5", 1) == 1;
  try {
    if (!done)
      missing_["process/peak_rss"] = std::string("clear_refs cannot be written: ") + std::strerror(errno);
  } catch (...) {  // out of memory: the reason is lost, the run is not
  }
  if (file >= 0)
    close(file);
}

double MemoryAccount::peak_bytes() const {
  if (missing_.count("process/peak_rss") != 0)
    return std::nan("");
  ProcFile status(procfs_root() + "/self/status");
  return number_behind(status.read(), "VmHWM:", 1024.0);
}

std::vector<double> MemoryAccount::read() {
  const double peak = peak_bytes();  // before what this itself allocates
  const MemoryBaseline now = read_memory_baseline();
  const Pagemap pagemap;
  std::vector<double> values;
  double mapped = 0;
  for (const MemoryCategory category : kCategories) {
    double resident = 0;
    for (std::uint32_t id = 0; id < log_.buffers().size(); ++id) {
      const BufferInfo& buffer = log_.buffers()[id];
      if (buffer.category != category || !log_.is_live(id) || buffer.address == nullptr)
        continue;
      const double bytes = pagemap.resident_bytes(reinterpret_cast<std::uintptr_t>(buffer.address), buffer.bytes);
      resident += bytes;
      mapped += buffer.mapped ? bytes : 0;
    }
    values.push_back(pagemap.readable() ? resident : std::nan(""));
  }
  values.push_back(mapped_rss_bytes(model_path_) - mapped);
  values.push_back(now.rss_bytes);
  values.push_back(now.rss_anon_bytes);
  values.push_back(now.heap_bytes);
  values.push_back(peak);
  return values;
}

}  // namespace melt
