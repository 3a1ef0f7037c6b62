// SPDX-License-Identifier: Apache-2.0
// Which pages of this process lie in memory: the flags of /proc/self/pagemap, page by page, which need no privilege
// (the frame numbers would). Kernel: Documentation/admin-guide/mm/pagemap.rst.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "melt/memory.h"

namespace melt {

/// Reads flags of pages. Allocates: not for the sampling thread.
class PageMap {
 public:
  PageMap();
  ~PageMap();
  PageMap(const PageMap&) = delete;
  PageMap& operator=(const PageMap&) = delete;
  /// Why it cannot be read; empty if it can.
  const std::string& reason() const noexcept { return reason_; }
  /// Resident bytes of [begin, begin + size); pages at its edges count with the part that belongs to it. NaN if unread.
  double resident_bytes(std::uint64_t begin, std::uint64_t size) const;
  /// Adds the resident anonymous pages of [begin, end) to `found`, joining what touches. False if unreadable.
  bool add_anonymous(std::uint64_t begin, std::uint64_t end, std::vector<PageRange>& found) const;

 private:
  int file_;
  std::string reason_;
};

/// The anonymous pages of this process: its memory that no file backs. Reads all private mappings.
AnonymousPages read_anonymous_pages();

/// Bytes that lie in both; the ranges of each are in order and apart.
double overlap_bytes(const std::vector<PageRange>& a, const std::vector<PageRange>& b);
double total_bytes(const std::vector<PageRange>& ranges);
/// `a` without what lies in `b`.
std::vector<PageRange> without(const std::vector<PageRange>& a, const std::vector<PageRange>& b);

}  // namespace melt
