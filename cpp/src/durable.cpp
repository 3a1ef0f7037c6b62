// SPDX-License-Identifier: Apache-2.0
#include "durable.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace melt {
namespace {

int sync(int descriptor) noexcept {
#if defined(__APPLE__)
  // fsync(2) there leaves the bytes in the drive's cache; a file system without F_FULLFSYNC has only that.
  return ::fcntl(descriptor, F_FULLFSYNC) == 0 ? 0 : ::fsync(descriptor);
#else
  return ::fdatasync(descriptor);  // and the size, but no times
#endif
}

}  // namespace

bool bring_to_disk(int descriptor) noexcept {
  int result = 0;
  do {
    result = sync(descriptor);
  } while (result != 0 && errno == EINTR);
  return result == 0 || errno == EINVAL || errno == ENOTSUP || errno == EROFS;
}

bool bring_name_to_disk(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0)
    return false;
  const bool done = bring_to_disk(descriptor);
  ::close(descriptor);
  return done;
}

}  // namespace melt
