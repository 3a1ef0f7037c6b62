// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "sensors/page_map.h"
#include "sensors/proc_file.h"
#include "sensors/sources.h"

#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
#include <malloc.h>
#define MELT_HAS_MALLINFO2
#endif

namespace melt {
namespace {

constexpr double kKb = 1024.0;

std::string root_of(const char* variable, const char* usual) {
  const char* root = std::getenv(variable);
  return root != nullptr && *root != '\0' ? root : usual;
}

double page_bytes() noexcept {
  return static_cast<double>(sysconf(_SC_PAGESIZE));
}

/// Bytes that malloc has from the system; NaN where it does not say.
double heap_bytes() noexcept {
#if defined(MELT_HAS_MALLINFO2)
  const struct mallinfo2 info = mallinfo2();
  return static_cast<double>(info.arena) + static_cast<double>(info.hblkhd);
#else
  return std::nan("");
#endif
}

/// The digits at `text`, which then points behind them and a blank; NaN where there are none. Not strtod: at 100 Hz,
/// between ops that stream memory, every line of code comes from memory too.
double next_count(const char*& text) noexcept {
  if (text == nullptr || *text < '0' || *text > '9')
    return std::nan("");
  std::uint64_t count = 0;
  for (; *text >= '0' && *text <= '9'; ++text)
    count = count * 10 + static_cast<std::uint64_t>(*text - '0');
  text += *text == ' ' ? 1 : 0;
  return static_cast<double>(count);
}

class ProcessMemory final : public SensorSource {
 public:
  explicit ProcessMemory(MissingChannels& missing) : statm_(procfs_root() + "/self/statm") {
    if (statm_.reason().empty()) {
      channels_.push_back({"process", "rss", "B", "/proc/self/statm"});
      channels_.push_back({"process", "rss_file", "B", "/proc/self/statm shared"});
      channels_.push_back({"process", "rss_anon", "B", "/proc/self/statm resident - shared"});
    } else {
      missing["process/rss"] = missing["process/rss_file"] = missing["process/rss_anon"] = statm_.reason();
    }
    channels_.push_back({"process", "minor_faults", "count", "getrusage"});
    channels_.push_back({"process", "major_faults", "count", "getrusage"});
    channels_.push_back({"process", "voluntary_switches", "count", "getrusage"});
    channels_.push_back({"process", "involuntary_switches", "count", "getrusage"});
  }

  const std::vector<Channel>& channels() const noexcept override { return channels_; }

  void read(double* values) noexcept override {
    if (statm_.reason().empty()) {
      const char* text = statm_.read();
      double fields[3];
      for (double& field : fields)
        field = next_count(text);
      *values++ = fields[1] * page_;
      *values++ = fields[2] * page_;
      *values++ = (fields[1] - fields[2]) * page_;
    }
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    *values++ = static_cast<double>(usage.ru_minflt);
    *values++ = static_cast<double>(usage.ru_majflt);
    *values++ = static_cast<double>(usage.ru_nvcsw);
    *values++ = static_cast<double>(usage.ru_nivcsw);
  }

 private:
  ProcFile statm_;
  double page_ = page_bytes();
  std::vector<Channel> channels_;
};

/// The model file's pages in the page cache, by mincore() of a mapping of its own, which touches none of them.
class PageCache {
 public:
  explicit PageCache(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status{};
    if (file < 0 || fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
      reason_ = "the model is not a readable file";
    } else {
      size_ = static_cast<std::size_t>(status.st_size);
      mapping_ = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
      if (mapping_ == MAP_FAILED)
        reason_ = std::string("mmap: ") + std::strerror(errno);
    }
    if (file >= 0)
      close(file);
    pages_.resize(static_cast<std::size_t>(static_cast<double>(size_) / page_bytes()) + 1);
    if (reason_.empty() && std::isnan(cached_bytes()))
      reason_ = std::string("mincore: ") + std::strerror(errno);
  }
  ~PageCache() {
    if (mapping_ != MAP_FAILED)
      munmap(mapping_, size_);
  }
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;

  const std::string& reason() const noexcept { return reason_; }
  double cached_bytes() noexcept {
    if (mapping_ == MAP_FAILED || mincore(mapping_, size_, pages_.data()) != 0)
      return std::nan("");
    std::size_t cached = 0;
    for (const auto page : pages_)
      cached += page & 1u;
    return std::fmin(static_cast<double>(cached) * page_bytes(), static_cast<double>(size_));
  }

 private:
#if defined(__linux__)
  std::vector<unsigned char> pages_;
#else
  std::vector<char> pages_;
#endif
  std::string reason_;
  void* mapping_ = MAP_FAILED;
  std::size_t size_ = 0;
};

class ProcessDetail final : public SensorSource {
 public:
  ProcessDetail(const std::string& model, MissingChannels& missing)
      : rollup_(procfs_root() + "/self/smaps_rollup"), cache_(model) {
    if (rollup_.reason().empty()) {
      channels_.push_back({"process", "pss", "B", "/proc/self/smaps_rollup"});
      channels_.push_back({"process", "swap", "B", "/proc/self/smaps_rollup"});
    } else {
      missing["process/pss"] = missing["process/swap"] = rollup_.reason();
    }
    if (std::isnan(heap_bytes())) {
      missing["process/heap"] = "this C library has no mallinfo2()";
    } else {
      channels_.push_back({"process", "heap", "B", "mallinfo2 arena + hblkhd"});
    }
    if (cache_.reason().empty()) {
      channels_.push_back({"model_file", "page_cache", "B", "mincore"});
    } else {
      missing["model_file/page_cache"] = cache_.reason();
    }
  }

  const std::vector<Channel>& channels() const noexcept override { return channels_; }
  double max_rate_hz() const noexcept override { return 0.5; }

  void read(double* values) noexcept override {
    if (rollup_.reason().empty()) {
      const char* text = rollup_.read();
      *values++ = number_behind(text, "Pss:", kKb);
      *values++ = number_behind(text, "Swap:", kKb);
    }
    if (const double heap = heap_bytes(); !std::isnan(heap))
      *values++ = heap;
    if (cache_.reason().empty())
      *values++ = cache_.cached_bytes();
  }

 private:
  ProcFile rollup_;
  PageCache cache_;
  std::vector<Channel> channels_;
};

}  // namespace

std::string procfs_root() {
  return root_of("MELT_PROCFS_ROOT", "/proc");
}

std::string sysfs_root() {
  return root_of("MELT_SYSFS_ROOT", "/sys");
}

MemoryBaseline read_memory_baseline() noexcept {
  try {
    MissingChannels missing;
    ProcessMemory memory(missing);
    std::vector<double> values(memory.channels().size());
    memory.read(values.data());
    const auto value = [&](std::size_t i) { return missing.empty() ? values[i] : std::nan(""); };
    return {value(0), value(1), value(2), heap_bytes()};
  } catch (...) {
    return {};
  }
}

MemoryBefore read_memory_before() {
  return {read_memory_baseline(), read_anonymous_pages()};
}

std::unique_ptr<SensorSource> make_process_memory(MissingChannels& missing) {
  return std::make_unique<ProcessMemory>(missing);
}

std::unique_ptr<SensorSource> make_process_detail(const std::string& model, MissingChannels& missing) {
  auto source = std::make_unique<ProcessDetail>(model, missing);
  if (source->channels().empty())
    return nullptr;
  return source;
}

}  // namespace melt
