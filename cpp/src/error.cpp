// SPDX-License-Identifier: Apache-2.0
#include "melt/error.h"

namespace melt {

const char* error_class_name(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return "InvalidArgumentError";
    case ErrorKind::kModel:
      return "ModelError";
    case ErrorKind::kOutOfMemory:
      return "OutOfMemoryError";
    case ErrorKind::kRuntime:
      return "RuntimeFailedError";
    case ErrorKind::kTrace:
      return "TraceError";
    case ErrorKind::kIo:
      return "StorageError";
    case ErrorKind::kBusy:
      return "BusyError";
    case ErrorKind::kCancelled:
      return "CancelledError";
  }
  return "RuntimeFailedError";
}

}  // namespace melt
