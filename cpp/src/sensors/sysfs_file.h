// SPDX-License-Identifier: Apache-2.0
// A file of /sys that is opened once and read many times, and the few look-ups that finding sensors takes.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "sensors/fault.h"

namespace melt {

class SysfsFile {
 public:
  SysfsFile() = default;
  /// `path` is below sysfs_root(). Opens it; reason() says why that failed.
  explicit SysfsFile(const std::string& path);
  ~SysfsFile();
  SysfsFile(SysfsFile&& other) noexcept;
  SysfsFile& operator=(SysfsFile&& other) noexcept;

  const std::string& path() const noexcept { return path_; }
  bool is_open() const noexcept { return file_ >= 0; }
  /// What the system said when it was opened, or to the first read; empty if it could be read.
  const std::string& reason() const noexcept { return reason_; }

  /// Its text, cut at `size` - 1 and ended by a zero byte. Neither allocates nor waits for more than the driver does.
  /// A file that has gone is looked for again every so many reads: a driver may be loaded anew.
  ReadingFault read(char* text, std::size_t size) noexcept;
  /// The number that the file holds, and nothing but blanks behind it; else a NaN that says why.
  double read_number() noexcept;

 private:
  bool still_there() noexcept;
  void reopen() noexcept;
  std::string path_, full_path_, reason_ = "not opened";
  int file_ = -1;
  unsigned n_reads_ = 0;
  ReadingFault closed_as_ = ReadingFault::kVanished;  // why it is not open
};

/// A decimal number, followed by nothing but blanks or `suffix`; a NaN that says kGarbage otherwise. Independent of the
/// locale.
double parse_number(const char* text, char suffix = '\0') noexcept;

/// Names in a folder below sysfs_root() that begin with `prefix`, in order of the numbers in them; empty if there is no
/// such folder.
std::vector<std::string> sysfs_entries(const std::string& folder, const std::string& prefix = "");
/// First line of a file below sysfs_root(), without blanks at its end; empty where there is none.
std::string sysfs_text(const std::string& path);
/// Why a folder below sysfs_root() offers nothing: missing, forbidden, or empty.
std::string sysfs_absence(const std::string& folder, const std::string& what);
/// Lower case, and '-' for what is neither letter nor digit nor '.'.
std::string site_name(const std::string& text);

}  // namespace melt
