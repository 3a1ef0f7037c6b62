// SPDX-License-Identifier: Apache-2.0
#include "sensors/fault.h"

#include <cerrno>
#include <cmath>
#include <cstring>

namespace melt {
namespace {

// IEEE 754: exponent all ones, quiet bit set; the mark keeps NaNs of arithmetic (payload 0) apart from ours.
constexpr std::uint64_t kQuietNan = 0x7FF8'0000'0000'0000;
constexpr std::uint64_t kMark = 0x4D45'4C00;  // "MEL", the fault in the last byte

}  // namespace

double fault_value(ReadingFault fault) noexcept {
  const std::uint64_t bits = kQuietNan | kMark | static_cast<std::uint64_t>(fault);
  double value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

ReadingFault fault_of(double value) noexcept {
  if (!std::isnan(value))
    return std::isfinite(value) ? ReadingFault::kOk : ReadingFault::kImpossible;
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint64_t fault = bits & 0xFF;
  if ((bits & 0xFFFF'FF00) != kMark || fault == 0 || fault > static_cast<std::uint64_t>(ReadingFault::kJump))
    return ReadingFault::kUnknown;
  return static_cast<ReadingFault>(fault);
}

const char* fault_name(ReadingFault fault) noexcept {
  switch (fault) {
    case ReadingFault::kOk:
      return "none";
    case ReadingFault::kUnknown:
      return "unknown";
    case ReadingFault::kVanished:
      return "vanished";
    case ReadingFault::kDenied:
      return "denied";
    case ReadingFault::kFailed:
      return "failed";
    case ReadingFault::kGarbage:
      return "garbage";
    case ReadingFault::kImpossible:
      return "impossible";
    case ReadingFault::kReset:
      return "reset";
    case ReadingFault::kNotNew:
      return "not new";
    case ReadingFault::kFrozen:
      return "frozen";
    case ReadingFault::kJump:
      return "jump";
  }
  return "unknown";
}

ReadingFault fault_of_errno(int error) noexcept {
  switch (error) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
    case ESTALE:
      return ReadingFault::kVanished;
    case EACCES:
    case EPERM:
      return ReadingFault::kDenied;
    default:
      return ReadingFault::kFailed;
  }
}

double checked(double value, double low, double high) noexcept {
  if (std::isnan(value))
    return value;
  return value >= low && value <= high ? value : fault_value(ReadingFault::kImpossible);
}

}  // namespace melt
