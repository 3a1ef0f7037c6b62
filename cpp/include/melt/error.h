// SPDX-License-Identifier: Apache-2.0
// The one exception type of the core. Its kind survives the way to Python (errors.py) and, later, from agent to host.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace melt {

/// What went wrong, in terms of who can put it right. Values are stored in agent replies: never reuse one.
enum class ErrorKind : std::uint8_t {
  kInvalidArgument = 1,  ///< the caller asked for something that cannot be (exit code 2)
  kModel = 2,            ///< the model file is missing, damaged or not supported
  kOutOfMemory = 3,      ///< weights, context or buffers do not fit
  kRuntime = 4,          ///< the inference runtime failed or aborted
  kTrace = 5,            ///< a trace is damaged, cut short beyond use, or of a newer format
  kIo = 6,               ///< the operating system refused a read or a write
  kBusy = 7,             ///< the model is in use by another thread
  kCancelled = 8,        ///< the caller cancelled
};

/// The name of the kind's class in melt_core.errors.
const char* error_class_name(ErrorKind kind) noexcept;

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace melt
