// SPDX-License-Identifier: Apache-2.0
#include "sync_log.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <new>

namespace {

constexpr std::size_t kMaxEntries = 64;
constexpr std::size_t kMaxPathBytes = 256;

/// Shared with forked processes.
struct Entries {
  std::atomic<std::size_t> size;
  int error;
  char paths[kMaxEntries][kMaxPathBytes];
};

Entries* noted = nullptr;

}  // namespace

extern "C" int fdatasync(int descriptor) {
  if (noted != nullptr) {
    const std::size_t at = noted->size.fetch_add(1);
    char link[64];
    std::snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (at < kMaxEntries)
      static_cast<void>(::readlink(link, noted->paths[at], kMaxPathBytes - 1) < 0);
    if (noted->error != 0) {
      errno = noted->error;
      return -1;
    }
  }
  return static_cast<int>(::syscall(SYS_fdatasync, descriptor));
}

namespace melt_test {

SyncLog::SyncLog() {
  void* shared = ::mmap(nullptr, sizeof(Entries), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  noted = shared == MAP_FAILED ? nullptr : new (shared) Entries{};
}

SyncLog::~SyncLog() {
  if (noted != nullptr)
    ::munmap(noted, sizeof(Entries));
  noted = nullptr;
}

void SyncLog::fail_with(int error) {
  if (noted != nullptr)
    noted->error = error;
}

std::vector<std::string> SyncLog::paths() const {
  std::vector<std::string> paths;
  for (std::size_t i = 0; noted != nullptr && i < std::min(noted->size.load(), kMaxEntries); ++i)
    paths.emplace_back(noted->paths[i]);
  return paths;
}

std::size_t SyncLog::count(const std::string& path) const {
  const std::vector<std::string> all = paths();
  return static_cast<std::size_t>(std::count(all.begin(), all.end(), path));
}

std::string SyncLog::last() const {
  const std::vector<std::string> all = paths();
  return all.empty() ? "" : all.back();
}

}  // namespace melt_test
#endif
