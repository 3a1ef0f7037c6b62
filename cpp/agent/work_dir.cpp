// SPDX-License-Identifier: Apache-2.0
#include "work_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <system_error>

#include "durable.h"
#include "json.h"
#include "melt/error.h"

namespace melt::agent {
namespace {

constexpr int kMaxDepth = 8;
constexpr std::size_t kMaxPathBytes = 1024;

[[noreturn]] void fail(const std::string& action, const std::string& path) {
  const int code = errno;
  const std::string reason = code == ELOOP || code == ENOTDIR ? "a symbolic link, or no directory, lies on its way"
                                                              : std::system_category().message(code);
  throw Error(code == ENOENT || code == ELOOP || code == ENOTDIR ? ErrorKind::kInvalidArgument : ErrorKind::kIo,
              "cannot " + action + " " + json_string(path) + ": " + reason);
}

/// The parts of a confined path. Raises: Error(kInvalidArgument).
std::vector<std::string> parts_of(const std::string& path) {
  const auto refuse = [&](const char* why) {
    throw Error(ErrorKind::kInvalidArgument,
                "path " + json_string(path.substr(0, 200)) + " " + why +
                    ": give one relative to the work directory, such as \"models/a.gguf\"");
  };
  if (path.empty() || path.size() > kMaxPathBytes)
    refuse("is empty or too long");
  if (path.find('\0') != std::string::npos)
    refuse("has a zero byte");
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    parts.push_back(path.substr(begin, end - begin));
    if (parts.back().empty() || parts.back() == "." || parts.back() == "..")
      refuse("is absolute, or has an empty part, \".\" or \"..\"");
    begin = end + 1;
  }
  if (parts.size() > kMaxDepth)
    refuse("is too deep");
  return parts;
}

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

/// Opens a directory for listing; null if it cannot be.
Directory list(int parent, const char* name) {
  const int descriptor = ::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor < 0)
    return nullptr;
  Directory directory(fdopendir(descriptor));
  if (!directory)
    ::close(descriptor);
  return directory;
}

