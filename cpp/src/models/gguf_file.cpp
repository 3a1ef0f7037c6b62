// SPDX-License-Identifier: Apache-2.0
// Gives the bytes of a model file to the GGUF parser.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <system_error>

#include "gguf_check.h"
#include "melt/error.h"
#include "melt/gguf.h"

static_assert(sizeof(std::size_t) == 8, "model files are mapped whole");

namespace melt {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0)
      ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

/// A whole file mapped for reading. Should somebody truncate the file while it is read, the system ends the
/// process with SIGBUS; llama.cpp maps the same file in the same way a moment later.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe must not block
    if (fd.get() < 0)
      refuse(path, errno);
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0)
      refuse(path, errno);
    if (S_ISDIR(status.st_mode))
      fail_gguf(path, "this is a directory; give the .gguf file in it");
    if (!S_ISREG(status.st_mode))
      fail_gguf(path, "this is not a regular file; give a .gguf file");
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0)
      return;
    void* bytes = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (bytes == MAP_FAILED)
      refuse(path, errno);
    bytes_ = static_cast<const std::uint8_t*>(bytes);
  }

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  ~MappedFile() {
    if (bytes_ != nullptr)
      ::munmap(const_cast<std::uint8_t*>(bytes_), size_);
  }

  const std::uint8_t* bytes() const { return bytes_; }
  std::size_t size() const { return size_; }

 private:
  [[noreturn]] static void refuse(const std::string& path, int error_number) {
    if (error_number == ENOENT || error_number == ENOTDIR) {
      throw Error(ErrorKind::kModel,
                  "there is no model file '" + path + "'; check the path, or give a name from `melt models list`");
    }
    throw Error(ErrorKind::kIo,
                "cannot read the model file '" + path + "': " + std::system_category().message(error_number));
  }

  const std::uint8_t* bytes_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace

GgufHeader read_gguf(const std::string& path) {
  const MappedFile file(path);
  return parse_gguf(file.bytes(), file.size(), file.size(), path);
}

}  // namespace melt
