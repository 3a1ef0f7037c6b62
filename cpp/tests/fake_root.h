// SPDX-License-Identifier: Apache-2.0
// A folder that stands in for /proc and /sys while it lives.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace melt {

class FakeRoot {
 public:
  FakeRoot()
      : folder_(std::filesystem::temp_directory_path() /
                ("melt-root-" + std::to_string(getpid()) + "-" + std::to_string(rand()))) {
    std::filesystem::create_directories(folder_);
    setenv("MELT_PROCFS_ROOT", folder_.c_str(), 1);
    setenv("MELT_SYSFS_ROOT", folder_.c_str(), 1);
  }
  ~FakeRoot() {
    unsetenv("MELT_PROCFS_ROOT");
    unsetenv("MELT_SYSFS_ROOT");
    std::filesystem::remove_all(folder_);
  }
  FakeRoot(const FakeRoot&) = delete;
  FakeRoot& operator=(const FakeRoot&) = delete;

  /// Makes a file, or changes it in place: whoever has it open sees the change.
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((folder_ / path).parent_path());
    std::ofstream(folder_ / path) << text;
  }
  void remove(const std::string& path) const { std::filesystem::remove_all(folder_ / path); }
  void link(const std::string& path, const std::string& target) const {
    std::filesystem::create_directories((folder_ / path).parent_path());
    std::filesystem::create_symlink(target, folder_ / path);
  }
  std::filesystem::path path() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

}  // namespace melt
