// SPDX-License-Identifier: Apache-2.0
#include "sensors/page_map.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "sensors/sources.h"

namespace melt {
namespace {

constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kOfFile = std::uint64_t{1} << 61;  // or shared
constexpr std::size_t kEntriesAtOnce = 1 << 13;
/// Reserved address space that is still looked through: 128 MB of flags. Sanitizers reserve terabytes.
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 36;

std::uint64_t page_bytes() noexcept {
  return static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

/// Calls `visit(page number, flags)` for the pages of [begin, end). False if they cannot be read.
template <typename Visit>
bool for_each_page(int file, std::uint64_t begin, std::uint64_t end, const Visit& visit) {
  const std::uint64_t page = page_bytes();
  std::vector<std::uint64_t> flags(kEntriesAtOnce);
  for (std::uint64_t at = begin / page; at * page < end;) {
    const std::size_t wanted = std::min<std::uint64_t>(flags.size(), (end - at * page + page - 1) / page);
    const ssize_t got = pread(file, flags.data(), wanted * 8, static_cast<off_t>(at * 8));
    if (got <= 0)
      return false;
    for (std::size_t i = 0; i < static_cast<std::size_t>(got) / 8; ++i, ++at)
      visit(at, flags[i]);
  }
  return true;
}

/// A line of /proc/self/maps: proc(5).
struct Mapping {
  std::uint64_t begin = 0, end = 0;
  bool may_hold_anonymous = false;  // private, and not only reserved
  bool is_brk = false;
};

bool parse(const std::string& line, Mapping& mapping) {
  char access[5] = "";
  if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s", &mapping.begin, &mapping.end, access) != 3)
    return false;
  const auto ends_with = [&](const char* text) {
    return line.size() > std::strlen(text) &&
           line.compare(line.size() - std::strlen(text), std::string::npos, text) == 0;
  };
  mapping.is_brk = ends_with(" [heap]");
  mapping.may_hold_anonymous =
      access[3] == 'p' && std::strncmp(access, "---", 3) != 0 && !ends_with(" [vsyscall]") && !ends_with(" [vvar]");
  return true;
}

}  // namespace

PageMap::PageMap() : file_(open((procfs_root() + "/self/pagemap").c_str(), O_RDONLY | O_CLOEXEC)) {
  if (file_ < 0)
    reason_ = procfs_root() + "/self/pagemap: " + std::strerror(errno);
}

PageMap::~PageMap() {
  if (file_ >= 0)
    close(file_);
}

double PageMap::resident_bytes(std::uint64_t begin, std::uint64_t size) const {
  const std::uint64_t page = page_bytes(), end = begin + size;
  double resident = 0;
  const bool done = for_each_page(file_, begin, end, [&](std::uint64_t number, std::uint64_t flags) {
    if ((flags & kPresent) != 0)
      resident += static_cast<double>(std::min(end, (number + 1) * page) - std::max(begin, number * page));
  });
  return done ? resident : std::nan("");
}

bool PageMap::add_anonymous(std::uint64_t begin, std::uint64_t end, std::vector<PageRange>& found) const {
  const std::uint64_t page = page_bytes();
  return for_each_page(file_, begin, end, [&](std::uint64_t number, std::uint64_t flags) {
    if ((flags & kPresent) == 0 || (flags & kOfFile) != 0)
      return;
    if (!found.empty() && found.back().end == number * page) {
      found.back().end += page;
    } else {
      found.push_back({number * page, (number + 1) * page});
    }
  });
}

AnonymousPages read_anonymous_pages() {
  AnonymousPages found;
  const PageMap pages;
  std::ifstream maps(procfs_root() + "/self/maps");
  found.missing = !maps ? procfs_root() + "/self/maps cannot be read" : pages.reason();
  if (!found.missing.empty())
    return found;
  std::vector<Mapping> mappings;
  std::uint64_t n_bytes = 0;
  for (std::string line; std::getline(maps, line);) {
    Mapping mapping;
    if (!parse(line, mapping) || !mapping.may_hold_anonymous)
      continue;
    n_bytes += mapping.end - mapping.begin;
    mappings.push_back(mapping);
  }
  if (n_bytes > kMostBytes) {
    found.missing =
        "this process has reserved " + std::to_string(n_bytes >> 30) + " GiB of address space: too many pages";
    return found;
  }
  for (const Mapping& mapping : mappings) {
    if (mapping.is_brk)  // the kernel may list it in several pieces
      found.brk = {found.brk.end == 0 ? mapping.begin : found.brk.begin, mapping.end};
    pages.add_anonymous(mapping.begin, mapping.end, found.pages);  // gone meanwhile: then it holds nothing
  }
  return found;
}

std::vector<PageRange> without(const std::vector<PageRange>& a, const std::vector<PageRange>& b) {
  std::vector<PageRange> rest;
  std::size_t k = 0;
  for (PageRange range : a) {
    while (k < b.size() && b[k].end <= range.begin)
      ++k;
    for (std::size_t i = k; i < b.size() && b[i].begin < range.end; ++i) {
      if (b[i].begin > range.begin)
        rest.push_back({range.begin, b[i].begin});
      range.begin = std::min(range.end, b[i].end);
    }
    if (range.begin < range.end)
      rest.push_back(range);
  }
  return rest;
}

double total_bytes(const std::vector<PageRange>& ranges) {
  double bytes = 0;
  for (const PageRange& range : ranges)
    bytes += static_cast<double>(range.end - range.begin);
  return bytes;
}

double overlap_bytes(const std::vector<PageRange>& a, const std::vector<PageRange>& b) {
  return total_bytes(a) - total_bytes(without(a, b));
}

}  // namespace melt
