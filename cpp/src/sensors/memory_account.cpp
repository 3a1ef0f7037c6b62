// SPDX-License-Identifier: Apache-2.0
// Between two runs: whose each resident page is. Page by page, because neighbouring buffers share one mapping, and
// because memory that the process had freed before the load is given out again to buffers.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

#include "melt/environment.h"
#include "sensors/page_map.h"
#include "sensors/proc_file.h"
#include "sensors/sources.h"

namespace melt {
namespace {

constexpr MemoryCategory kCategories[] = {MemoryCategory::kWeights, MemoryCategory::kRepack, MemoryCategory::kKv,
                                          MemoryCategory::kCompute, MemoryCategory::kOutput, MemoryCategory::kOther};
constexpr const char* kCategoryNames[] = {"weights", "repack", "kv", "compute", "output", "other"};

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

/// In order and apart, whatever order they come in.
std::vector<PageRange> in_order(std::vector<PageRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const PageRange& a, const PageRange& b) { return a.begin < b.begin; });
  std::vector<PageRange> joined;
  for (const PageRange& range : ranges) {
    if (!joined.empty() && range.begin <= joined.back().end) {
      joined.back().end = std::max(joined.back().end, range.end);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

/// What malloc has from the system beside the brk mapping: other arenas, and large blocks mapped one by one.
double mapped_heap_bytes(double heap_bytes, const PageRange& brk) {
  return std::max(heap_bytes - static_cast<double>(brk.end - brk.begin), 0.0);
}

/// Anonymous pages outside all buffers, divided by whose they are.
struct AnonymousShares {
  double since_load_heap_bytes;
  double from_before_bytes;
};

/// Pages that were there before the load are the program's. Of those that came since, the brk mapping is malloc's for
/// certain; elsewhere malloc is believed as much as it took from the system since, less what of that is buffers: it
/// does not say where its memory lies, and other mappings look the same.
AnonymousShares share_out(const AnonymousPages& now, double heap_now, const MemoryBefore& before,
                          const std::vector<PageRange>& buffers) {
  const std::vector<PageRange> brk = {now.brk};
  const std::vector<PageRange> rest = without(now.pages, buffers);
  const std::vector<PageRange> fresh = without(rest, before.pages.pages);
  const double in_brk = overlap_bytes(fresh, brk);
  const double gone = total_bytes(without(without(before.pages.pages, now.pages), brk));  // some of it given back
  const double taken =
      mapped_heap_bytes(heap_now, now.brk) - mapped_heap_bytes(before.totals.heap_bytes, before.pages.brk);
  const double by_buffers = total_bytes(without(without(buffers, brk), before.pages.pages));
  const double most = std::max(taken + gone - by_buffers, 0.0);
  return {in_brk + std::min(total_bytes(fresh) - in_brk, most), total_bytes(rest) - total_bytes(fresh)};
}

}  // namespace

/// What of the live buffers is resident, by category, and where those lie that are memory of their own.
struct MemoryAccount::Held {
  std::vector<double> by_category;
  double mapped = 0;
  std::vector<PageRange> anonymous;
};

MemoryAccount::MemoryAccount(const AllocationLog& log, std::string model_path, const MemoryBefore& before)
    : log_(log), before_(before), model_path_(std::move(model_path)) {
  if (char* real = realpath(model_path_.c_str(), nullptr)) {  // as the mapping's name has it
    model_path_ = real;
    std::free(real);
  }
  for (const char* name : kCategoryNames)
    channels_.push_back({std::string("buffers/") + name, "resident", "B", "/proc/self/pagemap"});
  channels_.push_back({"model_file", "resident", "B", "/proc/self/smaps Rss"});
  channels_.push_back({"heap", "resident", "B", "pagemap, mallinfo2: came since the load"});
  channels_.push_back({"program", "resident", "B", "pagemap, statm: there before the load, and code"});
  channels_.push_back({"process", "rss_after_run", "B", "/proc/self/statm"});
  channels_.push_back({"process", "heap_after_run", "B", "mallinfo2 arena + hblkhd"});
  channels_.push_back({"process", "peak_rss", "B", "VmHWM since clear_refs 5"});
  if (const std::string reason = PageMap().reason(); !reason.empty()) {
    for (const char* name : kCategoryNames)
      missing_[std::string("buffers/") + name + "/resident"] = reason;
  }
  if (std::isnan(before_.totals.heap_bytes))
    missing_["heap/resident"] = "this C library has no mallinfo2()";
  if (std::isnan(before_.totals.rss_file_bytes))
    missing_["program/resident"] = procfs_root() + "/self/statm cannot be read";
  if (!before_.pages.missing.empty())
    missing_["heap/resident"] = missing_["program/resident"] = before_.pages.missing;
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

MemoryAccount::Held MemoryAccount::held_by_buffers() const {
  Held held;
  const PageMap pages;
  for (const MemoryCategory category : kCategories) {
    double resident = 0;
    for (std::uint32_t id = 0; id < log_.buffers().size(); ++id) {
      const BufferInfo& buffer = log_.buffers()[id];
      if (buffer.category != category || !log_.is_live(id) || buffer.address == nullptr)
        continue;
      const auto begin = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(buffer.address));
      const double bytes = pages.resident_bytes(begin, buffer.bytes);
      resident += bytes;
      if (buffer.mapped) {
        held.mapped += bytes;
      } else {
        held.anonymous.push_back({begin, begin + buffer.bytes});
      }
    }
    held.by_category.push_back(pages.reason().empty() ? resident : std::nan(""));
  }
  held.anonymous = in_order(std::move(held.anonymous));
  return held;
}

std::vector<double> MemoryAccount::read() {
  const double peak = peak_bytes();  // before what this itself allocates
  const MemoryBaseline now = read_memory_baseline();
  const AnonymousPages pages = read_anonymous_pages();
  const Held held = held_by_buffers();
  const double file = mapped_rss_bytes(model_path_) - held.mapped;
  double heap = std::nan(""), program = std::nan("");
  if (before_.pages.missing.empty() && pages.missing.empty()) {
    const AnonymousShares shares = share_out(pages, now.heap_bytes, before_, held.anonymous);
    if (missing_.count("heap/resident") == 0)
      heap = shares.since_load_heap_bytes;
    const double model = held.mapped + (std::isnan(file) ? 0.0 : file);  // a model that is no file maps none
    program = shares.from_before_bytes + std::max(now.rss_file_bytes - model, 0.0);
  }
  std::vector<double> values = held.by_category;
  values.insert(values.end(), {file, heap, program, now.rss_bytes, now.heap_bytes, peak});
  return values;
}

}  // namespace melt
