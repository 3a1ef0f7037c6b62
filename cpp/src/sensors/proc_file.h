// SPDX-License-Identifier: Apache-2.0
// A file of /proc or /sys, opened once and read many times without an allocation.
#pragma once

#include <string>

namespace melt {

class ProcFile {
 public:
  ProcFile() = default;
  explicit ProcFile(const std::string& path) noexcept;
  ~ProcFile();
  ProcFile(ProcFile&& other) noexcept;
  ProcFile& operator=(ProcFile&& other) noexcept;
  /// Why it cannot be read; empty if it can.
  const std::string& reason() const noexcept { return reason_; }
  /// Its text from the beginning, cut at what fits into the buffer, ended by a zero byte; null if reading failed.
  const char* read() noexcept;

 private:
  static constexpr unsigned kBufferBytes = 4096;  // /proc/stat's first line, status, smaps_rollup: all shorter
  int file_ = -1;
  std::string reason_ = "not opened";
  char buffer_[kBufferBytes];
};

/// The number behind `key`, which begins a line or follows a blank, times `scale`; NaN if there is none.
double number_behind(const char* text, const char* key, double scale = 1.0) noexcept;

}  // namespace melt
