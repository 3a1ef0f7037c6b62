// SPDX-License-Identifier: Apache-2.0
#include "sensors/sysfs_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "sensors/sources.h"

namespace melt {
namespace {

constexpr unsigned kLookEvery = 32;  // reads between two looks whether the file still has its name

bool is_blank(char c) noexcept {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\0';
}

/// "zone10" after "zone9": digits compare as numbers.
bool natural_less(const std::string& a, const std::string& b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (std::isdigit(static_cast<unsigned char>(a[i])) != 0 && std::isdigit(static_cast<unsigned char>(b[j])) != 0) {
      const std::size_t i0 = i, j0 = j;
      while (i < a.size() && std::isdigit(static_cast<unsigned char>(a[i])) != 0)
        ++i;
      while (j < b.size() && std::isdigit(static_cast<unsigned char>(b[j])) != 0)
        ++j;
      const std::string x = a.substr(i0, i - i0), y = b.substr(j0, j - j0);
      if (x.size() != y.size())
        return x.size() < y.size();
      if (x != y)
        return x < y;
    } else if (a[i] != b[j]) {
      return a[i] < b[j];
    } else {
      ++i;
      ++j;
    }
  }
  return a.size() - i < b.size() - j;
}

}  // namespace

SysfsFile::SysfsFile(const std::string& path) : path_(path), full_path_(sysfs_root() + "/" + path) {
  reopen();
  if (file_ < 0) {
    reason_ = path_ + ": " + std::strerror(errno);
    return;
  }
  char text[64];
  errno = 0;
  reason_ = read(text, sizeof text) == ReadingFault::kOk ? "" : path_ + ": " + std::strerror(errno);
}

SysfsFile::~SysfsFile() {
  if (file_ >= 0)
    close(file_);
}

SysfsFile::SysfsFile(SysfsFile&& other) noexcept
    : path_(std::move(other.path_)),
      full_path_(std::move(other.full_path_)),
      reason_(std::move(other.reason_)),
      file_(std::exchange(other.file_, -1)),
      n_reads_(other.n_reads_),
      closed_as_(other.closed_as_) {}

SysfsFile& SysfsFile::operator=(SysfsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(full_path_, other.full_path_);
  std::swap(reason_, other.reason_);
  std::swap(file_, other.file_);
  std::swap(n_reads_, other.n_reads_);
  std::swap(closed_as_, other.closed_as_);
  return *this;
}

void SysfsFile::reopen() noexcept {
  if (file_ >= 0)
    close(file_);
  file_ = open(full_path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file_ < 0)
    closed_as_ = fault_of_errno(errno);
}

/// Whether the open file still has a name. The kernel answers ENODEV for a driver that has gone; a file system that
/// stands in for it goes on showing the last text.
bool SysfsFile::still_there() noexcept {
  struct stat status{};
  return fstat(file_, &status) == 0 && status.st_nlink > 0;
}

ReadingFault SysfsFile::read(char* text, std::size_t size) noexcept {
  if (n_reads_++ % kLookEvery == 0 && (file_ < 0 || !still_there()))
    reopen();
  if (file_ < 0)
    return closed_as_;
  const ssize_t n = pread(file_, text, size - 1, 0);
  if (n < 0) {
    const int error = errno;
    const ReadingFault fault = fault_of_errno(error);
    if (fault == ReadingFault::kVanished) {
      close(file_);
      file_ = -1;
      closed_as_ = fault;
    }
    errno = error;
    return fault;
  }
  text[n] = '\0';
  return ReadingFault::kOk;
}

double SysfsFile::read_number() noexcept {
  char text[64];
  const ReadingFault fault = read(text, sizeof text);
  return fault == ReadingFault::kOk ? parse_number(text) : fault_value(fault);
}

double parse_number(const char* text, char suffix) noexcept {
  const char* at = text;
  while (*at != '\0' && is_blank(*at))
    ++at;
  const bool negative = *at == '-';
  if (*at == '-' || *at == '+')
    ++at;
  double value = 0, place = 1;
  int n_digits = 0;
  bool fraction = false;
  for (; (*at >= '0' && *at <= '9') || (*at == '.' && !fraction); ++at) {
    if (*at == '.') {
      fraction = true;
      continue;
    }
    ++n_digits;
    value = value * 10 + (*at - '0');
    if (fraction)
      place *= 10;
  }
  if (suffix != '\0' && *at == suffix)
    ++at;
  const char* rest = at;
  while (*rest != '\0' && is_blank(*rest))
    ++rest;
  if (n_digits == 0 || n_digits > 20 || *rest != '\0')
    return fault_value(ReadingFault::kGarbage);
  return (negative ? -value : value) / place;
}

std::vector<std::string> sysfs_entries(const std::string& folder, const std::string& prefix) {
  std::vector<std::string> names;
  DIR* opened = opendir((sysfs_root() + "/" + folder).c_str());
  if (opened == nullptr)
    return names;
  while (const dirent* entry = readdir(opened)) {
    const std::string name = entry->d_name;
    if (name != "." && name != ".." && name.compare(0, prefix.size(), prefix) == 0)
      names.push_back(name);
  }
  closedir(opened);
  std::sort(names.begin(), names.end(), natural_less);
  return names;
}

std::string sysfs_text(const std::string& path) {
  SysfsFile file(path);
  char text[256];
  if (!file.is_open() || file.read(text, sizeof text) != ReadingFault::kOk)
    return "";
  std::string line(text, std::strcspn(text, "\n"));
  while (!line.empty() && is_blank(line.back()))
    line.pop_back();
  return line;
}

std::string sysfs_absence(const std::string& folder, const std::string& what) {
  const std::string path = sysfs_root() + "/" + folder;
  DIR* opened = opendir(path.c_str());
  if (opened == nullptr)
    return path + ": " + std::strerror(errno);
  closedir(opened);
  return "no " + what + " in " + path;
}

std::string site_name(const std::string& text) {
  std::string name;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte < 0x80 && (std::isalnum(byte) != 0 || c == '.');
    name += plain ? static_cast<char>(std::tolower(byte)) : '-';
  }
  return name;
}

}  // namespace melt
