// SPDX-License-Identifier: Apache-2.0
#include "proc_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace melt {

ProcFile::ProcFile(const std::string& path) noexcept : file_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (file_ < 0) {
    reason_ = path + ": " + std::strerror(errno);
  } else {
    reason_.clear();
    if (read() == nullptr)  // PSI opens, and fails when read, where it is switched off at boot
      reason_ = path + ": " + std::strerror(errno);
  }
}

ProcFile::~ProcFile() {
  if (file_ >= 0)
    close(file_);
}

ProcFile::ProcFile(ProcFile&& other) noexcept
    : file_(std::exchange(other.file_, -1)), reason_(std::move(other.reason_)) {}

ProcFile& ProcFile::operator=(ProcFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(reason_, other.reason_);
  return *this;
}

const char* ProcFile::read() noexcept {
  const ssize_t n = file_ < 0 ? -1 : pread(file_, buffer_, kBufferBytes - 1, 0);
  if (n < 0)
    return nullptr;
  buffer_[n] = '\0';
  return buffer_;
}

double number_behind(const char* text, const char* key, double scale) noexcept {
  const std::size_t length = std::strlen(key);
  for (const char* at = text; at != nullptr && (at = std::strstr(at, key)) != nullptr; at += length) {
    if (at != text && at[-1] != '\n' && at[-1] != ' ')
      continue;
    char* end = nullptr;
    const double value = std::strtod(at + length, &end);
    return end == at + length ? std::nan("") : value * scale;
  }
  return std::nan("");
}

}  // namespace melt
