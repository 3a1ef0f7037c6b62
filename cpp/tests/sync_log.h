// SPDX-License-Identifier: Apache-2.0
// Notes what is brought to the disk by fdatasync, here and in processes forked from here (sync_log.cpp replaces it in
// the test program, and calls the system's). Linux alone.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace melt_test {

/// From its making on; one at a time.
class SyncLog {
 public:
  SyncLog();
  ~SyncLog();
  SyncLog(const SyncLog&) = delete;
  SyncLog& operator=(const SyncLog&) = delete;

  /// From here on each call fails with this errno; 0: none does.
  void fail_with(int error);
  /// Paths as they were opened, symbolic links resolved, in order.
  std::vector<std::string> paths() const;
  std::size_t count(const std::string& path) const;
  std::string last() const;
};

}  // namespace melt_test
