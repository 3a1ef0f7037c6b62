// SPDX-License-Identifier: Apache-2.0
// The file that a trace goes to: one write(2) for each chunk, or for 64 KiB of small ones; a flush to the disk costs
// what the disk takes. Nothing here runs while a run is measured.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

#include "durable.h"
#include "melt/error.h"
#include "melt/trace_writer.h"

namespace melt {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{64} << 10;

std::string system_reason(int error_number) {
  return std::system_category().message(error_number);
}

/// Does not wait for the reader of a pipe, as open(2) does else.
int open_to_write(const std::string& path, int flags) noexcept {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | flags, 0666);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

bool is_regular(int fd) noexcept {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

/// Opens the file at once, and replaces what it held with the first bytes that are written out: a run that is refused
/// before it measured anything leaves an older trace as it was.
class FileSink final : public ByteSink {
 public:
  FileSink(const std::string& path, Flush flush) : path_(path), to_disk_(flush == Flush::kToDisk) {
    buffer_.reserve(kBufferBytes);
    fd_ = open_to_write(path, O_EXCL);
    is_new_ = fd_ >= 0;
    if (fd_ < 0 && errno == EEXIST)
      fd_ = open_to_write(path, 0);
    if (fd_ < 0)
      refuse(ErrorKind::kIo, system_reason(errno) + "; choose a directory that exists and that you may write to");
    struct stat status{};
    if (::fstat(fd_, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode)))
      refuse(ErrorKind::kIo, "it is a pipe or a socket; name a file");
    if (!lock())
      refuse(ErrorKind::kBusy, "another run is writing it; wait for that, or name another file");
    if (to_disk_ && !bring_name_to_disk(path))
      refuse(ErrorKind::kIo, system_reason(errno));
  }

  FileSink(const FileSink&) = delete;
  FileSink& operator=(const FileSink&) = delete;

  ~FileSink() override {
    try {
      if (begun_ && !failed_)
        drain();
    } catch (...) {  // a destructor has nobody to tell; whoever needs to know calls flush() first
    }
    if (!begun_ && is_new_)
      ::unlink(path_.c_str());
    ::close(fd_);
  }

  void write(const void* bytes, std::size_t size) override {
    if (size == 0)
      return;
    if (size > kBufferBytes - buffer_.size())
      drain();
    const auto* first = static_cast<const std::uint8_t*>(bytes);
    if (size >= kBufferBytes) {
      write_all(first, size);
    } else {
      buffer_.insert(buffer_.end(), first, first + size);  // within the reserved size: cannot fail
    }
  }

  void flush() override {
    drain();
    if (to_disk_ && !bring_to_disk(fd_))
      fail(errno);
  }

 private:
  [[noreturn]] void refuse(ErrorKind kind, const std::string& reason) {
    if (is_new_)
      ::unlink(path_.c_str());
    if (fd_ >= 0)
      ::close(fd_);
    throw Error(kind, "cannot create the trace file '" + path_ + "': " + reason);
  }

  /// False: another sink has this file. Where files cannot be locked nobody is kept out.
  bool lock() const noexcept { return ::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK; }

  /// An older trace goes only now. Who has it mapped keeps it: its file is replaced, not emptied, where that can be.
  void begin() {
    begun_ = true;
    if (is_new_ || !is_regular(fd_))
      return;
    char* const found = ::realpath(path_.c_str(), nullptr);
    const std::string real = found != nullptr ? found : path_;
    std::free(found);
    const std::string fresh = real + ".new";
    const int fd = open_to_write(fresh, O_EXCL);
    if (fd >= 0 && ::rename(fresh.c_str(), real.c_str()) == 0) {
      ::close(fd_);
      fd_ = fd;
      lock();
      if (to_disk_ && !bring_name_to_disk(real))
        fail(errno);
      return;
    }
    if (fd >= 0) {
      ::close(fd);
      ::unlink(fresh.c_str());
    }
    if (::ftruncate(fd_, 0) != 0)
      fail(errno);
  }

  void drain() {
    write_all(buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  void write_all(const std::uint8_t* bytes, std::size_t size) {
    // After a failure the file ends inside a chunk; whatever came behind that could not be told from the rest
    // of it.
    if (failed_)
      raise(failed_errno_);
    if (!begun_)
      begin();
    while (size > 0) {
      const ::ssize_t written = ::write(fd_, bytes, std::min(size, std::size_t{1} << 30));
      if (written < 0 && errno == EINTR)
        continue;
      if (written <= 0)
        fail(written < 0 ? errno : ENOSPC);
      bytes += written;
      size -= static_cast<std::size_t>(written);
      written_ += static_cast<std::uint64_t>(written);
    }
  }

  [[noreturn]] void fail(int error_number) {
    failed_ = true;
    failed_errno_ = error_number;
    raise(error_number);
  }

  [[noreturn]] void raise(int error_number) const {
    throw Error(ErrorKind::kIo, "writing the trace file '" + path_ + "' failed after " + std::to_string(written_) +
                                    " bytes: " + system_reason(error_number) +
                                    "; the complete chunks in these bytes stay readable; free space on that disk "
                                    "or record to another one");
  }

  std::string path_;
  std::vector<std::uint8_t> buffer_;
  std::uint64_t written_ = 0;
  int fd_ = -1;
  int failed_errno_ = 0;
  bool failed_ = false;
  bool begun_ = false;  // something has been written out
  bool is_new_ = false;
  bool to_disk_;
};

}  // namespace

std::unique_ptr<ByteSink> make_file_sink(const std::string& path, Flush flush) {
  return std::make_unique<FileSink>(path, flush);
}

}  // namespace melt
