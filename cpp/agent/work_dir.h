// SPDX-License-Identifier: Apache-2.0
// The one directory that the agent reads and writes. Paths come from another machine: each is walked part by part from
// the open directory, and neither ".." nor a symbolic link is followed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sha256.h"

namespace melt::agent {

/// An open file, closed at the end of its life.
class File {
 public:
  File() = default;
  explicit File(int descriptor) noexcept : descriptor_(descriptor) {}
  ~File() { close(); }
  File(File&& other) noexcept : descriptor_(other.release()) {}
  File& operator=(File&& other) noexcept;
  int get() const noexcept { return descriptor_; }
  bool is_open() const noexcept { return descriptor_ >= 0; }
  int release() noexcept;
  void close() noexcept;

 private:
  int descriptor_ = -1;
};

struct WorkFile {
  std::string path;
  std::uint64_t bytes = 0;
};

class WorkDir {
 public:
  /// Makes the last part of `path` if it is not there. Raises: Error(kIo); Error(kInvalidArgument).
  explicit WorkDir(const std::string& path);

  const std::string& path() const noexcept { return path_; }
  int descriptor() const noexcept { return root_.get(); }
  /// For those that open files by name themselves. Raises: Error(kInvalidArgument) as open() does.
  std::string absolute(const std::string& relative) const;

  /// Raises: Error(kInvalidArgument) if the path is not confined; Error(kIo) if the system refuses.
  File open(const std::string& relative, int flags, int mode = 0600) const;
  bool exists(const std::string& relative) const;
  void make_directory(const std::string& relative) const;

  /// At most `max_bytes`. Raises: as open(); Error(kIo) if it is longer.
  std::string read(const std::string& relative, std::size_t max_bytes) const;
  /// Readers see the old text or the new one. `lasting`: it survives a loss of power too. Raises: Error(kIo).
  void replace(const std::string& relative, const std::string& text, bool lasting = false) const;

  /// Regular files, by path; at most `max_files`, and then `truncated` is set.
  std::vector<WorkFile> files(std::size_t max_files, bool& truncated) const;
  /// Names in a directory, in order; empty if it is not there.
  std::vector<std::string> names(const std::string& relative) const;
  FileDigest digest(const std::string& relative) const;
  /// A file, a link or an empty directory. Returns whether it was there.
  bool remove(const std::string& relative) const;
  /// A directory of files, one level deep. Returns whether it was there.
  bool remove_directory(const std::string& relative) const;

  std::uint64_t free_bytes() const;

 private:
  /// Opens the directory that holds the last part of the path, and gives that part.
  File open_parent(const std::string& relative, std::string& name) const;

  std::string path_;
  File root_;
};

}  // namespace melt::agent