std::vector<std::string> sorted_names(DIR* directory) {
  std::vector<std::string> names;
  while (const dirent* entry = readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..")
      names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

void collect(int parent, const char* name, const std::string& prefix, int depth, std::size_t max_files,
             std::vector<WorkFile>& found, bool& truncated) {
  const Directory directory = depth > kMaxDepth ? nullptr : list(parent, name);
  if (!directory)
    return;
  for (const std::string& entry : sorted_names(directory.get())) {
    struct stat status{};
    if (fstatat(dirfd(directory.get()), entry.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
      continue;
    if (S_ISDIR(status.st_mode)) {
      collect(dirfd(directory.get()), entry.c_str(), prefix + entry + "/", depth + 1, max_files, found, truncated);
    } else if (S_ISREG(status.st_mode)) {
      if (found.size() >= max_files) {
        truncated = true;
        return;
      }
      found.push_back({prefix + entry, static_cast<std::uint64_t>(status.st_size)});
    }
  }
}

void write_all(int file, const std::string& text, const std::string& name) {
  for (std::size_t done = 0; done < text.size();) {
    const ::ssize_t n = ::write(file, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      fail("write", name);
    done += static_cast<std::size_t>(n);
  }
}

}  // namespace

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    close();
    descriptor_ = other.release();
  }
  return *this;
}

int File::release() noexcept {
  const int descriptor = descriptor_;
  descriptor_ = -1;
  return descriptor;
}

void File::close() noexcept {
  if (descriptor_ >= 0)
    ::close(descriptor_);
  descriptor_ = -1;
}

WorkDir::WorkDir(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    fail("make the work directory", path);
  root_ = File(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  char* real = root_.is_open() ? ::realpath(path.c_str(), nullptr) : nullptr;
  if (real == nullptr)
    fail("open the work directory", path);
  path_ = real;
  std::free(real);
}

File WorkDir::open_parent(const std::string& relative, std::string& name) const {
  const std::vector<std::string> parts = parts_of(relative);
  File directory(::dup(root_.get()));
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    File next(::openat(directory.get(), parts[i].c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next.is_open())
      fail("open", relative);
    directory = std::move(next);
  }
  name = parts.back();
  return directory;
}

std::string WorkDir::absolute(const std::string& relative) const {
  open(relative, O_RDONLY | O_NONBLOCK);
  return path_ + "/" + relative;
}

File WorkDir::open(const std::string& relative, int flags, int mode) const {
  std::string name;
  const File parent = open_parent(relative, name);
  File file(::openat(parent.get(), name.c_str(), flags | O_NOFOLLOW | O_CLOEXEC, mode));
  if (!file.is_open())
    fail("open", relative);
  return file;
}

bool WorkDir::exists(const std::string& relative) const {
  try {
    std::string name;
    const File parent = open_parent(relative, name);
    struct stat status{};
    return fstatat(parent.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
  } catch (const Error&) {
    return false;
  }
}

void WorkDir::make_directory(const std::string& relative) const {
  std::string name;
  const File parent = open_parent(relative, name);
  if (::mkdirat(parent.get(), name.c_str(), 0700) == 0)
    bring_to_disk(parent.get());  // as lasting as what is put into it
  else if (errno != EEXIST)
    fail("make the directory", relative);
}

std::string WorkDir::read(const std::string& relative, std::size_t max_bytes) const {
  const File file = open(relative, O_RDONLY | O_NONBLOCK);
  std::string text(max_bytes + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ::ssize_t n = ::read(file.get(), text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      fail("read", relative);
    if (n == 0)
      break;
    size += static_cast<std::size_t>(n);
  }
  if (size > max_bytes)
    throw Error(ErrorKind::kIo, "file " + json_string(relative) + " is longer than " + std::to_string(max_bytes));
  text.resize(size);
  return text;
}

void WorkDir::replace(const std::string& relative, const std::string& text, bool lasting) const {
  std::string name;
  const File parent = open_parent(relative, name);
  const std::string scratch = "." + name + "." + std::to_string(::getpid());
  File file(::openat(parent.get(), scratch.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.is_open())
    fail("create", relative);
  try {
    write_all(file.get(), text, relative);
    if (lasting)
      bring_to_disk(file.get());  // a disk that refuses still shows it until power is lost
    file.close();
    if (::renameat(parent.get(), scratch.c_str(), parent.get(), name.c_str()) != 0)
      fail("replace", relative);
  } catch (...) {
    ::unlinkat(parent.get(), scratch.c_str(), 0);
    throw;
  }
  if (lasting)
    bring_to_disk(parent.get());
}

std::vector<WorkFile> WorkDir::files(std::size_t max_files, bool& truncated) const {
  std::vector<WorkFile> found;
  truncated = false;
  collect(root_.get(), ".", "", 1, max_files, found, truncated);
  return found;
}

std::vector<std::string> WorkDir::names(const std::string& relative) const {
  if (!exists(relative))
    return {};
  std::string name;
  const File parent = open_parent(relative, name);
  const Directory directory = list(parent.get(), name.c_str());
  return directory ? sorted_names(directory.get()) : std::vector<std::string>{};
}

FileDigest WorkDir::digest(const std::string& relative) const {
  const File file = open(relative, O_RDONLY | O_NONBLOCK);
  struct stat status{};
  if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))
    throw Error(ErrorKind::kInvalidArgument, json_string(relative) + " is no regular file");
  return digest_file(file.get(), json_string(relative));
}

bool WorkDir::remove(const std::string& relative) const {
  std::string name;
  const File parent = open_parent(relative, name);
  if (::unlinkat(parent.get(), name.c_str(), 0) == 0)
    return true;
  if (errno == ENOENT)
    return false;
  if ((errno == EISDIR || errno == EPERM) && ::unlinkat(parent.get(), name.c_str(), AT_REMOVEDIR) == 0)
    return true;
  fail("remove", relative);
}

bool WorkDir::remove_directory(const std::string& relative) const {
  std::string name;
  const File parent = open_parent(relative, name);
  {
    const Directory directory = list(parent.get(), name.c_str());
    if (!directory)
      return false;
    for (const std::string& entry : sorted_names(directory.get())) {
      if (::unlinkat(dirfd(directory.get()), entry.c_str(), 0) != 0 && errno != ENOENT)
        fail("remove", relative + "/" + entry);
    }
  }
  if (::unlinkat(parent.get(), name.c_str(), AT_REMOVEDIR) != 0)
    fail("remove", relative);
  return true;
}

std::uint64_t WorkDir::free_bytes() const {
  struct statvfs status{};
  if (::fstatvfs(root_.get(), &status) != 0)
    fail("ask for the free space of", path_);
  return static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
}

}  // namespace melt::agent
